//! What is there and what is wanted, as an onlooker outside all nodes knows it.
//!
//! Which tasks run where, when they were last seen, and the union of all that
//! users asked for on any disk. Must never be asked by anything but judges.

use std::collections::{BTreeMap, BTreeSet};

use gossip_core::fact::Update;
use gossip_core::id::{ContentHash, JobId};
use gossip_core::intent::JobIntent;
use gossip_core::slot::{Generation, SlotId};
use gossip_core::spec::{JobKind, JobSpec};

use super::super::journal::{Item, merge};
use super::super::tasks::TaskName;

/// The onlooker's notes.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// What runs, and whether it was told to stop.
    live: BTreeMap<SlotId, BTreeMap<(usize, TaskName), bool>>,
    /// When a copy that was not told to stop ended last.
    seen: BTreeMap<SlotId, u64>,
    intents: BTreeMap<JobId, JobIntent>,
    specs: BTreeMap<ContentHash, JobSpec>,
    settled: BTreeMap<SlotId, BTreeSet<Generation>>,
    worst: usize,
}

impl Sight {
    /// A task runs; answers how many copies of its slot do now.
    pub(super) fn appeared(&mut self, host: usize, name: &TaskName) -> usize {
        let copies = self.live.entry(name.0.slot.clone()).or_default();
        copies.insert((host, name.clone()), false);
        let count = copies.len();
        self.worst = self.worst.max(count);
        count
    }

    pub(super) fn vanished(&mut self, at: u64, host: usize, name: &TaskName) {
        let slot = &name.0.slot;
        let copies = self.live.get_mut(slot);
        let ordered = copies.and_then(|copies| copies.remove(&(host, name.clone())));
        if ordered == Some(false) {
            self.seen.insert(slot.clone(), at);
        }
    }

    /// A task is told to stop; answers whether it runs and was not told before.
    pub(super) fn ordered(&mut self, host: usize, name: &TaskName) -> bool {
        let copies = self.live.get_mut(&name.0.slot);
        let ordered = copies.and_then(|copies| copies.get_mut(&(host, name.clone())));
        ordered.is_some_and(|ordered| !std::mem::replace(ordered, true))
    }

    /// Whether a copy that was not told to stop runs, or did at most `within` ago.
    pub(super) fn ran_lately(&self, at: u64, slot: &SlotId, within: u64) -> bool {
        let runs = self.live.get(slot).is_some_and(|copies| copies.values().any(|it| !it));
        runs || self.seen.get(slot).is_some_and(|seen| seen + within >= at)
    }

    /// Slots that have tasks, with how many.
    pub(super) fn copies(&self) -> impl Iterator<Item = (&SlotId, usize)> {
        self.live.iter().map(|(slot, copies)| (slot, copies.len())).filter(|(_, count)| *count > 0)
    }

    pub(super) fn copies_of(&self, slot: &SlotId) -> usize {
        self.live.get(slot).map_or(0, BTreeMap::len)
    }

    /// Where the copies of a slot run, in words.
    pub(super) fn places(&self, slot: &SlotId) -> String {
        let copies = self.live.get(slot).into_iter().flatten();
        let words: Vec<_> = copies
            .map(|((host, (id, start)), _)| format!("h{} {:?} start {start}", host + 1, id.epoch))
            .collect();
        words.join(", ")
    }

    /// The most copies one slot ever had.
    pub(crate) fn worst(&self) -> usize {
        self.worst
    }

    /// Takes note of a record.
    pub(crate) fn learn(&mut self, item: &Item) {
        match item {
            Item::Edit { job, edit } => merge(self.intents.entry(*job).or_default(), edit),
            Item::Fact(Update::Spec { hash, spec }) => {
                if !self.specs.contains_key(hash) {
                    self.specs.insert(*hash, spec.clone());
                }
            }
            Item::Fact(Update::Outcome(outcome)) if outcome.end.is_final() => {
                let settled = self.settled.entry(outcome.slot.clone()).or_default();
                settled.insert(outcome.generation);
            }
            Item::Fact(_) => {}
        }
    }

    /// Forgets what was noted but got to no disk: these records did.
    pub(crate) fn learn_again<'a>(&mut self, items: impl Iterator<Item = &'a Item>) {
        self.intents.clear();
        self.settled.clear();
        items.for_each(|item| self.learn(item));
    }

    fn wanted_spec(&self, job: &JobId) -> Option<(&JobIntent, Generation, &JobSpec)> {
        let intent = self.intents.get(job)?;
        let generation = intent.generation()?;
        Some((intent, generation, self.specs.get(&generation.spec)?))
    }

    pub(super) fn spec(&self, job: &JobId) -> Option<&JobSpec> {
        self.wanted_spec(job).map(|(_, _, spec)| spec)
    }

    pub(crate) fn is_service(&self, job: &JobId) -> bool {
        self.wanted_spec(job).is_some_and(|(_, _, spec)| spec.kind == JobKind::Service)
    }

    /// Every slot of every job that is not stopped, with its kind and whether
    /// it has come to its end; and with its ask.
    pub(super) fn slots(&self) -> Vec<Wanted> {
        let mut slots = Vec::new();
        for job in self.intents.keys() {
            let Some((intent, generation, spec)) = self.wanted_spec(job) else { continue };
            for group in &spec.groups {
                for index in 1..=intent.count(spec, &group.name) {
                    let slot = SlotId { job: *job, group: group.name.clone(), index };
                    let settled = self.is_settled(&slot, &generation);
                    let (kind, ask) = (spec.kind, group.ask());
                    slots.push(Wanted { slot, kind, settled, ask });
                }
            }
        }
        slots
    }

    fn is_settled(&self, slot: &SlotId, generation: &Generation) -> bool {
        self.settled.get(slot).is_some_and(|settled| settled.contains(generation))
    }

    /// Whether nobody could have had a reason to stop a slot's only copy: it
    /// belongs to a live job that was never changed, and has not ended.
    pub(super) fn is_wanted(&self, slot: &SlotId) -> bool {
        self.wanted_spec(&slot.job).is_some_and(|(intent, generation, spec)| {
            let ended = spec.kind == JobKind::Batch && self.is_settled(slot, &generation);
            intent.generations.len() == 1 && slot.index <= intent.count(spec, &slot.group) && !ended
        })
    }
}

/// A slot of a live job.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) slot: SlotId,
    pub(super) kind: JobKind,
    /// Of a batch: it has a final outcome.
    pub(super) settled: bool,
    pub(super) ask: gossip_core::resources::Resources,
}
