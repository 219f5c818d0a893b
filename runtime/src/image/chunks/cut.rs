//! Where an archive is cut: at places that its content chooses.
//!
//! Must never change for one version of the list: machines that cut the same bytes elsewhere
//! find nothing in common.

use std::io::{self, Read};

use fastcdc::v2020::{self, Normalization, StreamCDC};

use crate::image::Digest;

/// No chunk but a layer's last is smaller: bounds how many there are.
pub const CHUNK_BYTES_MIN: u32 = 16 * 1024;

/// What is aimed at behind the smallest, so that they come to some 45 KB on average: a list
/// takes a thousandth of the layer, and a changed byte a third of a second of a link of
/// 1 Mbit/s.
const CHUNK_BYTES_AIM: u32 = 32 * 1024;

/// No chunk is larger: what is held in memory for each that is on its way.
pub const CHUNK_BYTES_MAX: u32 = 256 * 1024;

/// A piece of a layer's archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of its bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u32,
}

impl Chunk {
    /// The chunk that these bytes are.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }
}

/// Cuts what it reads. Blocks; holds one chunk's bytes at its largest.
pub struct Cutter<R: Read>(StreamCDC<R>);

impl<R: Read> std::fmt::Debug for Cutter<R> {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("Cutter")
    }
}

impl<R: Read> Cutter<R> {
    /// Of an archive from its first byte.
    pub fn new(from: R) -> Self {
        let [min, aim, max] =
            [CHUNK_BYTES_MIN, CHUNK_BYTES_AIM, CHUNK_BYTES_MAX].map(|bytes| bytes as usize);
        Self(StreamCDC::with_level(from, min, aim, max, Normalization::Level1))
    }
}

impl<R: Read> Iterator for Cutter<R> {
    type Item = io::Result<Chunk>;

    fn next(&mut self) -> Option<io::Result<Chunk>> {
        let cut = self.0.next()?;
        Some(cut.map(|cut| Chunk::of(&cut.data)).map_err(|error| match error {
            v2020::Error::IoError(error) => error,
            other => io::Error::other(other),
        }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Bytes without a pattern, the same for the same seed.
    pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut all = Vec::with_capacity(bytes + 8);
        while all.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            all.extend_from_slice(&state.to_le_bytes());
        }
        all.truncate(bytes);
        all
    }

    pub(crate) fn cut(bytes: &[u8]) -> Vec<Chunk> {
        Cutter::new(bytes).map(|chunk| chunk.expect("memory can be read")).collect()
    }

    #[test]
    fn chunks_cover_all_bytes_within_their_bounds() {
        for bytes in [0, 1, CHUNK_BYTES_MIN as usize, 3_000_000] {
            let all = noise(1, bytes);
            let chunks = cut(&all);
            let mut at = 0;
            for chunk in &chunks {
                let end = at + chunk.bytes as usize;
                assert_eq!(Chunk::of(&all[at..end]), *chunk);
                assert!(chunk.bytes <= CHUNK_BYTES_MAX);
                assert!(chunk.bytes >= CHUNK_BYTES_MIN || end == bytes);
                at = end;
            }
            assert_eq!(at, bytes);
        }
        let usual = 3_000_000 / cut(&noise(1, 3_000_000)).len();
        assert!((30_000..60_000).contains(&usual), "{usual} bytes on average");
    }

    #[test]
    fn a_changed_and_grown_middle_changes_only_the_chunks_around_it() {
        let old = noise(2, 4_000_000);
        let new = [&old[..1_000_000], &noise(3, 333_333), &old[1_200_000..]].concat();
        let known: Vec<_> = cut(&old).iter().map(|chunk| chunk.digest).collect();
        let fresh: u32 = cut(&new)
            .iter()
            .filter(|chunk| !known.contains(&chunk.digest))
            .map(|chunk| chunk.bytes)
            .sum();
        assert!((333_333..333_333 + 4 * CHUNK_BYTES_MAX).contains(&fresh), "{fresh} bytes");
    }

    #[test]
    fn cuts_stay_where_they_are_from_version_to_version() {
        let chunks = cut(&noise(4, 1_000_000));
        let lengths: Vec<_> = chunks.iter().map(|chunk| chunk.bytes).collect();
        assert_eq!(lengths, LENGTHS, "another cut needs another version of the list");
    }

    const LENGTHS: &[u32] = &[
        34960, 59013, 51256, 42597, 35578, 40262, 43286, 52454, 62789, 28174, 50540, 54393, 33681,
        40059, 48452, 81848, 54712, 63868, 41121, 54583, 26374,
    ];
}
