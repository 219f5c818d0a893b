//! Who keeps knocking in vain: told to the log, and not more than it is worth.
//!
//! A stranger decides how often it knocks, so its knocks must not decide how
//! much is written: of one source a line at first, then one a while with how
//! often it was; of all together a few lines a while. No source is remembered
//! longer than it is silent, and no more than a bounded number of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two lines about one source, and after how long a silent one is forgotten.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The most lines in [`TOLD_EVERY`].
const LINES_MAX: u32 = 20;

/// The most sources that are told apart; others wait until one is forgotten.
const SOURCES_MAX: usize = 256;

/// What is to be said of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) from: IpAddr,
    /// How often, since the last line.
    pub(crate) times: u64,
    /// Why the last time.
    pub(crate) reason: String,
}

#[derive(Debug)]
struct Source {
    told: Instant,
    last: Instant,
    untold: u64,
}

/// All that knocked in vain lately.
#[derive(Debug)]
pub(crate) struct Nuisance {
    sources: BTreeMap<IpAddr, Source>,
    window: Instant,
    lines: u32,
}

impl Nuisance {
    pub(crate) fn new(now: Instant) -> Self {
        Self { sources: BTreeMap::new(), window: now, lines: 0 }
    }

    /// Somebody knocked in vain; what to write about it, if anything.
    pub(crate) fn note(
        &mut self,
        from: IpAddr,
        reason: impl FnOnce() -> String,
        now: Instant,
    ) -> Option<Line> {
        if now.duration_since(self.window) >= TOLD_EVERY {
            self.window = now;
            self.lines = 0;
            self.sources.retain(|_, source| now.duration_since(source.last) < TOLD_EVERY);
        }
        let is_new = !self.sources.contains_key(&from);
        if is_new && self.sources.len() >= SOURCES_MAX {
            return None;
        }
        let fresh = || Source { told: now, last: now, untold: 0 };
        let source = self.sources.entry(from).or_insert_with(fresh);
        source.last = now;
        source.untold += 1;
        let is_due = is_new || now.duration_since(source.told) >= TOLD_EVERY;
        if !is_due || self.lines >= LINES_MAX {
            return None;
        }
        self.lines += 1;
        source.told = now;
        Some(Line { from, times: std::mem::take(&mut source.untold), reason: reason() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u16) -> IpAddr {
        let [a, b] = n.to_be_bytes();
        IpAddr::from([10, 0, a, b])
    }

    #[test]
    fn one_that_knocks_without_end_is_a_line_now_and_then_with_how_often() {
        let start = Instant::now();
        let mut nuisance = Nuisance::new(start);
        let mut lines = Vec::new();
        for at in 0..30_000_u64 {
            let now = start + Duration::from_millis(at);
            lines.extend(nuisance.note(source(1), || at.to_string(), now));
        }
        let times: Vec<_> = lines.iter().map(|line| line.times).collect();
        assert_eq!(times, [1, 10_000, 10_000]);
        assert_eq!(lines[1].reason, "10000");
    }

    #[test]
    fn many_sources_are_a_few_lines_and_little_memory() {
        let start = Instant::now();
        let mut nuisance = Nuisance::new(start);
        let knock = |nuisance: &mut Nuisance, n, now| nuisance.note(source(n), String::new, now);
        let lines = (0..60_000).filter(|n| knock(&mut nuisance, *n, start).is_some()).count();
        assert_eq!(lines, LINES_MAX as usize);
        assert_eq!(nuisance.sources.len(), SOURCES_MAX);
        let later = start + TOLD_EVERY;
        assert!(knock(&mut nuisance, 60_001, later).is_some(), "the silent ones are forgotten");
        assert_eq!(nuisance.sources.len(), 1);
    }
}
