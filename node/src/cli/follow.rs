//! Shows what tasks wrote: `run` in the foreground and `logs` both end here.
//!
//! A single task's bytes are passed on as they are. Of several tasks, whole
//! lines are shown, each with its task before it; a line that is not finished
//! yet waits for its end, up to a bound. Writing is done off the one thread, so
//! that a reader that stands still does not make Ctrl-C stand still.

use std::collections::BTreeMap;
use std::io::{self, Write};

use gossip_core::fact::TaskEnd;
use gossip_core::moment::WallTime;

use crate::agent::words::HINT;
use crate::api::types::{Complaint, LogItem};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, plain};
use crate::cli::times;

/// The longest unfinished line that is waited for.
const PARTIAL_BYTES_MAX: usize = 64 * 1024;

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    Stderr,
}

/// What is shown of each piece of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Each line's task before it: there are several.
    pub(crate) names: Names,
    /// Each line's time before it.
    pub(crate) times: Times,
    /// Whether notes are shown.
    pub(crate) format: Format,
}

/// Whether lines carry their task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    Shown,
    Hidden,
}

/// Whether lines carry their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    Shown,
    Hidden,
}

/// Turns log items into bytes.
#[derive(Debug)]
pub(crate) struct Printer {
    style: Style,
    /// Unfinished lines, by task and stream.
    partial: BTreeMap<(String, u8), Vec<u8>>,
}

/// What must be told of a task's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nothing.
    Good,
    /// Told of several tasks; of a single one the exit code tells it.
    Bad,
    /// Not the program's own doing: always told.
    Mishap,
}

impl Ending {
    fn of(exit_code: i32, detail: &str) -> Self {
        let expected = [TaskEnd::Exited { code: exit_code }, TaskEnd::Stopped, TaskEnd::Superseded];
        match exit_code {
            0 => Self::Good,
            _ if expected.iter().any(|end| end.to_string() == detail) => Self::Bad,
            _ => Self::Mishap,
        }
    }
}

/// Bytes for one of the two.
pub(crate) type Piece = (To, Vec<u8>);

impl Printer {
    /// Shows items in this style.
    pub(crate) fn new(style: Style) -> Self {
        Self { style, partial: BTreeMap::new() }
    }

    /// What an item adds.
    pub(crate) fn show(&mut self, item: &LogItem) -> Result<Vec<Piece>, Failed> {
        match item {
            LogItem::Output { task, at_ns, stream, data, .. } => {
                let data = data_encoding::BASE64.decode(data.as_bytes()).map_err(|error| {
                    Failed::from(
                        Complaint::new("bad_answer", "the agent's answer cannot be read")
                            .because(error),
                    )
                })?;
                Ok(self.output(task, *stream, *at_ns, data))
            }
            LogItem::Ended { task, node, exit_code, detail } => {
                let mut pieces = self.rest_of(task);
                let end = format!("{task} on {node}: {detail}");
                match Ending::of(*exit_code, detail) {
                    Ending::Mishap => {
                        let (what, hint) = end.split_once(HINT).unwrap_or((&end, ""));
                        pieces.push(note(&format!("error: {what}")));
                        if !hint.is_empty() {
                            pieces.push(note(&format!(" hint: {hint}")));
                        }
                    }
                    Ending::Bad if self.style.names == Names::Shown => pieces.push(note(&end)),
                    Ending::Bad | Ending::Good => {}
                }
                Ok(pieces)
            }
            LogItem::Notice { message } if self.style.format != Format::Quiet => {
                Ok(vec![note(&format!("note: {message}"))])
            }
            LogItem::Notice { .. } | LogItem::Placed { .. } | LogItem::Starting { .. } => {
                Ok(Vec::new())
            }
            LogItem::Done { .. } => Ok(self.rest()),
        }
    }

    /// Unfinished lines, when nothing follows any more.
    pub(crate) fn rest(&mut self) -> Vec<Piece> {
        let tasks: Vec<String> = self.partial.keys().map(|(task, _)| task.clone()).collect();
        tasks.iter().flat_map(|task| self.rest_of(task)).collect()
    }

    fn output(&mut self, task: &str, stream: u8, at_ns: u64, data: Vec<u8>) -> Vec<Piece> {
        let to = stream_of(stream);
        if self.style.names == Names::Hidden && self.style.times == Times::Hidden {
            return vec![(to, data)];
        }
        let prefix = self.prefix(task, at_ns);
        let waiting = self.partial.entry((task.to_owned(), stream)).or_default();
        let mut shown = Vec::new();
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            if waiting.is_empty() {
                waiting.extend_from_slice(&prefix);
            }
            waiting.extend_from_slice(piece);
            if waiting.len() > PARTIAL_BYTES_MAX && !waiting.ends_with(b"\n") {
                waiting.push(b'\n');
            }
            if waiting.ends_with(b"\n") {
                shown.append(waiting);
            }
        }
        if shown.is_empty() { Vec::new() } else { vec![(to, shown)] }
    }

    fn prefix(&self, task: &str, at_ns: u64) -> Vec<u8> {
        let mut prefix = String::new();
        if self.style.names == Names::Shown {
            prefix.push_str(&plain(task));
            prefix.push_str("| ");
        }
        if self.style.times == Times::Shown {
            prefix.push_str(&times::timestamp(WallTime(at_ns / 1_000_000)));
            prefix.push(' ');
        }
        prefix.into_bytes()
    }

    fn rest_of(&mut self, task: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for stream in [1, 2] {
            let waiting = self.partial.remove(&(task.to_owned(), stream)).unwrap_or_default();
            if !waiting.is_empty() {
                pieces.push((stream_of(stream), [waiting, b"\n".to_vec()].concat()));
            }
        }
        pieces
    }
}

