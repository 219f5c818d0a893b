//! The shell around a core: inputs in, effects performed, clocks and wake-ups.
//!
//! A host's clock starts with its agent and runs a little wrong. Must never
//! let a core see another time, or another host.

use gossip_core::advert::Advert;
use gossip_core::id::NodeId;
use gossip_core::market::Message;
use gossip_core::moment::{Moment, WallTime};
use gossip_core::spec::STOP_GRACE_MS;
use starling_core::effect::{Effect, Input, Now};
use starling_core::event::What;

use super::super::air::{Air, Mail, Packet};
use super::super::mutant::Mutant;
use super::Host;

impl Host {
    pub(super) fn clock(&self, at: u64) -> Moment {
        let began = self.agent.as_ref().map_or(0, |agent| agent.began);
        Moment((at - began) * self.rate / 1_000_000)
    }

    pub(super) fn step(&mut self, air: &mut Air, input: Input) {
        let input = match air.mutant {
            Some(mutant) => mutant.tell(self.me(), input),
            None => Some(input),
        };
        let now = Now { moment: self.clock(air.now), wall: WallTime(air.now) };
        let (Some(input), Some(agent)) = (input, &mut self.agent) else { return };
        let mut out = Vec::new();
        let core = &mut agent.core;
        core.handle(now, &mut air.dice, input, &mut out);
        let mut wake = core.deadline(now.moment);
        if wake <= now.moment {
            core.handle(now, &mut air.dice, Input::Tick, &mut out);
            wake = core.deadline(now.moment);
        }
        let used = core.ledger().used();
        air.bench.capacity.ledger(air.now, self.index, used, self.card.capacity);
        let wake = wake.0.max(now.moment.0 + 1);
        let wake_at = (agent.began + (wake * 1_000_000).div_ceil(self.rate)).max(air.now + 1);
        if agent.wake_at.is_none_or(|at| at <= air.now || wake_at < at) {
            agent.wake_at = Some(wake_at);
            self.later(air, wake_at - air.now, Mail::Wake);
        }
        self.perform(air, out);
    }

    pub(super) fn perform(&mut self, air: &mut Air, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { ticket, entries } => self.append(air, ticket, entries),
                Effect::Send { to, message } => self.say(air, to, message),
                Effect::Publish { free, capacity, running, bidding } => {
                    let Some(agent) = &mut self.agent else { return };
                    agent.advert_number += 1;
                    let (log, number) = (agent.log, agent.advert_number);
                    let next = self.journal.next(&log);
                    let advert = Advert { log, next, number, free, capacity, running, bidding };
                    for to in self.others() {
                        air.send(self.index, to, Packet::Advert(advert.clone()));
                    }
                }
                Effect::Launch(launch) => self.launch(air, *launch),
                Effect::Stop { id, grace_ms } => {
                    let names = self.agent.as_ref().map(|agent| &agent.names);
                    let start = names.and_then(|names| names.get(&id)).copied().unwrap_or(0);
                    air.note(Some(self.index), || format!("stops {id:?}"));
                    let name = (id, start);
                    air.bench.stop_ordered(air.now, self.index, &name);
                    self.stop_task(air, &name, grace_ms);
                }
                Effect::Reply { request, reply } => {
                    air.note(Some(self.index), || format!("answers ask {request}: {reply:?}"));
                    air.bench.promises.replied(request, &reply);
                }
                Effect::Tell(what) => {
                    air.note(Some(self.index), || format!("{what:?}"));
                    if air.mutant == Some(Mutant::StopOnSilence) {
                        self.panic_if_alone(air, &what);
                    }
                }
            }
        }
    }

    pub(super) fn say(&mut self, air: &mut Air, to: NodeId, message: Message) {
        let Some(index) = self.index_of(&to) else { return };
        match (air.mutant, &message) {
            (Some(Mutant::SecondAward), Message::Award { .. }) => {
                for other in self.others().filter(|other| *other != index) {
                    air.send(self.index, other, Packet::Market(message.clone()));
                }
            }
            (Some(Mutant::StopUnheard), Message::Probe { slot, rank, nonce }) => {
                let message = Message::Ready { slot: slot.clone(), rank: *rank, nonce: *nonce };
                let packet = Packet::Market(message);
                self.later(air, 1, Mail::Packet { from: index, packet });
            }
            _ => {}
        }
        air.send(self.index, index, Packet::Market(message));
    }

    pub(super) fn panic_if_alone(&mut self, air: &mut Air, what: &What) {
        let Some(core) = self.core() else { return };
        let others = self.peers.iter().filter(|node| **node != self.me());
        if !matches!(what, What::NodeLost { .. }) || !others.clone().all(|it| core.is_lost(it)) {
            return;
        }
        for name in self.tasks.names() {
            air.bench.stop_ordered(air.now, self.index, &name);
            self.stop_task(air, &name, STOP_GRACE_MS);
        }
    }
}
