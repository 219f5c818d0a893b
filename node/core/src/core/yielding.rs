//! Yielding: gives up what nobody wants, and what a better claim runs elsewhere.
//!
//! A claim that is outranked is given up only when the better claim's holder
//! itself says, to this node's fresh nonce, that it runs; nobody's silence
//! stops work.

use std::time::Duration;

use gossip_core::fact::TaskEnd;
use gossip_core::id::{JobId, NodeId};
use gossip_core::market::Message;
use gossip_core::slot::{ClaimRank, SlotId};
use gossip_core::spec::STOP_GRACE_MS;

use super::Core;
use crate::allocation::{Allocation, Cause, Phase};
use crate::effect::{Dice, Effect, Now};
use crate::event::What;
use crate::ledger::AllocationId;

/// How long an answer to a probe is waited for before it is sent again.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(500);

/// How long a winner's word counts after it was asked for.
const READY_FOR: Duration = Duration::from_secs(1);

impl Core {
    /// Own allocations of a job that nobody wants, or that are outranked.
    pub(super) fn look_at_holdings(
        &mut self,
        now: Now,
        dice: &mut dyn Dice,
        job: &JobId,
        out: &mut Vec<Effect>,
    ) {
        let of_job = |it: &&Allocation| it.id.slot.job == *job && it.stop.is_none();
        let mine: Vec<_> =
            self.allocations.values().filter(of_job).map(|it| it.id.clone()).collect();
        for id in mine {
            let Some(it) = self.allocations.get(&id) else { continue };
            if !self.state.is_wanted(&id.slot, &it.generation) {
                self.stop(now, &id, Cause::Unwanted, out);
            } else if let Some(better) = self.better_claim(it) {
                self.outranked(now, dice, &id, better, out);
            } else if let Some(it) = self.allocations.get_mut(&id) {
                it.probe = None;
            }
        }
    }

    pub(super) fn better_claim(&self, it: &Allocation) -> Option<ClaimRank> {
        let own = it.claim.rank(self.me);
        let claims = self.state.claims(&it.id.slot).filter(|(node, _)| !self.is_lost(node));
        claims.map(|(node, claim)| claim.rank(*node)).filter(|rank| *rank > own).max()
    }

    fn outranked(
        &mut self,
        now: Now,
        dice: &mut dyn Dice,
        id: &AllocationId,
        better: ClaimRank,
        out: &mut Vec<Effect>,
    ) {
        let me = self.me;
        let Some(it) = self.allocations.get_mut(id) else { return };
        if better.node == me || !it.has_task() {
            // An older claim of this node, or nothing runs: there is nothing to keep up.
            return self.stop(now, id, Cause::Superseded, out);
        }
        let asked =
            it.probe.is_some_and(|(_, rank, at)| rank == better && at + PROBE_EVERY > now.moment);
        if asked {
            return;
        }
        if it.probe.is_none() {
            let (slot, lesser) = (id.slot.clone(), me);
            out.push(Effect::Tell(What::ClaimedTwice { slot, better: better.node, lesser }));
        }
        let nonce = dice.roll();
        it.probe = Some((nonce, better, now.moment));
        let message = Message::Probe { slot: id.slot.clone(), rank: better, nonce };
        out.push(Effect::Send { to: better.node, message });
    }

    pub(super) fn probed(
        &mut self,
        from: NodeId,
        slot: SlotId,
        rank: ClaimRank,
        nonce: u64,
        out: &mut Vec<Effect>,
    ) {
        let me = self.me;
        let runs = self.of_slot(&slot).any(|it| {
            it.claim.rank(me) == rank && it.stop.is_none() && matches!(it.phase, Phase::Running(_))
        });
        if runs {
            self.send(from, Message::Ready { slot, rank, nonce }, out);
        }
    }

    pub(super) fn winner_ready(
        &mut self,
        now: Now,
        from: NodeId,
        slot: &SlotId,
        rank: ClaimRank,
        nonce: u64,
        out: &mut Vec<Effect>,
    ) {
        // A node that was itself away may find an answer that was true before it went.
        let asked = |it: &&Allocation| {
            it.probe.is_some_and(|(sent, better, at)| {
                sent == nonce && better == rank && at + READY_FOR > now.moment
            })
        };
        if rank.node != from {
            return;
        }
        let Some(id) = self.of_slot(slot).find(asked).map(|it| it.id.clone()) else { return };
        self.order_stop(&id, Cause::Superseded, out);
    }

    /// Stops everything here; what is still wanted runs elsewhere.
    pub(super) fn drain(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.draining = true;
        self.stop_all(now, out);
    }

    /// The same for a node that may take work again one day.
    pub(super) fn stop_all(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.bidder.ledger.release_all();
        let all: Vec<_> = self.allocations.keys().cloned().collect();
        for id in all {
            self.stop(now, &id, Cause::Unwanted, out);
        }
    }

    fn stop(&mut self, now: Now, id: &AllocationId, cause: Cause, out: &mut Vec<Effect>) {
        let Some(it) = self.allocations.get_mut(id) else { return };
        match it.phase {
            Phase::Claiming(_) | Phase::Starting | Phase::Running(_) => {
                self.order_stop(id, cause, out);
            }
            Phase::Waiting(_) | Phase::Stranded => {
                it.stop = Some(cause);
                self.finish(now, id, TaskEnd::Stopped, out);
            }
        }
    }

    fn order_stop(&mut self, id: &AllocationId, cause: Cause, out: &mut Vec<Effect>) {
        let Some(it) = self.allocations.get_mut(id).filter(|it| it.stop.is_none()) else { return };
        it.stop = Some(cause);
        it.probe = None;
        // A start may take as long as its image takes to come: it is called off.
        if it.has_task() {
            let grace_ms = it.task.as_ref().map_or(STOP_GRACE_MS, |task| task.stop_grace_ms);
            out.push(Effect::Stop { id: id.clone(), grace_ms });
        }
    }
}
