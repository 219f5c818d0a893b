//! Holding: answers calls, claims what was awarded, and looks after it.
//!
//! A claim is journaled before it is confirmed or launched, and its room is free
//! again only once its task is gone. What a restart makes of claims is in
//! `returning`, what makes a node give them up in `yielding`.

use std::collections::{BTreeMap, BTreeSet};

use gossip_core::fact::{Claim, ClaimState, Entry, Outcome, Record, TaskEnd};
use gossip_core::health::{Health, HealthSpec, HealthState};
use gossip_core::id::{ContentHash, NodeId};
use gossip_core::market::{Answer, Call, Decline, Message};
use gossip_core::slot::{ClaimRank, Epoch, Generation, SlotId};
use gossip_core::spec::{JobKind, JobSpec, STOP_GRACE_MS};

use super::{Called, Core, told};
use crate::allocation::{Allocation, Phase, RESTART_FORGIVEN};
use crate::effect::{Effect, Launch, Now, Ticket};
use crate::event::What;
use crate::ledger::AllocationId;

impl Core {
    pub(super) fn holds(&self, slot: &SlotId, generation: &Generation) -> bool {
        self.of_slot(slot).any(|it| it.generation == *generation && it.stop.is_none())
    }

    pub(super) fn of_slot(&self, slot: &SlotId) -> impl Iterator<Item = &Allocation> + use<'_> {
        let first = AllocationId { slot: slot.clone(), epoch: Epoch { counter: 0, tender: 0 } };
        let slot = slot.clone();
        self.allocations.range(first..).map(|(_, it)| it).take_while(move |it| it.id.slot == slot)
    }

    pub(super) fn called(&mut self, now: Now, from: NodeId, call: &Call, out: &mut Vec<Effect>) {
        let (mut held, mut stopping) = (Vec::new(), BTreeSet::new());
        for index in &call.indices {
            let slot = SlotId { job: call.job, group: call.group.clone(), index: *index };
            match self.of_slot(&slot).last() {
                Some(it) if it.stop.is_none() => held.push((*index, it.claim.rank(self.me))),
                Some(_) => _ = stopping.insert(*index),
                None => {}
            }
        }
        let not_bidding = |reason: &str, held| {
            let decline = Some(Decline::NotBidding { reason: reason.to_owned() });
            Answer { epoch: call.epoch, prices: vec![], decline, held }
        };
        let answer = if self.draining {
            not_bidding("it is shutting down", held)
        } else if self.is_outcast() {
            not_bidding("it was removed from its cluster", held)
        } else {
            match self.called_spec(call) {
                Err(reason) => {
                    let decline = Some(Decline::Unfit { reason });
                    Answer { epoch: call.epoch, prices: vec![], decline, held }
                }
                Ok(_) if stopping.len() + held.len() >= call.indices.len() => {
                    not_bidding("its last copy has not stopped yet", held)
                }
                Ok(spec) => {
                    let mut call = call.clone();
                    call.indices.retain(|index| !stopping.contains(index));
                    self.bid(now, from, call, spec, held)
                }
            }
        };
        self.send(from, Message::Answer(answer), out);
    }

    /// The spec that a call names: the one known here, or the one it brings, if that is it.
    fn called_spec(&self, call: &Call) -> Result<JobSpec, String> {
        if let Some(spec) = self.state.spec(&call.generation.spec) {
            return Ok(spec.clone());
        }
        if ContentHash::of(&call.spec) != call.generation.spec {
            return Err("its spec is not the one that it names".to_owned());
        }
        JobSpec::from_blob(&call.spec).map_err(|bad| bad.to_string())
    }

    fn bid(
        &mut self,
        now: Now,
        from: NodeId,
        call: Call,
        spec: JobSpec,
        held: Vec<(u32, ClaimRank)>,
    ) -> Answer {
        let answer = self.bidder.answer(now.moment, from, &call, &spec, held);
        // What was called lives as long as the hold that backs the bid.
        let ledger = &self.bidder.ledger;
        self.called.retain(|epoch, _| ledger.held(epoch).is_some());
        if ledger.held(&call.epoch).is_some() {
            let blob =
                if self.state.spec(&call.generation.spec).is_none() { call.spec } else { vec![] };
            self.called.insert(call.epoch, Called { generation: call.generation, spec, blob });
        }
        answer
    }

    pub(super) fn awarded(
        &mut self,
        now: Now,
        from: NodeId,
        epoch: Epoch,
        indices: &[u32],
        out: &mut Vec<Effect>,
    ) {
        let mine = |index: &u32| {
            let of = |id: &AllocationId| id.epoch == epoch && id.slot.index == *index;
            self.allocations
                .iter()
                .any(|(id, it)| of(id) && !matches!(it.phase, Phase::Claiming(_)))
        };
        let (known, fresh): (Vec<u32>, Vec<u32>) = indices.iter().partition(|index| mine(index));
        if !known.is_empty() {
            // The confirmation was lost: say it again.
            self.send(from, Message::Claimed { epoch, indices: known }, out);
        }
        let hold = self
            .bidder
            .awardable(&from, &epoch)
            .cloned()
            .filter(|_| !self.draining && !self.is_outcast());
        // An award that holds nothing must not take the spec from the one that does.
        let called = hold.as_ref().and_then(|_| self.called.remove(&epoch));
        let (Some(hold), Some(Called { generation, spec, blob })) = (hold, called) else {
            let claiming = |index: &u32| {
                self.allocations.keys().any(|id| id.epoch == epoch && id.slot.index == *index)
            };
            let refused: Vec<_> = fresh.into_iter().filter(|index| !claiming(index)).collect();
            if !refused.is_empty() {
                self.send(from, Message::Refused { epoch, indices: refused }, out);
            }
            return;
        };
        let task = spec.group(&hold.group).and_then(|group| group.tasks.first()).cloned();
        let (mut claims, mut refused) = (Vec::new(), Vec::new());
        for index in fresh {
            let slot = SlotId { job: hold.job, group: hold.group.clone(), index };
            let id = AllocationId { slot: slot.clone(), epoch };
            // A claim is a register of (node, slot): a second one would hide the first.
            let is_here = self.of_slot(&slot).next().is_some();
            if is_here || !self.bidder.ledger.claim(&id) {
                refused.push(index);
                continue;
            }
            let state = ClaimState::Starting;
            let since = now.wall;
            let claim = Claim {
                slot,
                generation,
                epoch,
                state,
                since,
                restarts: 0,
                paused: false,
                health: None,
            };
            claims.push((id, claim, task.clone()));
        }
        self.bidder.release(&from, &epoch);
        if !claims.is_empty() {
            self.drivers_waiting.insert(epoch, from);
            // The log may bring the spec later than this, and a restart needs it.
            let spec = (!blob.is_empty()).then_some(Entry::Fact(Record::Spec(blob)));
            self.claim_all(generation, spec, claims, out);
        }
        if !refused.is_empty() {
            self.send(from, Message::Refused { epoch, indices: refused }, out);
        }
    }

    fn claim_all(
        &mut self,
        generation: Generation,
        spec: Option<Entry>,
        claims: Vec<(AllocationId, Claim, Option<gossip_core::spec::TaskSpec>)>,
        out: &mut Vec<Effect>,
    ) {
        let records = claims.iter().map(|(_, claim, _)| Entry::Fact(Record::Claim(claim.clone())));
        let ticket = self.append(spec.into_iter().chain(records).collect(), out);
        for (id, claim, task) in claims {
            out.push(Effect::Tell(told(self.me, &claim)));
            let allocation = Allocation {
                id: id.clone(),
                generation,
                phase: Phase::Claiming(ticket),
                stop: None,
                restarts: 0,
                streak: 0,
                task,
                claim,
                probe: None,
            };
            self.allocations.insert(id, allocation);
        }
    }

    pub(super) fn claims_durable(&mut self, now: Now, ticket: Ticket, out: &mut Vec<Effect>) {
        let ready: Vec<_> = self
            .allocations
            .values()
            .filter(|it| it.phase == Phase::Claiming(ticket))
            .map(|it| it.id.clone())
            .collect();
        let mut by_epoch: BTreeMap<Epoch, Vec<u32>> = BTreeMap::new();
        for id in &ready {
            by_epoch.entry(id.epoch).or_default().push(id.slot.index);
        }
        for (epoch, indices) in by_epoch {
            if let Some(driver) = self.drivers_waiting.remove(&epoch) {
                self.send(driver, Message::Claimed { epoch, indices }, out);
            }
        }
        for id in ready {
            self.launch(now, &id, out);
        }
    }

    fn launch(&mut self, now: Now, id: &AllocationId, out: &mut Vec<Effect>) {
        let Some(it) = self.allocations.get_mut(id) else { return };
        if it.stop.is_some() {
            return self.finish(now, id, TaskEnd::Stopped, out);
        }
        let spec = self.state.spec(&it.generation.spec);
        let group = spec.and_then(|spec| spec.group(&id.slot.group));
        let task = it.task.clone().or_else(|| group.and_then(|group| group.tasks.first()).cloned());
        let Some(task) = task else {
            // Its spec will come with some log; until then the slot is still held.
            it.phase = Phase::Stranded;
            return;
        };
        it.phase = Phase::Starting;
        it.task = Some(task.clone());
        let launch = Launch {
            id: id.clone(),
            generation: it.generation,
            count: group.map_or(1, |group| group.count),
            job_name: spec.map(|spec| spec.name.clone()).unwrap_or_default(),
            restarts: it.restarts,
            task,
        };
        out.push(Effect::Launch(Box::new(launch)));
    }

    pub(super) fn started(&mut self, now: Now, id: &AllocationId, out: &mut Vec<Effect>) {
        let Some(it) = self.allocations.get_mut(id).filter(|it| it.phase == Phase::Starting) else {
            return;
        };
        it.phase = Phase::Running(now.moment);
        let grace_ms = it.task.as_ref().map_or(STOP_GRACE_MS, |task| task.stop_grace_ms);
        if it.stop.is_some() {
            // No claim is written any more: this node may have claimed the slot anew meanwhile.
            return out.push(Effect::Stop { id: id.clone(), grace_ms });
        }
        let health = it.task.as_ref().and_then(|task| task.health.as_ref());
        let is_checked = health.is_some_and(HealthSpec::has_test);
        let mut claim = it.say(ClaimState::Running, now.wall);
        claim.health = is_checked.then(Health::starting);
        it.claim.health.clone_from(&claim.health);
        out.push(Effect::Tell(told(self.me, &claim)));
        self.append(vec![Entry::Fact(Record::Claim(claim))], out);
    }

    /// A task that runs was held still, or goes on. It is as much claimed as before.
    pub(super) fn held(&mut self, id: &AllocationId, paused: bool, out: &mut Vec<Effect>) {
        let runs =
            |it: &&mut Allocation| it.stop.is_none() && matches!(it.phase, Phase::Running(_));
        let Some(it) = self.allocations.get_mut(id).filter(runs) else { return };
        if it.claim.paused != paused {
            it.claim.paused = paused;
            let claim = it.claim.clone();
            self.append(vec![Entry::Fact(Record::Claim(claim))], out);
        }
    }

    /// The checks of a task that runs came to something else. A service's that is not well
    /// is started again, as if it had ended by itself; of a batch's it is only told.
    pub(super) fn checked(&mut self, id: &AllocationId, health: Health, out: &mut Vec<Effect>) {
        let runs =
            |it: &&mut Allocation| it.stop.is_none() && matches!(it.phase, Phase::Running(_));
        let Some(it) = self.allocations.get_mut(id).filter(runs) else { return };
        let state = health.state;
        if it.claim.health.as_ref().is_some_and(|before| before.state == state) {
            return;
        }
        it.claim.health = Some(health);
        let claim = it.claim.clone();
        let grace_ms = it.task.as_ref().map_or(STOP_GRACE_MS, |task| task.stop_grace_ms);
        let spec = self.state.spec(&claim.generation.spec);
        let is_service = spec.is_some_and(|spec| spec.kind == JobKind::Service);
        out.push(Effect::Tell(told(self.me, &claim)));
        self.append(vec![Entry::Fact(Record::Claim(claim))], out);
        if state == HealthState::Unhealthy && is_service {
            out.push(Effect::Stop { id: id.clone(), grace_ms });
        }
    }

    pub(super) fn ended(
        &mut self,
        now: Now,
        id: &AllocationId,
        end: TaskEnd,
        out: &mut Vec<Effect>,
    ) {
        let Some(it) = self.allocations.get_mut(id).filter(|it| it.has_task()) else { return };
        let kind = self.state.spec(&it.generation.spec).map_or(JobKind::Batch, |spec| spec.kind);
        if it.stop.is_some() || !it.starts_again(kind, &end) {
            return self.finish(now, id, end, out);
        }
        if let Phase::Running(since) = it.phase
            && now.moment.since(since) >= RESTART_FORGIVEN
        {
            it.streak = 0;
        }
        it.phase = Phase::Waiting(now.moment + it.pause());
        it.streak = it.streak.saturating_add(1);
        it.restarts = it.restarts.saturating_add(1);
        let claim = it.say(ClaimState::Waiting { last: end }, now.wall);
        out.push(Effect::Tell(told(self.me, &claim)));
        self.append(vec![Entry::Fact(Record::Claim(claim))], out);
    }

    /// The allocation is over: its room is free, its outcome goes into the log.
    pub(super) fn finish(
        &mut self,
        now: Now,
        id: &AllocationId,
        end: TaskEnd,
        out: &mut Vec<Effect>,
    ) {
        let Some(it) = self.allocations.remove(id) else { return };
        self.bidder.ledger.free_claim(id);
        let end = it.end(end);
        let outcome = Outcome {
            slot: id.slot.clone(),
            generation: it.generation,
            epoch: id.epoch,
            end: end.clone(),
            at: now.wall,
            restarts: it.restarts,
        };
        let (slot, node) = (id.slot.clone(), self.me);
        out.push(Effect::Tell(What::Ended { slot, node, end }));
        self.append(vec![Entry::Fact(Record::Outcome(outcome))], out);
        self.mark(now, [id.slot.job]);
        self.poke(now);
    }

    /// An append was not taken: what was to be claimed with it is not held.
    pub(super) fn claims_refused(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        let of_ticket = |it: &&Allocation| it.phase == Phase::Claiming(ticket);
        let ids: Vec<_> =
            self.allocations.values().filter(of_ticket).map(|it| it.id.clone()).collect();
        let mut by_epoch: BTreeMap<Epoch, Vec<u32>> = BTreeMap::new();
        for id in ids {
            self.allocations.remove(&id);
            self.bidder.ledger.free_claim(&id);
            by_epoch.entry(id.epoch).or_default().push(id.slot.index);
        }
        for (epoch, indices) in by_epoch {
            if let Some(driver) = self.drivers_waiting.remove(&epoch) {
                self.send(driver, Message::Refused { epoch, indices }, out);
            }
        }
    }

    pub(super) fn tick_holdings(&mut self, now: Now, out: &mut Vec<Effect>) {
        let settled = self.is_settled(now);
        let due = |it: &Allocation| match it.phase {
            Phase::Waiting(until) => until <= now.moment,
            Phase::Stranded => settled && self.is_startable(it),
            _ => false,
        };
        let ids: Vec<_> =
            self.allocations.values().filter(|it| due(it)).map(|it| it.id.clone()).collect();
        for id in ids {
            self.launch(now, &id, out);
        }
        let probing: Vec<_> = self
            .allocations
            .values()
            .filter(|it| {
                it.probe.is_some_and(|(_, _, at)| at + super::yielding::PROBE_EVERY <= now.moment)
            })
            .map(|it| it.id.slot.job)
            .collect();
        self.mark(now, probing);
    }
}
