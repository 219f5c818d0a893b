//! One run: hosts, a network, a plan, and what happens in which order.
//!
//! Everything follows from the seed. This file performs the plan and shows the
//! judges the world; it must never decide what a host does.

use std::rc::Rc;
use std::sync::OnceLock;

use gossip_core::fact::NodeCard;
use gossip_core::grant::Chain;
use gossip_core::id::NodeId;
use gossip_core::resources::Resources;
use gossip_core::sign::Key;
use starling_core::effect::Ask;

use super::air::{Air, Event, Mail};
use super::dice::Seeded;
use super::host::Host;
use super::jobs::{self, Job};
use super::judges::{Bench, Judge};
use super::schedule::{self, Act};
use super::{END_AT, HEAL_AT, HEAL_MS_MAX, NODES_MAX, Options, Outcome, STOP_AT};

/// The judges look this often once everything is healed.
const LOOK_MS: u64 = 100;

/// A user who has no answer after this long asks another node.
const PATIENCE_MS: u64 = 4000;

/// So often, then the user gives up.
const TRIES_MAX: u32 = 8;

/// Replicas are compared when nobody wrote for so long.
const QUIET_MS: u64 = 2500;

/// Clocks run wrong by up to this many millionths.
const DRIFT: u64 = 15_000;

