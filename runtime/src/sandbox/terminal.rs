//! A task's terminal: the end it types into, and the one the supervisor keeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, ioctl_tiocsctty};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetpgrp, tcsetwinsize};

/// The task's end.
#[derive(Debug)]
pub(super) struct Terminal(OwnedFd);

/// Opens a terminal of the devpts behind a handle: `/dev/ptmx` could be anything.
/// Returns the task's end and the supervisor's.
pub(super) fn open(
    terminals: BorrowedFd<'_>,
    (rows, columns): (u16, u16),
) -> Result<(Terminal, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::openat(terminals, c"ptmx", flags, Mode::empty())?;
    unlockpt(&ours)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let task = ioctl_tiocgptpeer(&ours, flags)?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size)?;
    Ok((Terminal(task), ours))
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Terminal {
    /// Makes it the controlling terminal of this session, and its three streams.
    pub(super) fn become_streams(&self) -> Result<(), Errno> {
        rustix::stdio::dup2_stdin(&self.0)?;
        rustix::stdio::dup2_stdout(&self.0)?;
        rustix::stdio::dup2_stderr(&self.0)
    }

    /// Makes it the controlling terminal of the session that this process leads.
    pub(super) fn control(&self) -> Result<(), Errno> {
        ioctl_tiocsctty(&self.0)
    }

    /// Gives it to the task's user, who may open it again.
    pub(super) fn give_to(&self, uid: u32) -> Result<(), Errno> {
        rustix::fs::fchown(&self.0, Some(Uid::from_raw(uid)), None)
    }

    /// Makes a process group the one that is typed to.
    pub(super) fn put_in_front(&self, group: Pid) -> Result<(), Errno> {
        tcsetpgrp(&self.0, group)
    }
}
