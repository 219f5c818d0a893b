//! What a task's directory says about the task, to an agent that was not there.
//!
//! ```text
//! state says an end ──▶ ended
//!       damaged, or of another boot ──▶ lost
//!       supervisor lives ──▶ running
//!       supervisor is gone ──▶ an end after all, or kill what is left: lost
//! ```
//!
//! Every conclusion is written down before it is told, so the next agent, and
//! whoever reads the log, comes to the same one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use tracing::warn;

use crate::call::Caller;
use crate::cgroup::Tree;
use crate::image::ImageError;
use crate::launch::{End, StartFault, TaskId};
use crate::order;
use crate::record::{self, Claim, RecordError, State};
use crate::spare;
use crate::supervisor::{self, ADOPTION};
use crate::{leftovers, proc, removal};

/// How long a launch found between claim and exec may take, before it is given up.
const START_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long a supervisor may take to die of SIGKILL: one that waits for a file system that
/// does not answer dies at once, unless the disk itself does not.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);

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
    /// Its images cannot be used.
    #[error("cannot use the images kept here")]
    Images {
        /// Why.
        source: ImageError,
    },
    /// The machine lacks something.
    #[error("cannot read /proc")]
    Proc {
        /// Why.
        source: io::Error,
    },
}

/// What an agent must know of the machine to judge.
#[derive(Debug)]
pub(crate) struct Host {
    /// The boot this is.
    pub(crate) boot: String,
    /// What the control groups of tasks are below.
    pub(crate) tree: Option<Tree>,
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
///
/// A supervisor that it finds will leave after this task: whoever asked watches its
/// process.
pub(crate) fn examine(
    dir: BorrowedFd<'_>,
    id: &TaskId,
    host: &Host,
) -> Result<Standing, RecordError> {
    let damaged = "its state was damaged";
    let Some(state) = sound(dir, id)? else { return lost(dir, id, host, None, damaged) };
    if let Some(end) = state.end {
        return Ok(Standing::Ended(end));
    }
    let Some(supervisor) = state.claim.supervisor else {
        return conclude(dir, id, interrupted("the launch was given up half done"));
    };
    if state.claim.boot != host.boot {
        return lost(dir, id, host, None, "the host rebooted");
    }
    let handle = supervisor.open()?;
    if let Some(supervisor) = &handle {
        // Before the state is read again: if that has no end yet, this came in time.
        let _ = pidfd_send_signal(supervisor, ADOPTION);
    }
    let Some(state) = sound(dir, id)? else { return lost(dir, id, host, None, damaged) };
    match (handle, state) {
        (_, State { end: Some(end), .. }) => Ok(Standing::Ended(end)),
        (Some(supervisor), State { task: Some(task), .. }) => {
            Ok(Standing::Running { pid: task.pid.unsigned_abs(), supervisor })
        }
        (Some(supervisor), State { task: None, .. }) => Ok(Standing::Starting { supervisor }),
        (None, state) => lost(dir, id, host, Some(&state), "its supervisor died"),
    }
}

/// The state, unless a crash of the host damaged it, or brought back the one of a task that
/// had this directory before: it is never seen half made.
fn sound(dir: BorrowedFd<'_>, id: &TaskId) -> Result<Option<State>, RecordError> {
    match record::read(dir) {
        Err(RecordError::Garbled { .. } | RecordError::Absent) => Ok(None),
        Ok(State { claim: Claim { id: Some(of), .. }, .. }) if of != *id => Ok(None),
        read => read.map(Some),
    }
}

/// How a task whose supervisor is gone ended. Blocks.
pub(crate) fn examine_end(
    dir: BorrowedFd<'_>,
    id: &TaskId,
    host: &Host,
) -> Result<End, RecordError> {
    match examine(dir, id, host)? {
        Standing::Ended(end) => Ok(end),
        // It was told dead: the kernel and /proc disagree for an instant at most.
        Standing::Running { supervisor, .. } | Standing::Starting { supervisor } => {
            let _ = pidfd_send_signal(&supervisor, Signal::KILL);
            match lost(dir, id, host, None, "its supervisor does not die")? {
                Standing::Ended(end) => Ok(end),
                _ => Ok(End::Lost { reason: "its supervisor does not die".to_owned() }),
            }
        }
    }
}

fn interrupted(reason: &str) -> End {
    End::NotStarted { fault: StartFault::Interrupted, reason: reason.to_owned() }
}

fn lost(
    dir: BorrowedFd<'_>,
    id: &TaskId,
    host: &Host,
    state: Option<&State>,
    reason: &str,
) -> Result<Standing, RecordError> {
    let mut reason = reason.to_owned();
    if let Some(state) = state {
        reason += &bury(host, state);
        if let Some(task) = state.task {
            reason += &outcome(leftovers::kill(task));
        }
    }
    conclude(dir, id, End::Lost { reason })
}

/// Kills what is in a task's control groups; returns what there is to say of that.
fn bury(host: &Host, state: &State) -> String {
    match (&host.tree, &state.claim.slot) {
        (Some(tree), Some(slot)) => outcome(supervisor::bury(tree, slot)),
        _ => String::new(),
    }
}

fn outcome(killed: Result<bool, impl std::fmt::Display>) -> String {
    match killed {
        Ok(true) => String::new(),
        Ok(false) => "; some of its processes do not die".to_owned(),
        Err(error) => format!("; cannot look for its processes: {error}"),
    }
}

/// Ends a launch whose program does not run yet, whatever its supervisor hangs in: that
/// is killed. One whose program runs by now goes on. Blocks.
pub(crate) fn end_set_up(
    dir: BorrowedFd<'_>,
    id: &TaskId,
    host: &Host,
    reason: &str,
) -> Result<Standing, RecordError> {
    let is_starting = |state: &State| state.end.is_none() && state.task.is_none();
    let mut reason = reason.to_owned();
    if let Some(state) = sound(dir, id)?.filter(is_starting)
        && state.claim.boot == host.boot
        && let Some(supervisor) = state.claim.supervisor
        && let Some(supervisor) = supervisor.open()?
    {
        // Then it has no other task after this one; see `examine`.
        let _ = pidfd_send_signal(&supervisor, ADOPTION);
        if sound(dir, id)?.is_some_and(|state| is_starting(&state)) {
            let _ = pidfd_send_signal(&supervisor, Signal::KILL);
            let timeout = Timespec::try_from(DEATH_PATIENCE).ok();
            let mut death = [PollFd::new(&supervisor, PollFlags::IN)];
            if poll(&mut death, timeout.as_ref()).map_err(io::Error::from)? == 0 {
                reason += "; its supervisor does not die";
            }
        }
    }
    // What it wrote before it died is true.
    match sound(dir, id)?.filter(is_starting) {
        Some(state) => {
            reason += &bury(host, &state);
            conclude(dir, id, interrupted(&reason))
        }
        None => examine(dir, id, host),
    }
}

fn conclude(dir: BorrowedFd<'_>, id: &TaskId, end: End) -> Result<Standing, RecordError> {
    record::conclude(dir, &end)?;
    // The first end stands, be it ours or not.
    Ok(Standing::Ended(sound(dir, id)?.and_then(|state| state.end).unwrap_or(end)))
}

/// Takes a launch that nobody answered out of the world, so that it can never run;
/// none if it is somebody's. Blocks.
pub(crate) fn give_up(
    tasks: &OwnedFd,
    id: &TaskId,
    nonce: &str,
    boot: &str,
) -> Result<Option<End>, RecordError> {
    let end = interrupted("nobody had taken the launch when it was given up");
    let name = record::unfinished("void", id);
    let io = io::Error::from;
    match rustix::fs::mkdirat(tasks, name.as_str(), Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(io(error).into()),
    }
    let dir = order::open_below(tasks, &name)?;
    record::make_void(dir.as_fd(), id, nonce, boot, &end)?;
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(tasks, name.as_str(), tasks, id.as_str(), flags) {
        Ok(()) => Ok(Some(end)),
        Err(error) => {
            let _ = rustix::fs::unlinkat(&dir, record::STATE, AtFlags::empty());
            let _ = rustix::fs::unlinkat(tasks, name.as_str(), AtFlags::REMOVEDIR);
            if error == Errno::EXIST { Ok(None) } else { Err(io(error).into()) }
        }
    }
}

/// Every task there is. Removes what an earlier agent left unfinished. Blocks.
pub(crate) fn examine_all(
    tasks: &OwnedFd,
    path: &Path,
    host: &Host,
    caller: &Caller,
) -> Result<Vec<(TaskId, Standing)>, OpenError> {
    let unreadable = |source| OpenError::Directory { path: path.to_owned(), source };
    supervisor::sweep(tasks).map_err(unreadable)?;
    spare::clear(tasks);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<TaskId>().ok()) else {
            // Directories being made or removed; no task has ever run in the
            // first, and the second was told of long ago. Waiting supervisors may
            // live, and need theirs.
            let is_theirs = |name: &str| supervisor::is_prepared(name) || spare::is_spare(name);
            let is_left = |name: &&str| name.starts_with('.') && !is_theirs(name);
            if let Some(name) = name.to_str().filter(is_left) {
                removal::remove(caller, tasks, name).map_err(unreadable)?;
            }
            continue;
        };
        let dir = order::open_below(tasks, id.as_str()).map_err(unreadable)?;
        match settle(dir.as_fd(), &id, host) {
            Ok(standing) => found.push((id, standing)),
            Err(source) => return Err(OpenError::Task { id, source }),
        }
    }
    if let Some(tree) = &host.tree
        && let Err(error) = supervisor::sweep_slots(tree)
    {
        warn!(error = &error as &dyn std::error::Error, "control groups of dead tasks stay");
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// Waits out a launch that is just happening.
fn settle(dir: BorrowedFd<'_>, id: &TaskId, host: &Host) -> Result<Standing, RecordError> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        match examine(dir, id, host)? {
            Standing::Starting { .. } if Instant::now() > until => {
                return end_set_up(dir, id, host, "the task did not start");
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
