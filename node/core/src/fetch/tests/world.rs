//! Sources made up, on one link each, in steps of some milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const STEP_MS: u64 = 10;

/// What a source is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    /// Every chunk is wrong.
    Lies,
    /// Never says a word.
    Mute,
    /// Answers without end, with nothing.
    Hums,
    /// Breaks off so often, every so often.
    Cuts(u32),
    /// Says nothing from that millisecond on.
    Vanishes(u64),
    /// Has every third chunk.
    Part,
}

impl Kind {
    /// Whether all can be had from it.
    pub(super) fn gives(self) -> bool {
        matches!(self, Self::Good | Self::Cuts(_))
    }
}

struct Made {
    node: NodeId,
    kind: Kind,
    rate: u64,
    asked: BTreeMap<RequestId, (Vec<Part>, u32)>,
    cuts: u32,
    came: u64,
}

pub(super) struct World {
    plan: Plan,
    chunks: Vec<u32>,
    sources: Vec<Made>,
    now: Moment,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) complete: bool,
    pub(super) excluded: BTreeSet<NodeId>,
    pub(super) ms: u64,
    /// Of the layer.
    pub(super) bytes: u64,
    /// That were asked for.
    pub(super) asked: u64,
    /// That came.
    pub(super) came: u64,
    /// Requests that ended before their time.
    pub(super) breaks: u64,
}

pub(super) fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

pub(super) fn chunks(seed: u64, bytes: u64) -> Vec<u32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut left = bytes;
    let mut chunks = Vec::new();
    while left > 0 {
        let chunk = (16 * 1024 + chance(&mut state) % (64 * 1024)).min(left);
        chunks.push(chunk as u32);
        left -= chunk;
    }
    chunks
}

impl World {
    pub(super) fn new(seed: u64, bytes: u64, kinds: &[(Kind, u64)]) -> Self {
        let now = Moment(1_000);
        let mut plan = Plan::new(NodeId::new([200; 32]), now);
        let chunks = chunks(seed, bytes);
        chunks.iter().for_each(|bytes| plan.chunk(now, *bytes, false));
        plan.listed();
        let made = |(at, (kind, rate)): (usize, &(Kind, u64))| Made {
            node: NodeId::new([at as u8 + 1; 32]),
            kind: *kind,
            rate: *rate,
            asked: BTreeMap::new(),
            cuts: 0,
            came: 0,
        };
        let sources: Vec<Made> = kinds.iter().enumerate().map(made).collect();
        for source in &sources {
            let has = match source.kind {
                Kind::Part => Has::Some((0..chunks.len()).map(|chunk| chunk % 3 == 0).collect()),
                _ => Has::Whole,
            };
            plan.holder(now, source.node, has);
        }
        Self { plan, chunks, sources, now }
    }

    pub(super) fn of_chance(seed: u64) -> Self {
        let mut state = seed.wrapping_add(99).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let count = 1 + chance(&mut state) % 5;
        let kinds: Vec<(Kind, u64)> = (0..count)
            .map(|_| {
                let kind = match chance(&mut state) % 7 {
                    0 | 1 => Kind::Good,
                    2 => Kind::Lies,
                    3 => Kind::Mute,
                    4 => Kind::Cuts((chance(&mut state) % 6) as u32),
                    5 => Kind::Vanishes(chance(&mut state) % 3_000),
                    _ => Kind::Part,
                };
                (kind, (64 * 1024) << (chance(&mut state) % 9))
            })
            .collect();
        Self::new(seed, 1 + chance(&mut state) % (16 * MB), &kinds)
    }

    pub(super) fn node(&self, at: usize) -> NodeId {
        self.sources[at].node
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.sources.iter().map(|source| source.kind)
    }

    /// What it is made of, for whoever wonders.
    pub(super) fn about(&self) -> String {
        let sources: Vec<_> = self.sources.iter().map(|s| (s.kind, s.rate, &s.asked)).collect();
        format!("{sources:?} {:?}", self.plan)
    }

    pub(super) fn run(&mut self) -> End {
        let began = self.now;
        let mut end = End {
            complete: false,
            excluded: BTreeSet::new(),
            ms: 0,
            bytes: self.chunks.iter().map(|bytes| u64::from(*bytes)).sum(),
            asked: 0,
            came: 0,
            breaks: 0,
        };
        while !self.plan.is_complete() && self.plan.has_sources() {
            if self.plan.is_hopeless(self.now) {
                break;
            }
            let actions = self.plan.step(self.now);
            assert!(self.plan.deadline(self.now) > self.now, "it must not spin");
            self.act(actions, &mut end);
            self.now = self.now + std::time::Duration::from_millis(STEP_MS);
            for at in 0..self.sources.len() {
                self.send(at, &mut end);
            }
        }
        end.complete = self.plan.is_complete();
        end.ms = self.now.since(began).as_millis() as u64;
        end
    }

    fn act(&mut self, actions: Vec<Action>, end: &mut End) {
        for action in actions {
            match action {
                Action::Ask { id, to, parts } => {
                    assert!(!end.excluded.contains(&to), "one that lied is not asked");
                    for part in &parts {
                        end.asked += u64::from(self.chunks[part.chunk as usize] - part.skip);
                    }
                    let source = self.sources.iter_mut().find(|made| made.node == to);
                    let source = source.expect("one of ours");
                    assert!(source.asked.len() < 2, "no more than two at once");
                    let skip = parts[0].skip;
                    source.asked.insert(id, (parts, skip));
                }
                Action::CallOff(id) => {
                    end.breaks += 1;
                    for source in &mut self.sources {
                        source.asked.remove(&id);
                    }
                }
            }
        }
    }

    /// What one source sends in a step.
    fn send(&mut self, at: usize, end: &mut End) {
        let source = &mut self.sources[at];
        let silent = match source.kind {
            Kind::Mute => true,
            Kind::Vanishes(after) => self.now.0 > 1_000 + after,
            _ => false,
        };
        if silent {
            return;
        }
        if source.kind == Kind::Hums {
            source.asked.keys().for_each(|id| self.plan.bytes(self.now, *id, 0));
            return;
        }
        let mut budget = source.rate * STEP_MS / 1000;
        while budget > 0 {
            let Some((&id, (parts, have))) = source.asked.iter_mut().next() else { return };
            let Some(part) = parts.first().copied() else {
                source.asked.remove(&id);
                self.plan.ended(self.now, id, Ended::Done);
                continue;
            };
            let left = u64::from(self.chunks[part.chunk as usize] - *have);
            let now = left.min(budget);
            (budget, source.came, end.came) = (budget - now, source.came + now, end.came + now);
            *have += now as u32;
            self.plan.bytes(self.now, id, now);
            if let Kind::Cuts(most) = source.kind
                && source.cuts < most
                && source.came > u64::from(source.cuts + 1) * 300_000
            {
                source.cuts += 1;
                let broken = std::mem::take(&mut source.asked);
                end.breaks += broken.len() as u64;
                for (id, (_, have)) in broken {
                    self.plan.ended(self.now, id, Ended::Broke { prefix: have });
                }
                return;
            }
            if now < left {
                return;
            }
            parts.remove(0);
            *have = parts.first().map_or(0, |part| part.skip);
            let came = if source.kind == Kind::Lies { Came::Bad } else { Came::Good };
            if let Some((node, actions)) = self.plan.chunk_came(self.now, id, part.chunk, came) {
                end.excluded.insert(node);
                end.breaks += 1;
                self.act(actions, end);
                return;
            }
        }
    }
}
