//! What keeper and supervisors say when something goes wrong: lines of `keeper.log`.
//!
//! Invariant: whoever complains goes on. `eprintln!` panics where its line cannot be
//! written, and on a full disk that took the supervisor, and the task with it.

use std::fmt;
use std::io::Write as _;

/// Writes one line to the standard error, if it takes one.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    // In one piece, since others write there too.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// As `eprintln!`, but for processes that outlive their log.
macro_rules! complain {
    ($($text:tt)*) => { $crate::complaint::line(format_args!($($text)*)) };
}
