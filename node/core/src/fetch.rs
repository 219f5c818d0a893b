//! Which chunks of a layer to ask of whom: the receiver's side of a swarm.
//!
//! ```text
//! holders, their stretches, the list ─▶ ┌──────┐
//! chunks that came, were bad, broke  ─▶ │ Plan │ ─▶ ask, call off, exclude
//! time                               ─▶ └──────┘
//! ```
//!
//! Two that lack a layer take different parts of it from the one that has it, and the rest
//! from each other while both still fetch: the layer is dealt out by place among all that are
//! known to fetch it, everyone takes its own part first, and what another will have soon is
//! left to it. Whoever is done early takes over from the far end of what the others still
//! lack, where they come last; so a slow or dead one is waited for by nobody.
//!
//! *Invariants:* no clock, no I/O. A chunk is asked of one source at a time. A source that
//! sent a wrong chunk is never asked again. Without progress for long enough it ends.

mod bucket;
mod link;
mod pick;
mod source;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;

pub use bucket::Bucket;
pub use link::Link;
use source::Source;
pub use told::Fetching;

/// How long nothing may come from anybody before it is given up: longer than members that
/// fell silent take to be heard again after a restart or a cut of a minute.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// How long nothing may come on a request: the slowest disk and link there are.
const STALL_FOR: Duration = Duration::from_secs(10);

/// Before a source is asked again whose request broke; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// The longest pause: a link that is back is used again within this.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// How much longer than by another source something may take before it is called off.
const FASTER_BY: u64 = 4;

/// What is never called off for being slow, as it may end any moment.
const NEARLY_DONE: Duration = Duration::from_secs(2);

/// What a source says that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Has {
    /// The whole layer.
    Whole,
    /// It is fetching it too; by chunk, those beyond the end are not there.
    Some(Vec<bool>),
}

/// Names a request while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A chunk that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place in the list.
    pub chunk: u32,
    /// How many of its bytes came before the last request broke, and are not asked again.
    pub skip: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a source for chunks, on one stream and in this order.
    Ask {
        /// The request.
        id: RequestId,
        /// Whom.
        to: NodeId,
        /// For what.
        parts: Vec<Part>,
    },
    /// End a request; nothing of it is to be told any more.
    CallOff(RequestId),
}

/// How a request ended that was not called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was sent.
    Done,
    /// It broke, with so many bytes here of the chunk that was coming, those skipped included.
    Broke {
        /// Of the first chunk of the request that did not come.
        prefix: u32,
    },
    /// The source says that it does not have it.
    Refused,
}

/// What a chunk that came was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// What it should be.
    Good,
    /// Something else.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Wanted,
    Asked,
    /// It is here, or comes with another.
    Here,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    bytes: u32,
    state: State,
}

/// Bytes of a chunk whose request broke, and who sent all of them, if one did.
#[derive(Clone, Copy, Debug)]
struct Begun {
    bytes: u32,
    by: Option<NodeId>,
}

/// The fetch of one layer.
#[derive(Debug)]
pub struct Plan {
    me: NodeId,
    pieces: Vec<Piece>,
    is_listed: bool,
    wanted: BTreeSet<u32>,
    missing: usize,
    begun: BTreeMap<u32, Begun>,
    sources: BTreeMap<NodeId, Source>,
    excluded: BTreeSet<NodeId>,
    fetchers: BTreeSet<NodeId>,
    /// Requests that run for other layers, by whom they ask.
    elsewhere: BTreeMap<NodeId, usize>,
    requests: u64,
    /// When anything came.
    progress: Moment,
    /// When anything came from one that fetches too.
    shared: Moment,
}

impl Plan {
    /// Of a layer of which nothing is known yet.
    pub fn new(me: NodeId, now: Moment) -> Self {
        Self {
            me,
            pieces: Vec::new(),
            is_listed: false,
            wanted: BTreeSet::new(),
            missing: 0,
            begun: BTreeMap::new(),
            sources: BTreeMap::new(),
            excluded: BTreeSet::new(),
            fetchers: BTreeSet::new(),
            elsewhere: BTreeMap::new(),
            requests: 0,
            progress: now,
            shared: now,
        }
    }

    /// The next chunk of the list: its length, and whether it need not be asked for, as it is
    /// here or comes with an earlier one.
    pub fn chunk(&mut self, now: Moment, bytes: u32, is_here: bool) {
        let last = self.pieces.last();
        let start = last.map_or(0, |last| last.start.saturating_add(last.bytes.into()));
        let state = if is_here { State::Here } else { State::Wanted };
        if !is_here && let Ok(index) = u32::try_from(self.pieces.len()) {
            self.wanted.insert(index);
            self.missing += 1;
        }
        self.pieces.push(Piece { start, bytes, state });
        self.progress = now;
        self.look_again();
    }

    /// The list is whole.
    pub fn listed(&mut self) {
        self.is_listed = true;
    }

