//! Placing: finds the slots that nobody claims and tenders them.
//!
//! Need is computed from state, never from messages, so every message may be
//! lost. A slot is open when it is wanted, no living node claims it at the
//! wanted generation, and no award for it is still unanswered.

use gossip_core::fact::Claim;
use gossip_core::id::{JobId, NodeId};
use gossip_core::intent::JobIntent;
use gossip_core::market::{Answer, CALL_SLOTS_MAX, Message};
use gossip_core::rendezvous;
use gossip_core::slot::{COUNTER_MAX, Epoch, Generation, SlotId};

use super::Core;
use crate::driver::{ANNOUNCE_EVERY, Drive, Left};
use crate::effect::{Dice, Effect, Now};
use crate::liveness::LOST_AFTER;
use crate::tender::{Closed, Heard, Lot, Step, Tender};

impl Core {
    pub(super) fn look_at_needs(
        &mut self,
        now: Now,
        dice: &mut dyn Dice,
        job: &JobId,
        out: &mut Vec<Effect>,
    ) {
        if self.is_outcast() {
            // Its tenders are nobody's: members place what is wanted.
            self.drives.remove(job);
            return;
        }
        let open = self.open_slots(now, job);
        let rank = rendezvous::rank(job.as_bytes(), &self.me, &self.alive());
        let better = self.better_driver(job, rank);
        let Some(generation) = self.state.job(job).and_then(|intent| intent.generation()) else {
            return;
        };
        let drive = self.drives.entry(*job).or_default();
        if open.is_empty() {
            drive.rest();
            let live = self.state.job(job).is_some_and(JobIntent::is_live);
            let own = drive.own && live && !self.state.wanted(job).is_empty();
            if drive.tender.is_none() && drive.pending.is_empty() && !own {
                self.drives.remove(job);
                self.looked.remove(job);
            }
            return;
        }
        drive.need_since.get_or_insert(now.moment);
        if drive.tender.is_some() {
            self.announce(now, job, out);
            return;
        }
        let turn = drive.turn(rank, better, dice);
        let at = turn.max(drive.next_try);
        if turn <= now.moment {
            self.announce(now, job, out);
        }
        if at > now.moment {
            let next = if turn <= now.moment { at.min(now.moment + ANNOUNCE_EVERY) } else { at };
            self.look_again(*job, next);
            return;
        }
        self.open_tender(now, dice, job, generation, open, out);
    }

    fn look_again(&mut self, job: JobId, at: gossip_core::moment::Moment) {
        let next = self.dirty.entry(job).or_insert(at);
        *next = (*next).min(at);
    }

    /// Wanted slots that no living node claims.
    fn open_slots(&mut self, now: Now, job: &JobId) -> Vec<SlotId> {
        let Some(generation) = self.state.job(job).and_then(|intent| intent.generation()) else {
            return Vec::new();
        };
        if let Some(drive) = self.drives.get_mut(job) {
            if drive.generation.replace(generation) != Some(generation) {
                // Nobody claims the new one because the old one was awarded.
                drive.pending.clear();
            }
            drive.pending.retain(|_, until| *until > now.moment);
        }
        let pending = self.drives.get(job).map(|drive| &drive.pending);
        let next = pending.and_then(|slots| slots.values().min().copied());
        let mut open = self.state.wanted(job);
        open.retain(|slot| {
            pending.is_none_or(|pending| !pending.contains_key(slot))
                && !self.is_claimed(slot, &generation)
        });
        if let Some(at) = next {
            self.look_again(*job, at);
        }
        open
    }

    fn is_claimed(&self, slot: &SlotId, generation: &Generation) -> bool {
        let current = |claim: &Claim| claim.generation == *generation;
        self.state.claims(slot).any(|(node, claim)| current(claim) && !self.is_lost(node))
            || self.holds(slot, generation)
    }

    fn better_driver(&self, job: &JobId, rank: usize) -> bool {
        let other = self.drives.get(job).and_then(|drive| drive.other);
        other.is_some_and(|(node, _)| rendezvous::rank(job.as_bytes(), &node, &self.alive()) < rank)
    }

    fn announce(&mut self, now: Now, job: &JobId, out: &mut Vec<Effect>) {
        let Some(drive) = self.drives.get_mut(job) else { return };
        if drive.announced.is_none_or(|at| at + ANNOUNCE_EVERY <= now.moment) {
            drive.announced = Some(now.moment);
            for to in self.alive().into_iter().filter(|to| *to != self.me) {
                out.push(Effect::Send { to, message: Message::Driving { job: *job } });
            }
        }
        self.look_again(*job, now.moment + ANNOUNCE_EVERY);
    }

