//! When a batch's task that ended is started again, on the node that has it.
//!
//! ```text
//! ends well ─────────────────────────────▶ its end
//! ends badly ── restarts left ──▶ again     none left ──▶ its end
//! never began ───────────────────────────▶ its end
//! ```
//!
//! Docker's `on-failure`. It counts within one claim: a task whose node is lost begins anew
//! elsewhere, as every batch's task does. A service needs no rule, it is always started again.

use serde::{Deserialize, Serialize};

use crate::fact::TaskEnd;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// When it ended badly by itself.
    OnFailure {
        /// At most this often; without end where no number is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        most: Option<u32>,
    },
}

impl Restart {
    /// Whether a task that ended so, after this many restarts, is started again.
    pub fn again(self, end: &TaskEnd, restarts: u32) -> bool {
        let Self::OnFailure { most } = self;
        let failed = match end {
            TaskEnd::Exited { code } => *code != 0,
            TaskEnd::Signalled { .. } | TaskEnd::OutOfMemory => true,
            // What could not begin, cannot the next time; the others are no end of its own.
            TaskEnd::NotStarted { .. }
            | TaskEnd::Expired
            | TaskEnd::Stopped
            | TaskEnd::Superseded
            | TaskEnd::Lost { .. } => false,
        };
        failed && most.is_none_or(|most| restarts < most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_of_its_own_is_tried_again_and_only_so_often() {
        let rule = |most| Restart::OnFailure { most };
        let failed = TaskEnd::Exited { code: 1 };
        for (most, restarts, again) in
            [(None, 0, true), (None, u32::MAX, true), (Some(2), 1, true), (Some(2), 2, false)]
        {
            assert_eq!(rule(most).again(&failed, restarts), again, "{most:?} {restarts}");
        }
        let lost = TaskEnd::Lost { reason: String::new() };
        let never = TaskEnd::NotStarted { code: 127, reason: String::new() };
        for (end, again) in [
            (TaskEnd::Exited { code: 0 }, false),
            (TaskEnd::Signalled { signal: 11 }, true),
            (TaskEnd::OutOfMemory, true),
            (TaskEnd::Expired, false),
            (TaskEnd::Stopped, false),
            (TaskEnd::Superseded, false),
            (lost, false),
            (never, false),
        ] {
            assert_eq!(rule(None).again(&end, 0), again, "{end:?}");
        }
    }
}
