//! `node rm`: the end of a membership.
//!
//! Nothing is asked back: what a removal takes along has to be said with it,
//! where there is something.

use clap::Args;

use crate::api::member_types::RemovedNode;
use crate::api::types::Durable;
use crate::cli::client::{Client, segment};
use crate::cli::errors::{Failed, NOT_REPLICATED};
use crate::cli::output::{Format, Output};

pub(super) const EXAMPLES: &str = "Examples:\n  starling node rm h3\n  \
    starling node rm h3 --force\n  starling node rm h1 --keep-grants";

/// The flags of `node rm`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RmArgs {
    /// A name, an id, or the beginning of an id
    node: String,
    /// Although tasks run there: it stops them, and what is wanted is placed elsewhere
    #[arg(short, long)]
    force: bool,
    /// Whom it admitted stays
    #[arg(long, conflicts_with = "drop_grants")]
    keep_grants: bool,
    /// Whom it admitted has to be invited anew
    #[arg(long)]
    drop_grants: bool,
}

/// `starling node rm`.
pub(super) async fn run(args: RmArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let grants = match (args.keep_grants, args.drop_grants) {
        (true, _) => "&grants=keep",
        (false, true) => "&grants=drop",
        (false, false) => "",
    };
    let path = format!("/v1/nodes/{}?force={}{grants}", segment(&args.node), args.force);
    let answer = client.delete(&path).await?;
    let removed: RemovedNode = answer.parse()?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Quiet => out.line(&removed.name)?,
        Format::Human => {
            out.line(&format!("{} removed", removed.name))?;
            removed.notices.iter().for_each(|notice| out.note(&format!("note: {notice}")));
        }
    }
    if removed.durable == Durable::NotReplicated {
        out.warn(&format!(
            "warning: no other member confirmed in time that it knows; only {} does",
            removed.on.join(", ")
        ));
        return Ok(NOT_REPLICATED);
    }
    Ok(0)
}
