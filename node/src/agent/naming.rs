//! What an allocation is called in the runtime, and back.
//!
//!     TENDER (16 hex digits) - INDEX - START        4f1c…-3-0
//!
//! A tender's random id and the index name one allocation in the whole
//! cluster; the last number tells a service's restarts apart, so that the logs
//! of the one before can still be read.

use std::collections::BTreeMap;

use gossip_core::fact::{Claim, TaskEnd};
use runtime::{End, FoundState, StartFault, TaskId, User};
use starling_core::core::Found;
use starling_core::ledger::AllocationId;

use super::words;

/// Allocations by tender and index.
pub(super) type Known = BTreeMap<(u64, u32), AllocationId>;

/// Plain processes of a root agent run as one of these: systemd's range for
/// dynamic users, which no host gives to people.
const USERS: std::ops::Range<u32> = 61_184..65_520;

/// How much of a reason is told to the cluster.
const REASON_CHARS_MAX: usize = 400;

/// What all runtime ids of an allocation start with.
pub(crate) fn task_prefix(tender: u64, index: u32) -> String {
    format!("{tender:016x}-{index}-")
}

/// The runtime's id of one start of an allocation.
pub(super) fn task_id(id: &AllocationId, start: u32) -> Option<TaskId> {
    format!("{}{start}", task_prefix(id.epoch.tender, id.slot.index)).parse().ok()
}

/// Reads an id back: tender, index, start.
pub(super) fn parse(id: &TaskId) -> Option<(u64, u32, u32)> {
    let mut parts = id.as_str().split('-');
    let tender = u64::from_str_radix(parts.next()?, 16).ok()?;
    let index = parts.next()?.parse().ok()?;
    let start = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((tender, index, start))
}

/// A claim, by the name of its task.
pub(super) fn known(claim: &Claim) -> ((u64, u32), AllocationId) {
    let id = AllocationId { slot: claim.slot.clone(), epoch: claim.epoch };
    ((claim.epoch.tender, claim.slot.index), id)
}

/// What the runtime found, by what it means.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// The newest start of each allocation that is held.
    pub(super) held: BTreeMap<AllocationId, (u32, Found)>,
    /// Tasks that run for nobody.
    pub(super) orphans: Vec<TaskId>,
    /// Tasks that ended before, of which only the output is left.
    pub(super) ended: Vec<TaskId>,
}

/// Pairs what the runtime found with the allocations that are held.
pub(super) fn sort_found(found: &[runtime::Found], held: &Known) -> Sorted {
    let mut kept: BTreeMap<AllocationId, (u32, Found)> = BTreeMap::new();
    let (mut orphans, mut ended) = (Vec::new(), Vec::new());
    for task in found {
        let parsed = parse(&task.id);
        let held = parsed.and_then(|(tender, index, start)| {
            held.get(&(tender, index)).map(|id| (id.clone(), start))
        });
        match (held, &task.state) {
            (Some((id, start)), state) => {
                let newest = kept.get(&id).is_none_or(|(other, _)| *other < start);
                if newest {
                    kept.insert(id, (start, found_state(state)));
                }
            }
            (None, FoundState::Running { .. }) => orphans.push(task.id.clone()),
            (None, FoundState::Ended(_)) => ended.push(task.id.clone()),
        }
    }
    Sorted { held: kept, orphans, ended }
}

fn found_state(state: &FoundState) -> Found {
    match state {
        FoundState::Running { .. } => Found::Running,
        FoundState::Ended(end) => Found::Ended(task_end(end)),
    }
}

/// A reason that is short enough for a record.
pub(super) fn short(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

/// An end in the cluster's words.
pub(super) fn task_end(end: &End) -> TaskEnd {
    match end {
        End::Exited { code } => TaskEnd::Exited { code: *code },
        End::Signalled { signal } => TaskEnd::Signalled { signal: *signal },
        End::OutOfMemory => TaskEnd::OutOfMemory,
        End::Expired => TaskEnd::Expired,
        // The agent or the machine died, which is not the task's doing: it may run again.
        End::NotStarted { fault: StartFault::Interrupted, reason } => {
            TaskEnd::Lost { reason: short(words::without_step(reason)) }
        }
        End::NotStarted { fault, reason } => {
            let reason = short(&words::in_words(*fault, reason));
            TaskEnd::NotStarted { code: end.exit_code(), reason }
        }
        End::Lost { reason } => TaskEnd::Lost { reason: short(words::without_step(reason)) },
    }
}

/// The unprivileged user of an allocation's process. Two allocations share one
/// only by chance; files that one leaves behind are gone with its scratch directory.
pub(super) fn user(id: &AllocationId) -> User {
    let span = u64::from(USERS.end - USERS.start);
    let mixed = id.epoch.tender.wrapping_add(u64::from(id.slot.index)) % span;
    let uid = USERS.start + u32::try_from(mixed).unwrap_or(0);
    User { uid, gid: uid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::id::JobId;
    use gossip_core::slot::{Epoch, GroupName, SlotId};

    fn id(index: u32) -> AllocationId {
        let slot = SlotId { job: JobId::new([0; 16]), group: GroupName::main(), index };
        AllocationId { slot, epoch: Epoch { counter: 1, tender: 0xabc } }
    }

    #[test]
    fn a_task_is_named_after_its_allocation_and_back() {
        let task = task_id(&id(3), 2).expect("a name");
        assert_eq!(task.as_str(), "0000000000000abc-3-2");
        assert_eq!(parse(&task), Some((0xabc, 3, 2)));
        for odd in ["x", "1-2", "1-2-3-4", "zz-1-1"] {
            assert_eq!(parse(&odd.parse().expect("an id")), None, "{odd}");
        }
    }

    #[test]
    fn of_several_starts_the_last_counts_and_strangers_are_orphans() {
        let held = Known::from([((0xabc, 3), id(3))]);
        let task = |text: &str, state| runtime::Found { id: text.parse().expect("id"), state };
        let ended = || FoundState::Ended(End::Exited { code: 1 });
        let found = [
            task("0000000000000abc-3-1", FoundState::Running { pid: 1 }),
            task("0000000000000abc-3-0", ended()),
            task("0000000000000def-1-0", FoundState::Running { pid: 2 }),
            task("0000000000000def-2-0", ended()),
        ];
        let sorted = sort_found(&found, &held);
        assert_eq!(sorted.held, BTreeMap::from([(id(3), (1, Found::Running))]));
        assert_eq!((sorted.orphans.len(), sorted.ended.len()), (1, 1));
    }

    #[test]
    fn users_are_unprivileged() {
        assert!((0..10_000).all(|index| USERS.contains(&user(&id(index)).uid)));
    }
}
