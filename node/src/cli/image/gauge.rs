//! How far a load, pull, push or save is, or the image of a task that starts: a bar for whoever waits at a terminal, a line for
//! each layer in a log.
//!
//! Must never: write to whoever asked for less, or move the cursor of a file.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use gossip_core::resources::show_bytes;
use runtime::image::{Progress, Stage};
use starling_core::fetch::Fetching;
use tokio::time::Instant;

use crate::cli::output::{Format, Output, plain};
use crate::cli::terminal;

/// What is over before is not told of on the way.
const TOLD_AFTER: Duration = Duration::from_millis(500);

/// Between two words on how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// Cells of the bar.
const CELLS: u64 = 30;

/// Over which time a rate is taken: long enough to be read.
const RATE_OVER: Duration = Duration::from_secs(4);

/// A shorter time says nothing of a rate.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// Between two of the marks that a rate is taken from.
const MARK_EVERY: Duration = Duration::from_millis(250);

/// The width of a terminal that does not say its own, in columns.
const COLUMNS: usize = 80;

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Bar,
    Lines,
    Nothing,
}

/// How far it is.
#[derive(Debug)]
pub(in crate::cli) struct Gauge {
    style: Style,
    out: Output,
    next: Instant,
    shown: bool,
    /// Bytes so far and in all, of each layer.
    layers: BTreeMap<String, (u64, Option<u64>)>,
    rate: Rate,
}

/// How fast it is.
#[derive(Debug, Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// So many bytes came until now. Answers bytes a second, once that can be said.
    fn at(&mut self, now: Instant, bytes: u64) -> Option<u64> {
        if self.0.back().is_some_and(|(_, before)| *before > bytes) {
            // Something else is measured.
            self.0.clear();
        }
        if self.0.back().is_none_or(|(at, _)| now.duration_since(*at) >= MARK_EVERY) {
            self.0.push_back((now, bytes));
        }
        while self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            self.0.pop_front();
        }
        let (since, before) = *self.0.front()?;
        let took = now.duration_since(since);
        if took < RATE_AFTER {
            return None;
        }
        u64::try_from(u128::from(bytes - before) * 1000 / took.as_millis().max(1)).ok()
    }
}

impl Gauge {
    /// Of something that begins now.
    pub(in crate::cli) fn new(out: Output) -> Self {
        let style = match out.format {
            Format::Human if io::stderr().is_terminal() => Style::Bar,
            Format::Human => Style::Lines,
            Format::Json | Format::Quiet => Style::Nothing,
        };
        Self {
            style,
            out,
            next: Instant::now() + TOLD_AFTER,
            shown: false,
            layers: BTreeMap::new(),
            rate: Rate::default(),
        }
    }

    /// One layer went on.
    pub(super) fn layer(&mut self, progress: &Progress) {
        let Some(layer) = &progress.layer else { return };
        self.layers.insert(layer.clone(), (progress.bytes, progress.of));
        match (self.style, progress.stage) {
            (Style::Lines, Stage::Known) => self.out.note(&format!("{layer}: is here already")),
            (Style::Lines, Stage::Done) => {
                self.out.note(&format!("{layer}: {}", show_bytes(progress.bytes)));
            }
            _ => {}
        }
    }

    /// All of it, where only that is known: bytes so far, and in all.
    pub(in crate::cli) fn show(&mut self, sent: Option<(u64, Option<u64>)>) {
        let (bytes, of) = sent.unwrap_or_else(|| sum(&self.layers));
        let rate = self.rate.at(Instant::now(), bytes);
        self.write(&format!("{}{}", bar(bytes, of), per_second(rate)));
    }

    /// The image that a task waits for on a node.
    pub(in crate::cli) fn fetching(&mut self, node: &str, fetching: &Fetching) {
        let rate = per_second(self.rate.at(Instant::now(), fetching.bytes));
        let from = fetching.from.join(", ");
        let from = if from.is_empty() { from } else { format!(", from {from}") };
        self.write(&format!("{node}: {fetching}{rate}{from}"));
    }

