//! The node as one machine: everything it knows, in; everything it does, out.
//!
//! Organs share it: `placing` drives tenders for what is wanted, `holding` looks
//! after what this node claimed, `asking` answers users, `parting` sees members go. Their
//! rules live in the machines they use; this file only routes. What a node
//! says to itself takes the same road as what others say.

mod asking;
mod clearing;
mod holding;
mod parting;
mod placing;
mod returning;
#[cfg(test)]
pub(crate) mod tests;
mod yielding;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use gossip_core::advert::Advert;
use gossip_core::fact::{
    Claim, ClaimState, Entry, NodeCard, OPEN_CLAIMS_MAX, Record, TaskEnd, Update,
};
use gossip_core::health::HealthState;
use gossip_core::id::{ClusterId, JobId, NodeId};
use gossip_core::intent::JobIntent;
use gossip_core::log::LogId;
use gossip_core::market::{Decline, Message};
use gossip_core::moment::Moment;
use gossip_core::resources::Resources;
use gossip_core::slot::{Epoch, Generation, SlotId};
use gossip_core::spec::{GroupSpec, JobSpec};
use gossip_core::state::{State, Touched};

use crate::allocation::Allocation;
use crate::bidder::{Bidder, Lacks, Trust};
use crate::driver::Drive;
use crate::effect::{Dice, Effect, Input, Now, Ticket};
use crate::event::What;
use crate::ledger::{AllocationId, Ledger};
use crate::liveness::{Liveness, Verdict};

/// An unchanged advert is said again this often: it is also a sign of life.
pub const ADVERT_EVERY: Duration = Duration::from_secs(1);

/// A changed one is not said sooner than this after the last.
pub const ADVERT_MIN_GAP: Duration = Duration::from_millis(50);

/// How long a restarted node waits to hear a peer before it starts again what it held.
pub const SETTLE_FOR: Duration = Duration::from_secs(3);

/// A large job is looked at again at most this often for each thousand of its slots.
const LOOK_PER_THOUSAND_SLOTS: Duration = Duration::from_millis(2);

/// The longest this machine sleeps.
const IDLE_STEP: Duration = Duration::from_millis(500);

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its key.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// What it says of itself.
    pub card: NodeCard,
    /// The kinds of limits it cannot enforce.
    pub lacks: Lacks,
}

/// What was found of a task after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Running,
    /// It ended while no agent looked.
    Ended(TaskEnd),
}

/// What a call was about, kept for its award.
#[derive(Clone, Debug)]
struct Called {
    generation: Generation,
    spec: JobSpec,
    /// The spec as bytes, where the log has not brought it yet.
    blob: Vec<u8>,
}

/// The whole node.
#[derive(Debug)]
pub struct Core {
    me: NodeId,
    card: NodeCard,
    state: State,
    liveness: Liveness,
    adverts: BTreeMap<NodeId, Advert>,
    bidder: Bidder,
    allocations: BTreeMap<AllocationId, Allocation>,
    drives: BTreeMap<JobId, Drive>,
    asks: asking::Asks,
    tickets: Ticket,
    dirty: BTreeMap<JobId, Moment>,
    looked: BTreeMap<JobId, Moment>,
    own_mail: VecDeque<Message>,
    called: BTreeMap<Epoch, Called>,
    drivers_waiting: BTreeMap<Epoch, NodeId>,
    published: Option<(Moment, Resources, u32)>,
    heard_since: Option<Moment>,
    draining: bool,
    settle_until: Moment,
}

impl Core {
    /// A node that starts, with what its journal and its runtime remember.
    /// The first effect restates its holdings in a fresh log.
    pub fn start(
        now: Now,
        identity: Identity,
        past: Vec<(LogId, Update)>,
        found: &BTreeMap<AllocationId, Found>,
        out: &mut Vec<Effect>,
    ) -> Self {
        let capacity = identity.card.capacity;
        let trust = if identity.card.trusts_jobs { Trust::Given } else { Trust::Withheld };
        let mut core = Self {
            me: identity.node,
            card: identity.card,
            state: State::default(),
            liveness: Liveness::default(),
            adverts: BTreeMap::new(),
            bidder: Bidder::new(Ledger::new(capacity), trust, identity.lacks),
            allocations: BTreeMap::new(),
            drives: BTreeMap::new(),
            asks: asking::Asks::default(),
            tickets: 0,
            dirty: BTreeMap::new(),
            looked: BTreeMap::new(),
            own_mail: VecDeque::new(),
            called: BTreeMap::new(),
            drivers_waiting: BTreeMap::new(),
            published: None,
            heard_since: None,
            draining: false,
            settle_until: now.moment + SETTLE_FOR,
        };
        for (log, update) in past {
            core.state.apply(log, update);
        }
        let others: Vec<_> = core.others().collect();
        for node in &others {
            core.liveness.watch(*node, now.moment);
        }
        if others.is_empty() {
            core.settle_until = now.moment;
        }
        let mut holdings = core.restore(now, found);
        let rest = holdings.split_off(holdings.len().min(OPEN_CLAIMS_MAX));
        let open = Record::Open { card: core.card.clone(), holdings };
        let rest = rest.into_iter().map(Record::Claim);
        core.append(std::iter::once(open).chain(rest).map(Entry::Fact).collect(), out);
        core.finish_found(now, found, out);
        if core.is_outcast() {
            core.stop_all(now, out);
        }
        let jobs: Vec<_> = core.state.jobs().map(|(job, _)| *job).collect();
        for job in jobs {
            core.dirty.insert(job, now.moment);
        }
        core
    }

