//! Some cores on perfect wires: every message arrives at once, tasks start at once.

use std::collections::{BTreeMap, VecDeque};

use gossip_core::fact::{Entry, NodeCard, Record, TaskEnd, Update};
use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, ContentHash, JobId};
use gossip_core::intent::JobIntent;
use gossip_core::log::LogId;
use gossip_core::moment::{Moment, WallTime};
use gossip_core::removal::Removal;
use gossip_core::resources::Resources;
use gossip_core::sign::Key;
use gossip_core::spec::JobSpec;

use super::super::{Core, Found, Identity};
use crate::bidder::Lacks;
use crate::effect::{Ask, Dice, Effect, Input, Now, Reply};
use crate::ledger::AllocationId;

pub(super) struct Count(pub(super) u64);
impl Dice for Count {
    fn roll(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

fn key(at: usize) -> Key {
    Key::from_seed([u8::try_from(at).expect("few") + 1; 32])
}

/// Some cores on perfect wires; tasks start at once and run until told.
pub(super) struct Cluster {
    pub(super) now: u64,
    pub(super) cores: Vec<Core>,
    pub(super) logs: Vec<LogId>,
    pub(super) intents: BTreeMap<JobId, JobIntent>,
    pub(super) mail: VecDeque<(usize, Input)>,
    pub(super) dead: Vec<usize>,
    pub(super) tasks: BTreeMap<(usize, AllocationId), ()>,
    pub(super) replies: Vec<Reply>,
    pub(super) dice: Count,
    /// While set, tasks do not come to run.
    pub(super) starts_wait: bool,
    /// Starts that wait.
    pub(super) late: Vec<(usize, Input)>,
}

impl Cluster {
    pub(super) fn new(capacities: &[u64]) -> Self {
        let mut cluster = Self {
            now: 0,
            cores: vec![],
            logs: vec![],
            intents: BTreeMap::new(),
            mail: VecDeque::new(),
            dead: vec![],
            tasks: BTreeMap::new(),
            replies: vec![],
            dice: Count(0),
            starts_wait: false,
            late: vec![],
        };
        for (at, cpu_milli) in capacities.iter().enumerate() {
            cluster.add(at, *cpu_milli, 1, vec![], &BTreeMap::new());
        }
        cluster.run(0);
        for at in 0..capacities.len() {
            let log = cluster.logs[at];
            let card = cluster.cores[at].state().node(&log.node).expect("itself").clone();
            for to in 0..capacities.len() {
                let opened = Update::Opened { card: card.clone(), holdings: vec![] };
                cluster.mail.push_back((to, Input::Updates(vec![(log, opened)])));
            }
        }
        cluster.run(0);
        cluster
    }

    pub(super) fn add(
        &mut self,
        at: usize,
        cpu_milli: u64,
        start: u64,
        past: Vec<(LogId, Update)>,
        found: &BTreeMap<AllocationId, Found>,
    ) {
        let key = key(at);
        let log = LogId { node: key.id(), start, nonce: 0 };
        let card = NodeCard {
            name: format!("n{at}"),
            addresses: vec![],
            capacity: Resources { cpu_milli, memory_bytes: 1 << 30 },
            chain: Chain::found(&key, 0).1,
            version: String::new(),
            enforces_limits: false,
            trusts_jobs: false,
        };
        let identity = Identity {
            node: key.id(),
            cluster: ClusterId::new([0; 32]),
            card,
            lacks: Lacks::new(),
        };
        let mut out = Vec::new();
        let core = Core::start(self.clock(), identity, past, found, &mut out);
        if at == self.cores.len() {
            self.cores.push(core);
            self.logs.push(log);
        } else {
            self.cores[at] = core;
            self.logs[at] = log;
        }
        self.perform(at, out);
    }

    pub(super) fn clock(&self) -> Now {
        Now { moment: Moment(self.now), wall: WallTime(self.now) }
    }

    pub(super) fn perform(&mut self, at: usize, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Append { ticket, entries } => {
                    let updates: Vec<_> = entries
                        .into_iter()
                        .map(|entry| (self.logs[at], self.update(at, entry)))
                        .collect();
                    for to in (0..self.cores.len()).filter(|to| !self.dead.contains(to)) {
                        self.mail.push_back((to, Input::Updates(updates.clone())));
                    }
                    self.mail.push_back((at, Input::Durable(ticket)));
                    let other = self.logs[usize::from(at == 0 && self.logs.len() > 1)].node;
                    self.mail.push_back((at, Input::Persisted { ticket, by: other }));
                }
                Effect::Send { to, message } => {
                    let from = self.logs[at].node;
                    let to = self.logs.iter().position(|log| log.node == to).expect("known");
                    if !self.dead.contains(&to) {
                        self.mail.push_back((to, Input::Market { from, message }));
                    }
                }
                Effect::Launch(launch) => {
                    self.tasks.insert((at, launch.id.clone()), ());
                    let started = (at, Input::Started(launch.id));
                    if self.starts_wait {
                        self.late.push(started);
                    } else {
                        self.mail.push_back(started);
                    }
                }
                Effect::Stop { id, .. } => {
                    // One that is being started does not hear of it: it is asked again.
                    let begins = |(_, input): &(usize, Input)| matches!(input, Input::Started(late) if *late == id);
                    if !self.late.iter().any(begins) {
                        self.tasks.remove(&(at, id.clone()));
                        let end = TaskEnd::Signalled { signal: 15 };
                        self.mail.push_back((at, Input::Ended { id, end }));
                    }
                }
                Effect::Publish { .. } => {
                    let from = self.logs[at].node;
                    for to in
                        (0..self.cores.len()).filter(|to| *to != at && !self.dead.contains(to))
                    {
                        self.mail.push_back((to, Input::Heard(from)));
                    }
                }
                Effect::Reply { reply, .. } => self.replies.push(reply),
                Effect::Tell(_) => {}
            }
        }
    }