pub(super) struct World {
    air: Air,
    hosts: Vec<Host>,
    jobs: Vec<Job>,
    plan: Vec<(u64, Act)>,
    compared: bool,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut dice = Seeded::new(seed);
        let count = options.nodes.clamp(1, NODES_MAX);
        let capacities = jobs::capacities(&mut dice, count);
        let jobs = jobs::draw(&mut dice, &capacities);
        let mut plan = schedule::draw(&mut dice, count, jobs.len());
        plan.sort_by_key(|(at, _)| *at);
        let cards = &cards()[..count];
        let peers: Rc<Vec<NodeId>> = Rc::new(cards.iter().map(|(node, _)| *node).collect());
        let hosts = cards.iter().zip(&capacities).enumerate().map(|(index, ((_, card), has))| {
            let card = NodeCard { capacity: *has, ..card.clone() };
            let rate = 1_000_000 - DRIFT + dice.range(0, 2 * DRIFT + 1);
            Host::new(index, Rc::clone(&peers), card, rate)
        });
        let hosts: Vec<_> = hosts.collect();
        let air = Air::new(dice, count, Bench::default(), options.mutant, options.trace);
        Self { air, hosts, jobs, plan, compared: false }
    }

    pub(super) fn run(mut self) -> Outcome {
        for host in &mut self.hosts {
            host.start(&mut self.air);
        }
        for (number, (at, _)) in self.plan.iter().enumerate() {
            self.air.after(*at, Event::Act(number));
        }
        self.air.after(HEAL_AT + LOOK_MS, Event::Look);
        while let Some(event) = self.air.next(END_AT) {
            self.happen(event);
        }
        self.air.bench.look_for_residue(END_AT, &self.hosts);
        self.air.bench.compare_promises(END_AT, &self.hosts);
        self.air.bench.compare_replicas(END_AT, &self.hosts);
        self.air.bench.compare_orders(END_AT, &self.hosts);
        self.outcome()
    }

    fn outcome(mut self) -> Outcome {
        for (at, what) in self.air.bench.capacity.take() {
            self.air.bench.complain(Judge::Capacity, at, what);
        }
        let bench = self.air.bench;
        Outcome {
            packets: self.air.packets,
            promised: bench.promises.promised(),
            restarted: bench.restarts.failed,
            worst_copies: bench.sight.worst(),
            heal_ms: bench.healing.took(),
            violations: bench.violations,
        }
    }

    fn happen(&mut self, event: Event) {
        let air = &mut self.air;
        match event {
            Event::Agent { host, start, mail } => {
                air.packets += u64::from(matches!(mail, Mail::Packet { .. }));
                self.hosts[host].receive(air, start, mail);
            }
            Event::Launched { host, boot, name, fails, service } => {
                self.hosts[host].launched(air, (boot, name), fails, service);
                self.look();
            }
            Event::Exits { host, boot, name, end } => {
                self.hosts[host].exits(air, boot, name, end);
                self.look();
            }
            Event::Act(number) => {
                let act = self.plan[number].1.clone();
                self.act(act);
            }
            Event::Impatient { ask, tries } => self.ask(ask, tries),
            Event::Look => {
                self.look();
                self.compare();
                self.air.after(LOOK_MS, Event::Look);
            }
        }
    }

    fn act(&mut self, act: Act) {
        let air = &mut self.air;
        air.note(None, || format!("{act:?}"));
        match act {
            Act::Spoil => air.links.spoil(),
            Act::Cut(pairs) => air.links.cut(&pairs),
            Act::Mend(pairs) => air.links.mend(&pairs),
            Act::KillAgent(host) => self.hosts[host].kill_agent(air),
            Act::KillHost(host) => self.hosts[host].kill_host(air),
            Act::Start(host) => self.hosts[host].start(air),
            Act::Freeze(host) => self.hosts[host].freeze(air),
            Act::Thaw(host) => self.hosts[host].thaw(air),
            Act::Clog(host) => self.hosts[host].clog(true),
            Act::Unclog(host) => self.hosts[host].clog(false),
            Act::Leave(host) => self.hosts[host].leave(air),
            Act::Submit(job) => self.submit(job),
            Act::Change(job) => {
                self.jobs[job].spec = jobs::changed(&mut self.air.dice, &self.jobs[job].spec);
                self.submit(job);
            }
            Act::Stop(job) => {
                let ask = Ask::Stop(self.jobs[job].id);
                self.add_ask(ask);
            }
            Act::Heal => self.heal(),
            Act::StopAll => {
                let room = self.room();
                self.air.bench.compare_batches(STOP_AT, &room);
                for job in 0..self.jobs.len() {
                    let ask = Ask::Stop(self.jobs[job].id);
                    self.add_ask(ask);
                }
            }
        }
    }

    fn heal(&mut self) {
        self.air.links.heal();
        for host in &mut self.hosts {
            host.clog(false);
            host.thaw(&mut self.air);
            host.start(&mut self.air);
        }
        let items = self.hosts.iter().flat_map(|host| host.journal.items());
        self.air.bench.sight.learn_again(items.map(|item| &**item));
    }

    fn submit(&mut self, job: usize) {
        let Job { id, spec } = &self.jobs[job];
        let ask = Ask::Submit { job: *id, spec: Box::new(spec.clone()) };
        self.add_ask(ask);
    }

    fn add_ask(&mut self, ask: Ask) {
        let number = self.air.bench.promises.add(ask);
        self.ask(number, 0);
    }

    /// A user turns to some node that is up, again and again until answered.
    fn ask(&mut self, ask: usize, tries: u32) {
        if self.air.bench.promises.is_answered(ask) || tries >= TRIES_MAX {
            return;
        }
        let up: Vec<_> = (0..self.hosts.len()).filter(|host| self.hosts[*host].answers()).collect();
        if !up.is_empty() {
            let host = up[self.air.dice.index(up.len())];
            self.air.note(Some(host), || format!("is asked {ask}"));
            self.hosts[host].receive(&mut self.air, None, Mail::Ask(ask));
        }
        self.air.after(PATIENCE_MS, Event::Impatient { ask, tries: tries + 1 });
    }

    fn room(&self) -> Vec<Resources> {
        self.hosts.iter().map(|it| it.card().capacity.saturating_sub(&it.tasks.used())).collect()
    }

    fn look(&mut self) {
        if self.air.now > HEAL_AT && self.air.now < STOP_AT {
            let room = self.room();
            self.air.bench.compare(self.air.now, &room);
        }
    }

    fn compare(&mut self) {
        let (now, bench) = (self.air.now, &mut self.air.bench);
        let quiet = bench.written_at + QUIET_MS < now;
        if !self.compared && quiet && now > HEAL_AT + HEAL_MS_MAX && now < STOP_AT {
            self.compared = true;
            bench.compare_replicas(now, &self.hosts);
            bench.compare_orders(now, &self.hosts);
            bench.compare_views(now, &self.hosts);
        }
    }
}

/// Nodes as every run has them: making keys is slow.
fn cards() -> &'static [(NodeId, NodeCard)] {
    static CARDS: OnceLock<Vec<(NodeId, NodeCard)>> = OnceLock::new();
    CARDS.get_or_init(|| {
        let seeds = 1..=u8::try_from(NODES_MAX).unwrap_or(u8::MAX);
        seeds.map(card).collect()
    })
}

fn card(number: u8) -> (NodeId, NodeCard) {
    let key = Key::from_seed([number; 32]);
    let card = NodeCard {
        name: format!("h{number}"),
        addresses: Vec::new(),
        capacity: Resources::default(),
        chain: Chain::found(&key, 0).1,
        version: String::new(),
        enforces_limits: false,
        trusts_jobs: false,
    };
    (key.id(), card)
}