    fn open_tender(
        &mut self,
        now: Now,
        dice: &mut dyn Dice,
        job: &JobId,
        generation: Generation,
        open: Vec<SlotId>,
        out: &mut Vec<Effect>,
    ) {
        // A group that fits nowhere must not keep the others waiting: each has its turn.
        let mut groups: Vec<_> = open.iter().map(|slot| slot.group.clone()).collect();
        groups.dedup();
        let last = self.drives.get(job).and_then(|drive| drive.called.clone());
        let after = last.and_then(|last| groups.iter().position(|group| *group == last));
        let Some(first) = after.and_then(|at| groups.get(at + 1)).or(groups.first()).cloned()
        else {
            return;
        };
        let lot: Vec<_> =
            open.into_iter().filter(|slot| slot.group == first).take(CALL_SLOTS_MAX).collect();
        let seen = lot.iter().map(|slot| self.state.epoch_counter(slot)).max().unwrap_or(0);
        // Tenders that came to nothing left no claim, but bidders remember them.
        let counter = seen.max(self.drives.get(job).map_or(0, |drive| drive.floor));
        let epoch = Epoch { counter: counter.saturating_add(1), tender: dice.roll() };
        let Some(blob) = self.state.spec(&generation.spec).and_then(|spec| spec.to_blob().ok())
        else {
            return;
        };
        let lot = Lot {
            job: *job,
            generation,
            spec: blob.1,
            group: first,
            indices: lot.into_iter().map(|slot| slot.index).collect(),
        };
        let called = lot.group.clone();
        let mut steps = Vec::new();
        let tender = Tender::open(now.moment, epoch, lot, self.alive(), &mut steps);
        let drive = self.drives.entry(*job).or_default();
        drive.tender = Some(tender);
        drive.floor = epoch.counter;
        drive.called = Some(called);
        self.follow(now, job, steps, out);
    }

    pub(super) fn answered(
        &mut self,
        now: Now,
        from: NodeId,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        let epoch = answer.epoch;
        self.hear_tender(now, from, epoch, Heard::Answer(answer), out);
    }

    pub(super) fn confirmed(
        &mut self,
        now: Now,
        from: NodeId,
        (epoch, indices, taken): (Epoch, Vec<u32>, bool),
        out: &mut Vec<Effect>,
    ) {
        let heard = if taken { Heard::Claimed(indices) } else { Heard::Refused(indices) };
        self.hear_tender(now, from, epoch, heard, out);
    }

    fn hear_tender(
        &mut self,
        now: Now,
        from: NodeId,
        epoch: Epoch,
        heard: Heard,
        out: &mut Vec<Effect>,
    ) {
        let running = |drive: &mut Drive| drive.tender.as_ref().is_some_and(|t| t.epoch() == epoch);
        let Some((job, drive)) =
            self.drives.iter_mut().find_map(|(job, drive)| running(drive).then_some((*job, drive)))
        else {
            return;
        };
        let mut steps = Vec::new();
        if let Some(tender) = &mut drive.tender {
            tender.hear(now.moment, from, heard, &mut steps);
        }
        self.follow(now, &job, steps, out);
    }

    pub(super) fn tick_tenders(&mut self, now: Now, out: &mut Vec<Effect>) {
        let jobs: Vec<_> = self.drives.keys().copied().collect();
        for job in jobs {
            let mut steps = Vec::new();
            if let Some(tender) = self.drives.get_mut(&job).and_then(|drive| drive.tender.as_mut())
            {
                tender.step(now.moment, &mut steps);
            }
            self.follow(now, &job, steps, out);
        }
    }

    fn follow(&mut self, now: Now, job: &JobId, steps: Vec<Step>, out: &mut Vec<Effect>) {
        for step in steps {
            match step {
                Step::Send(to, message) => self.send(to, message, out),
                Step::Tell(what) => out.push(Effect::Tell(what)),
                Step::Closed(closed) => self.close_tender(now, job, closed),
            }
        }
    }

    fn close_tender(&mut self, now: Now, job: &JobId, closed: Closed) {
        let Some(drive) = self.drives.get_mut(job) else { return };
        let Some(group) = drive.tender.as_ref().map(|tender| tender.group().clone()) else {
            return;
        };
        let taken = closed.claimed.iter().chain(&closed.unanswered).map(|(index, _)| *index);
        for index in taken.chain(closed.held.iter().map(|(index, _)| *index)) {
            let slot = SlotId { job: *job, group: group.clone(), index };
            drive.pending.insert(slot, now.moment + LOST_AFTER);
        }
        let left = if closed.open.is_empty() { Left::Nothing } else { Left::Slots };
        drive.closed(now.moment, left);
        if let Some(answered) = closed.outdated.filter(|answered| *answered < COUNTER_MAX) {
            drive.go_beyond(now.moment, answered);
        }
        self.look_again(*job, now.moment);
    }

    /// Room was freed somewhere: whoever drives open slots tries soon.
    pub(super) fn poke(&mut self, now: Now) {
        let mut soon = Vec::new();
        for (job, drive) in &mut self.drives {
            if drive.need_since.is_some() && drive.tender.is_none() {
                drive.poke(now.moment);
                soon.push((*job, drive.next_try));
            }
        }
        for (job, at) in soon {
            self.look_again(job, at);
        }
    }

    pub(super) fn other_drives(
        &mut self,
        now: Now,
        from: NodeId,
        job: JobId,
        out: &mut Vec<Effect>,
    ) {
        if self.state.job(&job).is_none() {
            return;
        }
        self.drives.entry(job).or_default().other = Some((from, now.moment));
        let rank = rendezvous::rank(job.as_bytes(), &self.me, &self.alive());
        if !self.better_driver(&job, rank) {
            return;
        }
        let mut steps = Vec::new();
        if let Some(drive) = self.drives.get_mut(&job)
            && drive.tender.as_mut().is_some_and(|tender| tender.stand_down(&mut steps))
        {
            drive.tender = None;
        }
        self.follow(now, &job, steps, out);
    }
}
