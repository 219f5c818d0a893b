//! The replicated state as one typed view: merged facts and intent.
//!
//! Fed with verified updates of every log, in each log's own order but in any
//! order between logs; whoever was fed the same set of updates holds an equal
//! view. It answers what is wanted, who claims it and how it ended; it never
//! decides anything, and it knows nothing of who is alive.

use std::collections::{BTreeMap, BTreeSet};

use crate::fact::{Claim, NodeCard, Outcome, TaskEnd, Update};
use crate::id::{ContentHash, JobId, NodeId};
use crate::intent::JobIntent;
use crate::log::LogId;
use crate::removal::{Removal, Removals, Standing};
use crate::slot::{ClaimRank, Generation, SlotId};
use crate::spec::{JobKind, JobSpec};

/// Everything that was learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    nodes: BTreeMap<NodeId, NodeEntry>,
    claims: BTreeMap<SlotId, BTreeMap<NodeId, Claim>>,
    outcomes: BTreeMap<SlotId, BTreeMap<ClaimRank, Outcome>>,
    specs: BTreeMap<ContentHash, JobSpec>,
    jobs: BTreeMap<JobId, JobIntent>,
    removals: Removals,
    /// Known nodes that are no members any more.
    out: BTreeSet<NodeId>,
}

#[derive(Clone, Debug, PartialEq)]
struct NodeEntry {
    card: NodeCard,
    log: LogId,
}

/// What an update touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// A node's card or its whole holdings.
    Node(NodeId, BTreeSet<JobId>),
    /// One job.
    Job(JobId),
    /// A spec that jobs may have waited for.
    Spec(ContentHash),
    /// Who is a member.
    Members {
        /// Those that are none any more.
        gone: BTreeSet<NodeId>,
        /// Those whose removal turned out to be void.
        back: BTreeSet<NodeId>,
    },
    /// Nothing: it was no news.
    Nothing,
}

impl State {
    /// Merges one update that `log`'s node wrote.
    pub fn apply(&mut self, log: LogId, update: Update) -> Touched {
        match update {
            Update::Opened { card, holdings } => self.open(log, card, holdings),
            Update::Card(card) => {
                if self.is_current(&log) {
                    self.nodes.insert(log.node, NodeEntry { card, log });
                    self.recount(&log.node);
                    return Touched::Node(log.node, BTreeSet::new());
                }
                Touched::Nothing
            }
            Update::Claim(claim) => self.claim(log, claim),
            Update::Outcome(outcome) => self.outcome(log, outcome),
            Update::Spec { hash, spec } => {
                self.specs.insert(hash, spec);
                Touched::Spec(hash)
            }
            Update::Intent { job, intent } => {
                self.jobs.insert(job, intent);
                Touched::Job(job)
            }
            Update::Removal(removal) => self.remove(removal),
        }
    }

    fn remove(&mut self, removal: Removal) -> Touched {
        if !self.removals.insert(removal) {
            return Touched::Nothing;
        }
        let is_out =
            |entry: &NodeEntry| self.removals.standing(&entry.card.chain) != Standing::Good;
        let nodes = self.nodes.iter().filter(|(_, entry)| is_out(entry));
        let out: BTreeSet<_> = nodes.map(|(node, _)| *node).collect();
        let gone = out.difference(&self.out).copied().collect();
        let back = self.out.difference(&out).copied().collect();
        self.out = out;
        Touched::Members { gone, back }
    }

    /// A node showed another proof of its membership.
    fn recount(&mut self, node: &NodeId) {
        if self.standing_of(node) == Standing::Good {
            self.out.remove(node);
        } else {
            self.out.insert(*node);
        }
    }

    fn is_current(&self, log: &LogId) -> bool {
        self.nodes.get(&log.node).is_none_or(|entry| entry.log <= *log)
    }

    fn open(&mut self, log: LogId, card: NodeCard, holdings: Vec<Claim>) -> Touched {
        if !self.is_current(&log) {
            return Touched::Nothing;
        }
        let mut touched = BTreeSet::new();
        self.claims.retain(|slot, by_node| {
            if by_node.remove(&log.node).is_some() {
                touched.insert(slot.job);
            }
            !by_node.is_empty()
        });
        for claim in holdings {
            touched.insert(claim.slot.job);
            self.claims.entry(claim.slot.clone()).or_default().insert(log.node, claim);
        }
        self.nodes.insert(log.node, NodeEntry { card, log });
        self.recount(&log.node);
        Touched::Node(log.node, touched)
    }

    fn claim(&mut self, log: LogId, claim: Claim) -> Touched {
        if !self.is_current(&log) {
            return Touched::Nothing;
        }
        let job = claim.slot.job;
        self.claims.entry(claim.slot.clone()).or_default().insert(log.node, claim);
        Touched::Job(job)
    }

    fn outcome(&mut self, log: LogId, outcome: Outcome) -> Touched {
        let (slot, job) = (outcome.slot.clone(), outcome.slot.job);
        // An older log says nothing of what a newer one holds, whichever came first.
        if self.is_current(&log)
            && let Some(by_node) = self.claims.get_mut(&slot)
        {
            if by_node.get(&log.node).is_some_and(|claim| claim.epoch == outcome.epoch) {
                by_node.remove(&log.node);
            }
            if by_node.is_empty() {
                self.claims.remove(&slot);
            }
        }
        self.outcomes.entry(slot).or_default().insert(outcome.rank(log.node), outcome);
        Touched::Job(job)
    }

