//! The network of another task, for those that share one.
//!
//! The other is found by its record and held by a handle to exactly its main process,
//! so that whoever has its number now is never joined. The namespace lives until the
//! last of those that share it ends; its address and published ports are the other's,
//! and end with that.
//!
//! Invariant: nobody comes to the host's network in this way: only a container with a
//! network of its own is joined, or one that shares such a network.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::container::Network;
use crate::launch::{Launch, Place, TaskId};
use crate::proc;
use crate::record;
use crate::spare;

/// The network namespace that a launch shares; none if it shares none.
pub(super) fn network(
    tasks: &OwnedFd,
    boot: &str,
    launch: &Launch,
) -> Result<Option<OwnedFd>, String> {
    match &launch.place {
        Place::Container(container) => match &container.network {
            Network::Of(other) => find(tasks, boot, other).map(Some),
            Network::None | Network::Host | Network::Bridge { .. } => Ok(None),
        },
        Place::Process(_) => Ok(None),
    }
}

fn find(tasks: &OwnedFd, boot: &str, other: &TaskId) -> Result<OwnedFd, String> {
    let absent = || format!("task {other} does not run here; start it first");
    let damaged = |error| format!("the record of task {other} cannot be read: {error}");
    // It may just have been removed.
    let dir = spare::hold(tasks, other).map_err(|_gone| absent())?;
    let found = record::main_process(dir.as_fd(), boot).map_err(damaged)?;
    let (mark, process) = found.ok_or_else(absent)?;
    let launch = record::read_launch(dir.as_fd()).map_err(damaged)?;
    if !has_network(&launch) {
        return Err(format!("task {other} has no network of its own to share"));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/ns/net", mark.pid);
    let namespace = rustix::fs::open(path, flags, Mode::empty()).map_err(|_gone| absent())?;
    // It had the number all the while, so this is its namespace.
    match proc::has_ended(&process) {
        Ok(false) => Ok(namespace),
        Ok(true) => Err(absent()),
        Err(error) => Err(format!("task {other} cannot be watched: {error}")),
    }
}

fn has_network(launch: &Launch) -> bool {
    match &launch.place {
        Place::Container(container) => container.network != Network::Host,
        Place::Process(_) => false,
    }
}
