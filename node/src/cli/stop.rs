//! `stop` and `rm`: jobs that are no longer wanted.
//!
//! Each job is asked for by itself, and one that cannot be stopped does not
//! keep the others from it: the exit code is the first failure's.

use clap::Args;

use crate::api::types::Accepted;
use crate::cli::client::{Answer, Client};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::run::{job_path, warn_if_alone};

/// Jobs by name, id or the beginning of an id.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobsNamed {
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
}

/// The flags of `rm`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RmArgs {
    /// Docker's word for what is done anyway: a job that runs is stopped
    #[arg(short, long, hide = true)]
    force: bool,
    #[command(flatten)]
    named: JobsNamed,
}

/// `starling stop`.
pub(crate) async fn stop(args: JobsNamed, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let mut exit = 0;
    for job in &args.jobs {
        let answer = client.post_empty(&format!("{}/stop", job_path(job))).await;
        exit = first(exit, tell(answer, out)?);
    }
    Ok(exit)
}

/// `starling rm`.
pub(crate) async fn rm(args: RmArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let mut exit = 0;
    for job in &args.named.jobs {
        let answer = client.delete(&job_path(job)).await;
        exit = first(exit, tell(answer, out)?);
    }
    Ok(exit)
}

fn tell(answer: Result<Answer, Failed>, out: Output) -> Result<u8, Failed> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(failed) if failed.code() == Some("unreachable") => return Err(failed),
        Err(failed) => return Ok(failed.report(out.format.failures())),
    };
    let accepted: Accepted = answer.parse()?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Human | Format::Quiet => out.line(&accepted.name)?,
    }
    Ok(warn_if_alone(&accepted, out))
}

/// The first exit code that is not 0.
pub(crate) fn first(so_far: u8, next: u8) -> u8 {
    if so_far == 0 { next } else { so_far }
}
