//! The control group of a supervisor's tasks.

use std::io;
use std::os::fd::BorrowedFd;

use crate::cgroup::Limits;

/// A group of processes, limited together. Without control groups on this machine it
/// is nothing, and can nothing.
#[derive(Debug, Default)]
pub(super) struct Group {}

impl Group {
    /// Makes the group fit for a task.
    pub(super) fn fit(&mut self, _limits: &Limits) -> io::Result<()> {
        Ok(())
    }

    /// What a later agent finds it by.
    pub(super) fn name(&self) -> Option<String> {
        None
    }

    /// The files by which a process joins: it writes `0`.
    pub(super) fn join(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Kills all that is in it.
    pub(super) fn kill(&self) {}

    /// Stops all that is in it, or lets it go on.
    pub(super) fn freeze(&self, _frozen: bool) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this machine has no control groups for us"))
    }

    /// How often the kernel killed in it for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        0
    }
}