    fn write(&mut self, text: &str) {
        if self.style != Style::Bar || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + TOLD_EVERY;
        self.shown = true;
        // A line that is longer than the terminal could not be taken back.
        let columns = terminal::columns_of_stderr().unwrap_or(COLUMNS).saturating_sub(1);
        let text: String = plain(text).chars().take(columns).collect();
        // Nobody is left to be told that stderr is closed.
        let _ = write!(io::stderr(), "\r\u{1b}[K{text}");
    }

    /// Leaves nothing of it on the terminal.
    pub(in crate::cli) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// All layers together; without a whole if one of them has none.
fn sum(layers: &BTreeMap<String, (u64, Option<u64>)>) -> (u64, Option<u64>) {
    let bytes = layers.values().fold(0, |sum: u64, (bytes, _)| sum.saturating_add(*bytes));
    let of = layers
        .values()
        .try_fold(0, |sum: u64, (bytes, of)| of.map(|of| sum.saturating_add(of.max(*bytes))));
    (bytes, of)
}

fn per_second(rate: Option<u64>) -> String {
    rate.map_or(String::new(), |rate| format!(", {}/s", show_bytes(rate)))
}

fn bar(bytes: u64, of: Option<u64>) -> String {
    let Some(of) = of.filter(|of| *of > 0) else { return show_bytes(bytes) };
    let part = bytes.min(of);
    let cells = u64::try_from(u128::from(part) * u128::from(CELLS) / u128::from(of)).unwrap_or(0);
    let percent = u128::from(part) * 100 / u128::from(of);
    let full = "=".repeat(usize::try_from(cells).unwrap_or(0));
    let empty = " ".repeat(usize::try_from(CELLS - cells).unwrap_or(0));
    format!("[{full}{empty}] {percent:>3}%  {} of {}", show_bytes(bytes), show_bytes(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_more_than_full_and_needs_a_whole() {
        assert_eq!(bar(1 << 20, None), "1MiB");
        assert_eq!(bar(0, Some(0)), "0B");
        assert!(bar(1, Some(2)).starts_with(&format!(
            "[{}{}]  50%",
            "=".repeat(15),
            " ".repeat(15)
        )));
        assert!(bar(9, Some(2)).starts_with(&format!("[{}] 100%", "=".repeat(30))));
        assert!(bar(u64::MAX, Some(u64::MAX)).contains("100%"));
    }

    #[test]
    fn a_rate_is_of_the_last_seconds_and_of_one_thing() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        let mut at = |ms: u64, bytes| rate.at(begin + Duration::from_millis(ms), bytes);
        assert_eq!(at(0, 0), None);
        assert_eq!(at(500, 500_000), None, "it is too early");
        assert_eq!(at(1000, 1_000_000), Some(1_000_000));
        for ms in 1001..2000 {
            at(ms, 1_000_000);
        }
        assert!(at(20_000, 1_000_000).is_some_and(|rate| rate < 60_000));
        for second in 21..30 {
            at(second * 1000, 1_000_000 + (second - 20) * 8_000_000);
        }
        assert_eq!(at(30_000, 81_000_000), Some(8_000_000), "what was before is forgotten");
        assert_eq!(at(30_100, 5), None, "it begins anew");
        assert!(rate.0.len() < 20);
    }

    #[test]
    fn layers_are_summed_up_where_each_is_known() {
        let layers = BTreeMap::from([("a".into(), (1, Some(10))), ("b".into(), (2, Some(2)))]);
        assert_eq!(sum(&layers), (3, Some(12)));
        let unknown = BTreeMap::from([("a".into(), (1, Some(10))), ("b".into(), (2, None))]);
        assert_eq!(sum(&unknown), (3, None));
    }
}