    /// Takes one input whole. Effects are to be performed in order.
    pub fn handle(&mut self, now: Now, dice: &mut dyn Dice, input: Input, out: &mut Vec<Effect>) {
        self.judge(now, out);
        self.route(now, input, out);
        self.look(now, dice, out);
        while let Some(message) = self.own_mail.pop_front() {
            self.market(now, self.me, message, out);
            self.look(now, dice, out);
        }
        self.publish(now, out);
    }

    fn route(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Updates(updates) => {
                for (log, update) in updates {
                    self.learn(now, log, update, out);
                }
            }
            Input::Durable(ticket) => {
                self.claims_durable(now, ticket, out);
                self.ask_durable(ticket, out);
            }
            Input::Refused { ticket, reason } => {
                self.claims_refused(ticket, out);
                self.ask_refused(ticket, reason, out);
            }
            Input::Persisted { ticket, by } => self.ask_persisted(ticket, by, out),
            Input::Advert(advert) => self.advert(now, advert, out),
            Input::Heard(node) => self.hear(now, node, out),
            Input::Market { from, message } => {
                self.hear(now, from, out);
                self.market(now, from, message, out);
            }
            Input::Asked { request, ask } => self.asked(now, request, ask, out),
            Input::Started(id) => self.started(now, &id, out),
            Input::Held { id, paused } => self.held(&id, paused, out),
            Input::Checked { id, health } => self.checked(&id, health, out),
            Input::Ended { id, end } => self.ended(now, &id, end, out),
            Input::Stock(stock) => self.bidder.stock = stock,
            Input::Drain => self.drain(now, out),
            Input::Away => self.go_away(out),
            Input::Tick => self.tick(now, out),
        }
    }

    /// When this machine wants its next input at the latest.
    pub fn deadline(&self, now: Moment) -> Moment {
        let advert = self.published.map_or(now, |(at, free, running)| {
            let changed = free != self.bidder.ledger.free() || running != self.running();
            at + if changed { ADVERT_MIN_GAP } else { ADVERT_EVERY }
        });
        let drives = self
            .drives
            .values()
            .filter_map(|drive| drive.tender.as_ref().and_then(crate::tender::Tender::deadline));
        [
            Some(now + IDLE_STEP),
            Some(advert),
            self.bidder.ledger.deadline(),
            self.liveness.deadline(),
        ]
        .into_iter()
        .flatten()
        .chain(drives)
        .chain(self.dirty.values().copied())
        .chain(self.allocations.values().filter_map(Allocation::deadline))
        .chain(self.asks.deadline())
        .min()
        .unwrap_or(now)
    }

    /// The merged state, for views.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The node this is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Why this node never runs a group that others might.
    pub(crate) fn unfit(&self, group: &GroupSpec) -> Option<Decline> {
        self.bidder.unfit(group)
    }

    /// This node's resources, for views and judges.
    pub fn ledger(&self) -> &Ledger {
        &self.bidder.ledger
    }

    /// What is placed on this node.
    pub fn allocations(&self) -> &BTreeMap<AllocationId, Allocation> {
        &self.allocations
    }

    /// Whether a node is thought to be gone.
    pub fn is_lost(&self, node: &NodeId) -> bool {
        *node != self.me && (self.liveness.is_lost(node) || self.state.is_out(node))
    }

    /// How long a node has been silent.
    pub fn silence(&self, node: &NodeId, now: Moment) -> Option<Duration> {
        if *node == self.me { Some(Duration::ZERO) } else { self.liveness.silence(node, now) }
    }

    /// The newest advert of a node.
    pub fn advert_of(&self, node: &NodeId) -> Option<&Advert> {
        self.adverts.get(node)
    }

    /// Whether nothing of this node's work is left after a drain.
    pub fn is_drained(&self) -> bool {
        self.draining && self.allocations.is_empty()
    }

    /// Everybody else is told that this node is back soon.
    fn go_away(&mut self, out: &mut Vec<Effect>) {
        let for_ms = u32::try_from(crate::liveness::AWAY_MAX.as_millis()).unwrap_or(u32::MAX);
        for to in self.alive().into_iter().filter(|to| *to != self.me) {
            out.push(Effect::Send { to, message: Message::Away { for_ms } });
        }
    }

    fn others(&self) -> impl Iterator<Item = NodeId> + use<'_> {
        self.state.nodes().map(|(node, _)| *node).filter(|node| *node != self.me)
    }

    fn alive(&self) -> BTreeSet<NodeId> {
        let mut alive: BTreeSet<_> = self.others().filter(|node| !self.is_lost(node)).collect();
        alive.insert(self.me);
        alive
    }

    fn running(&self) -> u32 {
        u32::try_from(self.allocations.values().filter(|it| it.has_task()).count())
            .unwrap_or(u32::MAX)
    }

    fn append(&mut self, entries: Vec<Entry>, out: &mut Vec<Effect>) -> Ticket {
        self.tickets += 1;
        out.push(Effect::Append { ticket: self.tickets, entries });
        self.tickets
    }

    fn send(&mut self, to: NodeId, message: Message, out: &mut Vec<Effect>) {
        if to == self.me {
            self.own_mail.push_back(message);
        } else {
            out.push(Effect::Send { to, message });
        }
    }

    fn judge(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mut verdicts = Vec::new();
        self.liveness.step(now.moment, &mut verdicts);
        for verdict in verdicts {
            self.opinion(now, verdict, out);
        }
    }

    fn opinion(&mut self, now: Now, verdict: Verdict, out: &mut Vec<Effect>) {
        let (node, what) = match verdict {
            Verdict::Lost(node) => (node, What::NodeLost { node }),
            Verdict::Back(node) => (node, What::NodeBack { node }),
        };
        out.push(Effect::Tell(what));
        let jobs: BTreeSet<_> =
            self.state.holdings(&node).into_iter().map(|claim| claim.slot.job).collect();
        self.mark(now, jobs);
    }

    fn hear(&mut self, now: Now, node: NodeId, out: &mut Vec<Effect>) {
        if node == self.me || self.state.is_out(&node) {
            return;
        }
        self.heard_since.get_or_insert(now.moment);
        if let Some(verdict) = self.liveness.hear(node, now.moment) {
            self.opinion(now, verdict, out);
        }
    }

    fn advert(&mut self, now: Now, advert: Advert, out: &mut Vec<Effect>) {
        let node = advert.log.node;
        if self.state.is_out(&node) {
            return;
        }
        self.hear(now, node, out);
        let before = self.adverts.get(&node);
        if before.is_some_and(|before| !advert.is_newer_than(before)) {
            return;
        }
        let freed = before.is_none_or(|before| !before.free.fits(&advert.free));
        self.adverts.insert(node, advert);
        if freed {
            self.poke(now);
        }
    }

    fn learn(&mut self, now: Now, log: LogId, update: Update, out: &mut Vec<Effect>) {
        let known = self.state.node(&log.node).is_some();
        let was_out = self.state.is_out(&log.node);
        if log.node != self.me {
            self.tell_update(log.node, &update, out);
        }
        if let Update::Intent { job, intent } = &update
            && !intent.is_live()
            && self.state.job(job).is_some_and(gossip_core::intent::JobIntent::is_live)
        {
            out.push(Effect::Tell(What::JobStopped { job: *job }));
        }
        match self.state.apply(log, update) {
            Touched::Node(node, jobs) => {
                let is_out = self.state.is_out(&node);
                if node != self.me && !is_out {
                    self.liveness.watch(node, now.moment);
                }
                if known && is_out != was_out {
                    // It shows another grant than before.
                    let (it, nobody) = (BTreeSet::from([node]), BTreeSet::new());
                    let changed = if is_out { (&it, &nobody) } else { (&nobody, &it) };
                    self.parted(now, changed, out);
                }
                if !known {
                    let name = self.state.node(&node).map(|card| card.name.clone());
                    out.push(Effect::Tell(What::NodeJoined {
                        node,
                        name: name.unwrap_or_default(),
                    }));
                    self.poke(now);
                }
                self.mark(now, jobs);
            }
            Touched::Job(job) => self.mark(now, [job]),
            Touched::Members { gone, back } => self.parted(now, (&gone, &back), out),
            Touched::Spec(hash) => {
                self.adopt_spec(&hash);
                let names =
                    |intent: &JobIntent| intent.generation().is_some_and(|g| g.spec == hash);
                let waiting: Vec<_> =
                    self.state.jobs().filter(|(_, i)| names(i)).map(|(job, _)| *job).collect();
                self.mark(now, waiting);
            }
            Touched::Nothing => {}
        }
    }

    fn tell_update(&self, node: NodeId, update: &Update, out: &mut Vec<Effect>) {
        match update {
            Update::Claim(claim) => out.push(Effect::Tell(told(node, claim))),
            Update::Outcome(outcome) => {
                let (slot, end) = (outcome.slot.clone(), outcome.end.clone());
                out.push(Effect::Tell(What::Ended { slot, node, end }));
            }
            _ => {}
        }
    }

    /// Jobs to be looked at again, large ones not too often.
    fn mark(&mut self, now: Now, jobs: impl IntoIterator<Item = JobId>) {
        for job in jobs {
            let slots = self
                .state
                .spec_of(&job)
                .map_or(0, |(_, spec)| spec.groups.iter().map(|group| group.count).sum::<u32>());
            let gap = LOOK_PER_THOUSAND_SLOTS * (slots / 1000);
            let earliest = self.looked.get(&job).map_or(now.moment, |at| *at + gap);
            let next = self.dirty.entry(job).or_insert(earliest);
            *next = (*next).min(earliest).max(now.moment);
        }
    }

    fn look(&mut self, now: Now, dice: &mut dyn Dice, out: &mut Vec<Effect>) {
        let due: Vec<_> =
            self.dirty.iter().filter(|(_, at)| **at <= now.moment).map(|(job, _)| *job).collect();
        for job in due {
            self.dirty.remove(&job);
            self.looked.insert(job, now.moment);
            self.look_at_holdings(now, dice, &job, out);
            self.look_at_needs(now, dice, &job, out);
            self.look_at_remains(&job, out);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.bidder.ledger.lapse(now.moment);
        self.tick_holdings(now, out);
        self.tick_tenders(now, out);
        self.tick_asks(now, out);
    }

    fn market(&mut self, now: Now, from: NodeId, message: Message, out: &mut Vec<Effect>) {
        match message {
            Message::Call(call) => self.called(now, from, &call, out),
            Message::Award { epoch, indices } => self.awarded(now, from, epoch, &indices, out),
            Message::Release { epoch } => self.bidder.release(&from, &epoch),
            Message::Answer(answer) => self.answered(now, from, answer, out),
            Message::Claimed { epoch, indices } => {
                self.confirmed(now, from, (epoch, indices, true), out);
            }
            Message::Refused { epoch, indices } => {
                self.confirmed(now, from, (epoch, indices, false), out);
            }
            Message::Away { for_ms } => {
                self.liveness.excuse(from, now.moment, Duration::from_millis(for_ms.into()));
            }
            Message::Driving { job } => self.other_drives(now, from, job, out),
            Message::Probe { slot, rank, nonce } => self.probed(from, slot, rank, nonce, out),
            Message::Ready { slot, rank, nonce } => {
                self.winner_ready(now, from, &slot, rank, nonce, out);
            }
        }
    }

    fn publish(&mut self, now: Now, out: &mut Vec<Effect>) {
        let (free, running) = (self.bidder.ledger.free(), self.running());
        let due = self.published.is_none_or(|(at, last_free, last_running)| {
            let changed = last_free != free || last_running != running;
            now.moment >= at + if changed { ADVERT_MIN_GAP } else { ADVERT_EVERY }
        });
        if due {
            self.published = Some((now.moment, free, running));
            let capacity = self.bidder.ledger.capacity();
            let bidding = !self.draining && !self.is_outcast();
            out.push(Effect::Publish { free, capacity, running, bidding });
        }
    }
}

fn told(node: NodeId, claim: &Claim) -> What {
    let slot = claim.slot.clone();
    match (&claim.state, &claim.health) {
        (ClaimState::Running, Some(health)) if health.state != HealthState::Starting => {
            What::Checked { slot, node, health: health.clone() }
        }
        (state, _) => of_state(slot, node, claim.epoch.counter, state),
    }
}

fn of_state(slot: SlotId, node: NodeId, epoch: u64, state: &ClaimState) -> What {
    match state {
        ClaimState::Starting => What::Claimed { slot, node, epoch },
        ClaimState::Running | ClaimState::Stopping => What::Running { slot, node },
        ClaimState::Waiting { last } => What::Restarting { slot, node, end: last.clone() },
    }
}
