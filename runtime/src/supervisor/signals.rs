//! The signals a supervisor takes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Signal;

use crate::sys;

/// Signals that the keeper and its supervisors take from a descriptor.
pub(crate) const TAKEN: [Signal; 4] = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];

/// What a supervisor with a task gets when its keeper dies.
pub(super) const KEEPER_DEATH: Signal = Signal::USR1;

/// What an agent sends to a supervisor that it did not ask itself, and another supervisor
/// that lets somebody into its task: see [`Signals::adopted`].
pub(crate) const ADOPTION: Signal = Signal::HUP;

/// What an agent sends to a supervisor that shall listen at its task's `control.sock`:
/// most tasks end before anybody wants that, and a socket is a file.
pub(crate) const KNOCK: Signal = Signal::USR2;

/// The supervisor's.
const OWN: [Signal; 6] = [Signal::CHILD, Signal::TERM, Signal::INT, ADOPTION, KEEPER_DEATH, KNOCK];

#[derive(Debug)]
pub(super) struct Signals {
    fd: OwnedFd,
    /// An agent watches this process and not the connection, or somebody else's child is in
    /// its groups: it must leave after its task, and never be reused.
    pub(super) adopted: bool,
    /// The keeper is dead: nobody will wait for orders where this process took its own.
    pub(super) orphaned: bool,
    /// Somebody wants to command.
    pub(super) knocked: bool,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        sys::block_only(&OWN);
        Ok(Self { fd: sys::signal_fd(&OWN)?, adopted: false, orphaned: false, knocked: false })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Takes what is pending; true if somebody wants the task to stop.
    pub(super) fn take(&mut self) -> bool {
        let [_, term, int, adopted, orphaned, knocked] = sys::take_signals(self.fd.as_fd(), OWN);
        self.adopted |= adopted;
        self.orphaned |= orphaned;
        self.knocked |= knocked;
        term || int
    }
}
