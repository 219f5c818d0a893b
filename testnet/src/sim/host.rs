//! One host: a disk, a runtime, and an agent that comes and goes.
//!
//! The agent is the shell that `node` has around its core, in virtual time:
//! it turns packets, writes and ends of tasks into inputs, and performs
//! effects. Must never do anything that the real agent could not do.

mod runtime;
mod shell;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use gossip_core::fact::{NodeCard, TaskEnd, Update};
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::log::LogId;
use gossip_core::moment::{Moment, WallTime};
use gossip_core::spec::STOP_GRACE_MS;
use starling_core::Core;
use starling_core::bidder::Lacks;
use starling_core::core::Identity;
use starling_core::effect::{Ask, Dice, Input, Now};
use starling_core::ledger::AllocationId;

use super::air::{Air, Event, Mail};
use super::journal::Journal;
use super::mutant::Mutant;
use super::tasks::Tasks;
use super::{HEAL_AT, WARM_UP, jobs};

/// Logs are compared with a random neighbour this often, in milliseconds.
const COMPARE_MS: (u64, u64) = (300, 900);

/// What is kept for a frozen agent; the rest is lost.
const INBOX_MAX: usize = 400;

/// Everything a host is.
#[derive(Debug)]
pub(super) struct Host {
    index: usize,
    peers: Rc<Vec<NodeId>>,
    card: NodeCard,
    pub(super) journal: Journal,
    pub(super) tasks: Tasks,
    agent: Option<Agent>,
    frozen: bool,
    clogged: bool,
    inbox: VecDeque<Mail>,
    /// Counts starts of the agent.
    starts: u64,
    /// Counts starts of the host.
    boot: u64,
    /// This clock's millionths per millionth of true time.
    rate: u64,
}

#[derive(Debug)]
struct Agent {
    core: Core,
    log: LogId,
    began: u64,
    wake_at: Option<u64>,
    /// The last start of each allocation's task.
    names: BTreeMap<AllocationId, u32>,
    /// Appends that no other disk holds yet, by the end of each.
    unshared: Vec<(u64, u64)>,
    adverts: BTreeMap<NodeId, (LogId, u64)>,
    advert_number: u64,
    told: Vec<Option<u64>>,
}

impl Host {
    pub(super) fn new(index: usize, peers: Rc<Vec<NodeId>>, card: NodeCard, rate: u64) -> Self {
        Self {
            index,
            peers,
            card,
            journal: Journal::default(),
            tasks: Tasks::default(),
            agent: None,
            frozen: false,
            clogged: false,
            inbox: VecDeque::new(),
            starts: 0,
            boot: 0,
            rate,
        }
    }

    fn me(&self) -> NodeId {
        self.peers[self.index]
    }

    /// The core that runs here, for judges.
    pub(super) fn core(&self) -> Option<&Core> {
        self.agent.as_ref().map(|agent| &agent.core)
    }

    pub(super) fn answers(&self) -> bool {
        self.agent.is_some() && !self.frozen
    }

    pub(super) fn card(&self) -> &NodeCard {
        &self.card
    }

    /// Starts the agent, if it does not run.
    pub(super) fn start(&mut self, air: &mut Air) {
        if self.agent.is_some() {
            return;
        }
        self.starts += 1;
        let me = self.me();
        let past = self.journal.past();
        let known = known(&past, me);
        self.settle_launches(air);
        let (found, orphans) = self.tasks.find(|id| known.contains_key(id));
        let log = LogId { node: me, start: self.journal.starts(&me) + 1, nonce: air.dice.roll() };
        air.note(Some(self.index), || {
            format!("starts log {}, finds {found:?}, orphans {orphans:?}", log.start)
        });
        let mut card = self.card.clone();
        if air.mutant == Some(Mutant::NoHold) {
            card.capacity.cpu_milli *= 2;
            card.capacity.memory_bytes *= 2;
        }
        let identity =
            Identity { node: me, cluster: ClusterId::new([0; 32]), card, lacks: Lacks::new() };
        let names = found.iter().map(|(id, (start, _))| (id.clone(), *start)).collect();
        let found = found.into_iter().map(|(id, (_, found))| (id, found)).collect();
        let now = Now { moment: Moment(0), wall: WallTime(air.now) };
        let mut out = Vec::new();
        let core = Core::start(now, identity, past, &found, &mut out);
        self.agent = Some(Agent {
            core,
            log,
            began: air.now,
            wake_at: None,
            names,
            unshared: Vec::new(),
            adverts: BTreeMap::new(),
            advert_number: 0,
            told: vec![None; self.peers.len()],
        });
        for name in orphans {
            air.bench.stop_ordered(air.now, self.index, &name);
            self.stop_task(air, &name, STOP_GRACE_MS);
        }
        self.perform(air, out);
        for to in self.others() {
            self.send_vector(air, to, true);
        }
        self.later(air, 1, Mail::Compare);
        self.step(air, Input::Tick);
    }

