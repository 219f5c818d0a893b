//! Returning: what a node makes of its own claims after a restart.
//!
//! Tasks that run are kept, ends that nobody saw are written down now, and what
//! is gone is started again, but only once the others could say what they run.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::fact::{Claim, ClaimState};
use gossip_core::health::{Health, HealthState};
use gossip_core::id::ContentHash;
use gossip_core::resources::DEFAULT_ASK;
use gossip_core::spec::STOP_GRACE_MS;

use super::{Core, Found};
use crate::allocation::{Allocation, Cause, Phase};
use crate::effect::{Effect, Now};
use crate::ledger::AllocationId;

/// How long a restarted node listens, once it heard a peer, before it starts again what it held.
const HEARD_FOR: Duration = Duration::from_secs(1);

impl Core {
    /// Takes up own claims from before a restart; answers what is held now.
    pub(super) fn restore(
        &mut self,
        now: Now,
        found: &BTreeMap<AllocationId, Found>,
    ) -> Vec<Claim> {
        for mut claim in self.state.holdings(&self.me) {
            let id = AllocationId { slot: claim.slot.clone(), epoch: claim.epoch };
            let spec = self.state.spec(&claim.generation.spec);
            let group = spec.and_then(|spec| spec.group(&claim.slot.group));
            let ask = group.map_or(DEFAULT_ASK, |group| group.ask());
            let phase = match (found.get(&id), &claim.state) {
                (Some(_), _) => Phase::Running(now.moment),
                (None, _) => Phase::Stranded,
            };
            // The claim may have moved on, or back, without its record reaching the disk.
            let state = match (found.get(&id), &phase) {
                (Some(Found::Running), _) => ClaimState::Running,
                (_, Phase::Stranded) => ClaimState::Starting,
                _ => claim.state.clone(),
            };
            if claim.state != state {
                (claim.state, claim.since) = (state, now.wall);
            }
            if claim.state != ClaimState::Running {
                claim.health = None;
            }
            // What was to be done about it may not have been done: it is found out anew.
            if claim.health.as_ref().is_some_and(|it| it.state == HealthState::Unhealthy) {
                claim.health = Some(Health::starting());
            }
            let allocation = Allocation {
                id: id.clone(),
                generation: claim.generation,
                phase,
                stop: None,
                restarts: claim.restarts,
                streak: 0,
                task: group.and_then(|group| group.tasks.first()).cloned(),
                claim,
                probe: None,
            };
            self.bidder.ledger.adopt(id.clone(), ask);
            self.allocations.insert(id, allocation);
        }
        self.allocations.values().map(|allocation| allocation.claim.clone()).collect()
    }

    /// Tasks that ended while no agent looked are ended now, in the fresh log.
    pub(super) fn finish_found(
        &mut self,
        now: Now,
        found: &BTreeMap<AllocationId, Found>,
        out: &mut Vec<Effect>,
    ) {
        for (id, found) in found {
            match found {
                Found::Ended(end) => {
                    self.recall_stop(id);
                    self.ended(now, id, end.clone(), out);
                }
                Found::Running if !self.allocations.contains_key(id) => {
                    out.push(Effect::Stop { id: id.clone(), grace_ms: STOP_GRACE_MS });
                }
                Found::Running => {}
            }
        }
    }

    /// Why a task was told to stop before this start, which nobody wrote down.
    fn recall_stop(&mut self, id: &AllocationId) {
        let Some(it) = self.allocations.get(id) else { return };
        let cause = if !self.state.is_wanted(&id.slot, &it.generation) {
            Cause::Unwanted
        } else if self.better_claim(it).is_some() {
            Cause::Superseded
        } else {
            return;
        };
        if let Some(it) = self.allocations.get_mut(id) {
            it.stop = Some(cause);
        }
    }

    /// Whether the others had their chance to say what they run.
    pub(super) fn is_settled(&self, now: Now) -> bool {
        let heard = self.heard_since.is_some_and(|since| now.moment >= since + HEARD_FOR);
        heard || now.moment >= self.settle_until
    }

    pub(super) fn is_startable(&self, it: &Allocation) -> bool {
        it.task.is_some() || self.state.spec(&it.generation.spec).is_some()
    }

    /// A spec came that claims from before a restart may have waited for: what they ask is known now.
    pub(super) fn adopt_spec(&mut self, hash: &ContentHash) {
        let Some(spec) = self.state.spec(hash) else { return };
        for it in self.allocations.values_mut().filter(|it| it.generation.spec == *hash) {
            let Some(group) = spec.group(&it.id.slot.group).filter(|_| it.task.is_none()) else {
                continue;
            };
            it.task = group.tasks.first().cloned();
            self.bidder.ledger.adopt(it.id.clone(), group.ask());
        }
    }
}