    /// A source, or what it has by now.
    pub fn holder(&mut self, now: Moment, node: NodeId, has: Has) {
        if self.excluded.contains(&node) || node == self.me {
            return;
        }
        self.sources.entry(node).or_insert_with(|| Source::new(now)).has = has;
        self.look_again();
    }

    /// Something changed: whoever had nothing to be asked for may have now.
    fn look_again(&mut self) {
        self.sources.values_mut().for_each(|source| source.rests_until = Moment(0));
    }

    /// A source that has the layer no more, or is no member.
    pub fn lost(&mut self, node: &NodeId) -> Vec<Action> {
        let source = self.sources.remove(node);
        let asked = source.map(|source| source.asked).unwrap_or_default();
        let call_off = |(id, asked): (RequestId, source::Asked)| {
            self.put_back(&asked.parts);
            Action::CallOff(id)
        };
        asked.into_iter().map(call_off).collect()
    }

    /// Who else fetches this layer now.
    pub fn fetchers(&mut self, others: BTreeSet<NodeId>) {
        self.fetchers = others;
        self.fetchers.remove(&self.me);
        self.look_again();
    }

    /// How many requests for other layers ask the same sources just now. Together they ask no
    /// more than one layer alone would, but each one thing at least.
    pub fn elsewhere(&mut self, asked: BTreeMap<NodeId, usize>) {
        self.elsewhere = asked;
    }

    /// A chunk is here: from this node's own layers. Whether a request for it runs is no
    /// matter; what comes of it is thrown away.
    pub fn is_here(&mut self, now: Moment, chunk: u32) {
        self.progress = now;
        self.settle(chunk);
    }

    /// Bytes of a request came, as they count in the layer. What counts for nothing there, as
    /// what packs nothing, is no sign that more will come.
    pub fn bytes(&mut self, now: Moment, id: RequestId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let Some((source, _)) = self.of(id) else { return };
        if matches!(source.has, Has::Some(_)) {
            self.shared = now;
        }
        self.progress = now;
        if let Some((source, _)) = self.of(id) {
            source.came(now, id, bytes);
        }
    }

    /// A chunk of a request came whole. For a bad one the source is answered that will not be
    /// asked again: nobody, where another had sent its beginning. All requests to it end.
    pub fn chunk_came(
        &mut self,
        now: Moment,
        id: RequestId,
        chunk: u32,
        came: Came,
    ) -> Option<(NodeId, Vec<Action>)> {
        let (source, node) = self.of(id)?;
        if let Some(asked) = source.asked.get_mut(&id) {
            asked.parts.retain(|part| part.chunk != chunk);
        }
        if came == Came::Good {
            self.progress = now;
            self.settle(chunk);
            return None;
        }
        let begun = self.begun.remove(&chunk);
        self.put_back(&[Part { chunk, skip: 0 }]);
        if begun.is_some_and(|begun| begun.by != Some(node)) {
            return None;
        }
        self.excluded.insert(node);
        Some((node, self.lost(&node)))
    }

    /// A request ended by itself.
    pub fn ended(&mut self, now: Moment, id: RequestId, how: Ended) {
        let Some((source, node)) = self.of(id) else { return };
        let Some(asked) = source.asked.remove(&id) else { return };
        let is_short = !asked.parts.is_empty();
        match how {
            Ended::Done if !is_short => source.strikes = 0,
            Ended::Done | Ended::Broke { .. } => source.strike(now),
            Ended::Refused => {
                source.strike(now);
                // What it has is told again.
                if let Has::Some(has) = &mut source.has {
                    for part in &asked.parts {
                        if let Some(has) = has.get_mut(part.chunk as usize) {
                            *has = false;
                        }
                    }
                }
            }
        }
        if let (Ended::Broke { prefix }, Some(part)) = (how, asked.parts.first()) {
            self.begin(node, *part, prefix);
        }
        self.put_back(&asked.parts);
    }

    /// How far a chunk had come when its request was called off. Answers whether that is gone
    /// on with: not if the chunk was asked of another since.
    pub fn rest(&mut self, node: NodeId, part: Part, prefix: u32) -> bool {
        let is_wanted = self.wanted.contains(&part.chunk);
        if is_wanted {
            self.begin(node, part, prefix);
        }
        is_wanted
    }

    /// Remembers how far a chunk came.
    fn begin(&mut self, node: NodeId, part: Part, prefix: u32) {
        let bytes = self.pieces.get(part.chunk as usize).map_or(0, |piece| piece.bytes);
        let prefix = prefix.min(bytes.saturating_sub(1));
        if prefix <= part.skip {
            return;
        }
        let before = self.begun.get(&part.chunk).filter(|_| part.skip > 0);
        let by =
            if before.is_none_or(|before| before.by == Some(node)) { Some(node) } else { None };
        self.begun.insert(part.chunk, Begun { bytes: prefix, by });
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        // What is scarce goes to those that give, and of them to the fastest.
        let mut nodes: Vec<NodeId> = self.sources.keys().copied().collect();
        nodes.sort_by_key(|node| self.sources.get(node).map(Source::worth));
        for node in &nodes {
            actions.extend(self.call_off_stalled(now, *node));
        }
        // One request each in turn, so that none takes all.
        loop {
            let before = actions.len();
            for node in &nodes {
                actions.extend(self.ask(now, *node));
            }
            if actions.len() == before {
                break;
            }
        }
        if let Some(fastest) = nodes.into_iter().find(|node| self.is_idle(now, node)) {
            actions.extend(self.call_off_slow(now, fastest));
        }
        actions
    }

