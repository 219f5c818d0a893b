//! What a host hears from the others and tells them, and what it writes down.
//!
//! Logs go out as soon as they are durable, and are compared with a random
//! neighbour now and then; a gap is never kept. Adverts are handed on once, by
//! whoever hears them first. Must never tell what is not on the disk.

use std::rc::Rc;

use gossip_core::advert::Advert;
use gossip_core::fact::{Entry, Record, Update};
use gossip_core::id::ContentHash;
use gossip_core::spec::JobSpec;
use starling_core::effect::Input;

use super::super::air::{Air, Mail, Packet};
use super::super::journal::{Item, Place, Run};
use super::super::mutant::Mutant;
use super::{HEAL_AT, Host};

/// Of one peer, being heard is told to the core at most this often.
const HEARD_EVERY_MS: u64 = 250;

impl Host {
    pub(super) fn packet(&mut self, air: &mut Air, from: usize, packet: Packet) {
        let Some(agent) = &mut self.agent else { return };
        let told = &mut agent.told[from];
        if told.is_none_or(|at| at + HEARD_EVERY_MS <= air.now) {
            *told = Some(air.now);
            let node = self.peers[from];
            self.step(air, Input::Heard(node));
        }
        match packet {
            Packet::Market(message) => {
                let from = self.peers[from];
                self.step(air, Input::Market { from, message });
            }
            Packet::Advert(advert) => self.advert(air, from, advert),
            Packet::Push(run) => self.push(air, from, &run),
            Packet::Vector { held, question } => {
                let own = self.agent.as_ref().map(|agent| agent.log);
                if let Some(next) = own.and_then(|own| held.get(&own)) {
                    self.persisted(air, from, *next);
                }
                for run in self.journal.lacking(&held) {
                    air.send(self.index, from, Packet::Push(Rc::new(run)));
                }
                if question {
                    self.send_vector(air, from, false);
                }
            }
            Packet::Stored { log, next } => {
                if self.agent.as_ref().is_some_and(|agent| agent.log == log) {
                    self.persisted(air, from, next);
                }
            }
        }
    }

    pub(super) fn send_vector(&self, air: &mut Air, to: usize, question: bool) {
        if air.mutant != Some(Mutant::NoPull) {
            let held = Rc::new(self.journal.vector());
            air.send(self.index, to, Packet::Vector { held, question });
        }
    }

    pub(super) fn push(&mut self, air: &mut Air, from: usize, run: &Run) {
        let takes = self.write_takes(air);
        match self.journal.take(air.now, run.clone(), from, takes) {
            (Place::Taken, at) => self.later(air, at - air.now, Mail::Written),
            (Place::Gap, _) => self.send_vector(air, from, false),
            (Place::Known, _) => {}
        }
    }

    pub(super) fn advert(&mut self, air: &mut Air, from: usize, advert: Advert) {
        let Some(agent) = &mut self.agent else { return };
        let node = advert.log.node;
        let is_news =
            agent.adverts.get(&node).is_none_or(|seen| *seen < (advert.log, advert.number));
        if node == agent.log.node || !is_news {
            return;
        }
        agent.adverts.insert(node, (advert.log, advert.number));
        for to in self.others().filter(|to| *to != from && self.peers[*to] != node) {
            air.send(self.index, to, Packet::Advert(advert.clone()));
        }
        self.step(air, Input::Advert(advert));
    }

    pub(super) fn persisted(&mut self, air: &mut Air, from: usize, next: u64) {
        let Some(agent) = &mut self.agent else { return };
        let shared: Vec<_> =
            agent.unshared.iter().filter(|(end, _)| *end <= next).map(|(_, t)| *t).collect();
        agent.unshared.retain(|(end, _)| *end > next);
        let by = self.peers[from];
        for ticket in shared {
            self.step(air, Input::Persisted { ticket, by });
        }
    }

    pub(super) fn written(&mut self, air: &mut Air) {
        let Some((write, updates)) = self.journal.written() else { return };
        self.step(air, Input::Updates(updates));
        if let Some(ticket) = write.ticket {
            self.step(air, Input::Durable(ticket));
            let run = Rc::new(write.run);
            for to in self.others() {
                air.send(self.index, to, Packet::Push(Rc::clone(&run)));
            }
        } else if let Some(from) = write.from {
            let (log, next) = (write.run.log, write.run.end());
            if self.index_of(&log.node) == Some(from) {
                air.send(self.index, from, Packet::Stored { log, next });
            }
        }
    }

    pub(super) fn append(&mut self, air: &mut Air, ticket: u64, mut entries: Vec<Entry>) {
        let Some(log) = self.agent.as_ref().map(|agent| agent.log) else { return };
        if let Some(mutant) = air.mutant {
            entries = mutant.journal(entries);
        }
        let items: Vec<_> = entries.into_iter().filter_map(item).collect();
        for item in &items {
            air.bench.sight.learn(item);
        }
        let mut takes = self.write_takes(air);
        if air.mutant == Some(Mutant::LyingFsync) && air.now < HEAL_AT {
            takes = air.dice.range(3000, 15_000);
            self.later(air, 0, Mail::Lie(ticket));
        }
        let at = self.journal.append(air.now, log, items, ticket, takes);
        self.later(air, at - air.now, Mail::Written);
        air.bench.wrote(air.now);
        if let Some(agent) = &mut self.agent {
            agent.unshared.push((self.journal.reserved(&log), ticket));
        }
    }

    /// How long an fsync takes: mostly little.
    pub(super) fn write_takes(&self, air: &mut Air) -> u64 {
        match (self.clogged, air.now < HEAL_AT && air.dice.chance(10)) {
            (true, _) => air.dice.range(20, 600),
            (false, true) => air.dice.range(20, 400),
            (false, false) => air.dice.range(1, 5),
        }
    }
}

fn item(entry: Entry) -> Option<Item> {
    Some(Item::Fact(match entry {
        Entry::Fact(Record::Open { card, holdings }) => Update::Opened { card, holdings },
        Entry::Fact(Record::Card(card)) => Update::Card(card),
        Entry::Fact(Record::Claim(claim)) => Update::Claim(claim),
        Entry::Fact(Record::Outcome(outcome)) => Update::Outcome(outcome),
        Entry::Fact(Record::Spec(blob)) => {
            let spec = JobSpec::from_blob(&blob).ok()?;
            Update::Spec { hash: ContentHash::of(&blob), spec }
        }
        Entry::Fact(Record::Removal(removal)) => Update::Removal(removal),
        // A core writes none of these, and asks for removals only where a user does.
        Entry::Fact(
            Record::Intent { .. }
            | Record::Redeemed { .. }
            | Record::Invited(_)
            | Record::Revoked { .. },
        )
        | Entry::Remove { .. } => return None,
        Entry::Edit { job, edit } => return Some(Item::Edit { job, edit }),
    }))
}
