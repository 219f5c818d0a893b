//! What a test program said, in the Test Anything Protocol, and what of it is known.
//!
//! Some tests of the suite give no result at all and only a diagnostic with an error: that
//! counts as a failure too, or those tests could not fail.

use std::process::ExitStatus;

/// How a test went on a runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Results that are good.
    pub passed: usize,
    /// What could not be tried.
    pub skipped: usize,
    /// What failed, in the test's words.
    pub failed: Vec<String>,
}

/// A failure that nobody has written down.
pub type Unlisted = String;

/// What a result is marked with that nobody expects to be good yet.
const LATER: &str = concat!("TO", "DO");

/// How the suite's own end by `timeout` shows.
const TIMED_OUT: i32 = 124;

impl Outcome {
    /// Reads what a test wrote.
    pub(super) fn read(status: ExitStatus, tap: &str, said: &str) -> Self {
        let mut outcome = Self::default();
        for line in tap.lines() {
            let (good, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
                (Some(rest), _) => (true, rest),
                (None, Some(rest)) => (false, rest),
                (None, None) => continue,
            };
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
            let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
            let directive =
                |word: &str| rest.to_ascii_uppercase().starts_with(&format!("# {word}"));
            match good {
                _ if directive("SKIP") => outcome.skipped += 1,
                false if directive(LATER) => outcome.skipped += 1,
                true => outcome.passed += 1,
                false => outcome.failed.push(rest.to_owned()),
            }
        }
        if outcome.passed + outcome.failed.len() == 0 {
            outcome.failed.extend(tap.lines().filter_map(diagnosed));
        }
        match status.code() {
            Some(0) => {}
            Some(TIMED_OUT) => outcome.failed.push("it took too long".to_owned()),
            _ => outcome.failed.push(format!("{status}: {}", last_words(said))),
        }
        outcome
    }

    /// In a cell of a table.
    pub fn cell(&self) -> String {
        match (self.failed.len(), self.passed) {
            (0, passed) => format!("ok {passed}"),
            (failed, passed) => format!("{failed} of {} failed", failed + passed),
        }
    }
}

/// The error of a diagnostic, unless it is empty.
fn diagnosed(line: &str) -> Option<String> {
    let value = line.trim().strip_prefix("\"error\": ")?.trim_end_matches(',');
    let text: String = serde_json::from_str(value).ok()?;
    (!text.is_empty()).then(|| text.replace('\n', " "))
}

/// The last line that says something, or the one that says why.
fn last_words(said: &str) -> String {
    let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let why = lines.iter().rev().find_map(|line| line.strip_prefix("why: "));
    why.or(lines.last().copied()).unwrap_or("it said nothing").to_owned()
}

/// `(reason, test, words)` of each line of the list.
fn entries(
    known: &'static str,
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let mut reason = "";
    known.lines().filter_map(move |line| {
        if let Some(text) = line.strip_prefix("# ") {
            reason = text;
            return None;
        }
        let (test, words) = line.split_once(": ")?;
        Some((reason, test, words))
    })
}

pub(super) fn unlisted(known: &'static str, test: &str, outcome: &Outcome) -> Vec<Unlisted> {
    let is_known = |failure: &&String| {
        entries(known).any(|(_, of, words)| of == test && failure.contains(words))
    };
    outcome.failed.iter().filter(|failure| !is_known(failure)).cloned().collect()
}

pub(super) fn reasons(known: &'static str, test: &str) -> Vec<&'static str> {
    let mut reasons: Vec<_> =
        entries(known).filter(|(_, of, _)| *of == test).map(|(reason, ..)| reason).collect();
    reasons.dedup();
    reasons
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn outcome(code: i32, tap: &str, said: &str) -> Outcome {
        Outcome::read(ExitStatus::from_raw(code << 8), tap, said)
    }

    #[test]
    fn results_are_counted_and_failures_kept() {
        let tap = "TAP version 13\nok 1 - fine\nok 2 # SKIP not here\nnot ok 3 - bad thing\n  ---\n  \
            \"error\": \"x\"\n  ...\nnot ok 4 - # @@ later\n1..4\n";
        let seen = outcome(0, &tap.replace("@@", LATER), "");
        assert_eq!((seen.passed, seen.skipped), (1, 2));
        assert_eq!(seen.failed, ["bad thing"]);
        assert_eq!(seen.cell(), "1 of 2 failed");
    }

    #[test]
    fn a_test_without_results_fails_by_its_diagnostic_or_its_status() {
        let seen =
            outcome(0, "TAP version 13\n  ---\n  \"error\": \"no\\nhook\"\n  ...\n1..0\n", "");
        assert_eq!(seen.failed, ["no hook"]);
        let seen = outcome(1, "", "failed\nwhy: linux.x: no\nhint: y\nexit status 1\n");
        assert_eq!(seen.failed, ["exit status: 1: linux.x: no"]);
        assert_eq!(outcome(124, "ok 1 - x\n", "").failed, ["it took too long"]);
        assert_eq!(outcome(0, "TAP version 13\n1..0\n", "words").failed, Vec::<String>::new());
    }

    #[test]
    fn only_what_is_listed_is_known() {
        let known = "# the kernel says so\nmemory: kernel is set\n";
        let seen = Outcome {
            failed: vec!["memory kernel is set correctly".into(), "other".into()],
            ..Outcome::default()
        };
        assert_eq!(unlisted(known, "memory", &seen), ["other"]);
        assert_eq!(unlisted(known, "cpu", &seen).len(), 2);
        assert_eq!(reasons(known, "memory"), ["the kernel says so"]);
    }

    #[test]
    fn every_line_of_the_list_names_a_test_and_has_a_reason() {
        for line in super::super::KNOWN.lines().filter(|line| !line.is_empty()) {
            assert!(line.starts_with("# ") || line.contains(": "), "{line}");
        }
        assert!(entries(super::super::KNOWN).all(|(reason, ..)| !reason.is_empty()));
    }
}
