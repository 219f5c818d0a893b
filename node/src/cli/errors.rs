//! How a command fails: three lines for people, one JSON document for programs,
//! and an exit code.
//!
//!     error: what did not work
//!       why: one reason a line
//!      hint: what to do about it
//!
//! The exit codes are a promise to scripts. A failure is reported once, by
//! `report`; nothing below it prints. A backtrace is never shown.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use crate::api::types::{Complaint, Failure};
use crate::cli::output::plain;

/// The operation failed, and nothing below says it better.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong; clap's number.
pub(crate) const USAGE: u8 = 2;
/// Accepted, but only one disk has it.
pub(crate) const NOT_REPLICATED: u8 = 3;
/// No agent answers (EX_UNAVAILABLE).
pub(crate) const UNREACHABLE: u8 = 69;
/// Accepted, but not placed or not over in the time given (EX_TEMPFAIL).
pub(crate) const NOT_IN_TIME: u8 = 75;
/// `run` failed before the program could start; Docker's number.
pub(crate) const NOT_STARTED: u8 = 125;
/// Ctrl-C: 128 and SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;
/// 128 and SIGPIPE: what a program in the foreground ends with when its reader left.
pub(crate) const READER_LEFT: u8 = 141;
/// Stopped by somebody before its end: 128 and SIGTERM.
pub(crate) const STOPPED: u8 = 143;

/// An error of the system as people read it, without the number that the standard library adds.
pub(crate) fn without_number(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failed {
    complaint: Option<Complaint>,
    exit: u8,
}

impl Failed {
    /// Ends with this code and says nothing: who reads has left, or pressed Ctrl-C.
    pub(crate) fn silently(exit: u8) -> Self {
        Self { complaint: None, exit }
    }

    /// The same failure with another exit code.
    pub(crate) fn exiting(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// The failure inside `run`, before the program started: everything that has no
    /// exit code of its own is 125.
    pub(crate) fn before_start(self) -> Self {
        if self.exit == FAILED { self.exiting(NOT_STARTED) } else { self }
    }

    /// The complaint's code, for callers that know what to do about one.
    pub(crate) fn code(&self) -> Option<&str> {
        self.complaint.as_ref().map(|complaint| complaint.code.as_str())
    }

    /// Its exit code.
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }

    /// Tells the user, on stderr, and answers the exit code.
    pub(crate) fn report(&self, json: Json) -> u8 {
        if let Some(complaint) = &self.complaint {
            let text = match json {
                Json::Yes => as_json(complaint),
                Json::No => as_text(complaint, Colour::of_stderr()),
            };
            // Nobody is left to be told that stderr is closed.
            let _closed = io::stderr().write_all(text.as_bytes());
        }
        self.exit
    }
}

impl From<Complaint> for Failed {
    fn from(complaint: Complaint) -> Self {
        let exit = exit_of(&complaint.code);
        Self { complaint: Some(complaint), exit }
    }
}

/// A failed write to stdout: a reader that has seen enough is no failure.
impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silently(0);
        }
        Complaint::new("output", "the answer cannot be written").because(error).into()
    }
}

fn exit_of(code: &str) -> u8 {
    match code {
        "unreachable" => UNREACHABLE,
        "usage" => USAGE,
        "timeout" | "unplaced" => NOT_IN_TIME,
        _ => FAILED,
    }
}

/// Whether failures are told as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// As the API's `Failure`.
    Yes,
    /// As three lines.
    No,
}

/// Whether a word may be coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// A person looks at a terminal that can.
    Yes,
    /// A pipe, a file, a dumb terminal, or somebody who asked for none.
    No,
}

impl Colour {
    fn of_stderr() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if !unwanted && !dumb && io::stderr().is_terminal() { Self::Yes } else { Self::No }
    }
}

fn as_json(complaint: &Complaint) -> String {
    let failure = Failure { error: complaint.clone() };
    serde_json::to_string(&failure).map_or_else(|_| as_text(complaint, Colour::No), |t| t + "\n")
}

fn as_text(complaint: &Complaint, colour: Colour) -> String {
    let error = match colour {
        Colour::Yes => "\u{1b}[1;31merror:\u{1b}[0m",
        Colour::No => "error:",
    };
    let mut text = format!("{error} {}\n", plain(&complaint.message));
    let reasons = complaint.why.iter().flat_map(|why| why.lines());
    for why in reasons {
        let _infallible = writeln!(text, "  why: {}", plain(why));
    }
    for hint in complaint.hint.iter().flat_map(|hint| hint.lines()) {
        let _infallible = writeln!(text, " hint: {}", plain(hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint() -> Complaint {
        Complaint::new("unplaced", "no node can run `train`")
            .because("h1: cpu 1 < 4")
            .because("h2: silent\nfor 42s")
            .hint("starling why train")
    }

    #[test]
    fn people_get_three_kinds_of_lines_in_one_shape() {
        let text = as_text(&complaint(), Colour::No);
        let expected = "error: no node can run `train`\n  why: h1: cpu 1 < 4\n  why: h2: silent\n  \
                        why: for 42s\n hint: starling why train\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn programs_get_the_failure_of_the_api() {
        let failure: Failure = serde_json::from_str(&as_json(&complaint())).expect("json");
        assert_eq!(failure.error, complaint());
    }

    #[test]
    fn what_a_peer_wrote_cannot_move_the_cursor() {
        let text = as_text(&Complaint::new("x", "a\u{1b}[2Jb\r"), Colour::No);
        assert_eq!(text, "error: a\\u{1b}[2Jb\\r\n");
    }

    #[test]
    fn exit_codes_follow_from_what_went_wrong() {
        let exit = |code: &str| Failed::from(Complaint::new(code, "x")).exit();
        assert_eq!(exit("unreachable"), 69);
        assert_eq!(exit("timeout"), 75);
        assert_eq!(exit("usage"), 2);
        assert_eq!(exit("not_found"), 1);
        let failed = |code: &str| Failed::from(Complaint::new(code, "x")).before_start().exit();
        assert_eq!(failed("bad_spec"), 125);
        assert_eq!(failed("unreachable"), 69);
        assert_eq!(Failed::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit(), 0);
    }
}
