//! Turns a launch into a running program: the border between supervising and
//! isolating.
//!
//! Called in a supervisor, which has one thread. It returns when the program runs,
//! or has failed to.

mod process;

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::launch::{Launch, Place, StartFault};
use crate::order::{self};
use crate::record::SCRATCH;
use crate::sys;
use process::Plan;

/// What this machine can do, found out once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {}

impl Facts {
    /// Looks at the machine.
    pub(crate) fn probe() -> Self {
        Self {}
    }
}

/// The task's ends of what connects it with its supervisor. With a terminal for a
/// plain process all three are the same one.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// A program to start.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) launch: &'a Launch,
    pub(crate) facts: &'a Facts,
    /// The task's directory.
    pub(crate) dir: BorrowedFd<'a>,
    /// The files of its control groups: writing `0` joins.
    pub(crate) join: Vec<BorrowedFd<'a>>,
    pub(crate) ends: Ends,
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    /// The other side of a container's terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// A program that does not.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) fault: StartFault,
    pub(crate) reason: String,
}

impl NotStarted {
    pub(crate) fn system(what: &str, error: impl std::fmt::Display) -> Self {
        Self { fault: StartFault::System, reason: format!("{what}: {error}") }
    }
}

/// Starts the program of a checked launch.
pub(crate) fn spawn(
    order: Order<'_>,
    _network: &mut dyn FnMut(OwnedFd) -> Result<(), String>,
) -> Result<Spawned, NotStarted> {
    let Order { launch, facts: _, dir, join, ends } = order;
    if let Place::Container(_) = launch.place {
        return Err(NotStarted::system("cannot start a container", "not here yet"));
    }
    let failed =
        |error: &dyn std::fmt::Display| NotStarted::system("cannot prepare the task", error);
    let scratch = order::open_below(dir, SCRATCH).map_err(|error| failed(&error))?;
    let plan = Plan::new(launch, scratch).ok_or_else(|| failed(&"a zero byte"))?;
    let mut failure = None;
    let pid = sys::vfork(&mut || failure = Some(plan.become_task(&ends, &join)));
    let pid = pid.map_err(|error| failed(&error))?;
    match failure {
        None => Ok(Spawned { pid, terminal: None }),
        Some((step, error)) => {
            let _ = waitpid(Some(pid), WaitOptions::empty());
            let (fault, reason) = process::explain(step, error, launch);
            Err(NotStarted { fault, reason })
        }
    }
}
