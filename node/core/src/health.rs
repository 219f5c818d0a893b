//! What a task's checks come to: a small machine beside each task that has one.
//!
//! ```text
//!              a success
//! Starting ───────────────▶ Healthy ◀─┐
//!    │ ▲                       │      │ a success
//!    │ └─ failures of the      │ so many failures in a row
//!    │    start period         ▼      │
//!    └─so many in a row─▶ Unhealthy ──┘
//! ```
//!
//! Docker's rules: the first check comes an interval after the start, the next an interval
//! after the end of the one before; a failure in the start period does not count, unless a
//! success came before it. Pure: whoever runs the checks says how they went.

use std::time::Duration;

use gossip_core::health::{Check, Health, HealthState};
use gossip_core::moment::Moment;

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It ended with 0.
    Well {
        /// What it wrote.
        output: String,
    },
    /// It ended otherwise, took too long, or could not be run.
    Badly {
        /// What it wrote, or why.
        output: String,
    },
}

/// One task's checks.
#[derive(Clone, Debug)]
pub struct Watch {
    check: Check,
    state: HealthState,
    failures: u32,
    lenient_until: Moment,
    next: Moment,
}

impl Watch {
    /// Of a task that started now, or of one that was found with this state.
    pub fn new(check: Check, now: Moment, state: HealthState) -> Self {
        let lenient_until = now + Duration::from_millis(check.start_period_ms);
        let next = now + Duration::from_millis(check.interval_ms);
        Self { check, state, failures: 0, lenient_until, next }
    }

    /// What runs.
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// When the next check is due.
    pub fn due(&self) -> Moment {
        self.next
    }

    /// A check that says nothing: the task was held still meanwhile.
    pub fn skip(&mut self, now: Moment) {
        self.next = now + Duration::from_millis(self.check.interval_ms);
    }

    /// A check ended; what is to be told, where something changed.
    pub fn hear(&mut self, now: Moment, answer: Answer) -> Option<Health> {
        self.skip(now);
        let (state, output) = match answer {
            Answer::Well { output } => {
                self.failures = 0;
                (HealthState::Healthy, output)
            }
            Answer::Badly { .. }
                if self.state == HealthState::Starting && now < self.lenient_until =>
            {
                return None;
            }
            Answer::Badly { output } => {
                self.failures = self.failures.saturating_add(1);
                if self.failures < self.check.retries {
                    return None;
                }
                (HealthState::Unhealthy, output)
            }
        };
        if state == self.state {
            return None;
        }
        self.state = state;
        Some(Health { state, output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start_period_ms: u64, retries: u32) -> Check {
        let argv = vec!["probe".to_owned()];
        Check { argv, interval_ms: 1000, timeout_ms: 500, start_period_ms, retries }
    }

    /// Each letter is a check a second after the last: `w`ell, `b`adly, `p`aused.
    fn heard(watch: &mut Watch, letters: &str) -> String {
        let mut states = String::new();
        for letter in letters.chars() {
            let now = watch.due();
            let output = letter.to_string();
            let told = match letter {
                'w' => watch.hear(now, Answer::Well { output: output.clone() }),
                'b' => watch.hear(now, Answer::Badly { output: output.clone() }),
                _ => {
                    watch.skip(now);
                    None
                }
            };
            assert_eq!(watch.due(), now + Duration::from_secs(1));
            states.push(match told {
                None => '.',
                Some(health) => {
                    assert_eq!(health.output, output);
                    health.state.as_str().chars().next().expect("a letter")
                }
            });
        }
        states
    }

    #[test]
    fn streaks_count_and_only_changes_are_told() {
        for (start_period, retries, answers, told) in [
            (0, 3, "wwwbbwbbbbw", "h.......u.h"),
            (0, 3, "bbb", "..u"),
            (0, 1, "bwb", "uhu"),
            (0, 2, "bpbw", "..uh"),
            // The period ends at 3 s: failures at 1 and 2 s do not count.
            (3000, 2, "bbbbb", "...u."),
            (3000, 2, "bwbb", ".h.u"),
            (0, 3, "bbwbbw", "..h..."),
        ] {
            let mut watch =
                Watch::new(check(start_period, retries), Moment(0), HealthState::Starting);
            assert_eq!(heard(&mut watch, answers), told, "{start_period} {retries} {answers}");
        }
    }

    #[test]
    fn a_task_that_was_found_keeps_what_was_said_of_it() {
        let mut watch = Watch::new(check(9000, 2), Moment(5), HealthState::Healthy);
        assert_eq!(watch.due(), Moment(1005));
        assert_eq!(heard(&mut watch, "wbb"), "..u", "its start period is over");
        let mut watch = Watch::new(check(0, 2), Moment(0), HealthState::Unhealthy);
        assert_eq!(heard(&mut watch, "bbw"), "..h");
    }
}
