//! `wait`: until jobs are over; the exit code is theirs.

use std::time::Duration;

use clap::Args;
use starling_core::view::{JobState, JobView};
use tokio::time::Instant;

use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::interrupt::or_interrupt;
use crate::cli::output::{Format, Output};
use crate::cli::run::{exit_of, job_path};
use crate::cli::stop::first;
use crate::cli::times;

/// The flags of `wait`.
#[derive(Args, Clone, Debug)]
pub(crate) struct WaitArgs {
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
    /// Give up after this time, like 90s or 1h, with exit code 75
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    timeout: Option<Duration>,
}

/// `starling wait`.
pub(crate) async fn run(args: WaitArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    or_interrupt(all(args, client, out)).await
}

async fn all(args: WaitArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let deadline = args.timeout.map(|limit| Instant::now() + limit);
    let mut exit = 0;
    for job in &args.jobs {
        let mut path = format!("{}/wait", job_path(job));
        if let Some(deadline) = deadline {
            let left = times::seconds_up(deadline.saturating_duration_since(Instant::now()));
            path.push_str(&format!("?timeout_s={left}"));
        }
        let answer = client.wait_for(&path).await?;
        let view: JobView = answer.parse()?;
        let code = code_of(&view);
        match out.format {
            Format::Json => out.json(answer.bytes())?,
            Format::Human if code == 0 => {
                out.line(&format!("{} {}", view.name, view.state.as_str()))?
            }
            Format::Human => {
                out.line(&format!("{} {} exit={code}", view.name, view.state.as_str()))?;
            }
            Format::Quiet => {}
        }
        exit = first(exit, code);
    }
    Ok(exit)
}

fn code_of(view: &JobView) -> u8 {
    let unsaid = i32::from(view.state == JobState::Failed);
    exit_of(view.exit_code.unwrap_or(unsaid), view.state.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(state: &str, exit_code: Option<i32>) -> u8 {
        let view = serde_json::json!({
            "id": "07".repeat(16), "name": "j", "namespace": "default", "owner": "",
            "kind": "batch", "state": state, "wanted": 1, "running": 0, "succeeded": 0,
            "failed": 0, "submitted": 0, "exit_code": exit_code,
        });
        code_of(&serde_json::from_value(view).expect("a view"))
    }

    #[test]
    fn the_exit_code_is_the_jobs() {
        assert_eq!(over("succeeded", Some(0)), 0);
        assert_eq!(over("failed", Some(42)), 42);
        assert_eq!(over("failed", None), 1);
        assert_eq!(over("stopped", None), 143);
    }
}
