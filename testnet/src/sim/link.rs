//! The network: what becomes of one packet between two hosts.
//!
//! Each direction of each pair has its own cuts, counted, so that overlapping
//! faults end one by one. While the network is foul, packets are lost, doubled
//! and late, some of them by seconds. Must never look into a packet.

use starling_core::effect::Dice;

use super::dice::Seeded;

/// Lost while foul, of a thousand.
const LOST: u64 = 50;
/// Doubled while foul, of a thousand.
const DOUBLED: u64 = 30;
/// Late by up to `LATE_MS` while foul, of a thousand.
const LATE: u64 = 20;
const LATE_MS: u64 = 4000;
/// A good packet's way.
const GOOD_MS: (u64, u64) = (1, 12);
/// A packet's way through a foul network, unless it is late.
const FOUL_MS: (u64, u64) = (1, 60);

/// Directed pairs of hosts.
pub(super) type Pairs = Vec<(usize, usize)>;

/// Every direction of every pair.
#[derive(Debug)]
pub(super) struct Links {
    hosts: usize,
    cuts: Vec<u32>,
    foul: bool,
}

impl Links {
    pub(super) fn new(hosts: usize) -> Self {
        Self { hosts, cuts: vec![0; hosts * hosts], foul: false }
    }

    pub(super) fn cut(&mut self, pairs: &Pairs) {
        for (from, to) in pairs {
            self.cuts[from * self.hosts + to] += 1;
        }
    }

    /// Ends one cut of each pair.
    pub(super) fn mend(&mut self, pairs: &Pairs) {
        for (from, to) in pairs {
            let cuts = &mut self.cuts[from * self.hosts + to];
            *cuts = cuts.saturating_sub(1);
        }
    }

    pub(super) fn spoil(&mut self) {
        self.foul = true;
    }

    /// Everything is whole again.
    pub(super) fn heal(&mut self) {
        self.foul = false;
        self.cuts.fill(0);
    }

    /// After how many milliseconds a packet arrives: never, once or twice.
    pub(super) fn delays(
        &self,
        dice: &mut Seeded,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = u64> + use<> {
        let arrives = self.cuts[from * self.hosts + to] == 0 && !(self.foul && dice.chance(LOST));
        let doubled = arrives && self.foul && dice.chance(DOUBLED);
        let first = arrives.then(|| self.delay(dice));
        let second = doubled.then(|| self.delay(dice));
        first.into_iter().chain(second)
    }

    fn delay(&self, dice: &mut Seeded) -> u64 {
        if !self.foul {
            return dice.range(GOOD_MS.0, GOOD_MS.1);
        }
        if dice.chance(LATE) { dice.below(LATE_MS) } else { dice.range(FOUL_MS.0, FOUL_MS.1) }
    }
}

/// Both directions between hosts of different sides.
pub(super) fn between(sides: &[usize]) -> Pairs {
    let mut pairs = Pairs::new();
    for from in 0..sides.len() {
        for to in 0..sides.len() {
            if sides[from] != sides[to] {
                pairs.push((from, to));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_direction_carries_nothing_until_each_of_its_cuts_ended() {
        let (mut links, mut dice) = (Links::new(2), Seeded::new(1));
        let mut carries = |links: &Links, from, to| links.delays(&mut dice, from, to).count();
        links.cut(&vec![(0, 1)]);
        links.cut(&between(&[0, 1]));
        assert_eq!((carries(&links, 0, 1), carries(&links, 1, 0)), (0, 0));
        links.mend(&between(&[0, 1]));
        assert_eq!((carries(&links, 0, 1), carries(&links, 1, 0)), (0, 1));
        links.heal();
        assert_eq!((carries(&links, 0, 1), carries(&links, 1, 0)), (1, 1));
    }
}
