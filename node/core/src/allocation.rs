//! The life of one allocation on this node.
//!
//!     Claiming ─durable─▶ Starting ─started─▶ Running ─ended─▶ outcome
//!                            ▲                   │
//!                            └──── Waiting ◀─────┘ (services, lost tasks, and
//!                                                   failures of a batch with a rule)
//!
//! Nothing is started before its claim is on disk. `Stranded` is a claim from
//! before a restart whose task is gone: it is started again, but only once the
//! others had a chance to say that they run it.

use std::time::Duration;

use gossip_core::fact::{Claim, ClaimState, TaskEnd};
use gossip_core::moment::Moment;
use gossip_core::slot::{ClaimRank, Generation};
use gossip_core::spec::{JobKind, TaskSpec};

use crate::effect::Ticket;
use crate::ledger::AllocationId;

/// The first pause before a service's task is started again; it doubles.
pub const RESTART_FIRST: Duration = Duration::from_millis(250);

/// The longest pause.
pub const RESTART_MAX: Duration = Duration::from_secs(30);

/// A task that ran this long is forgiven its earlier restarts.
pub const RESTART_FORGIVEN: Duration = Duration::from_secs(60);

/// Why a task is stopped before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody wants it any more.
    Unwanted,
    /// A better claim runs elsewhere.
    Superseded,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The claim is on its way to the disk.
    Claiming(Ticket),
    /// The task is being started.
    Starting,
    /// The task runs, since then.
    Running(Moment),
    /// The task ended; it is started again then.
    Waiting(Moment),
    /// Claimed before a restart of this node, but no task was found.
    Stranded,
}

/// One placement on this node.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Its name here.
    pub id: AllocationId,
    /// Of which spec.
    pub generation: Generation,
    /// How far.
    pub phase: Phase,
    /// Set once it is to end.
    pub stop: Option<Cause>,
    /// How often the task was started again.
    pub restarts: u32,
    /// Restarts in a row, for the pause.
    pub streak: u32,
    /// What runs; `None` while the spec is not known here after a restart.
    pub task: Option<TaskSpec>,
    /// The newest claim that was written.
    pub claim: Claim,
    /// A probe of a better claim that is not answered yet, and when it was sent.
    pub probe: Option<(u64, ClaimRank, Moment)>,
}

impl Allocation {
    /// Whether a task of it may exist on this machine.
    pub fn has_task(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running(_))
    }

    /// Whether a task that ended so is started again here.
    pub fn starts_again(&self, kind: JobKind, end: &TaskEnd) -> bool {
        let rule = self.task.as_ref().and_then(|task| task.restart);
        match kind {
            JobKind::Service => true,
            // The machine lost it, and the task is not to blame.
            JobKind::Batch if matches!(end, TaskEnd::Lost { .. }) => true,
            JobKind::Batch => rule.is_some_and(|rule| rule.again(end, self.restarts)),
        }
    }

    /// How long to wait before the next start.
    pub fn pause(&self) -> Duration {
        RESTART_FIRST.saturating_mul(1 << self.streak.min(10)).min(RESTART_MAX)
    }

    /// When it wants to be stepped.
    pub fn deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        }
    }

    /// The end that its outcome records, given how the task went.
    pub fn end(&self, end: TaskEnd) -> TaskEnd {
        match (self.stop, end) {
            (Some(Cause::Superseded), _) => TaskEnd::Superseded,
            (Some(Cause::Unwanted), TaskEnd::Exited { code: 0 }) => TaskEnd::Exited { code: 0 },
            (Some(Cause::Unwanted), _) => TaskEnd::Stopped,
            (None, end) => end,
        }
    }

    /// The claim's state for the others.
    pub fn say(&mut self, state: ClaimState, wall: gossip_core::moment::WallTime) -> Claim {
        self.claim.state = state;
        self.claim.since = wall;
        self.claim.restarts = self.restarts;
        // Whatever ends, starts or is stopped is not held still any more.
        self.claim.paused = false;
        self.claim.health = None;
        self.claim.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::allocation;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut it = allocation();
        let pauses: Vec<_> = [0, 1, 3, 50]
            .map(|streak| {
                it.streak = streak;
                it.pause().as_millis()
            })
            .to_vec();
        assert_eq!(pauses, [250, 500, 2000, 30_000]);
    }

    #[test]
    fn an_end_is_told_by_its_cause() {
        let mut it = allocation();
        let killed = TaskEnd::Signalled { signal: 15 };
        assert_eq!(it.end(killed.clone()), killed);
        it.stop = Some(Cause::Unwanted);
        assert_eq!(it.end(killed.clone()), TaskEnd::Stopped);
        it.stop = Some(Cause::Superseded);
        assert_eq!(it.end(TaskEnd::Exited { code: 0 }), TaskEnd::Superseded);
    }
}
