//! A step of the plan: what stalled is called off, what is free is asked, and what the slow
//! would bring late is taken from them by the fastest.

use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;

use super::source::Source;
use super::{Action, GIVE_UP_AFTER, Part, Plan, RequestId, pick};

/// How long nothing may come on a request: the slowest disk and link there are.
const STALL_FOR: Duration = Duration::from_secs(10);

/// How much longer than by another source something may take before it is called off.
const FASTER_BY: u64 = 4;

/// What is never called off for being slow, as it may end any moment.
const NEARLY_DONE: Duration = Duration::from_secs(2);

impl Plan {
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
