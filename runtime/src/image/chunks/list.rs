//! The list of a layer's chunks, as it is sent and kept.
//!
//! ```text
//! "starling chunks 1\n" (bytes: u32, little-endian; digest: 32 bytes)*
//! ```
//!
//! The version stands for where is cut and how is summed. A list has no end of its own: it is
//! whole when its lengths come to the layer's, so one that broke off can be gone on with.
//!
//! Must never hold more than its bounds allow, whoever sends it.

use super::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Chunk};
use crate::image::Digest;

/// What every list begins with.
pub const HEAD: &[u8] = b"starling chunks 1\n";

/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 4 + 32;

/// The most chunks of one layer: 16 GB at their smallest, and some 80 GB at their usual size.
/// A larger layer is sent as a whole. Bounds what a list takes in memory (40 MB).
pub const CHUNKS_MAX: usize = 1 << 20;

/// A list that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    /// Another version, or no list at all.
    #[error("it is no list of chunks that this version knows")]
    Head,
    /// A length that no chunk has.
    #[error("chunk {index} claims to be of {bytes} bytes")]
    Length {
        /// Which, from 0.
        index: usize,
        /// What it claims.
        bytes: u32,
    },
    /// More chunks than there may be.
    #[error("it has more than {CHUNKS_MAX} chunks")]
    TooMany,
    /// More bytes than the layer has.
    #[error("its chunks come to more than the layer's {0} bytes")]
    TooLong(u64),
}

/// One chunk's entry.
pub fn entry(chunk: &Chunk) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    let (bytes, digest) = entry.split_at_mut(4);
    bytes.copy_from_slice(&chunk.bytes.to_le_bytes());
    digest.copy_from_slice(chunk.digest.as_bytes());
    entry
}

/// Reads a list as it comes, in whatever pieces. Pure.
#[derive(Debug)]
pub struct ListReader {
    /// Of the layer.
    bytes: u64,
    read: u64,
    chunks: usize,
    headed: bool,
    /// Less than an entry, or less than the head.
    rest: Vec<u8>,
}

impl ListReader {
    /// For a layer of that many bytes, of whose list so much is known.
    pub fn new<'a>(bytes: u64, known: impl IntoIterator<Item = &'a Chunk>) -> Self {
        let mut reader = Self { bytes, read: 0, chunks: 0, headed: false, rest: Vec::new() };
        for chunk in known {
            reader.read = reader.read.saturating_add(chunk.bytes.into());
            reader.chunks += 1;
        }
        reader
    }

    /// How long the layer is.
    pub fn layer_bytes(&self) -> u64 {
        self.bytes
    }

    /// Another sender begins, behind the last whole chunk.
    pub fn begin(&mut self) {
        self.headed = false;
        self.rest.clear();
    }

    /// Takes the next piece; the chunks that are complete with it.
    ///
    /// # Errors
    ///
    /// If the list is none. Nothing more is to be fed then.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<Vec<Chunk>, BadList> {
        let mut found = Vec::new();
        while !piece.is_empty() {
            let wanted = if self.headed { ENTRY_BYTES } else { HEAD.len() };
            let missing = wanted.saturating_sub(self.rest.len()).min(piece.len());
            let (now, later) = piece.split_at(missing);
            self.rest.extend_from_slice(now);
            piece = later;
            if self.rest.len() < wanted {
                break;
            }
            if self.headed {
                found.push(self.entry()?);
            } else if self.rest == HEAD {
                self.headed = true;
            } else {
                return Err(BadList::Head);
            }
            self.rest.clear();
        }
        Ok(found)
    }

    fn entry(&mut self) -> Result<Chunk, BadList> {
        let (bytes, digest) = self.rest.split_first_chunk::<4>().ok_or(BadList::Head)?;
        let bytes = u32::from_le_bytes(*bytes);
        let digest: [u8; 32] = digest.try_into().map_err(|_length| BadList::Head)?;
        let index = self.chunks;
        if index >= CHUNKS_MAX {
            return Err(BadList::TooMany);
        }
        let read = self.read.saturating_add(bytes.into());
        if read > self.bytes {
            return Err(BadList::TooLong(self.bytes));
        }
        let is_last = read == self.bytes;
        let least = if is_last { 1 } else { CHUNK_BYTES_MIN };
        if !(least..=CHUNK_BYTES_MAX).contains(&bytes) {
            return Err(BadList::Length { index, bytes });
        }
        (self.read, self.chunks) = (read, index + 1);
        Ok(Chunk { digest: Digest::new(digest), bytes })
    }

    /// Whether the chunks come to all of the layer.
    pub fn is_whole(&self) -> bool {
        self.read == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::cut::tests::{cut, noise};
    use super::*;

    fn written(chunks: &[Chunk]) -> Vec<u8> {
        let entries = chunks.iter().flat_map(entry);
        HEAD.iter().copied().chain(entries).collect()
    }

    #[test]
    fn a_list_is_read_as_it_is_written_in_whatever_pieces_it_comes() {
        let chunks = cut(&noise(1, 1_000_000));
        let bytes = written(&chunks);
        for piece in [1, 7, ENTRY_BYTES, 1000, bytes.len()] {
            let mut reader = ListReader::new(1_000_000, []);
            let read: Vec<_> =
                bytes.chunks(piece).flat_map(|piece| reader.feed(piece).expect("true")).collect();
            assert!(reader.is_whole());
            assert_eq!(read, chunks);
        }
    }

    #[test]
    fn one_that_broke_off_is_gone_on_with() {
        let chunks = cut(&noise(1, 1_000_000));
        let (known, rest) = chunks.split_at(4);
        let mut reader = ListReader::new(1_000_000, known);
        assert!(!reader.is_whole());
        let torn = written(&rest[..2]);
        assert_eq!(reader.feed(&torn[..torn.len() - 1]).expect("true"), &rest[..1]);
        reader.begin();
        let rest = &rest[1..];
        assert_eq!(reader.feed(&written(rest)).expect("true"), rest);
        assert!(reader.is_whole());
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let chunk = |bytes| Chunk { digest: Digest::of(b""), bytes };
        let refused = |bytes: u64, chunks: &[Chunk]| {
            ListReader::new(bytes, []).feed(&written(chunks)).expect_err("refused")
        };
        let (min, max) = (CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        assert_eq!(refused(1 << 30, &[chunk(0)]), BadList::Length { index: 0, bytes: 0 });
        assert_eq!(
            refused(1 << 30, &[chunk(min), chunk(min - 1)]),
            BadList::Length { index: 1, bytes: min - 1 }
        );
        assert_eq!(
            refused(1 << 30, &[chunk(max + 1)]),
            BadList::Length { index: 0, bytes: max + 1 }
        );
        assert_eq!(refused(10, &[chunk(11)]), BadList::TooLong(10));
        assert_eq!(refused(0, &[chunk(0)]), BadList::Length { index: 0, bytes: 0 });
        assert!(ListReader::new(10, []).feed(b"starling chunks 2\n").is_err());
        assert!(ListReader::new(10, []).feed(&[0; 4096]).is_err());
    }

    #[test]
    fn a_list_of_very_many_chunks_is_refused_before_it_fills_the_memory() {
        let entry = entry(&Chunk { digest: Digest::of(b""), bytes: CHUNK_BYTES_MIN });
        let mut reader = ListReader::new(u64::MAX, []);
        reader.feed(HEAD).expect("a head");
        let many: Vec<u8> = entry.iter().copied().cycle().take(entry.len() << 10).collect();
        let refused = (0..).find_map(|_| reader.feed(&many).err());
        assert_eq!(refused, Some(BadList::TooMany));
    }
}
