//! The only source of chance of a run: one seed, one sequence, one history.
//!
//! Splitmix64: tiny, and good enough to torment with. Must never be fed from
//! anything but the seed, or a failing run could not be repeated.

use starling_core::effect::Dice;

/// A seeded generator.
#[derive(Clone, Debug)]
pub(super) struct Seeded(u64);

impl Seeded {
    /// Neighbouring seeds give unrelated sequences.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Self(seed ^ 0x5eed_0f57_a811_1465);
        let start = dice.roll();
        Self(start ^ seed.rotate_left(32))
    }

    /// A number from `low` up to and without `high`.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True `per_mille` times out of a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// An index below `len`; 0 where there is none.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}

impl Dice for Seeded {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_no_other() {
        let rolls = |seed| {
            let mut dice = Seeded::new(seed);
            [dice.roll(), dice.roll(), dice.range(5, 9), dice.below(0)]
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        assert!((5..9).contains(&rolls(7)[2]));
        assert_eq!(rolls(7)[3], 0);
    }
}