    pub(super) fn update(&mut self, at: usize, entry: Entry) -> Update {
        match entry {
            Entry::Fact(Record::Open { card, holdings }) => Update::Opened { card, holdings },
            Entry::Fact(Record::Claim(claim)) => Update::Claim(claim),
            Entry::Fact(Record::Outcome(outcome)) => Update::Outcome(outcome),
            Entry::Fact(Record::Spec(blob)) => {
                let spec = JobSpec::from_blob(&blob).expect("valid");
                Update::Spec { hash: ContentHash::of(&blob), spec }
            }
            Entry::Fact(other) => panic!("a core does not write {other:?}"),
            Entry::Edit { job, edit } => {
                let intent = self.intents.entry(job).or_default();
                intent.apply(&edit);
                Update::Intent { job, intent: intent.clone() }
            }
            Entry::Remove { node, at: time, .. } => {
                let key = key(at);
                let (cluster, chain) = Chain::found(&key, 0);
                Update::Removal(Removal::sign(&key, &cluster, (node, chain), vec![], time))
            }
        }
    }

    /// Delivers everything, then lets `ms` pass in steps of ten.
    pub(super) fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        loop {
            while let Some((to, input)) = self.mail.pop_front() {
                if !self.dead.contains(&to) {
                    let mut out = Vec::new();
                    let now = self.clock();
                    self.cores[to].handle(now, &mut self.dice, input, &mut out);
                    self.perform(to, out);
                }
            }
            if self.now >= until {
                return;
            }
            self.now += 10;
            for at in 0..self.cores.len() {
                self.mail.push_back((at, Input::Tick));
            }
        }
    }

    pub(super) fn ask(&mut self, at: usize, ask: Ask) {
        self.mail.push_back((at, Input::Asked { request: 0, ask }));
        self.run(50);
    }

    pub(super) fn places(&self) -> Vec<(usize, u32)> {
        let alive = |at: &usize| !self.dead.contains(at);
        self.tasks.keys().map(|(at, id)| (*at, id.slot.index)).filter(|(at, _)| alive(at)).collect()
    }

    pub(super) fn past(&self) -> Vec<(LogId, Update)> {
        let state = self.cores[0].state();
        let mut past = Vec::new();
        for log in &self.logs {
            let card = state.node(&log.node).expect("known").clone();
            past.push((*log, Update::Opened { card, holdings: state.holdings(&log.node) }));
        }
        for removal in state.removals().counting() {
            past.push((self.logs[0], Update::Removal(removal.clone())));
        }
        for (job, intent) in state.jobs() {
            let (generation, spec) = state.spec_of(job).expect("known");
            past.push((self.logs[0], Update::Spec { hash: generation.spec, spec: spec.clone() }));
            past.push((self.logs[0], Update::Intent { job: *job, intent: intent.clone() }));
        }
        past
    }
}
