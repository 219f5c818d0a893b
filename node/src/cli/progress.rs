//! How far a copy is, for whoever waits at a terminal.
//!
//! Must never: write where standard error is a file or a pipe, or to whoever asked for
//! less.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use gossip_core::resources::show_bytes;
use tokio::time::Instant;

use crate::cli::output::{Format, Output};

/// Copies that are over before are not told of while they go on.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Between two words on how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// How far a long copy is, on a terminal.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    next: Option<Instant>,
    bytes: u64,
    shown: bool,
}

impl Progress {
    /// Of a copy that begins now; told of only to people at a terminal.
    pub(crate) fn new(out: Output) -> Self {
        let is_wanted = out.format == Format::Human && io::stderr().is_terminal();
        let next = is_wanted.then(|| Instant::now() + TOLD_AFTER);
        Self { next, ..Self::default() }
    }

    /// So many bytes more.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.next.is_some_and(|at| at <= Instant::now()) {
            self.next = Some(Instant::now() + TOLD_EVERY);
            self.shown = true;
            // Nobody is left to be told that stderr is closed.
            let _ = write!(io::stderr(), "\r\u{1b}[K{} copied", show_bytes(self.bytes));
        }
    }

    /// Leaves nothing of it on the terminal.
    pub(crate) fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
