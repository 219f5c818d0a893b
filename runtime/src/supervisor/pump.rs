//! The supervisor's wait: the task's two pipes into its log, and signals.
//!
//! Invariant: a pipe is never read blocking. Any process may hold the other end
//! for as long as it likes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::log::{CHUNK_BYTES, LogStream, LogWriter};

/// Reads of one pipe before signals are looked at again.
const READS_PER_TURN: usize = 4;

/// Most that is taken from a pipe after the end: the largest a pipe can be made
/// without privilege (`/proc/sys/fs/pipe-max-size`).
const LAST_READS: usize = (1 << 20) / CHUNK_BYTES;

#[derive(Debug)]
pub(super) struct Pump {
    /// Open pipes of the task.
    pipes: Vec<(LogStream, OwnedFd)>,
    log: LogWriter,
    chunk: Vec<u8>,
}

impl Pump {
    pub(super) fn new(dir: OwnedFd, out: OwnedFd, err: OwnedFd) -> io::Result<Self> {
        for pipe in [&out, &err] {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        let pipes = vec![(LogStream::Stdout, out), (LogStream::Stderr, err)];
        Ok(Self { pipes, log: LogWriter::new(dir), chunk: vec![0; CHUNK_BYTES] })
    }

    /// Waits for a signal, for output or for the time to pass, and logs the output.
    pub(super) fn wait(&mut self, signals: &OwnedFd, timeout: Option<Duration>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut watched: Vec<_> = [signals.as_fd()]
            .into_iter()
            .chain(self.pipes.iter().map(|(_, pipe)| pipe.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let ready = match poll(&mut watched, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(_) => return,
        };
        let output = watched.iter().skip(1).any(|fd| !fd.revents().is_empty());
        if ready > 0 && output {
            self.drain(READS_PER_TURN);
        }
    }

    /// Logs what is left and closes the pipes.
    pub(super) fn finish(&mut self) {
        self.drain(LAST_READS);
        self.pipes.clear();
    }

    fn drain(&mut self, reads: usize) {
        let Self { pipes, log, chunk } = self;
        pipes.retain(|(stream, pipe)| {
            for _ in 0..reads {
                match rustix::io::read(pipe, chunk.as_mut_slice()) {
                    Ok(0) => return false,
                    Ok(length) => log.append(*stream, chunk.get(..length).unwrap_or_default()),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
            true
        });
        log.flush();
    }
}
