//! The one printer: the answer on stdout, everything else on stderr.
//!
//! `--json` prints the API's document as it came, so that fields newer than
//! this program survive; `-q` prints names only and no notes. What peers and
//! users wrote is shown with control characters escaped: an answer never moves
//! the cursor of whoever reads it. Only a program's own output, in `run` and
//! `logs`, is passed on byte for byte, and that is not printed here.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use serde::de::DeserializeOwned;
use starling_core::view::{Freshness, Listing};

use crate::cli::client::Answer;
use crate::cli::errors::{Failed, Json};
use crate::cli::table::Table;

/// In which form the user wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables and sentences.
    Human,
    /// The API's JSON.
    Json,
    /// Names only, one a line.
    Quiet,
}

impl Format {
    /// How failures are told in this form.
    pub(crate) fn failures(self) -> Json {
        if self == Self::Json { Json::Yes } else { Json::No }
    }
}

/// Prints answers in one form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// A line of the answer.
    pub(crate) fn line(self, text: &str) -> Result<(), Failed> {
        let mut line = plain(text);
        line.push('\n');
        write(&line)
    }

    /// The API's document, as it came, in one line.
    pub(crate) fn json(self, document: &[u8]) -> Result<(), Failed> {
        let mut out = io::stdout().lock();
        out.write_all(document.trim_ascii_end())?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    }

    /// A table, with its last column cut to the terminal.
    pub(crate) fn table(self, table: &Table) -> Result<(), Failed> {
        let width = io::stdout().is_terminal().then(width_of_stdout).flatten();
        write(&table.print(width))
    }

    /// Something worth knowing that is not the answer.
    pub(crate) fn note(self, text: &str) {
        if self.format != Format::Quiet {
            self.warn(text);
        }
    }

    /// Something that even `-q` must not hide.
    pub(crate) fn warn(self, text: &str) {
        // Nobody is left to be told that stderr is closed.
        let _closed = writeln!(io::stderr(), "{}", plain(text));
    }

    /// A whole list: the document, its names, or a table and how fresh it is.
    pub(crate) fn listing<T: DeserializeOwned>(
        self,
        answer: &Answer,
        name: impl Fn(&T) -> String,
        table: impl FnOnce(&Listing<T>) -> Table,
    ) -> Result<(), Failed> {
        if self.format == Format::Json {
            return self.json(answer.bytes());
        }
        let list: Listing<T> = answer.parse()?;
        if self.format == Format::Quiet {
            return list.items.iter().try_for_each(|item| self.line(&name(item)));
        }
        self.table(&table(&list))?;
        self.freshness(&list.view);
        Ok(())
    }

    /// Says whose view it is, if that is not everybody's.
    pub(crate) fn freshness(self, view: &Freshness) {
        if let Some(text) = partial(view) {
            self.note(&text);
        }
    }
}

fn write(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn width_of_stdout() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// How many silent peers are named; the rest is counted.
const SILENT_NAMED_MAX: usize = 5;

fn partial(view: &Freshness) -> Option<String> {
    if view.heard >= view.known && view.silent.is_empty() {
        return None;
    }
    let mut text = format!("view from {}: {} of {} peers heard", view.peer, view.heard, view.known);
    for (name, seconds) in view.silent.iter().take(SILENT_NAMED_MAX) {
        let _infallible = write!(text, ", {name} silent {}", crate::cli::times::show(*seconds));
    }
    if let Some(more @ 1..) = view.silent.len().checked_sub(SILENT_NAMED_MAX) {
        let _infallible = write!(text, ", {more} more silent");
    }
    Some(text)
}

/// Text that stays in its line and sends a terminal no commands.
pub(crate) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(heard: u32, known: u32, silent: &[(&str, u64)]) -> Freshness {
        let silent = silent.iter().map(|(name, s)| ((*name).to_owned(), *s)).collect();
        Freshness { peer: "h1".into(), heard, known, silent }
    }

    #[test]
    fn a_whole_view_needs_no_footer_and_a_partial_one_names_the_silent() {
        assert_eq!(partial(&view(3, 3, &[])), None);
        let text = partial(&view(2, 3, &[("h3", 42)]));
        assert_eq!(text.as_deref(), Some("view from h1: 2 of 3 peers heard, h3 silent 42s"));
        let many: Vec<_> = (0..7).map(|_| ("h", 1)).collect();
        assert!(partial(&view(1, 8, &many)).expect("partial").ends_with(", 2 more silent"));
    }

    #[test]
    fn control_characters_are_shown_and_letters_kept() {
        assert_eq!(plain("zürich\t→"), "zürich\\t→");
    }
}
