//! What to ask a source for next.
//!
//! ```text
//! of one that has all:   what began ▶ my part, in order ▶ the others' part, from its end
//!                        ▶ what another has but is too slow to give
//! of one that fetches:   whatever it has, in order
//! ```

use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;

use super::{Action, Has, Part, Plan, RequestId, State};

/// By how many bytes the layer is dealt out: much more than a chunk, so that requests are of
/// neighbours; much less than a layer, so that all come to as much.
const DEAL_BYTES: u64 = 1 << 20;

/// How long those who fetch too are waited for, for what they have or are about to have.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How often a source is looked at anew that there was nothing to ask of.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The most chunks of one request: bounds its words.
const PARTS_MAX: usize = 128;

impl Plan {
    /// One more request to a source, if it is free and has what is wanted.
    pub(super) fn ask(&mut self, now: Moment, node: NodeId) -> Option<Action> {
        let source = self.sources.get(&node)?;
        if !source.is_free(now, self.elsewhere_at(&node)) {
            return None;
        }
        let parts = self.pick(now, &node);
        if parts.is_empty() {
            // Looked at again when something changed, or after a while.
            self.sources.get_mut(&node)?.rests_until = now + LOOK_EVERY;
            return None;
        }
        let mut bytes = 0;
        for part in &parts {
            let piece = self.pieces.get_mut(part.chunk as usize)?;
            piece.state = State::Asked;
            bytes += u64::from(piece.bytes.saturating_sub(part.skip));
            self.wanted.remove(&part.chunk);
        }
        let id = RequestId(self.requests);
        self.requests += 1;
        let source = self.sources.get_mut(&node)?;
        source.ask(now, id, parts.clone(), bytes);
        Some(Action::Ask { id, to: node, parts })
    }

    /// Whether a source could be asked now and there is nothing that it may be asked for.
    pub(super) fn is_idle(&self, now: Moment, node: &NodeId) -> bool {
        let source = self.sources.get(node);
        let elsewhere = self.elsewhere_at(node);
        source.is_some_and(|source| source.may_ask(now, elsewhere) && source.asked.is_empty())
    }

    fn elsewhere_at(&self, node: &NodeId) -> usize {
        self.elsewhere.get(node).copied().unwrap_or(0)
    }

    fn pick(&self, now: Moment, node: &NodeId) -> Vec<Part> {
        let Some(source) = self.sources.get(node) else { return Vec::new() };
        let budget = source.budget();
        let begun = self.begun.keys().filter(|chunk| self.wanted.contains(chunk));
        if let Some(chunk) = begun.copied().find(|chunk| source.has(*chunk)) {
            // Gone on with first: what came of it is held in memory.
            let behind = self.wanted.range(chunk..).copied();
            let run = behind.zip(chunk..).filter(|(at, run)| at == run).map(|(at, _)| at);
            return self.take(run.filter(|at| source.has(*at)), budget);
        }
        let wanted = || self.wanted.iter().copied();
        if source.has != Has::Whole {
            return self.take(wanted().filter(|chunk| source.has(*chunk)), budget);
        }
        let others = self.others();
        let is_mine = |chunk: &u32| self.is_mine(*chunk, &others);
        let parts = self.take(wanted().filter(|c| is_mine(c) && !self.is_shared(*c)), budget);
        if !parts.is_empty() {
            return parts;
        }
        let theirs = || wanted().rev().filter(|chunk| !self.is_shared(*chunk));
        let lacking = self.sum(theirs());
        let is_patient = now.since(self.shared) < PATIENCE;
        // Less than this is on its way to them already.
        if lacking > budget.saturating_mul(2) || (lacking > 0 && !is_patient) {
            return self.in_order(self.take(theirs(), budget.min(lacking / 2)));
        }
        let shared = || wanted().rev().filter(|chunk| self.is_shared(*chunk));
        let rate = self.shared_rate(source.rate).max(1);
        let wait = Duration::from_secs(self.sum(shared()) / rate);
        if wait > PATIENCE || !is_patient {
            return self.in_order(self.take(shared(), budget));
        }
        Vec::new()
    }

    /// Chunks until the budget is spent: one at least, if there is one.
    fn take(&self, chunks: impl Iterator<Item = u32>, budget: u64) -> Vec<Part> {
        let mut bytes = 0;
        let mut parts = Vec::new();
        for chunk in chunks.take(PARTS_MAX) {
            let Some(piece) = self.pieces.get(chunk as usize) else { break };
            let skip = self.begun.get(&chunk).map_or(0, |begun| begun.bytes);
            bytes += u64::from(piece.bytes.saturating_sub(skip));
            if bytes > budget && !parts.is_empty() {
                break;
            }
            parts.push(Part { chunk, skip });
        }
        parts
    }

    fn in_order(&self, mut parts: Vec<Part>) -> Vec<Part> {
        parts.sort_unstable_by_key(|part| part.chunk);
        parts
    }

    fn sum(&self, chunks: impl Iterator<Item = u32>) -> u64 {
        let pieces = chunks.filter_map(|chunk| self.pieces.get(chunk as usize));
        pieces.map(|piece| u64::from(piece.bytes)).sum()
    }

    /// All that fetch, this node included, in the order in which the layer is dealt to them.
    fn others(&self) -> Vec<NodeId> {
        let others = self.fetchers.iter().filter(|node| !self.excluded.contains(node));
        let mut all: Vec<NodeId> = others.copied().chain([self.me]).collect();
        all.sort_unstable();
        all
    }

    fn is_mine(&self, chunk: u32, dealt: &[NodeId]) -> bool {
        let place = self.pieces.get(chunk as usize).map_or(0, |piece| piece.start / DEAL_BYTES);
        let to = (place % (dealt.len() as u64).max(1)) as usize;
        dealt.get(to).is_none_or(|node| *node == self.me)
    }

    /// Whether one that fetches too has it.
    fn is_shared(&self, chunk: u32) -> bool {
        let mut sources = self.sources.values();
        sources.any(|source| source.has != Has::Whole && source.has(chunk))
    }

    /// What those who fetch too give together; where it is not known, as much as the one that
    /// has all.
    fn shared_rate(&self, otherwise: u64) -> u64 {
        let sharing = self.sources.values().filter(|source| source.has != Has::Whole);
        sharing.map(|source| if source.rate == 0 { otherwise } else { source.rate }).sum()
    }
}
