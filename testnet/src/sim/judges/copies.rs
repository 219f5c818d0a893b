//! Invariant 3: from a bound after healing on, every wanted slot that fits has
//! exactly one task, and what is not wanted has none.
//!
//! The last moment at which that did not hold is the heal time; after the
//! bound it is a violation. A batch slot may have none between its tasks, but
//! must have come to its end when the run does.

use gossip_core::resources::Resources;
use gossip_core::spec::JobKind;

use super::super::{HEAL_AT, HEAL_MS_MAX};
use super::{Bench, Judge};

/// When the picture was last wrong.
#[derive(Debug, Default)]
pub(crate) struct Healing {
    wrong_at: Option<u64>,
}

impl Healing {
    /// How long healing took.
    pub(crate) fn took(&self) -> u64 {
        self.wrong_at.map_or(0, |at| at.saturating_sub(HEAL_AT))
    }
}

impl Bench {
    /// Compares what runs with what is wanted. `room` is what is left on each host.
    pub(crate) fn compare(&mut self, at: u64, room: &[Resources]) {
        let wrong = self.wrong(room);
        if wrong.is_empty() {
            return;
        }
        self.healing.wrong_at = Some(at);
        if at > HEAL_AT + HEAL_MS_MAX {
            for what in wrong {
                self.complain(Judge::Healed, at, what);
            }
        }
    }

    fn wrong(&self, room: &[Resources]) -> Vec<String> {
        let mut wrong = Vec::new();
        let wanted = self.sight.slots();
        for it in &wanted {
            let copies = self.sight.copies_of(&it.slot);
            if copies > 1 {
                wrong.push(format!("{:?} has {}", it.slot, self.sight.places(&it.slot)));
            }
            let fits = room.iter().any(|room| room.fits(&it.ask));
            if copies == 0 && it.kind == JobKind::Service && fits {
                wrong.push(format!("{:?} does not run and would fit", it.slot));
            }
        }
        for (slot, _) in self.sight.copies() {
            // `slots` is in order of job, group as the spec has it, and index.
            if !wanted.iter().any(|it| it.slot == *slot) {
                wrong.push(format!("unwanted {slot:?} has {}", self.sight.places(slot)));
            }
        }
        wrong
    }

    /// At the end of the healed time: every batch slot came to its end.
    pub(crate) fn compare_batches(&mut self, at: u64, room: &[Resources]) {
        for it in self.sight.slots() {
            let open = it.kind == JobKind::Batch && !it.settled;
            let fits = room.iter().any(|room| room.fits(&it.ask));
            if open && fits && self.sight.copies_of(&it.slot) == 0 {
                let what = format!("batch {:?} has not ended and does not run", it.slot);
                self.complain(Judge::Healed, at, what);
            }
        }
    }
}
