//! Who holds what: decides what to ask of whom, and what to tell.
//!
//! Every node tells what it holds as a vector of numbers; whoever holds less
//! pulls. Vectors are told on connection, on change and now and then at
//! random, so that whatever was lost on the way is pulled a moment later.
//! This file never learns what a record says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip_core::id::NodeId;
use gossip_core::log::{LogId, Vector, missing};
use gossip_core::wire::{Frame, VECTOR_LOGS_MAX};

/// A pull that brought nothing in this time was lost.
const PULL_LOST: Duration = Duration::from_secs(2);

/// How long a log that did not hold is not asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// The most logs that one pull names: what they hold comes in chunks anyway.
const PULL_LOGS_MAX: usize = 256;

#[derive(Debug)]
struct Pull {
    from: NodeId,
    lost_at: Instant,
}

/// What this node and its peers hold, as far as they said.
#[derive(Debug)]
pub(crate) struct Sync {
    own: LogId,
    held: Vector,
    peers: BTreeMap<NodeId, Vector>,
    pulls: BTreeMap<LogId, Pull>,
    refused: BTreeMap<LogId, Instant>,
    /// Logs that moved since they were last told to everybody.
    moved: BTreeSet<LogId>,
}

impl Sync {
    pub(crate) fn new(own: LogId, held: Vector) -> Self {
        Self {
            own,
            held,
            peers: BTreeMap::new(),
            pulls: BTreeMap::new(),
            refused: BTreeMap::new(),
            moved: BTreeSet::new(),
        }
    }

    pub(crate) fn held(&self, log: &LogId) -> u64 {
        self.held.get(log).copied().unwrap_or(0)
    }

    pub(crate) fn peer_up(&mut self, peer: NodeId) {
        self.peers.insert(peer, Vector::new());
    }

    pub(crate) fn peer_down(&mut self, peer: &NodeId) {
        self.peers.remove(peer);
        self.pulls.retain(|_, pull| pull.from != *peer);
    }

    /// `log` is on this disk up to `next`.
    pub(crate) fn committed(&mut self, log: LogId, next: u64) {
        self.held.insert(log, next);
        self.pulls.remove(&log);
        self.moved.insert(log);
    }

    /// Nothing of `log` was taken.
    pub(crate) fn refused(&mut self, log: LogId, now: Instant) {
        self.pulls.remove(&log);
        self.refused.retain(|_, until| *until > now);
        if self.refused.len() < VECTOR_LOGS_MAX {
            self.refused.insert(log, now + REFUSED_FOR);
        }
    }

    /// `peer` said what it holds; vectors only grow.
    pub(crate) fn told(&mut self, peer: NodeId, logs: impl IntoIterator<Item = (LogId, u64)>) {
        let Some(theirs) = self.peers.get_mut(&peer) else { return };
        for (log, next) in logs {
            let known = theirs.contains_key(&log);
            if known || theirs.len() < VECTOR_LOGS_MAX {
                let held = theirs.entry(log).or_default();
                *held = next.max(*held);
            }
        }
    }

    /// What to ask of `peer` now; remembers that it was asked.
    pub(crate) fn wanted(&mut self, peer: NodeId, now: Instant) -> Option<Frame> {
        let theirs = self.peers.get(&peer)?;
        let (own, pulls, refused) = (self.own, &self.pulls, &self.refused);
        let is_free = |log: &LogId| {
            *log != own
                && pulls.get(log).is_none_or(|pull| pull.lost_at <= now)
                && refused.get(log).is_none_or(|until| *until <= now)
        };
        let mut wants = missing(&self.held, theirs);
        wants.retain(|(log, _)| is_free(log));
        wants.truncate(PULL_LOGS_MAX);
        for (log, _) in &wants {
            self.pulls.insert(*log, Pull { from: peer, lost_at: now + PULL_LOST });
        }
        (!wants.is_empty()).then_some(Frame::Pull(wants))
    }

    /// `peer` sent records of these logs: if it was an answer, what it left out may be asked
    /// for at once.
    pub(crate) fn answered(&mut self, peer: &NodeId, logs: &[LogId]) {
        let is_answer = |log| self.pulls.get(log).is_some_and(|pull| pull.from == *peer);
        if logs.iter().any(is_answer) {
            self.pulls.retain(|_, pull| pull.from != *peer);
        }
    }

    /// All that is held here.
    pub(crate) fn vector(&self) -> Vec<Frame> {
        let logs: Vec<_> = self.held.iter().map(|(log, next)| (*log, *next)).collect();
        if logs.is_empty() {
            return vec![Frame::Vector(Vec::new())];
        }
        logs.chunks(VECTOR_LOGS_MAX).map(|part| Frame::Vector(part.to_vec())).collect()
    }

    /// For each peer what moved here and it may lack; then nothing has moved.
    pub(crate) fn changes(&mut self) -> Vec<(NodeId, Frame)> {
        let moved = std::mem::take(&mut self.moved);
        if moved.is_empty() {
            return Vec::new();
        }
        let lacking = |peer: &NodeId, theirs: &Vector| -> Vec<(LogId, u64)> {
            let news = moved.iter().map(|log| (*log, self.held(log)));
            // An author knows its own log.
            news.filter(|(log, next)| {
                log.node != *peer && theirs.get(log).is_none_or(|there| there < next)
            })
            .take(VECTOR_LOGS_MAX)
            .collect()
        };
        let peers = self.peers.iter();
        peers
            .map(|(peer, theirs)| (*peer, lacking(peer, theirs)))
            .filter(|(_, logs)| !logs.is_empty())
            .map(|(peer, logs)| (peer, Frame::Vector(logs)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(n: u8) -> LogId {
        LogId { node: NodeId::new([n; 32]), start: 1, nonce: 0 }
    }

    #[test]
    fn what_is_missing_is_asked_once_and_again_when_lost() {
        let (me, a, b) = (log(1), NodeId::new([2; 32]), NodeId::new([3; 32]));
        let mut sync = Sync::new(me, Vector::from([(me, 5)]));
        let now = Instant::now();
        for peer in [a, b] {
            sync.peer_up(peer);
            sync.told(peer, [(log(2), 4), (me, 9)]);
        }
        assert_eq!(sync.wanted(a, now), Some(Frame::Pull(vec![(log(2), 0)])));
        assert_eq!(sync.wanted(b, now), None, "asked of the other already");
        let later = now + PULL_LOST;
        assert_eq!(sync.wanted(b, later), Some(Frame::Pull(vec![(log(2), 0)])));
        sync.committed(log(2), 3);
        assert_eq!(sync.wanted(a, later), Some(Frame::Pull(vec![(log(2), 3)])));
        sync.peer_down(&a);
        assert_eq!(sync.wanted(b, later), Some(Frame::Pull(vec![(log(2), 3)])));
        sync.refused(log(2), later);
        assert_eq!(sync.wanted(b, later), None);
    }

    #[test]
    fn what_moved_is_told_to_those_who_lack_it() {
        let (me, a) = (log(1), NodeId::new([2; 32]));
        let mut sync = Sync::new(me, Vector::new());
        sync.peer_up(a);
        sync.committed(me, 2);
        sync.committed(log(2), 7);
        assert_eq!(sync.changes(), [(a, Frame::Vector(vec![(me, 2)]))]);
        assert_eq!(sync.changes(), []);
        sync.told(a, [(me, 3)]);
        sync.committed(me, 3);
        assert_eq!(sync.changes(), []);
    }
}
