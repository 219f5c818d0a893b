//! The task's outputs into its log.
//!
//! Invariant: a pipe is never read blocking. Any process may hold the other end
//! for as long as it likes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::signals::Signals;
use crate::log::{CHUNK_BYTES, LogStream, LogWriter};

/// Reads of one pipe before signals are looked at again.
const READS_PER_TURN: usize = 4;

/// Most that is taken from a pipe after the end: the largest a pipe can be made
/// without privilege (`/proc/sys/fs/pipe-max-size`).
const LAST_READS: usize = (1 << 20) / CHUNK_BYTES;

#[derive(Debug)]
pub(super) struct Pump {
    /// Open ends of what the task writes to; not blocking.
    outputs: Vec<(LogStream, OwnedFd)>,
    log: LogWriter,
    chunk: Vec<u8>,
}

impl Pump {
    pub(super) fn new(log: LogWriter, outputs: Vec<(LogStream, OwnedFd)>) -> Self {
        Self { outputs, log, chunk: Vec::new() }
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().map(|(_, output)| output.as_fd())
    }

    /// Waits for a signal, for output or for the time to pass, and logs the output.
    pub(super) fn wait(&mut self, signals: &Signals, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).ok();
        let mut watched: Vec<_> = [signals.fd().as_fd()]
            .into_iter()
            .chain(self.outputs())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let Ok(ready) = poll(&mut watched, timeout.as_ref()) else { return };
        let output = watched.iter().skip(1).any(|fd| !fd.revents().is_empty());
        if ready > 0 && output {
            self.turn();
        }
    }

    /// Logs some of what is there.
    pub(super) fn turn(&mut self) {
        self.drain(READS_PER_TURN);
    }

    /// Logs what is left and closes the outputs.
    pub(super) fn finish(&mut self) {
        self.drain(LAST_READS);
        self.outputs.clear();
        self.log.finish();
    }

    fn drain(&mut self, reads: usize) {
        let Self { outputs, log, chunk } = self;
        chunk.resize(CHUNK_BYTES, 0);
        outputs.retain(|(stream, output)| {
            for _ in 0..reads {
                match rustix::io::read(output, chunk.as_mut_slice()) {
                    Ok(0) => return false,
                    Ok(length) => log.append(*stream, chunk.get(..length).unwrap_or_default()),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    // A terminal whose last user is gone.
                    Err(_) => return false,
                }
            }
            true
        });
        log.flush();
    }
}
