//! The table of a benchmark: figures of several units, each against a named one.

use std::fmt::Write as _;

use serde::Serialize;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Must {
    /// At most this share of what it is held against.
    RatioAtMost(f64),
    /// At least this share of it.
    RatioAtLeast(f64),
    /// Below this, in its own unit.
    Below(f64),
    /// At most this, in its own unit.
    AtMost(f64),
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// None where it could not be measured; `note` says why.
    pub(crate) value: Option<f64>,
    pub(crate) p90: Option<f64>,
    /// What it is held against, in the same unit.
    pub(crate) against: Option<(String, f64)>,
    pub(crate) must: Option<Must>,
    pub(crate) note: String,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, value: Option<f64>) -> Self {
        let (what, note) = (what.into(), String::new());
        Self { what, unit, value, p90: None, against: None, must: None, note }
    }

    pub(crate) fn with_p90(self, p90: Option<f64>) -> Self {
        Self { p90, ..self }
    }

    pub(crate) fn against(self, name: &str, value: Option<f64>) -> Self {
        let against = value.map(|value| (name.to_owned(), value));
        let note = if against.is_none() { format!("{name} is not installed") } else { self.note };
        Self { against, note, ..self }
    }

    pub(crate) fn must(self, must: Must) -> Self {
        Self { must: Some(must), ..self }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.value? / self.against.as_ref()?.1)
    }

    /// Whether it is as it must be; none if that cannot be told.
    pub(crate) fn holds(&self) -> Option<bool> {
        Some(match self.must? {
            Must::RatioAtMost(most) => self.ratio()? <= most,
            Must::RatioAtLeast(least) => self.ratio()? >= least,
            Must::Below(bound) => self.value? < bound,
            Must::AtMost(bound) => self.value? <= bound,
        })
    }
}

/// The same for programs.
pub(crate) fn json(
    name: &str,
    setting: &str,
    rounds: u32,
    figures: &[Figure],
) -> serde_json::Value {
    let one = |it: &Figure| {
        let mut value = serde_json::json!(it);
        value["holds"] = serde_json::json!(it.holds());
        value
    };
    let figures: Vec<_> = figures.iter().map(one).collect();
    serde_json::json!({"name": name, "setting": setting, "rounds": rounds, "figures": figures})
}

/// The table, and the verdicts.
pub(crate) fn table(figures: &[Figure]) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<52}{:>11}{:>10}  {:<9}{:>7}  AGAINST",
        "WHAT", "MEDIAN", "P90", "", "RATIO"
    );
    for it in figures {
        let against = it.against.as_ref().map_or("", |(name, _)| name.as_str());
        let (value, p90, ratio) = (number(it.value), number(it.p90), number(it.ratio()));
        let _ = write!(
            text,
            "{:<52}{value:>11}{p90:>10}  {:<9}{ratio:>7}  {against}",
            it.what, it.unit
        );
        let _ = writeln!(
            text,
            "{}",
            if it.note.is_empty() { String::new() } else { format!("  ({})", it.note) }
        );
    }
    for it in figures {
        let Some(must) = it.must else { continue };
        let verdict = match it.holds() {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "----",
        };
        let against = it.against.as_ref().map_or("", |(name, _)| name.as_str());
        let must = match must {
            Must::RatioAtMost(most) => format!("<= {most} of {against}"),
            Must::RatioAtLeast(least) => format!(">= {least} of {against}"),
            Must::Below(bound) => format!("< {bound} {}", it.unit),
            Must::AtMost(bound) => format!("<= {bound} {}", it.unit),
        };
        let is = number(it.ratio().or(it.value));
        let why = if it.holds().is_none() {
            format!("not measured: {}", it.note)
        } else {
            format!("is {is}")
        };
        let _ = writeln!(text, "{verdict}  {}: {must}, {why}", it.what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_and_a_figure_that_is_not_there_are_told_apart() {
        let figure = Figure::new("x", "ms", Some(2.0)).against("y", Some(4.0));
        assert_eq!(figure.clone().must(Must::RatioAtMost(0.5)).holds(), Some(true));
        let missed = figure.must(Must::RatioAtMost(0.4));
        assert_eq!(missed.holds(), Some(false));
        let none =
            Figure::new("z", "ms", Some(2.0)).against("y", None).must(Must::RatioAtMost(1.0));
        assert_eq!(none.holds(), None);
        let text = table(&[missed, none]);
        assert!(text.contains("MISS  x") && text.contains("----  z"), "{text}");
        assert!(text.contains("y is not installed"), "{text}");
    }
}