    /// Every job anybody submitted.
    pub fn jobs(&self) -> impl Iterator<Item = (&JobId, &JobIntent)> {
        self.jobs.iter()
    }

    /// One job's intent.
    pub fn job(&self, job: &JobId) -> Option<&JobIntent> {
        self.jobs.get(job)
    }

    /// The spec that is wanted of a job, once it is known here.
    pub fn spec_of(&self, job: &JobId) -> Option<(Generation, &JobSpec)> {
        let generation = self.jobs.get(job)?.generation()?;
        self.specs.get(&generation.spec).map(|spec| (generation, spec))
    }

    /// A spec by its hash.
    pub fn spec(&self, hash: &ContentHash) -> Option<&JobSpec> {
        self.specs.get(hash)
    }

    /// Every member that ever opened a log.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &NodeCard)> {
        let nodes = self.nodes.iter().filter(|(id, _)| !self.is_out(id));
        nodes.map(|(id, entry)| (id, &entry.card))
    }

    /// Every node that opened a log and is no member any more.
    pub fn former_nodes(&self) -> impl Iterator<Item = (&NodeId, &NodeCard)> {
        self.out.iter().filter_map(|id| self.nodes.get_key_value(id)).map(|(id, it)| (id, &it.card))
    }

    /// One node's card, whether it is still a member or not.
    pub fn node(&self, node: &NodeId) -> Option<&NodeCard> {
        self.nodes.get(node).map(|entry| &entry.card)
    }

    /// Whether `node` was a member and is none any more.
    pub fn is_out(&self, node: &NodeId) -> bool {
        self.out.contains(node)
    }

    /// What removals leave of the membership of `node`; good where nothing is known of it.
    pub fn standing_of(&self, node: &NodeId) -> Standing<'_> {
        match self.nodes.get(node) {
            Some(entry) => self.removals.standing(&entry.card.chain),
            None => self.removals.of(node).map_or(Standing::Good, Standing::Removed),
        }
    }

    /// All removals.
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    /// All claims for a slot, with their claimants: those of members.
    pub fn claims(&self, slot: &SlotId) -> impl Iterator<Item = (&NodeId, &Claim)> {
        self.claims.get(slot).into_iter().flatten().filter(|(node, _)| !self.is_out(node))
    }

    /// All claims of members for all slots.
    pub fn all_claims(&self) -> impl Iterator<Item = (&NodeId, &Claim)> {
        self.claims.values().flatten().filter(|(node, _)| !self.is_out(node))
    }

    /// All claims that `node` holds, member or not.
    pub fn holdings(&self, node: &NodeId) -> Vec<Claim> {
        self.claims.values().filter_map(|by_node| by_node.get(node)).cloned().collect()
    }

    /// All outcomes of a slot, worst rank first.
    pub fn outcomes(&self, slot: &SlotId) -> impl Iterator<Item = (&ClaimRank, &Outcome)> {
        self.outcomes.get(slot).into_iter().flatten()
    }

    /// All outcomes of all slots.
    pub fn all_outcomes(&self) -> impl Iterator<Item = (&ClaimRank, &Outcome)> {
        self.outcomes.values().flatten()
    }

    /// How a batch slot ended for good: a success if there is any, else the last failure.
    pub fn settled(&self, slot: &SlotId, generation: &Generation) -> Option<&Outcome> {
        let ends = || {
            self.outcomes(slot)
                .filter(|(rank, outcome)| rank.generation == *generation && outcome.end.is_final())
                .map(|(_, outcome)| outcome)
        };
        ends().find(|outcome| outcome.end.is_success()).or_else(|| ends().last())
    }

    /// The greatest epoch counter that anybody used for a slot.
    pub fn epoch_counter(&self, slot: &SlotId) -> u64 {
        // A higher epoch outranks those of former members, too: they may be back.
        let claims = self.claims.get(slot).into_iter().flat_map(BTreeMap::values);
        let claimed = claims.map(|claim| claim.epoch.counter);
        let ended = self.outcomes(slot).map(|(rank, _)| rank.epoch.counter);
        claimed.chain(ended).max().unwrap_or(0)
    }

    /// The slots that users want of a job right now; a batch slot that ended is wanted no more.
    pub fn wanted(&self, job: &JobId) -> Vec<SlotId> {
        let (Some(intent), Some((generation, spec))) = (self.job(job), self.spec_of(job)) else {
            return Vec::new();
        };
        let mut slots = Vec::new();
        for group in &spec.groups {
            for index in 1..=intent.count(spec, &group.name) {
                let slot = SlotId { job: *job, group: group.name.clone(), index };
                if spec.kind == JobKind::Service || self.settled(&slot, &generation).is_none() {
                    slots.push(slot);
                }
            }
        }
        slots
    }

    /// Whether a claim of this generation is still wanted by anybody.
    pub fn is_wanted(&self, slot: &SlotId, generation: &Generation) -> bool {
        let (Some(intent), Some((current, spec))) = (self.job(&slot.job), self.spec_of(&slot.job))
        else {
            // Intent and spec may come after the claim: not knowing is not a reason to stop.
            return self.job(&slot.job).is_none_or(JobIntent::is_live);
        };
        current == *generation
            && slot.index >= 1
            && slot.index <= intent.count(spec, &slot.group)
            && (spec.kind == JobKind::Service || !self.succeeded(slot, generation))
    }

    fn succeeded(&self, slot: &SlotId, generation: &Generation) -> bool {
        self.settled(slot, generation)
            .is_some_and(|outcome| outcome.end == TaskEnd::Exited { code: 0 })
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
