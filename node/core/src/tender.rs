//! One tender, as the node that called it sees it.
//!
//!     Calling ──all answered, or time──▶ Awarded ──all confirmed, or time──▶ closed
//!
//! Bids are backed by holds that lapse by themselves, so a driver that dies
//! here costs nobody more than one hold. An award that is not answered counts
//! as held; whoever closes the tender is told, and must not call those slots
//! again too soon. This file compares prices and never learns what a job does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use gossip_core::id::{JobId, NodeId};
use gossip_core::market::{Answer, Call, Decline, Message};
use gossip_core::moment::Moment;
use gossip_core::slot::{ClaimRank, Epoch, Generation, GroupName};

use crate::event::What;

/// How long a driver waits for bids: many round trips of a slow link.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(600);

/// How long a driver waits for a claim, which takes an fsync.
pub const AWARD_TIMEOUT: Duration = Duration::from_millis(2000);

/// How long bidders are asked to hold: both of the above with room to spare.
pub const HOLD_FOR: Duration = Duration::from_secs(4);

/// What is called.
#[derive(Clone, Debug)]
pub struct Lot {
    /// Of which job.
    pub job: JobId,
    /// Of which spec.
    pub generation: Generation,
    /// The spec.
    pub spec: Vec<u8>,
    /// Which group.
    pub group: GroupName,
    /// Which indices.
    pub indices: Vec<u32>,
}

/// What happens to a tender.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A bid or decline.
    Answer(Answer),
    /// An award was taken.
    Claimed(Vec<u32>),
    /// An award was not taken.
    Refused(Vec<u32>),
}

/// What a tender wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say this.
    Send(NodeId, Message),
    /// Tell people this.
    Tell(What),
    /// It is over.
    Closed(Closed),
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Awarded and confirmed.
    pub claimed: Vec<(u32, NodeId)>,
    /// Awarded and not answered: perhaps claimed.
    pub unanswered: Vec<(u32, NodeId)>,
    /// Held already by somebody who said so.
    pub held: Vec<(u32, ClaimRank)>,
    /// Nobody took them.
    pub open: Vec<u32>,
    /// The greatest epoch counter that somebody had answered before, if it was greater than this one's.
    pub outdated: Option<u64>,
}

#[derive(Clone, Debug)]
enum Phase {
    Calling { until: Moment, waiting: BTreeSet<NodeId>, answers: BTreeMap<NodeId, Answer> },
    Awarded { until: Moment, asked: BTreeMap<NodeId, BTreeSet<u32>>, closed: Closed },
    Over,
}

/// One call and what came of it.
#[derive(Clone, Debug)]
pub struct Tender {
    epoch: Epoch,
    lot: Lot,
    phase: Phase,
}

impl Tender {
    /// Calls `candidates` for bids on `lot`.
    pub fn open(
        now: Moment,
        epoch: Epoch,
        lot: Lot,
        candidates: BTreeSet<NodeId>,
        out: &mut Vec<Step>,
    ) -> Self {
        out.push(Step::Tell(What::TenderOpened {
            job: lot.job,
            slots: u32::try_from(lot.indices.len()).unwrap_or(u32::MAX),
            asked: u32::try_from(candidates.len()).unwrap_or(u32::MAX),
        }));
        let call = Call {
            epoch,
            job: lot.job,
            generation: lot.generation,
            spec: lot.spec.clone(),
            group: lot.group.clone(),
            indices: lot.indices.clone(),
            hold_ms: u32::try_from(HOLD_FOR.as_millis()).unwrap_or(u32::MAX),
        };
        for node in &candidates {
            out.push(Step::Send(*node, Message::Call(call.clone())));
        }
        let phase = Phase::Calling {
            until: now + CALL_TIMEOUT,
            waiting: candidates,
            answers: BTreeMap::new(),
        };
        Self { epoch, lot, phase }
    }

    /// Names the tender.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The group that was called.
    pub fn group(&self) -> &GroupName {
        &self.lot.group
    }

