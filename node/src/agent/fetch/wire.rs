//! Bytes of layers as they go over the streams of the cluster: packed by how thin the link is.
//!
//! ```text
//! bytes ──pack──▶ zstd, flushed piece by piece ──▶ unpack ──▶ bytes, no more than were asked
//! ```
//!
//! Flushed, so that what came before a link broke can be used to its last piece.
//!
//! Must never: unpack more than was asked for, whatever comes, or hold more than a window of it.

use std::io::{self, Write as _};

use zstd::stream::raw::{self, DParameter, InBuffer, Operation as _, OutBuffer};
use zstd::stream::write::Encoder;
use zstd::zstd_safe::CParameter;

/// How far back a packed stream refers, as a power of two: what a receiver holds for each
/// stream (1 MiB).
const WINDOW_LOG: u32 = 20;

/// Packing harder than this takes several times the memory (4 MiB) and saves a hundredth.
pub(crate) const LEVEL_MAX: i32 = 6;

/// Packed at once on a thin link: lost at most when it breaks.
const PIECE_THIN: usize = 32 * 1024;

/// Packed at once on a fast one.
const PIECE_FAST: usize = 256 * 1024;

/// Unpacked at once.
const OUT_BYTES: usize = 64 * 1024;

/// How hard to pack for a link of so many bytes a second; 0 is not at all.
pub(crate) fn level_for(rate: Option<u64>) -> i32 {
    match rate {
        None => 3,
        Some(..2_000_000) => LEVEL_MAX,
        Some(2_000_000..30_000_000) => 3,
        Some(30_000_000..120_000_000) => 1,
        Some(_) => 0,
    }
}

/// How much is read and packed at once at that level.
pub(crate) fn piece_bytes(level: i32) -> usize {
    if level > 3 { PIECE_THIN } else { PIECE_FAST }
}

/// Packs a stream piece by piece.
pub(crate) struct Packer(Option<Encoder<'static, Vec<u8>>>);

impl Packer {
    /// At that level, within the bounds of what a receiver takes.
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        if level <= 0 {
            return Ok(Self(None));
        }
        let mut encoder = Encoder::new(Vec::new(), level.min(LEVEL_MAX))?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Self(Some(encoder)))
    }

    /// The next piece; what comes out of it can be unpacked at once.
    pub(crate) fn pack(&mut self, piece: Vec<u8>) -> io::Result<Vec<u8>> {
        let Some(encoder) = &mut self.0 else { return Ok(piece) };
        encoder.write_all(&piece)?;
        encoder.flush()?;
        Ok(std::mem::take(encoder.get_mut()))
    }
}

/// Unpacks a stream as it comes.
pub(crate) struct Unpacker {
    decoder: Option<raw::Decoder<'static>>,
    left: u64,
    out: Vec<u8>,
}

impl Unpacker {
    /// Of a stream at that level with so many bytes in it.
    pub(crate) fn new(level: i32, bytes: u64) -> io::Result<Self> {
        let mut decoder = if level > 0 { Some(raw::Decoder::new()?) } else { None };
        if let Some(decoder) = &mut decoder {
            decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        }
        Ok(Self { decoder, left: bytes, out: vec![0; OUT_BYTES] })
    }

    /// What the next bytes unpack to, in pieces; takes off what it used. Nothing once more is
    /// to come first.
    ///
    /// # Errors
    ///
    /// If it cannot be unpacked, or is more than was asked for.
    pub(crate) fn next(&mut self, wire: &mut &[u8]) -> io::Result<&[u8]> {
        let made = match &mut self.decoder {
            None => {
                let now = wire.len().min(self.out.len());
                let (piece, rest) = wire.split_at(now);
                self.out.get_mut(..now).unwrap_or_default().copy_from_slice(piece);
                *wire = rest;
                now
            }
            Some(decoder) => {
                let mut input = InBuffer::around(wire);
                let mut output = OutBuffer::around(self.out.as_mut_slice());
                decoder.run(&mut input, &mut output)?;
                let (used, made) = (input.pos(), output.pos());
                *wire = wire.get(used..).unwrap_or_default();
                made
            }
        };
        self.left = self.left.checked_sub(made as u64).ok_or_else(too_much)?;
        Ok(self.out.get(..made).unwrap_or_default())
    }
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more came than was asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(level: i32, most: u64, wire: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut unpacker = Unpacker::new(level, most)?;
        let mut all = Vec::new();
        for mut piece in wire.chunks(step) {
            loop {
                let before = piece.len();
                let made = unpacker.next(&mut piece)?;
                all.extend_from_slice(made);
                if made.is_empty() && piece.len() == before {
                    break;
                }
            }
        }
        Ok(all)
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_at_every_level_and_to_the_last_piece() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for level in [0, 1, 3, 6] {
            let mut packer = Packer::new(level).expect("packs");
            let mut wire = Vec::new();
            for piece in text.chunks(piece_bytes(level)) {
                wire.extend(packer.pack(piece.to_vec()).expect("packs"));
                // All that was packed can be had without what comes later.
                let so_far = unpacked(level, u64::MAX, &wire, 4096).expect("unpacks");
                assert!(text.starts_with(&so_far) && so_far.ends_with(piece));
            }
            assert!(level == 0 || wire.len() < text.len() / 2);
            for step in [1000, 65536, wire.len()] {
                assert!(unpacked(level, text.len() as u64, &wire, step).expect("unpacks") == text);
            }
            assert!(unpacked(level, text.len() as u64 - 1, &wire, 4096).is_err());
        }
    }

    #[test]
    fn a_bomb_is_cut_off_at_what_was_asked_for() {
        let mut packer = Packer::new(6).expect("packs");
        let wire = packer.pack(vec![0; 64 << 20]).expect("packs");
        assert!(wire.len() < 64 << 10);
        assert!(unpacked(6, 1 << 20, &wire, 4096).is_err());
        assert!(unpacked(6, 1 << 20, b"no zstd at all", 4096).is_err());
    }

    #[test]
    fn thin_links_get_what_is_packed_harder() {
        let rates = [Some(100_000), Some(10_000_000), Some(60_000_000), Some(1_000_000_000)];
        assert_eq!(rates.map(level_for), [6, 3, 1, 0]);
        assert_eq!(level_for(None), 3);
    }
}
