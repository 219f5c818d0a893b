//! One source: what it has, what it was asked for, how fast it is.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::moment::Moment;

use super::{Has, PAUSE_FIRST, PAUSE_MAX, Part, RequestId};

/// Over which time a rate is taken.
const RATE_OVER: Duration = Duration::from_millis(250);

/// A source is not slow for not being asked for longer than this.
const IDLE_AFTER: Duration = Duration::from_millis(50);

/// Strikes that make no pause longer.
const STRIKES_MAX: u32 = 8;

/// What is asked for at once of a source whose rate is not known, in bytes.
const ASK_FIRST: u64 = 256 * 1024;

/// The least that is asked for at once, in bytes: a few chunks.
const ASK_MIN: u64 = 128 * 1024;

/// The most, in bytes: bounds what a source has to read for one request, and what is asked
/// again of others when it goes.
pub(super) const ASK_MAX: u64 = 4 << 20;

/// Requests at once of one source, so that the next one is there when one ends.
const ASKED_MAX: usize = 2;

/// A request that runs.
#[derive(Debug)]
pub(super) struct Asked {
    /// What has not come of it, in order.
    pub(super) parts: Vec<Part>,
    /// Bytes that have not come of it.
    pub(super) bytes: u64,
    /// When something came last, or it was asked.
    pub(super) heard: Moment,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) has: Has,
    pub(super) asked: BTreeMap<RequestId, Asked>,
    /// Bytes a second; 0 is not known.
    pub(super) rate: u64,
    /// When anything came of it.
    heard: Moment,
    /// Since when bytes are counted, and how many came.
    counted: (Moment, u64),
    /// Requests in a row that came to nothing.
    pub(super) strikes: u32,
    not_before: Moment,
    /// There was nothing to ask for.
    pub(super) rests_until: Moment,
}

impl Asked {
    /// How long the rest takes at that rate: for ever, if nothing ever came.
    pub(super) fn left_ms(&self, now: Moment, rate: u64) -> u64 {
        match self.bytes.saturating_mul(1000).checked_div(rate) {
            Some(left) => left.max(now.since(self.heard).as_millis() as u64),
            None => u64::MAX,
        }
    }
}

impl Source {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            has: Has::Some(Vec::new()),
            asked: BTreeMap::new(),
            rate: 0,
            heard: Moment(0),
            counted: (now, 0),
            strikes: 0,
            not_before: now,
            rests_until: now,
        }
    }

    pub(super) fn has(&self, chunk: u32) -> bool {
        match &self.has {
            Has::Whole => true,
            Has::Some(has) => has.get(chunk as usize).copied().unwrap_or(false),
        }
    }

    pub(super) fn is_free(&self, now: Moment, elsewhere: usize) -> bool {
        self.may_ask(now, elsewhere) && self.rests_until <= now
    }

    /// `elsewhere` are requests to it for other layers.
    pub(super) fn may_ask(&self, now: Moment, elsewhere: usize) -> bool {
        // One that nothing came from may be very slow.
        let most = if self.heard == Moment(0) { 1 } else { ASKED_MAX };
        self.asked.len() < most.saturating_sub(elsewhere).max(1) && self.not_before <= now
    }

    /// Sorts sources: the best first.
    pub(super) fn worth(&self) -> (u32, Reverse<u64>) {
        (self.strikes, Reverse(self.rate))
    }

    /// What to ask for at once: half a second's worth.
    pub(super) fn budget(&self) -> u64 {
        if self.strikes > 0 {
            return ASK_MIN;
        }
        if self.rate == 0 { ASK_FIRST } else { (self.rate / 2).clamp(ASK_MIN, ASK_MAX) }
    }

    pub(super) fn ask(&mut self, now: Moment, id: RequestId, parts: Vec<Part>, bytes: u64) {
        if self.asked.is_empty() && now.since(self.heard) > IDLE_AFTER {
            self.counted = (now, 0);
        }
        self.asked.insert(id, Asked { parts, bytes, heard: now });
    }

    pub(super) fn came(&mut self, now: Moment, id: RequestId, bytes: u64) {
        if let Some(asked) = self.asked.get_mut(&id) {
            asked.heard = now;
            asked.bytes = asked.bytes.saturating_sub(bytes);
        }
        (self.strikes, self.heard) = (0, now);
        let (since, before) = self.counted;
        let counted = before.saturating_add(bytes);
        let took = now.since(since);
        if took < RATE_OVER {
            self.counted = (since, counted);
            return;
        }
        let sample = counted.saturating_mul(1000) / (took.as_millis() as u64).max(1);
        self.rate = if self.rate == 0 { sample } else { (self.rate * 3 + sample) / 4 };
        self.counted = (now, 0);
    }

    /// Something came to nothing: it is asked again later.
    pub(super) fn strike(&mut self, now: Moment) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.strikes).min(PAUSE_MAX);
        self.strikes = (self.strikes + 1).min(STRIKES_MAX);
        self.not_before = self.not_before.max(now + pause);
    }

    pub(super) fn stalled(&self, now: Moment, after: Duration) -> Vec<RequestId> {
        let is_stalled = |asked: &Asked| now.since(asked.heard) >= after;
        self.asked.iter().filter(|(_, asked)| is_stalled(asked)).map(|(id, _)| *id).collect()
    }

    pub(super) fn deadline(&self, now: Moment, stall: Duration) -> Option<Moment> {
        let stalls = self.asked.values().map(|asked| asked.heard + stall);
        let pauses = [self.not_before, self.rests_until].into_iter().filter(|until| *until > now);
        stalls.chain(pauses).min()
    }
}
