//! The ledger: the only authority on what this node has left.
//!
//!     capacity = free + held + claimed
//!
//! Holds back bids and lapse by themselves; claims stay until their task is
//! gone. *Invariant 1:* held plus claimed never exceeds capacity by anything
//! taken here. Only claims found after a restart with less capacity may, since
//! their tasks run already; then nothing is free until they end.

use std::collections::BTreeMap;

use gossip_core::id::{JobId, NodeId};
use gossip_core::moment::Moment;
use gossip_core::resources::Resources;
use gossip_core::slot::{Epoch, GroupName, SlotId};

/// The most tenders whose holds are kept at once; more calls are declined.
pub const HOLDS_MAX: usize = 1024;

/// Names one placement on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId {
    /// Which slot.
    pub slot: SlotId,
    /// By which tender.
    pub epoch: Epoch,
}

/// Room set aside for one tender until a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who called; only its award counts.
    pub driver: NodeId,
    /// What for.
    pub job: JobId,
    /// Which of its groups.
    pub group: GroupName,
    /// For one slot.
    pub each: Resources,
    /// For how many slots.
    pub count: u32,
    /// When it lapses.
    pub until: Moment,
}

impl Hold {
    fn total(&self) -> Resources {
        Resources {
            cpu_milli: self.each.cpu_milli.saturating_mul(self.count.into()),
            memory_bytes: self.each.memory_bytes.saturating_mul(self.count.into()),
        }
    }
}

/// What this node has and who has it.
#[derive(Clone, Debug)]
pub struct Ledger {
    capacity: Resources,
    free: Resources,
    holds: BTreeMap<Epoch, Hold>,
    claims: BTreeMap<AllocationId, Resources>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(capacity: Resources) -> Self {
        Self { capacity, free: capacity, holds: BTreeMap::new(), claims: BTreeMap::new() }
    }

    /// Everything this node offers.
    pub fn capacity(&self) -> Resources {
        self.capacity
    }

    /// What nobody holds or claims.
    pub fn free(&self) -> Resources {
        self.free
    }

    /// How many slots of `each` would fit now, at most `most`.
    pub fn room(&self, each: &Resources, most: u32) -> u32 {
        let times = |have: u64, ask: u64| have.checked_div(ask).unwrap_or(u64::MAX);
        let fit = times(self.free.cpu_milli, each.cpu_milli)
            .min(times(self.free.memory_bytes, each.memory_bytes));
        u32::try_from(fit).unwrap_or(u32::MAX).min(most)
    }

    /// Sets room aside, replacing an earlier hold of the same tender; answers
    /// for how many slots it was possible.
    pub fn hold(&mut self, epoch: Epoch, mut hold: Hold) -> u32 {
        self.release(&epoch);
        hold.count =
            if self.holds.len() < HOLDS_MAX { self.room(&hold.each, hold.count) } else { 0 };
        if hold.count == 0 {
            return 0;
        }
        let count = hold.count;
        self.holds.insert(epoch, hold);
        self.settle();
        count
    }

    /// The hold of a tender.
    pub fn held(&self, epoch: &Epoch) -> Option<&Hold> {
        self.holds.get(epoch)
    }

    /// Gives a tender's hold back.
    pub fn release(&mut self, epoch: &Epoch) -> Option<Hold> {
        let hold = self.holds.remove(epoch)?;
        self.settle();
        Some(hold)
    }

    /// Gives all holds back.
    pub fn release_all(&mut self) {
        self.holds.clear();
        self.settle();
    }

    /// Turns one slot of a hold into a claim; `false` where the hold has none left.
    #[must_use]
    pub fn claim(&mut self, id: &AllocationId) -> bool {
        let Some(hold) = self.holds.get_mut(&id.epoch).filter(|hold| hold.count > 0) else {
            return false;
        };
        hold.count -= 1;
        let each = hold.each;
        if hold.count == 0 {
            self.holds.remove(&id.epoch);
        }
        self.claims.insert(id.clone(), each);
        self.settle();
        true
    }

