//! The judges of a run and the bench they sit on.
//!
//! They are told what can be observed from outside (tasks come and go, ledgers,
//! replies, final states) and the truth about what users asked for; never what
//! a core thinks beyond its public views. Each judge has a mutant that it must
//! catch. Must never influence a run.

pub(super) mod capacity;
pub(super) mod copies;
pub(super) mod finale;
pub(super) mod promises;
pub(super) mod restarts;
pub(super) mod sight;

use std::fmt;

use self::capacity::Capacity;
use self::copies::Healing;
use self::promises::Promises;
use self::restarts::Restarts;
use self::sight::Sight;
use super::WARM_UP;
use super::tasks::TaskName;

/// Another copy counts as running this long after it was seen: a probe is
/// answered within its half second, and its answer is acted on at once.
const SEEN_MS: u64 = 1500;

/// Who complains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judge {
    /// No node ever has more held, claimed or running than it has.
    Capacity,
    /// While nothing fails, no slot ever has two tasks.
    WarmUp,
    /// A bound after healing, each wanted slot that fits has exactly one task.
    Healed,
    /// No wanted copy is stopped unless another one ran.
    Gaps,
    /// What was acknowledged is known everywhere at the end.
    Promises,
    /// Replicas that exchanged everything are equal.
    Replicas,
    /// What every node shows is what runs.
    Views,
    /// When all is stopped, everything is free.
    Residue,
    /// A batch's task is started again only as its job says.
    Restarts,
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Judge::Capacity => "capacity",
            Judge::WarmUp => "two in fair weather",
            Judge::Healed => "exactly one after healing",
            Judge::Gaps => "no avoidable gap",
            Judge::Promises => "no lost promise",
            Judge::Replicas => "equal replicas",
            Judge::Views => "true views",
            Judge::Residue => "no residue",
            Judge::Restarts => "no restart without a rule",
        })
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who saw it.
    pub judge: Judge,
    /// Milliseconds into the run.
    pub at: u64,
    /// In words.
    pub what: String,
}

/// At most this many violations are kept of one run.
const KEPT_MAX: usize = 20;

/// All judges of one run.
#[derive(Debug, Default)]
pub(super) struct Bench {
    pub(super) sight: Sight,
    pub(super) capacity: Capacity,
    pub(super) promises: Promises,
    pub(super) healing: Healing,
    pub(super) restarts: Restarts,
    pub(super) violations: Vec<Violation>,
    /// When somebody last wrote a record.
    pub(super) written_at: u64,
}

impl Bench {
    pub(super) fn complain(&mut self, judge: Judge, at: u64, what: String) {
        let again = self.violations.iter().any(|it| (it.judge, &it.what) == (judge, &what));
        if !again && self.violations.len() < KEPT_MAX {
            self.violations.push(Violation { judge, at, what });
        }
    }

    pub(super) fn wrote(&mut self, at: u64) {
        self.written_at = at;
    }

    pub(super) fn task_started(&mut self, at: u64, host: usize, name: &TaskName) {
        let copies = self.sight.appeared(host, name);
        if copies > 1 && at < WARM_UP {
            let what = format!("{copies} copies of {:?}", name.0.slot);
            self.complain(Judge::WarmUp, at, what);
        }
        self.judge_restart(at, host, name);
    }

    pub(super) fn task_ended(&mut self, at: u64, host: usize, name: &TaskName) {
        self.sight.vanished(at, host, name);
    }

    /// A host's agent ordered its copy of a slot to stop.
    pub(super) fn stop_ordered(&mut self, at: u64, host: usize, name: &TaskName) {
        let slot = &name.0.slot;
        let running = self.sight.ordered(host, name);
        if running && self.sight.is_wanted(slot) && !self.sight.ran_lately(at, slot, SEEN_MS) {
            let what = format!("h{} stops the only copy of {slot:?}", host + 1);
            self.complain(Judge::Gaps, at, what);
        }
    }
}