    /// The agent dies; what it was starting may be given up half done.
    pub(super) fn kill_agent(&mut self, air: &mut Air) {
        if self.agent.take().is_none() {
            return;
        }
        air.note(Some(self.index), || "the agent dies".to_owned());
        self.frozen = false;
        self.inbox.clear();
        self.journal.crash(&mut air.dice);
        for name in self.tasks.starting() {
            if air.dice.chance(300) {
                let reason = "the launch was given up half done".to_owned();
                self.set_end(air, &name, TaskEnd::NotStarted { code: 125, reason });
            }
        }
    }

    /// Everything here dies.
    pub(super) fn kill_host(&mut self, air: &mut Air) {
        self.kill_agent(air);
        air.note(Some(self.index), || "the host dies".to_owned());
        self.boot += 1;
        for name in self.tasks.names() {
            let reason = "the host rebooted".to_owned();
            self.set_end(air, &name, TaskEnd::Lost { reason });
            if air.dice.chance(300) {
                // Its record had not reached the disk.
                self.tasks.forget(&name);
            }
        }
    }

    /// Its disk becomes slow, or fast again.
    pub(super) fn clog(&mut self, clogged: bool) {
        self.clogged = clogged;
    }

    /// The agent is ended on purpose, and says so first.
    pub(super) fn leave(&mut self, air: &mut Air) {
        if self.answers() {
            self.step(air, Input::Away);
        }
        self.kill_agent(air);
    }

    pub(super) fn freeze(&mut self, air: &mut Air) {
        air.note(Some(self.index), || "the agent freezes".to_owned());
        self.frozen = self.agent.is_some();
    }

    pub(super) fn thaw(&mut self, air: &mut Air) {
        if !std::mem::take(&mut self.frozen) {
            return;
        }
        air.note(Some(self.index), || "the agent thaws".to_owned());
        let inbox = std::mem::take(&mut self.inbox);
        for mail in inbox {
            self.handle(air, mail);
        }
        self.step(air, Input::Tick);
    }

    /// Takes what happened to the agent, now or when it is not frozen any more.
    pub(super) fn receive(&mut self, air: &mut Air, start: Option<u64>, mail: Mail) {
        if start.is_some_and(|start| start != self.starts) || self.agent.is_none() {
            return;
        }
        if self.frozen {
            let lossy = matches!(mail, Mail::Packet { .. } | Mail::Ask(_));
            if !lossy || self.inbox.len() < INBOX_MAX {
                self.inbox.push_back(mail);
            }
            return;
        }
        self.handle(air, mail);
    }

    fn handle(&mut self, air: &mut Air, mail: Mail) {
        match mail {
            Mail::Wake => {
                if self.agent.as_ref().is_some_and(|it| it.wake_at.is_some_and(|at| at <= air.now))
                {
                    self.step(air, Input::Tick);
                }
            }
            Mail::Written => self.written(air),
            Mail::Lie(ticket) => self.step(air, Input::Durable(ticket)),
            Mail::Compare => {
                let others: Vec<_> = self.others().collect();
                if !others.is_empty() {
                    let to = others[air.dice.index(others.len())];
                    self.send_vector(air, to, true);
                }
                let after = air.dice.range(COMPARE_MS.0, COMPARE_MS.1);
                self.later(air, after, Mail::Compare);
            }
            Mail::Packet { from, packet } => self.packet(air, from, packet),
            Mail::Started((id, start)) => {
                if self.is_named(&id, start) {
                    self.step(air, Input::Started(id));
                }
            }
            Mail::Ended((id, start), end) => {
                if self.is_named(&id, start) {
                    self.step(air, Input::Ended { id, end });
                }
            }
            Mail::Ask(number) => {
                let Some(ask) = air.bench.promises.ask(number) else { return };
                let request = number as u64;
                self.step(air, Input::Asked { request, ask: Ask::clone(&ask) });
            }
        }
    }

    fn is_named(&self, id: &AllocationId, start: u32) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.names.get(id) == Some(&start))
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.index;
        (0..self.peers.len()).filter(move |it| *it != me)
    }

    fn later(&self, air: &mut Air, delay: u64, mail: Mail) {
        air.after(delay, Event::Agent { host: self.index, start: Some(self.starts), mail });
    }

    fn index_of(&self, node: &NodeId) -> Option<usize> {
        self.peers.iter().position(|it| it == node)
    }
}

/// What this node's own log says it holds.
fn known(past: &[(LogId, Update)], me: NodeId) -> BTreeMap<AllocationId, ()> {
    let mut known = BTreeMap::new();
    let id = |slot: &_, epoch| AllocationId { slot: gossip_core::slot::SlotId::clone(slot), epoch };
    for (_, update) in past.iter().filter(|(log, _)| log.node == me) {
        match update {
            Update::Opened { holdings, .. } => {
                known = holdings.iter().map(|claim| (id(&claim.slot, claim.epoch), ())).collect();
            }
            Update::Claim(claim) => {
                known.insert(id(&claim.slot, claim.epoch), ());
            }
            Update::Outcome(outcome) => {
                known.remove(&id(&outcome.slot, outcome.epoch));
            }
            _ => {}
        }
    }
    known
}