    /// When it wants to be stepped.
    pub fn deadline(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Calling { until, .. } | Phase::Awarded { until, .. } => Some(*until),
            Phase::Over => None,
        }
    }

    /// A word of `from` about this tender.
    pub fn hear(&mut self, now: Moment, from: NodeId, heard: Heard, out: &mut Vec<Step>) {
        match (&mut self.phase, heard) {
            (Phase::Calling { waiting, answers, .. }, Heard::Answer(answer)) => {
                let awaited = waiting.remove(&from);
                if awaited {
                    self.lot.tell(from, &answer, out);
                    answers.insert(from, answer);
                }
            }
            (Phase::Awarded { asked, closed, .. }, Heard::Claimed(indices)) => {
                for index in indices {
                    if asked.get_mut(&from).is_some_and(|open| open.remove(&index)) {
                        closed.claimed.push((index, from));
                    }
                }
            }
            (Phase::Awarded { asked, closed, .. }, Heard::Refused(indices)) => {
                for index in indices {
                    if asked.get_mut(&from).is_some_and(|open| open.remove(&index)) {
                        closed.open.push(index);
                    }
                }
            }
            // A bid after the award, a doubled confirmation: the network's ordinary noise.
            _ => {}
        }
        self.step(now, out);
    }

    /// Moves on where everything is in, or time is up.
    pub fn step(&mut self, now: Moment, out: &mut Vec<Step>) {
        if let Phase::Calling { until, waiting, .. } = &self.phase
            && (waiting.is_empty() || *until <= now)
        {
            self.award(now, out);
        }
        if let Phase::Awarded { until, asked, .. } = &self.phase
            && (*until <= now || asked.values().all(BTreeSet::is_empty))
        {
            self.close(out);
        }
    }

    /// Gives up before the award: whoever bid may forget it. `false` once awards are out.
    pub fn stand_down(&mut self, out: &mut Vec<Step>) -> bool {
        let Phase::Calling { answers, waiting, .. } = &self.phase else { return false };
        for node in answers.keys().chain(waiting) {
            out.push(Step::Send(*node, Message::Release { epoch: self.epoch }));
        }
        self.phase = Phase::Over;
        true
    }

    fn award(&mut self, now: Moment, out: &mut Vec<Step>) {
        let Phase::Calling { answers, waiting, .. } =
            std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return;
        };
        let outdated = answers.values().filter_map(|answer| match answer.decline {
            Some(Decline::Outdated { answered }) => Some(answered),
            _ => None,
        });
        let mut closed = Closed { outdated: outdated.max(), ..Closed::default() };
        let held = self.held(&answers);
        let wanted = self.lot.indices.iter().filter(|index| !held.contains_key(index));
        let mut offers: BinaryHeap<_> = answers
            .iter()
            .filter_map(|(node, answer)| answer.prices.first().map(|p| Reverse((*p, *node, 0))))
            .collect();
        let mut awards: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for index in wanted {
            let Some(Reverse((_, node, taken))) = offers.pop() else {
                closed.open.push(*index);
                continue;
            };
            awards.entry(node).or_default().push(*index);
            let next = taken + 1;
            if let Some(price) = answers.get(&node).and_then(|answer| answer.prices.get(next)) {
                offers.push(Reverse((*price, node, next)));
            }
        }
        closed.held = held.into_iter().collect();
        for node in answers.keys().chain(&waiting).filter(|node| !awards.contains_key(node)) {
            out.push(Step::Send(*node, Message::Release { epoch: self.epoch }));
        }
        for (node, indices) in &awards {
            let (job, epoch) = (self.lot.job, self.epoch);
            out.push(Step::Tell(What::Awarded { job, node: *node, indices: indices.clone() }));
            out.push(Step::Send(*node, Message::Award { epoch, indices: indices.clone() }));
        }
        let asked = awards.into_iter().map(|(node, is)| (node, is.into_iter().collect())).collect();
        self.phase = Phase::Awarded { until: now + AWARD_TIMEOUT, asked, closed };
    }

    /// The best claim that was reported for each called slot.
    fn held(&self, answers: &BTreeMap<NodeId, Answer>) -> BTreeMap<u32, ClaimRank> {
        let mut best: BTreeMap<u32, ClaimRank> = BTreeMap::new();
        for (index, rank) in answers.values().flat_map(|answer| &answer.held) {
            if rank.generation == self.lot.generation {
                let seen = best.entry(*index).or_insert(*rank);
                *seen = (*seen).max(*rank);
            }
        }
        best
    }

    fn close(&mut self, out: &mut Vec<Step>) {
        let Phase::Awarded { asked, mut closed, .. } =
            std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return;
        };
        for (node, open) in asked {
            closed.unanswered.extend(open.into_iter().map(|index| (index, node)));
        }
        if !closed.open.is_empty() {
            let slots = u32::try_from(closed.open.len()).unwrap_or(u32::MAX);
            out.push(Step::Tell(What::Unplaced { job: self.lot.job, slots }));
        }
        out.push(Step::Closed(closed));
    }
}

impl Lot {
    fn tell(&self, node: NodeId, answer: &Answer, out: &mut Vec<Step>) {
        let job = self.job;
        if let Some(price) = answer.prices.first() {
            let slots = u32::try_from(answer.prices.len()).unwrap_or(u32::MAX);
            out.push(Step::Tell(What::Bid { job, node, slots, price: *price }));
        } else if let Some(decline) = &answer.decline {
            let reason = decline.to_string();
            out.push(Step::Tell(What::Declined { job, node, reason }));
        }
    }
}

#[cfg(test)]
#[path = "tender_tests.rs"]
mod tests;
