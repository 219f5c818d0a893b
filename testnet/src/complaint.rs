//! What a command says when it cannot do what it was asked: three lines and a code.
//!
//!     error: what did not happen
//!     why:   the fact behind it
//!     hint:  what to do next
//!
//! Must never be used inside `fabric/`: there, each module has an error of its
//! own with fields, which is turned into a complaint where a command meets it.

use std::error::Error;
use std::fmt;

/// The operation failed.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// No fabric is up (`EX_UNAVAILABLE`).
pub const NOTHING_UP: u8 = 69;

/// A failure as the user reads it.
#[derive(Debug)]
pub struct Complaint {
    error: String,
    why: String,
    hint: String,
    code: u8,
}

impl Complaint {
    /// A failed operation.
    pub fn new(error: impl Into<String>, why: impl ToString, hint: impl Into<String>) -> Self {
        Self { error: error.into(), why: why.to_string(), hint: hint.into(), code: FAILED }
    }

    /// A failed operation, with the whole chain of causes as the reason.
    pub fn caused(error: impl Into<String>, why: &dyn Error, hint: impl Into<String>) -> Self {
        Self::new(error, chain(why), hint)
    }

    /// The same, with another exit code.
    #[must_use]
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, why, hint, .. } = self;
        write!(out, "error: {error}\nwhy: {why}\nhint: {hint}")
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text.replace('\n', " ")
}
