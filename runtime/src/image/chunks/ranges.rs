//! Which bytes of a layer somebody has: stretches, and how they are told to others.
//!
//! ```text
//! (gap before it, its length)*, each seven bits a byte, the last byte of a number below 128
//! ```
//!
//! Bytes and not chunks, so that two machines understand each other whatever list each of
//! them goes by.

use std::collections::BTreeMap;

/// The most stretches that are taken from another machine: every second chunk of the largest
/// layer.
const STRETCHES_MAX: usize = super::CHUNKS_MAX / 2;

/// Seven bits a byte: a number of 64 takes no more.
const NUMBER_BYTES_MAX: usize = 10;

/// Stretches of bytes, in order and apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

/// Bytes that are no [`Ranges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no list of stretches of bytes")]
pub struct BadRanges;

impl Ranges {
    /// Adds the bytes from one on and before another.
    pub fn insert(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        if let Some((&start, &end)) = self.0.range(..=from).next_back()
            && end >= from
        {
            from = start;
            to = to.max(end);
        }
        while let Some((&start, &end)) = self.0.range(from..=to).next() {
            to = to.max(end);
            self.0.remove(&start);
        }
        self.0.insert(from, to);
    }

    /// Whether all bytes from one on and before another are there.
    pub fn covers(&self, from: u64, to: u64) -> bool {
        from >= to || self.0.range(..=from).next_back().is_some_and(|(_, &end)| end >= to)
    }

    /// The end of the stretch that this byte is in, if it is in one.
    pub fn end_from(&self, at: u64) -> Option<u64> {
        self.0.range(..=at).next_back().map(|(_, &end)| end).filter(|&end| end > at)
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }

    /// The stretches, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(from, to)| (*from, *to))
    }

    /// For another machine.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut at = 0;
        for (from, to) in self.iter() {
            number(&mut bytes, from - at);
            number(&mut bytes, to - from);
            at = to;
        }
        bytes
    }

    /// What another machine said.
    ///
    /// # Errors
    ///
    /// If it is not what `encode` makes, or absurdly long.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadRanges> {
        let mut ranges = BTreeMap::new();
        let mut rest = bytes;
        let mut at = 0_u64;
        while !rest.is_empty() {
            let (gap, length) = (take(&mut rest)?, take(&mut rest)?);
            let from = at.checked_add(gap).ok_or(BadRanges)?;
            at = from.checked_add(length).ok_or(BadRanges)?;
            let touches = gap == 0 && !ranges.is_empty();
            if length == 0 || touches || ranges.len() >= STRETCHES_MAX {
                return Err(BadRanges);
            }
            ranges.insert(from, at);
        }
        Ok(Self(ranges))
    }
}

fn number(into: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        into.push((number & 127) as u8 | 128);
        number >>= 7;
    }
    into.push(number as u8);
}

fn take(from: &mut &[u8]) -> Result<u64, BadRanges> {
    let mut number = 0_u64;
    for place in 0..NUMBER_BYTES_MAX {
        let (&byte, rest) = from.split_first().ok_or(BadRanges)?;
        *from = rest;
        let bits = u64::from(byte & 127);
        let shifted = bits << (7 * place);
        if shifted >> (7 * place) != bits {
            return Err(BadRanges);
        }
        number |= shifted;
        if byte < 128 {
            return Ok(number);
        }
    }
    Err(BadRanges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_grow_together() {
        let mut ranges = Ranges::default();
        ranges.insert(10, 20);
        ranges.insert(30, 40);
        ranges.insert(5, 5);
        assert!(ranges.covers(10, 20) && !ranges.covers(10, 21) && !ranges.covers(9, 11));
        assert!(!ranges.covers(15, 35) && ranges.covers(7, 7));
        ranges.insert(20, 30);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 40)]);
        ranges.insert(0, 100);
        ranges.insert(50, 60);
        assert_eq!((ranges.iter().collect::<Vec<_>>(), ranges.bytes()), (vec![(0, 100)], 100));
    }

    #[test]
    fn any_order_of_insertion_comes_to_the_same() {
        let pieces: Vec<u64> = (0..200).map(|piece| piece * 97 % 200).collect();
        let mut ranges = Ranges::default();
        for piece in pieces.into_iter().filter(|piece| piece % 5 != 0) {
            ranges.insert(piece * 10, piece * 10 + 10);
        }
        assert_eq!(ranges.iter().count(), 40);
        assert_eq!(ranges.bytes(), 1600);
        assert_eq!(Ranges::decode(&ranges.encode()), Ok(ranges));
    }

    #[test]
    fn what_another_machine_says_is_bounded_and_in_order() {
        assert_eq!(Ranges::decode(&[]), Ok(Ranges::default()));
        let mut top = Ranges::default();
        top.insert(u64::MAX - 1, u64::MAX);
        assert_eq!(Ranges::decode(&top.encode()), Ok(top));
        let bad: [&[u8]; 6] = [
            &[1],
            &[1, 0],
            &[1, 1, 0, 1],
            &[128],
            &[255; 11],
            &[[255; 9].as_slice(), &[2, 1]].concat(),
        ];
        for bad in bad {
            assert_eq!(Ranges::decode(bad), Err(BadRanges), "{bad:?}");
        }
        assert_eq!(Ranges::decode(&vec![1; 2 * (STRETCHES_MAX + 1)]), Err(BadRanges));
    }
}
