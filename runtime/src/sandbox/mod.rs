//! Executes a [`Plan`] from top to bottom: turns a launch into a running program.
//!
//! ```text
//! supervisor        open ─▶ clone ─▶ map ids ─▶ go ┐           ┌▶ started, or why not
//! process                    └─▶ join, session ─▶ wait ─▶ mount ─▶ pivot ─▶ renounce ─▶ exec
//! ```
//!
//! It runs in a supervisor, which has one thread and must stay small. A container is
//! cloned with its own memory, ahead of its order where that can be foreseen (`standby`),
//! and reports through a socket that its exec closes. A plain process runs on its
//! supervisor's memory until its exec, which is twice as fast, so what it needs is made
//! before.
//!
//! Nothing is looked up by path on behalf of a container but its sources on the host,
//! once, by the supervisor; all else goes through handles that cannot be left
//! (`place`), so that nobody can exchange a path under us.
//!
//! Invariants: [`spawn`] either returns a process that has executed its program, or
//! leaves none; no descriptor stays open in the supervisor but those it returns.

mod chamber;
mod clocks;
mod entry;
mod exact;
mod held;
mod outside;
mod place;
mod process;
mod program;
mod reaper;
mod report;
pub(crate) mod rlimit;
mod root;
mod special;
mod standby;
mod terminal;
#[cfg(test)]
mod tests;
mod user;
pub(crate) mod veil;
mod work;

use std::os::fd::{BorrowedFd, OwnedFd};

pub(crate) use entry::enter;
pub(crate) use held::Held;
pub(crate) use outside::{
    CHANGES, end, forget_changes, make_changes, map_by_helpers, unmake_changes,
};
pub(crate) use special::sealed_null;
pub(crate) use standby::Standby;
pub(crate) use work::{Host, work_inside, work_outside};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::cgroup::Joining;
use crate::launch::{Launch, Place, StartFault};
pub(crate) use crate::plan::Facts;
use crate::plan::{self, Namespaces, PlanFlaw};
use crate::proc::ProcessMark;
use crate::sys::clone::Birth;

/// What a supervisor ignores and its task must not: a log that hits a file size limit,
/// and a pipe that nobody reads, come back as errors. Whatever else whoever started the
/// agent ignored, the keeper does not.
pub(crate) const IGNORED: [Signal; 2] = [Signal::XFSZ, Signal::PIPE];

/// The task's ends of its standard streams. With a terminal for a plain process all
/// three are the same one; a container's is made inside, and these are not used.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What to start, and with what.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) facts: &'a Facts,
    /// The task's directory: `scratch/`, `root/` and `etc/` are below it.
    pub(crate) dir: BorrowedFd<'a>,
    /// Where the runtime keeps volumes; none if it keeps none.
    pub(crate) volumes: Option<BorrowedFd<'a>>,
    /// By which it joins its control groups, if it has any.
    pub(crate) join: Option<Joining<'a>>,
    /// The network namespace of the other task, for [`Network::Of`](crate::Network::Of).
    pub(crate) network_of: Option<BorrowedFd<'a>>,
    pub(crate) ends: &'a Ends,
    /// The process it is to be, if there is one already.
    pub(crate) standby: Option<Standby>,
}

impl Order<'_> {
    /// The control group of version 2 in which the process can be born.
    fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.join.as_ref().and_then(|join| join.into)
    }

    /// Joins the groups that the process was not born in. Allocates nothing.
    fn join(&self, birth: Birth) -> Result<(), Errno> {
        match (&self.join, birth) {
            (None, _) => Ok(()),
            (Some(join), Birth::InGroup) => join.join_rest(),
            (Some(join), Birth::Outside) => join.join_all(),
        }
    }
}

/// A process that executes its program, or is held before it.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    /// Its mark, if it is older than the call.
    pub(crate) mark: Option<ProcessMark>,
    /// What another like it can be born in ahead.
    pub(crate) ahead: Option<Namespaces>,
    /// The supervisor's end of its terminal, if it has one.
    pub(crate) terminal: Option<OwnedFd>,
    /// A container's mount namespace. While somebody holds it, the end of the last
    /// process is seen some 0.3 ms sooner, because it does not have to unmount all;
    /// so close it after the end is told, and before anything of the task is removed.
    pub(crate) mounts: Option<OwnedFd>,
    /// By which it is let go, if it waits before its program.
    pub(crate) held: Option<Held>,
}

impl Spawned {
    fn of(pid: Pid) -> Self {
        Self { pid, mark: None, ahead: None, terminal: None, mounts: None, held: None }
    }
}

/// Why no program runs. Nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotStarted {
    pub(crate) fault: StartFault,
    pub(crate) reason: String,
}

impl NotStarted {
    pub(crate) fn system(what: &str, error: impl std::fmt::Display) -> Self {
        Self { fault: StartFault::System, reason: format!("{what}: {error}") }
    }
}

impl From<PlanFlaw> for NotStarted {
    fn from(flaw: PlanFlaw) -> Self {
        Self { fault: StartFault::System, reason: flaw.to_string() }
    }
}

/// Gives a container's network namespace addresses, before anything of it runs.
pub(crate) type Connect<'a> = &'a mut dyn FnMut(OwnedFd) -> Result<(), String>;

/// Starts what is ordered; returns once its program runs, is held, or has failed to begin.
///
/// The caller has one thread.
pub(crate) fn spawn(order: Order<'_>, connect: Connect<'_>) -> Result<Spawned, NotStarted> {
    let plan = plan::plan(order.launch, order.facts, order.launch.id_base().unwrap_or(0))?;
    match &order.launch.place {
        Place::Process(_) => process::spawn(&plan, order),
        Place::Container(_) => outside::spawn(&plan, order, connect),
    }
}
