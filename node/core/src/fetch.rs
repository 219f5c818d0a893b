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
mod came;
mod link;
mod pick;
mod said;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;

pub use bucket::Bucket;
pub use link::Link;
pub use said::{Action, Came, Ended, Has, Part, RequestId};
use source::Source;
pub use told::Fetching;

/// How long nothing may come from anybody before it is given up: longer than members that
/// fell silent take to be heard again after a restart or a cut of a minute. Of those that are
/// not heard by anybody none is a source, and without a source it is given up at once.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// Before a source is asked again whose request broke; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// The longest pause: a link that is back is used again within this.
const PAUSE_MAX: Duration = Duration::from_secs(4);

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
}
