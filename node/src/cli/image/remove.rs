//! `image rm` and `image prune`: images that are no longer wanted, on every node that has them.

use std::time::Duration;

use clap::Args;
use gossip_core::resources::show_bytes;

use super::query;
use crate::api::image_types::{RemovedImages, RemovedOn};
use crate::cli::client::{Answer, Client};
use crate::cli::errors::{FAILED, Failed};
use crate::cli::output::{Format, Output};
use crate::cli::stop::first;
use crate::cli::times;

/// The flags of `image rm`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RmArgs {
    /// Take its names away although a task runs from it: it goes with the task
    #[arg(short, long)]
    force: bool,
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "IMAGE", required = true)]
    names: Vec<String>,
}

/// The flags of `image prune`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PruneArgs {
    /// Images with names too
    #[arg(short, long)]
    all: bool,
    /// Only those that no task ran from for this time, like 7d
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    unused: Option<Duration>,
    /// Docker's word for what is done anyway: nothing is asked back
    #[arg(short, long, hide = true)]
    force: bool,
}

/// `starling image rm`.
pub(super) async fn rm(args: RmArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let mut exit = 0;
    for name in &args.names {
        let path = format!("/v1/images?name={}&force={}", query(name), args.force);
        let code = match client.delete_slowly(&path).await {
            Ok(answer) => tell(&answer, out)?,
            Err(failed) if failed.code() == Some("unreachable") => return Err(failed),
            Err(failed) => failed.report(out.format.failures()),
        };
        exit = first(exit, code);
    }
    Ok(exit)
}

/// `starling image prune`.
pub(super) async fn prune(
    args: &PruneArgs,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    let unused = args.unused.map(|time| format!("&unused_s={}", times::seconds_up(time)));
    let path = format!("/v1/images/prune?all={}{}", args.all, unused.unwrap_or_default());
    let answer = client.post_slowly(&path).await?;
    tell(&answer, out)
}

/// Says what is gone where; whoever did not do it makes it a failure.
fn tell(answer: &Answer, out: Output) -> Result<u8, Failed> {
    let removed: RemovedImages = answer.parse()?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Human => {
            removed.on.iter().flat_map(sentences).try_for_each(|text| out.line(&text))?;
            let bytes =
                removed.on.iter().fold(0, |sum: u64, on| sum.saturating_add(on.removed.bytes));
            out.note(&format!("{} freed", show_bytes(bytes)));
        }
        Format::Quiet => {
            let mut ids: Vec<_> =
                removed.on.iter().flat_map(|on| &on.removed.images).map(|id| id.short()).collect();
            ids.sort();
            ids.dedup();
            ids.iter().try_for_each(|id| out.line(id))?;
        }
    }
    for (node, why) in &removed.failed {
        out.warn(&format!("warning: not on {node}: {why}"));
    }
    Ok(if removed.failed.is_empty() { 0 } else { FAILED })
}

fn sentences(on: &RemovedOn) -> Vec<String> {
    let names =
        on.removed.names.iter().map(|name| format!("{}: untagged {}", on.node, name.familiar()));
    let images = on.removed.images.iter().map(|id| format!("{}: removed {}", on.node, id.short()));
    names.chain(images).collect()
}
