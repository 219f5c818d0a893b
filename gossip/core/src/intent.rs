//! Intent: what users want of a job, as a typed view of its document.
//!
//! The document is the only thing that two people can change at once, so its
//! merge rules live here: stop and removal are final, the greatest generation
//! wins, and of concurrent scales the lower is taken while all stay visible.
//! This type never hides a conflict: it keeps every value that was set.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::moment::WallTime;
use crate::slot::{Generation, GroupName};
use crate::spec::JobSpec;

/// All that one job's document says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIntent {
    /// Every generation ever asked for.
    pub generations: BTreeSet<Generation>,
    /// Copies wanted of a group where they were changed; more than one value is a conflict.
    pub scales: BTreeMap<GroupName, BTreeSet<u32>>,
    /// Somebody stopped it; final.
    pub stopped: bool,
    /// Somebody removed it from all lists; implies stopped.
    pub removed: bool,
    /// When it was submitted, by the taker's clock.
    pub submitted: WallTime,
}

/// One change that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The job is wanted, at this generation.
    Submit {
        /// Which spec.
        generation: Generation,
        /// When.
        at: WallTime,
    },
    /// Stop it for good.
    Stop,
    /// Stop it and forget it.
    Remove,
}

impl JobIntent {
    /// The generation that is wanted.
    pub fn generation(&self) -> Option<Generation> {
        self.generations.last().copied()
    }

    /// Whether any copy is wanted at all.
    pub fn is_live(&self) -> bool {
        !self.stopped && !self.removed
    }

    /// How many copies of `group` are wanted; of concurrent scales the lower.
    pub fn count(&self, spec: &JobSpec, group: &GroupName) -> u32 {
        if !self.is_live() {
            return 0;
        }
        let scaled = self.scales.get(group).and_then(|values| values.first().copied());
        scaled.or_else(|| spec.group(group).map(|g| g.count)).unwrap_or(0)
    }

    /// What the document says after `edit`, for cores that hold no document.
    pub fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Submit { generation, at } => {
                self.generations.insert(*generation);
                if self.submitted == WallTime::default() {
                    self.submitted = *at;
                }
            }
            Edit::Stop => self.stopped = true,
            Edit::Remove => {
                self.stopped = true;
                self.removed = true;
            }
        }
    }
}
