//! A further program inside of a running container: `exec`.
//!
//! It gets what the first program got and not more: the same namespaces, control
//! groups, capabilities, filter and limits. Who enters is hidden from those inside
//! until it has executed the program, so there is no file of the host's to be had.

use std::os::fd::BorrowedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitOptions, waitpid};

use super::chamber::Chamber;
use super::outside::end;
use super::report::{self, Heard, Outcome};
use super::{NotStarted, Order, Spawned};
use crate::plan;
use crate::sys::{self, Fork};

/// Starts a program in the container that `resident` is in: a pidfd of its first
/// process, of which the caller knows that it is that task's.
///
/// The order's launch is the container's own, with the program, the environment, the
/// user, the directory and the streams of the further program; its `dir`, `volumes`
/// and `network_of` are not used. The new process is a child of the caller, which has
/// one thread.
pub(crate) fn enter(resident: BorrowedFd<'_>, order: Order<'_>) -> Result<Spawned, NotStarted> {
    let plan = plan::entry(order.launch, order.facts)?;
    let system = |error: &dyn std::fmt::Display| NotStarted::system("cannot enter", error);
    let (socket, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| system(&error))?;
    let scout = match sys::fork().map_err(|error| system(&error))? {
        Fork::Parent(scout) => scout,
        Fork::Child => {
            drop(socket);
            Chamber::of(&plan, &order, theirs, resident).live()
        }
    };
    drop(theirs);
    let heard = report::receive(&socket).map_err(|error| system(&error));
    // It leaves as soon as it has told who goes on, or why not.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(scout), WaitOptions::empty()));
    let Heard { outcome, terminal, mut process, .. } = heard?;
    if let (Outcome::Failed(..), None) = (&outcome, &process) {
        // Who goes on failed before the scout told who that is.
        process = report::receive(&socket).ok().and_then(|later| later.process);
    }
    match (outcome, process) {
        (Outcome::Runs, Some(pid)) => Ok(Spawned { terminal, ..Spawned::of(pid) }),
        (Outcome::Held, process) => {
            process.into_iter().for_each(end);
            Err(system(&"nobody lets a further program go on"))
        }
        (Outcome::Runs, None) => Err(system(&"it was killed on the way")),
        (Outcome::Failed(at, failure), process) => {
            process.into_iter().for_each(end);
            Err(report::in_words(&plan, at, &failure))
        }
    }
}
