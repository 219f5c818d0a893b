//! `down`: stops this host's agent, and waits until its process is gone.
//!
//! Tasks go on, and the next `up` takes them over, unless `--stop-tasks`. The
//! agent answers once everything is done and then ends; its answer may be lost
//! with it, so what counts is that the process is gone. The process is held by
//! a descriptor from before the request: a number may be taken by another.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::api::types::{Complaint, DownRequest, Status};
use crate::cli::client::{Client, Patience};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};

/// How long the process may take to end after it said that all is done.
const END_TIME_MAX: Duration = Duration::from_secs(15);

/// How often a process that cannot be held by a descriptor is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The flags of `down`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DownArgs {
    /// Stop this host's tasks too, and wait for their end
    #[arg(long)]
    stop_tasks: bool,
}

/// `starling down`.
///
/// `data` is this host's data directory, where the agent is this host's.
pub(crate) async fn run(
    args: DownArgs,
    client: &mut Client,
    data: Option<&Path>,
    out: Output,
) -> Result<u8, Failed> {
    let answer = match client.get("/v1/status").await {
        Ok(answer) => answer,
        Err(failed) if failed.code() == Some("unreachable") && gone(client) => {
            if args.stop_tasks && data.is_some_and(keeper_lives) {
                return Err(Complaint::new("tasks_left", "the agent is gone, but not its tasks")
                    .because("without it nobody can stop them; their keeper still runs")
                    .hint("starling up && starling down --stop-tasks")
                    .into());
            }
            match out.format {
                Format::Json => out.json(br#"{"running":false}"#)?,
                Format::Quiet => {}
                Format::Human => out.line("not running")?,
            }
            return Ok(0);
        }
        Err(failed) => return Err(failed),
    };
    let status: Status = answer.parse()?;
    // Another host's process cannot be watched from here: its word has to do.
    let is_here = client.door().local().is_some();
    let process = if is_here { Process::of(status.pid) } else { Process::Gone };
    let request = DownRequest { stop_tasks: args.stop_tasks };
    match client.post("/v1/down", &request, Patience::Unlimited).await {
        Ok(_done) => {}
        // It may be gone before its answer was read.
        Err(failed) if failed.code() == Some("broken") => {}
        Err(failed) => return Err(failed),
    }
    if !process.ended_within(END_TIME_MAX) {
        return Err(Complaint::new(
            "timeout",
            format!("the agent of {} does not end", status.name),
        )
        .because(format!(
            "process {} is still there after {} seconds",
            status.pid,
            END_TIME_MAX.as_secs()
        ))
        .hint(format!("kill {}   its tasks go on", status.pid))
        .into());
    }
    let tasks = if args.stop_tasks { "its tasks ended" } else { "its tasks go on" };
    match out.format {
        Format::Json => out.json(br#"{"running":false}"#)?,
        Format::Quiet => {}
        Format::Human => out.line(&format!("{} is down; {tasks}", status.name))?,
    }
    Ok(0)
}

/// Whether a keeper of this data directory holds its lock; it outlives the agent with the tasks.
fn keeper_lives(data: &Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    std::fs::File::open(data.join("run").join(runtime::KEEPER_LOCK))
        .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// Whether really nobody listens, not only nobody who answers this user.
fn gone(client: &Client) -> bool {
    let Some(socket) = client.door().local() else { return false };
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_somebody) => false,
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
        ),
    }
}

enum Process {
    Held(OwnedFd),
    Named(PathBuf),
    Gone,
}

impl Process {
    fn of(pid: u32) -> Self {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Self::Gone };
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(held) => Self::Held(held),
            Err(rustix::io::Errno::SRCH) => Self::Gone,
            Err(_old_kernel) => Self::Named(PathBuf::from(format!("/proc/{pid}"))),
        }
    }

    fn ended_within(&self, limit: Duration) -> bool {
        match self {
            Self::Gone => true,
            Self::Held(held) => {
                let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
                // Interrupted by a signal only if that did not end this program: not ended.
                matches!(poll(&mut [PollFd::new(held, PollFlags::IN)], Some(&limit)), Ok(1..))
            }
            Self::Named(path) => {
                let looks = limit.as_millis() / LOOK_EVERY.as_millis();
                (0..looks).any(|_| {
                    let ended = !path.exists();
                    if !ended {
                        std::thread::sleep(LOOK_EVERY);
                    }
                    ended
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_noticed_and_not_invented() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawns");
        let process = Process::of(child.id());
        assert!(!process.ended_within(Duration::ZERO));
        child.kill().expect("kills");
        child.wait().expect("waits");
        assert!(process.ended_within(Duration::from_secs(5)));
        assert!(Process::Named("/nonexistent".into()).ended_within(Duration::from_secs(1)));
    }
}
