//! What is typed, on its way into the task.
//!
//! Invariant: it holds one message at a time and never blocks. Who types more than
//! the task reads waits, because nobody reads its socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::order::Typed;

/// What ends a terminal's input: control-D, unless the task changed that.
const END_OF_FILE: u8 = 4;

#[derive(Debug)]
enum Sink {
    Pipe(OwnedFd),
    /// Our side of it, as another descriptor than the one that is read.
    Terminal(OwnedFd),
}

#[derive(Debug, Default)]
pub(crate) struct Input {
    sink: Option<Sink>,
    waiting: Vec<u8>,
    ending: bool,
}

impl Input {
    /// Into a pipe that does not block.
    pub(crate) fn pipe(pipe: OwnedFd) -> Self {
        Self { sink: Some(Sink::Pipe(pipe)), ..Self::default() }
    }

    /// Into a terminal that does not block.
    pub(crate) fn terminal(terminal: OwnedFd) -> Self {
        Self { sink: Some(Sink::Terminal(terminal)), ..Self::default() }
    }

    /// Whether anything can be typed.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_some() && !self.ending
    }

    /// Whether another message may come.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The descriptor to wait for until it takes more.
    pub(crate) fn blocked_on(&self) -> Option<BorrowedFd<'_>> {
        match &self.sink {
            Some(Sink::Pipe(fd) | Sink::Terminal(fd)) if !self.waiting.is_empty() => {
                Some(fd.as_fd())
            }
            _ => None,
        }
    }

    /// Takes a message. What cannot be delivered any more is dropped.
    pub(crate) fn take(&mut self, typed: Typed) {
        match (typed, &self.sink) {
            (Typed::Input(bytes), Some(_)) if !self.ending => self.waiting.extend(bytes),
            (Typed::InputEnd, Some(Sink::Pipe(_))) => self.ending = true,
            (Typed::InputEnd, Some(Sink::Terminal(_))) => self.waiting.push(END_OF_FILE),
            (Typed::Resize { rows, columns }, Some(Sink::Terminal(terminal))) => {
                resize(terminal, rows, columns);
            }
            _ => {}
        }
        self.turn();
    }

    /// Writes what the task takes now.
    pub(crate) fn turn(&mut self) {
        while let Some(fd) = self.blocked_on() {
            match rustix::io::write(fd, &self.waiting) {
                Ok(length) => {
                    self.waiting.drain(..length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nobody will ever read it.
                Err(_) => {
                    self.waiting.clear();
                    self.ending = true;
                }
            }
        }
        if self.ending {
            self.sink = None;
        }
    }
}

/// Tells a terminal its size; the programs in it hear of it from the kernel.
pub(crate) fn resize(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal without a size is a nuisance, not a failure.
    let _ = tcsetwinsize(terminal, size);
}
