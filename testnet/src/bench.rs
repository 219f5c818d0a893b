//! Measured claims: each benchmark is one table of what must hold.
//!
//! A row compares ours with a floor (what the machine itself costs) or a named
//! peer in the same run, as a ratio of medians over interleaved rounds, never
//! with a figure from another day. Ours is always the shipped release binary
//! through its command line or API. Must never be called from a unit test.

mod cluster;
mod figures;
pub(crate) mod images;
mod peers;
mod place;
pub(crate) mod run_latency;
pub(crate) mod runtime;

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// The fewest rounds that count: medians decide.
pub(crate) const ROUNDS_MIN: u32 = 5;

/// What any benchmark has to say.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Which.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) text: String,
    /// The same for programs.
    pub(crate) json: serde_json::Value,
    /// Whether all is as it must be.
    pub(crate) holds: bool,
}

impl From<Outcome> for Measured {
    fn from(outcome: Outcome) -> Self {
        let (name, text, holds) = (outcome.name, outcome.table(), outcome.holds());
        Self { name, text, json: serde_json::json!(outcome), holds }
    }
}

/// One benchmark's outcome.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// Which.
    pub(crate) name: &'static str,
    /// What was measured on what, with declared capacities.
    pub(crate) setting: String,
    /// How many interleaved rounds.
    pub(crate) rounds: u32,
    /// The rows.
    pub(crate) rows: Vec<Row>,
}

/// One figure, with what it is held against. All times in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What.
    pub(crate) what: String,
    /// What the machine itself costs.
    pub(crate) floor_ms: Option<f64>,
    /// What the named peer took; `None` where no peer is named.
    pub(crate) peer_ms: Option<f64>,
    /// What we took.
    pub(crate) ours_ms: f64,
    /// The 90th percentile of ours.
    pub(crate) ours_p90_ms: f64,
    /// Ours must be below this; `None` for information.
    pub(crate) must_below_ms: Option<f64>,
}

impl Row {
    /// Whether it is as it must be.
    pub(crate) fn holds(&self) -> bool {
        self.must_below_ms.is_none_or(|must| self.ours_ms < must)
    }

    fn ratio(&self) -> Option<f64> {
        self.peer_ms.or(self.floor_ms).map(|base| self.ours_ms / base)
    }
}

impl Outcome {
    /// Whether every row is as it must be.
    pub(crate) fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
        let mut text = format!("bench {}: {} ({} rounds)\n", self.name, self.setting, self.rounds);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<34}{:>10}{:>10}{:>10}{:>10}{:>8}{:>12}",
            "WHAT (ms)", "FLOOR", "PEER", "OURS", "P90", "RATIO", "MUST"
        );
        for row in &self.rows {
            let must = row.must_below_ms.map_or("-".to_owned(), |must| {
                format!("< {must} {}", if row.holds() { "ok" } else { "MISSED" })
            });
            let _ = writeln!(
                text,
                "{:<34}{:>10}{:>10}{:>10.2}{:>10.2}{:>8}{:>12}",
                row.what,
                figure(row.floor_ms),
                figure(row.peer_ms),
                row.ours_ms,
                row.ours_p90_ms,
                figure(row.ratio()),
                must
            );
        }
        text
    }
}

/// The value below which `percent` of the samples lie, in milliseconds.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort_unstable();
    let at = (samples.len().saturating_sub(1)) * percent / 100;
    samples.get(at).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours_ms: f64, must_below_ms: Option<f64>) -> Row {
        let what = "x".to_owned();
        Row { what, floor_ms: Some(2.0), peer_ms: None, ours_ms, ours_p90_ms: 0.0, must_below_ms }
    }

    #[test]
    fn a_missed_must_is_seen_and_said() {
        let outcome = |rows| Outcome { name: "n", setting: String::new(), rounds: 5, rows };
        assert!(outcome(vec![row(5.0, Some(6.0)), row(99.0, None)]).holds());
        let missed = outcome(vec![row(6.0, Some(6.0))]);
        assert!(!missed.holds());
        assert!(missed.table().contains("MISSED") && missed.table().contains("3.00"));
    }

    #[test]
    fn the_median_is_one_of_the_samples() {
        let mut samples: Vec<_> = [5, 1, 3].map(Duration::from_millis).to_vec();
        assert_eq!((percentile(&mut samples, 50), percentile(&mut samples, 100)), (3.0, 5.0));
        assert!(percentile(&mut [], 50).is_nan());
    }
}
