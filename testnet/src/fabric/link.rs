//! One direction of one pair of hosts: its faults, and what they do to a frame.
//!
//!     frame ─▶ cut? ─▶ lost by chance? ─▶ room? ─▶ rate ─▶ delay ± jitter ─▶ 1 or 2 arrivals
//!
//! Directions are separate because real networks break one way at a time, and
//! the failure detectors that this tool is for break on exactly that. Jitter
//! reorders frames, as it does in a network of many paths.
//!
//! Must never look at a clock or at randomness of its own: the time and the
//! dice are arguments, so one seed gives one fate per sequence of frames.

use serde::{Deserialize, Serialize};

use super::amount::{CERTAIN_PPM, Chance, Rate, Span};

/// Nanoseconds since the switch began.
pub type Nanos = u64;

/// Frames one direction holds back at most: what a fast path with 50 ms of delay has under way.
pub const LINK_FRAMES_MAX: usize = 4_096;

/// How far a rate limit may fall behind before it drops: the buffer of an
/// ordinary router, so that a slow link loses frames instead of ageing them.
pub const LINK_BACKLOG_MAX: Nanos = 500_000_000;

/// What is wrong with one direction. The default is a perfect wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Nothing passes.
    pub cut: bool,
    /// Frames that vanish.
    #[serde(rename = "loss_ppm")]
    pub loss: Chance,
    /// Added to every frame.
    #[serde(rename = "delay_us")]
    pub delay: Span,
    /// Added on top, evenly from nothing to this.
    #[serde(rename = "jitter_us")]
    pub jitter: Span,
    /// What passes per second.
    #[serde(rename = "rate_kbit")]
    pub rate: Rate,
    /// Frames that arrive twice.
    #[serde(rename = "duplicate_ppm")]
    pub duplicate: Chance,
    /// Frames that arrive with one bit turned over. Checksums do not see it:
    /// the receiving kernel is told to trust them.
    #[serde(rename = "corrupt_ppm")]
    pub corrupt: Chance,
}

/// New settings for some of a direction's faults; the others stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<bool>,
    #[serde(rename = "loss_ppm", skip_serializing_if = "Option::is_none")]
    pub loss: Option<Chance>,
    #[serde(rename = "delay_us", skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    #[serde(rename = "jitter_us", skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    #[serde(rename = "rate_kbit", skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    #[serde(rename = "duplicate_ppm", skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Chance>,
    #[serde(rename = "corrupt_ppm", skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Chance>,
}

impl Change {
    /// Cuts, and leaves the rest as it is.
    pub const CUT: Self = Self::cut(true);
    /// Ends a cut, and leaves the rest as it is.
    pub const JOIN: Self = Self::cut(false);

    const fn cut(cut: bool) -> Self {
        Self {
            cut: Some(cut),
            loss: None,
            delay: None,
            jitter: None,
            rate: None,
            duplicate: None,
            corrupt: None,
        }
    }

    /// `faults` with this change made.
    #[must_use]
    pub fn applied_to(self, faults: Faults) -> Faults {
        Faults {
            cut: self.cut.unwrap_or(faults.cut),
            loss: self.loss.unwrap_or(faults.loss),
            delay: self.delay.unwrap_or(faults.delay),
            jitter: self.jitter.unwrap_or(faults.jitter),
            rate: self.rate.unwrap_or(faults.rate),
            duplicate: self.duplicate.unwrap_or(faults.duplicate),
            corrupt: self.corrupt.unwrap_or(faults.corrupt),
        }
    }
}

/// What has become of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Handed to the receiver, duplicates included.
    pub delivered: u64,
    /// Lost to a cut.
    pub cut: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because a queue was full.
    pub overflowed: u64,
}

/// One copy of a frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it arrives.
    pub at: Nanos,
    /// The bit to turn over, counted from the frame's first byte.
    pub flip: Option<usize>,
}

/// A small seeded generator (splitmix64): good enough for dice, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// One seed, one sequence.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from 0 up to and without `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * u128::from(end)) >> 64) as u64
    }

    fn happens(&mut self, chance: Chance) -> bool {
        chance > Chance::NEVER && self.below(u64::from(CERTAIN_PPM)) < u64::from(chance.ppm())
    }
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub struct Link {
    faults: Faults,
    tally: Tally,
    waiting: usize,
    free_at: Nanos,
    severed: u32,
}

impl Link {
    /// A direction with these faults.
    pub fn new(faults: Faults) -> Self {
        let mut link = Self::default();
        link.set(faults);
        link
    }

    pub fn faults(&self) -> Faults {
        self.faults
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// How often this direction has been cut. A frame remembers it when it
    /// departs, so a cut takes what is under way even when it heals first.
    pub fn severed(&self) -> u32 {
        self.severed
    }

    /// Replaces the faults.
    pub fn set(&mut self, faults: Faults) {
        if faults.cut && !self.faults.cut {
            self.severed = self.severed.wrapping_add(1);
        }
        if faults.rate != self.faults.rate {
            self.free_at = 0;
        }
        self.faults = faults;
    }

    /// The fate of one frame of `bytes` bytes, of which the first `spared`
    /// are never corrupted. No arrivals: it is lost, and counted.
    pub fn offer(
        &mut self,
        now: Nanos,
        dice: &mut Dice,
        bytes: usize,
        spared: usize,
    ) -> [Option<Arrival>; 2] {
        let faults = self.faults;
        if faults.cut {
            self.tally.cut += 1;
            return [None, None];
        }
        if dice.happens(faults.loss) {
            self.tally.lost += 1;
            return [None, None];
        }
        let sent = self.free_at.max(now) + faults.rate.nanos_for(bytes);
        if self.waiting >= LINK_FRAMES_MAX || sent.saturating_sub(now) > LINK_BACKLOG_MAX {
            self.overflowed();
            return [None, None];
        }
        self.free_at = sent;
        let arrival = |dice: &mut Dice| {
            let jitter = dice.below(faults.jitter.nanos());
            let bits = bytes.saturating_sub(spared) as u64 * 8;
            let flip = dice.happens(faults.corrupt) && bits > 0;
            Arrival {
                at: sent + faults.delay.nanos() + jitter,
                flip: flip.then(|| spared * 8 + dice.below(bits) as usize),
            }
        };
        let first = arrival(dice);
        let second = dice.happens(faults.duplicate).then(|| arrival(dice));
        [Some(first), second]
    }

    /// A copy is being held back until it arrives.
    pub fn hold(&mut self) {
        self.waiting += 1;
    }

    /// A copy that was held back is due: whether it arrives.
    pub fn release(&mut self, severed_at_departure: u32) -> bool {
        self.waiting = self.waiting.saturating_sub(1);
        let arrives = !self.faults.cut && severed_at_departure == self.severed;
        if !arrives {
            self.tally.cut += 1;
        }
        arrives
    }

    /// A copy reached the receiver.
    pub fn delivered(&mut self) {
        self.tally.delivered += 1;
    }

    /// A copy found no room.
    pub fn overflowed(&mut self) {
        self.tally.overflowed += 1;
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
