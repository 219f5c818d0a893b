//! Who was heard when: this node's opinion of who is alive.
//!
//! Any word counts, whoever carried it. An opinion stops nothing by itself: it
//! only lets work be tendered anew. A node that was itself away (paused,
//! starved) knows nothing about the others' silence in that time, so its own
//! lateness is taken off before it judges anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;

/// Silence after which a node's work is tendered anew (DESIGN section 5).
pub const LOST_AFTER: Duration = Duration::from_secs(5);

/// Later than this since the last step, and this node was itself away.
pub const AWAY_AFTER: Duration = Duration::from_millis(1500);

/// The longest absence that a node may announce (DESIGN section 5).
pub const AWAY_MAX: Duration = Duration::from_secs(60);

/// How long after a farewell words may still come that were said before it.
const FAREWELL: Duration = Duration::from_secs(1);

/// When each other node was last heard.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    heard: BTreeMap<NodeId, Moment>,
    /// Since when, and until when.
    excused: BTreeMap<NodeId, (Moment, Moment)>,
    lost: BTreeMap<NodeId, Moment>,
    stepped: Option<Moment>,
}

/// A change of opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Silent for [`LOST_AFTER`].
    Lost(NodeId),
    /// Heard again.
    Back(NodeId),
}

impl Liveness {
    /// Starts to watch a node, as if it had just been heard.
    pub fn watch(&mut self, node: NodeId, now: Moment) {
        self.heard.entry(node).or_insert(now);
    }

    /// Stops to watch a node.
    pub fn forget(&mut self, node: &NodeId) {
        self.heard.remove(node);
        self.excused.remove(node);
        self.lost.remove(node);
    }

    /// `node` said that it will be silent for a while.
    pub fn excuse(&mut self, node: NodeId, now: Moment, how_long: Duration) {
        self.excused.insert(node, (now, now + how_long.min(AWAY_MAX)));
    }

    /// A word from `node` arrived.
    pub fn hear(&mut self, node: NodeId, now: Moment) -> Option<Verdict> {
        self.heard.insert(node, now);
        // What was said before it left may arrive after the farewell.
        let is_back = |(since, _): &mut (Moment, Moment)| now.since(*since) > FAREWELL;
        if self.excused.get_mut(&node).is_some_and(is_back) {
            self.excused.remove(&node);
        }
        self.lost.remove(&node).map(|_since| Verdict::Back(node))
    }

    /// Judges everybody; to be called at every step.
    pub fn step(&mut self, now: Moment, out: &mut Vec<Verdict>) {
        let away = self.stepped.map(|before| now.since(before)).filter(|gap| *gap > AWAY_AFTER);
        self.stepped = Some(now);
        if let Some(gap) = away {
            for heard in self.heard.values_mut() {
                *heard = (*heard + gap).min(now);
            }
        }
        for (node, heard) in &self.heard {
            let excused = self.excused.get(node).is_some_and(|(_, until)| now < *until);
            if now.since(*heard) > LOST_AFTER && !excused && !self.lost.contains_key(node) {
                self.lost.insert(*node, now);
                out.push(Verdict::Lost(*node));
            }
        }
    }

    /// Whether `node` is thought to be gone.
    pub fn is_lost(&self, node: &NodeId) -> bool {
        self.lost.contains_key(node)
    }

    /// How long nothing was heard of `node`; `None` if never.
    pub fn silence(&self, node: &NodeId, now: Moment) -> Option<Duration> {
        self.heard.get(node).map(|heard| now.since(*heard))
    }

    /// When somebody would be judged lost next.
    pub fn deadline(&self) -> Option<Moment> {
        let watched = self.heard.iter().filter(|(node, _)| !self.lost.contains_key(node));
        let due = |(node, heard): (&NodeId, &Moment)| {
            let silent = *heard + LOST_AFTER + Duration::from_millis(1);
            self.excused.get(node).map_or(silent, |(_, until)| silent.max(*until))
        };
        watched.map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(liveness: &mut Liveness, at: u64) -> Vec<Verdict> {
        let mut out = Vec::new();
        liveness.step(Moment(at), &mut out);
        out
    }

    #[test]
    fn silence_loses_a_node_once_and_a_word_brings_it_back() {
        let node = NodeId::new([1; 32]);
        let mut liveness = Liveness::default();
        liveness.watch(node, Moment(0));
        for at in (1000..=5000).step_by(1000) {
            assert_eq!(step(&mut liveness, at), []);
        }
        assert_eq!(step(&mut liveness, 5001), [Verdict::Lost(node)]);
        assert_eq!(step(&mut liveness, 6000), []);
        assert_eq!(liveness.hear(node, Moment(6100)), Some(Verdict::Back(node)));
        assert_eq!(liveness.hear(node, Moment(6200)), None);
    }

    #[test]
    fn an_announced_absence_is_excused_until_its_end_or_the_next_word() {
        let node = NodeId::new([1; 32]);
        let mut liveness = Liveness::default();
        liveness.watch(node, Moment(0));
        liveness.excuse(node, Moment(0), Duration::from_secs(3600));
        for at in (1000..60_000).step_by(1000) {
            assert_eq!(step(&mut liveness, at), []);
        }
        assert_eq!(step(&mut liveness, 60_001), [Verdict::Lost(node)]);
    }

    #[test]
    fn a_node_that_was_away_accuses_nobody() {
        let node = NodeId::new([1; 32]);
        let mut liveness = Liveness::default();
        liveness.watch(node, Moment(0));
        assert_eq!(step(&mut liveness, 1000), []);
        assert_eq!(step(&mut liveness, 60_000), [], "59 s of them were our own pause");
        for at in (61_000..64_000).step_by(1000) {
            assert_eq!(step(&mut liveness, at), []);
        }
        assert_eq!(step(&mut liveness, 64_500), [Verdict::Lost(node)]);
    }
}