    /// Enters a claim that was made before a restart, whether or not it fits.
    pub fn adopt(&mut self, id: AllocationId, ask: Resources) {
        self.claims.insert(id, ask);
        self.settle();
    }

    /// Frees what an allocation had; its task is gone.
    pub fn free_claim(&mut self, id: &AllocationId) {
        self.claims.remove(id);
        self.settle();
    }

    /// Drops lapsed holds.
    pub fn lapse(&mut self, now: Moment) {
        self.holds.retain(|_, hold| hold.until > now);
        self.settle();
    }

    /// When the next hold lapses.
    pub fn deadline(&self) -> Option<Moment> {
        self.holds.values().map(|hold| hold.until).min()
    }

    /// How many claims there are for one group of a job.
    pub fn copies(&self, job: &JobId, group: &GroupName) -> u64 {
        self.claims.keys().filter(|id| id.slot.job == *job && id.slot.group == *group).count()
            as u64
    }

    /// Claimed plus held, for judges.
    pub fn used(&self) -> Resources {
        let holds = self.holds.values().map(Hold::total);
        self.claims.values().copied().chain(holds).fold(Resources::default(), |sum, part| {
            Resources {
                cpu_milli: sum.cpu_milli.saturating_add(part.cpu_milli),
                memory_bytes: sum.memory_bytes.saturating_add(part.memory_bytes),
            }
        })
    }

    fn settle(&mut self) {
        self.free = self.capacity.saturating_sub(&self.used());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Resources = Resources { cpu_milli: 500, memory_bytes: 10 };

    fn ledger() -> Ledger {
        Ledger::new(Resources { cpu_milli: 2000, memory_bytes: 100 })
    }

    fn epoch(tender: u64) -> Epoch {
        Epoch { counter: 1, tender }
    }

    fn hold(count: u32, until: u64) -> Hold {
        Hold {
            driver: NodeId::new([0; 32]),
            job: JobId::new([0; 16]),
            group: GroupName::main(),
            each: HALF,
            count,
            until: Moment(until),
        }
    }

    fn id(tender: u64, index: u32) -> AllocationId {
        let slot = SlotId { job: JobId::new([0; 16]), group: GroupName::main(), index };
        AllocationId { slot, epoch: epoch(tender) }
    }

    #[test]
    fn holds_and_claims_never_exceed_capacity() {
        let mut ledger = ledger();
        assert_eq!(ledger.hold(epoch(1), hold(3, 10)), 3);
        assert_eq!(ledger.hold(epoch(2), hold(3, 10)), 1, "only what is left");
        assert_eq!(ledger.hold(epoch(3), hold(1, 10)), 0);
        assert_eq!(ledger.free().cpu_milli, 0);
        assert!(ledger.claim(&id(1, 1)));
        assert_eq!(ledger.used().cpu_milli, 2000, "a claim takes the place of its hold");
        assert!(!ledger.claim(&id(3, 1)), "nothing was held for it");
    }

    #[test]
    fn a_hold_lapses_and_is_replaced_not_doubled() {
        let mut ledger = ledger();
        assert_eq!(ledger.hold(epoch(1), hold(2, 10)), 2);
        assert_eq!(ledger.hold(epoch(1), hold(4, 20)), 4);
        ledger.lapse(Moment(19));
        assert_eq!(ledger.free().cpu_milli, 0);
        ledger.lapse(Moment(20));
        assert_eq!(ledger.free(), ledger.capacity());
        assert!(!ledger.claim(&id(1, 1)), "a lapsed hold backs nothing");
    }

    #[test]
    fn adopted_claims_may_exceed_a_smaller_capacity() {
        let mut ledger = Ledger::new(HALF);
        ledger.adopt(id(1, 1), HALF);
        ledger.adopt(id(1, 2), HALF);
        assert_eq!(ledger.free(), Resources::default());
        ledger.free_claim(&id(1, 1));
        assert_eq!(ledger.free(), Resources::default());
        ledger.free_claim(&id(1, 2));
        assert_eq!(ledger.free(), HALF);
    }

    #[test]
    fn an_ask_for_nothing_fits_any_number_of_times() {
        assert_eq!(ledger().room(&Resources::default(), 7), 7);
    }
}