fn stream_of(stream: u8) -> To {
    if stream == 2 { To::Stderr } else { To::Stdout }
}

fn note(text: &str) -> Piece {
    (To::Stderr, format!("{}\n", plain(text)).into_bytes())
}

/// Writes pieces, off this thread, one after the other.
pub(crate) async fn write(pieces: Vec<Piece>) -> Result<(), Failed> {
    if pieces.iter().all(|(_, bytes)| bytes.is_empty()) {
        return Ok(());
    }
    let written = tokio::task::spawn_blocking(move || -> io::Result<()> {
        for (to, bytes) in pieces {
            match to {
                To::Stdout => {
                    let mut out = io::stdout().lock();
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                To::Stderr => io::stderr().lock().write_all(&bytes)?,
            }
        }
        Ok(())
    });
    match written.await {
        Ok(result) => Ok(result?),
        Err(error) => {
            Err(Complaint::new("output", "the output cannot be written").because(error).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printer(names: Names, times: Times) -> Printer {
        Printer::new(Style { names, times, format: Format::Human })
    }

    fn output(task: &str, stream: u8, data: &[u8]) -> LogItem {
        let data = data_encoding::BASE64.encode(data);
        LogItem::Output { task: task.into(), node: "h1".into(), at_ns: 0, stream, data }
    }

    fn ended(task: &str, exit_code: i32, detail: &str) -> LogItem {
        LogItem::Ended { task: task.into(), node: "h1".into(), exit_code, detail: detail.into() }
    }

    fn told(printer: &mut Printer, items: &[LogItem]) -> Vec<(To, String)> {
        let pieces = items.iter().flat_map(|item| printer.show(item).expect("shows"));
        pieces.map(|(to, bytes)| (to, String::from_utf8_lossy(&bytes).into_owned())).collect()
    }

    #[test]
    fn one_tasks_bytes_pass_as_they_are() {
        let mut printer = printer(Names::Hidden, Times::Hidden);
        let pieces = printer.show(&output("a.1", 2, b"\xff\x00no newline")).expect("shows");
        assert_eq!(pieces, [(To::Stderr, b"\xff\x00no newline".to_vec())]);
    }

    #[test]
    fn lines_of_several_tasks_do_not_mix() {
        let mut printer = printer(Names::Shown, Times::Hidden);
        let items = [
            output("a.1", 1, b"one\ntw"),
            output("a.2", 1, b"x"),
            output("a.1", 1, b"o\n"),
            ended("a.2", 0, "exited with 0"),
            output("a.1", 2, b"end"),
            LogItem::Done { exit_code: 0, state: "succeeded".into() },
        ];
        let told: Vec<_> = told(&mut printer, &items);
        let expected = [
            (To::Stdout, "a.1| one\n"),
            (To::Stdout, "a.1| two\n"),
            (To::Stdout, "a.2| x\n"),
            (To::Stderr, "a.1| end\n"),
        ];
        assert_eq!(told, expected.map(|(to, text)| (to, text.to_owned())));
    }

    #[test]
    fn a_line_without_end_is_not_kept_forever() {
        let mut printer = printer(Names::Shown, Times::Hidden);
        let pieces = printer.show(&output("a.1", 1, &[b'x'; PARTIAL_BYTES_MAX + 1]));
        assert_eq!(pieces.expect("shows").len(), 1);
    }

    #[test]
    fn a_time_stands_before_the_line() {
        let mut printer = printer(Names::Shown, Times::Shown);
        let told = told(&mut printer, &[output("a.1", 1, b"x\n")]);
        assert_eq!(told, [(To::Stdout, "a.1| 1970-01-01T00:00:00.000Z x\n".to_owned())]);
    }

    #[test]
    fn an_end_is_told_if_the_exit_code_does_not_tell_it() {
        let ends = [
            (0, "exited with 0", Ending::Good),
            (3, "exited with 3", Ending::Bad),
            (143, "stopped", Ending::Bad),
            (137, "killed by signal 9", Ending::Mishap),
            (127, "could not be started: no such file", Ending::Mishap),
        ];
        for (code, detail, expected) in ends {
            assert_eq!(Ending::of(code, detail), expected, "{detail}");
            for (names, times) in [(Names::Shown, 1), (Names::Hidden, 0)] {
                let told = told(&mut printer(names, Times::Hidden), &[ended("a.1", code, detail)]);
                let lines = match expected {
                    Ending::Good => 0,
                    Ending::Bad => times,
                    Ending::Mishap => 1,
                };
                assert_eq!(told.len(), lines, "{detail}");
            }
        }
    }

    #[test]
    fn what_helps_stands_on_a_line_of_its_own() {
        let detail = "could not be started: --device: there is no /dev/x; hint: put it there";
        let told = told(&mut printer(Names::Hidden, Times::Hidden), &[ended("a.1", 125, detail)]);
        let lines: Vec<_> = told.iter().map(|(_, line)| line.as_str()).collect();
        let error = "error: a.1 on h1: could not be started: --device: there is no /dev/x\n";
        assert_eq!(lines, [error, " hint: put it there\n"]);
    }

    #[test]
    fn output_that_is_no_base64_is_refused() {
        let item = LogItem::Output {
            task: "a.1".into(),
            node: "h1".into(),
            at_ns: 0,
            stream: 1,
            data: "?".into(),
        };
        assert!(printer(Names::Hidden, Times::Hidden).show(&item).is_err());
    }
}