    /// When it wants to be stepped next, whatever comes.
    pub fn deadline(&self, now: Moment) -> Moment {
        let sources = self.sources.values();
        let next = sources.filter_map(|source| source.deadline(now, STALL_FOR)).min();
        let give_up = self.progress + GIVE_UP_AFTER;
        // What another is waited for with is looked at again.
        let look = now + pick::PATIENCE;
        next.map_or(give_up.min(look), |next| next.min(give_up).min(look))
    }

    /// Whether all is here.
    pub fn is_complete(&self) -> bool {
        self.is_listed && self.missing == 0
    }

    /// Whether it is given up: nothing came for long.
    pub fn is_hopeless(&self, now: Moment) -> bool {
        now.since(self.progress) >= GIVE_UP_AFTER
    }

    /// Whether there is anybody to ask, now or after a pause.
    pub fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Those whose bytes were not what the list says, and who are not asked any more.
    pub fn excluded(&self) -> &BTreeSet<NodeId> {
        &self.excluded
    }

    /// Bytes of the chunks that are not here, as far as the list is known.
    pub fn missing_bytes(&self) -> u64 {
        let missing = self.pieces.iter().filter(|piece| piece.state != State::Here);
        missing.map(|piece| u64::from(piece.bytes)).sum()
    }

    fn of(&mut self, id: RequestId) -> Option<(&mut Source, NodeId)> {
        let mut sources = self.sources.iter_mut();
        sources.find(|(_, s)| s.asked.contains_key(&id)).map(|(node, source)| (source, *node))
    }

    fn settle(&mut self, chunk: u32) {
        let Some(piece) = self.pieces.get_mut(chunk as usize) else { return };
        if piece.state != State::Here {
            piece.state = State::Here;
            self.missing -= 1;
            self.wanted.remove(&chunk);
            self.begun.remove(&chunk);
        }
    }

    fn put_back(&mut self, parts: &[Part]) {
        self.look_again();
        for part in parts {
            if let Some(piece) = self.pieces.get_mut(part.chunk as usize)
                && piece.state == State::Asked
            {
                piece.state = State::Wanted;
                self.wanted.insert(part.chunk);
            }
        }
    }

    fn call_off_stalled(&mut self, now: Moment, node: NodeId) -> Vec<Action> {
        let Some(source) = self.sources.get_mut(&node) else { return Vec::new() };
        let stalled = source.stalled(now, STALL_FOR);
        if !stalled.is_empty() {
            source.strike(now);
        }
        self.call_off(node, stalled)
    }

    /// Takes from the slow what the fastest could bring much sooner, once that has nothing
    /// else to do.
    fn call_off_slow(&mut self, now: Moment, fastest: NodeId) -> Vec<Action> {
        let gives = |source: &&Source| source.rate > 0 && source.strikes == 0;
        let Some(fast) = self.sources.get(&fastest).filter(gives) else { return Vec::new() };
        let can = |part: &Part| fast.has(part.chunk);
        let rate = fast.rate;
        let mut found = Vec::new();
        for (node, slow) in self.sources.iter().filter(|(node, _)| **node != fastest) {
            for (id, asked) in &slow.asked {
                let by_it = asked.left_ms(now, slow.rate);
                let by_fast = asked.bytes.saturating_mul(1000) / rate;
                let is_worth = by_it > by_fast.saturating_mul(FASTER_BY)
                    && by_it > NEARLY_DONE.as_millis() as u64;
                if is_worth && asked.parts.iter().all(can) {
                    found.push((*node, *id));
                }
            }
        }
        let mut actions = Vec::new();
        for (node, id) in found {
            if let Some(slow) = self.sources.get_mut(&node) {
                slow.strike(now);
            }
            actions.extend(self.call_off(node, vec![id]));
        }
        if !actions.is_empty() {
            actions.extend(self.ask(now, fastest));
        }
        actions
    }

    fn call_off(&mut self, node: NodeId, ids: Vec<RequestId>) -> Vec<Action> {
        let mut actions = Vec::new();
        for id in ids {
            let source = self.sources.get_mut(&node);
            if let Some(asked) = source.and_then(|source| source.asked.remove(&id)) {
                self.put_back(&asked.parts);
                actions.push(Action::CallOff(id));
            }
        }
        actions
    }
}
