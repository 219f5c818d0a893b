//! This end's terminal, while it belongs to something in a task.
//!
//! Invariant: whatever ends the command, the terminal is as it was: the guard
//! restores it when it is dropped, and a panic unwinds through it.

use std::io::{IsTerminal as _, stdin, stdout};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::session::Size;

/// The terminal of standard input, made to pass every key on.
#[derive(Debug)]
pub(crate) struct Raw(Termios);

impl Raw {
    /// Takes it; none if standard input is no terminal.
    pub(crate) fn take() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Its size, if there is one.
pub(crate) fn size() -> Option<Size> {
    let found = tcgetwinsize(stdout()).or_else(|_not_there| tcgetwinsize(stdin())).ok()?;
    let known = found.ws_row > 0 && found.ws_col > 0;
    known.then_some(Size { rows: found.ws_row, columns: found.ws_col })
}

/// How many letters stand in a line of what standard error is, if that is a terminal.
pub(crate) fn columns_of_stderr() -> Option<usize> {
    let found = tcgetwinsize(rustix::stdio::stderr()).ok()?;
    (found.ws_col > 0).then_some(usize::from(found.ws_col))
}
