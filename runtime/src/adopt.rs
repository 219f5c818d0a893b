//! What a task's directory says about the task, to an agent that was not there.
//!
//! ```text
//! end.json? ──▶ ended
//! state.json missing ──▶ give the launch up: it never started
//!            of another boot ──▶ lost
//!            supervisor lives ──▶ running
//!            supervisor is gone ──▶ end.json after all, or kill what is left: lost
//! ```
//!
//! Every conclusion is written down before it is told, so the next agent, and
//! whoever reads the log, comes to the same one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use crate::launch::{End, StartFault, TaskId};
use crate::order;
use crate::proc::ProcessMark;
use crate::record::{self, Claim, LAUNCH, LaunchRecord, RecordError};
use crate::{leftovers, proc};

/// How long a launch found between claim and exec may take, before it is given up.
const START_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A runtime that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("{} is in use by another agent; stop that one, or give this one its own directory", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// A task in it cannot be understood.
    #[error("cannot tell what task {id} does")]
    Task {
        /// The task.
        id: TaskId,
        /// Why.
        source: RecordError,
    },
    /// The machine lacks something.
    #[error("cannot read /proc")]
    Proc {
        /// Why.
        source: io::Error,
    },
}

/// What a task does.
#[derive(Debug)]
pub(crate) enum Standing {
    Running {
        pid: u32,
        supervisor: OwnedFd,
    },
    /// Claimed, but its program does not run yet.
    Starting {
        supervisor: OwnedFd,
    },
    Ended(End),
}

/// Looks at one task's directory, and concludes what can be concluded. Blocks.
pub(crate) fn examine(dir: BorrowedFd<'_>, boot: &str) -> Result<Standing, RecordError> {
    if let Some(end) = recorded_end(dir)? {
        return Ok(Standing::Ended(end));
    }
    let (state, task) = match record::read_state(dir) {
        Ok(Some(state)) => state,
        Ok(None) => return unclaimed(dir, boot),
        // Written in one step, so only a crash of the host leaves this.
        Err(RecordError::Garbled { .. }) => return lost(dir, None, "its state was damaged"),
        Err(error) => return Err(error),
    };
    let Claim::Supervised { supervisor } = state.claim else {
        return conclude(dir, interrupted("the launch was given up half done"));
    };
    if state.boot != boot {
        return lost(dir, None, "the host rebooted");
    }
    let handle =
        supervisor.open().map_err(|source| RecordError::Io { name: "/proc".into(), source })?;
    match (handle, task) {
        (Some(supervisor), Some(task)) => {
            Ok(Standing::Running { pid: task.pid.unsigned_abs(), supervisor })
        }
        (Some(supervisor), None) => Ok(Standing::Starting { supervisor }),
        (None, task) => match recorded_end(dir)? {
            Some(end) => Ok(Standing::Ended(end)),
            None => lost(dir, task, "its supervisor died"),
        },
    }
}

/// How a task whose supervisor is gone ended. Blocks.
pub(crate) fn examine_end(dir: BorrowedFd<'_>, boot: &str) -> Result<End, RecordError> {
    match examine(dir, boot)? {
        Standing::Ended(end) => Ok(end),
        // It was told dead: the kernel and /proc disagree for an instant at most.
        Standing::Running { supervisor, .. } | Standing::Starting { supervisor } => {
            let _ = pidfd_send_signal(&supervisor, Signal::KILL);
            match lost(dir, None, "its supervisor does not die")? {
                Standing::Ended(end) => Ok(end),
                _ => Ok(End::Lost { reason: "its supervisor does not die".to_owned() }),
            }
        }
    }
}

fn unclaimed(dir: BorrowedFd<'_>, boot: &str) -> Result<Standing, RecordError> {
    let launch = record::read::<LaunchRecord>(dir, LAUNCH);
    if !matches!(&launch, Ok(Some(launch)) if launch.boot == boot) {
        // It may have run in that boot: state.json need not have reached the disk.
        return match launch {
            Err(error @ RecordError::Newer { .. }) => Err(error),
            _ => lost(dir, None, "the host rebooted"),
        };
    }
    if record::void(dir, boot)? {
        return conclude(dir, interrupted("nobody had taken the launch when it was given up"));
    }
    // Somebody claimed it just now.
    examine(dir, boot)
}

fn interrupted(reason: &str) -> End {
    End::NotStarted { fault: StartFault::Interrupted, reason: reason.to_owned() }
}

fn lost(
    dir: BorrowedFd<'_>,
    task: Option<ProcessMark>,
    reason: &str,
) -> Result<Standing, RecordError> {
    let mut reason = reason.to_owned();
    if let Some(task) = task {
        match leftovers::kill(task) {
            Ok(true) => {}
            Ok(false) => reason += "; some of its processes do not die",
            Err(error) => reason = format!("{reason}; cannot look for its processes: {error}"),
        }
    }
    conclude(dir, End::Lost { reason })
}

fn conclude(dir: BorrowedFd<'_>, end: End) -> Result<Standing, RecordError> {
    record::write_end(dir, &end)?;
    // The first end stands, be it ours or not.
    Ok(Standing::Ended(recorded_end(dir)?.unwrap_or(end)))
}

fn recorded_end(dir: BorrowedFd<'_>) -> Result<Option<End>, RecordError> {
    match record::read_end(dir) {
        Err(RecordError::Garbled { .. }) => {
            Ok(Some(End::Lost { reason: "the record of its end was damaged".to_owned() }))
        }
        read => read,
    }
}

/// Every task there is. Removes what an earlier agent left unfinished. Blocks.
pub(crate) fn examine_all(
    tasks: &OwnedFd,
    path: &Path,
    boot: &str,
) -> Result<Vec<(TaskId, Standing)>, OpenError> {
    let unreadable = |source| OpenError::Directory { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<TaskId>().ok()) else {
            // Directories being made or removed; no task has ever run in the
            // first, and the second was told of long ago.
            if name.as_encoded_bytes().starts_with(b".") {
                std::fs::remove_dir_all(path.join(&name)).map_err(unreadable)?;
            }
            continue;
        };
        let dir = order::open_below(tasks, id.as_str()).map_err(unreadable)?;
        match settle(dir.as_fd(), boot) {
            Ok(standing) => found.push((id, standing)),
            Err(source) => return Err(OpenError::Task { id, source }),
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// Waits out a launch that is just happening.
fn settle(dir: BorrowedFd<'_>, boot: &str) -> Result<Standing, RecordError> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        match examine(dir, boot)? {
            Standing::Starting { supervisor } if Instant::now() > until => {
                // The keeper ends what it forked.
                let _ = pidfd_send_signal(&supervisor, Signal::KILL);
                return conclude(dir, interrupted("the task did not start"));
            }
            Standing::Starting { .. } => std::thread::sleep(LOOK_AGAIN),
            standing => return Ok(standing),
        }
    }
}

/// The boot this is.
pub(crate) fn boot() -> Result<String, OpenError> {
    proc::boot_id().map_err(|source| OpenError::Proc { source })
}
