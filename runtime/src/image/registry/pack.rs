//! A layer packed for the way, piece by piece, and its digest once all of it was made.
//!
//! The same layer gives the same bytes each time, as long as the packers stay the same, so a
//! layer that was packed to be counted can be packed again to be sent.

use std::io::{self, Read as _, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::watch::Watch;
use crate::image::{Digest, ImageError, Images, LayerReader, Packing, Progress, Stage};

/// Bytes of one piece.
const PIECE_BYTES: usize = 128 << 10;

/// Zstandard's own default: smaller than gzip's, at several times its speed.
const ZSTD_LEVEL: i32 = 3;

/// What a packed layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Packs a layer, and sends the pieces unless they are only to be counted. Blocks.
pub(super) fn pack(
    images: &Images,
    diff_id: &Digest,
    packing: Packing,
    to: Option<mpsc::Sender<io::Result<Bytes>>>,
    watch: &Watch,
) -> Result<Packed, ImageError> {
    let abort = to.clone();
    let packed = copy(images, diff_id, packing, Pieces::new(to), watch);
    if let (Err(_), Some(to)) = (&packed, abort) {
        // Without this a layer that could be read in part only would end as if it were whole.
        let _ = to.blocking_send(Err(io::ErrorKind::Interrupted.into()));
    }
    packed
}

fn copy(
    images: &Images,
    diff_id: &Digest,
    packing: Packing,
    pieces: Pieces,
    watch: &Watch,
) -> Result<Packed, ImageError> {
    let what = || format!("layer {}", diff_id.short());
    let write = |source| ImageError::Write { what: what(), source };
    let mut from = images.read_layer(diff_id)?;
    let mut packer = Packer::new(packing, pieces).map_err(write)?;
    let (mut bytes, all) = (0, LayerReader::bytes(&from));
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ImageError::Read { what: what(), source }),
        };
        packer.write_all(buffer.get(..read).unwrap_or_default()).map_err(write)?;
        bytes += read as u64;
        let layer = Some(diff_id.short());
        if !watch.tell(Progress { layer, stage: Stage::Sending, bytes, of: Some(all) }) {
            return Err(ImageError::CalledOff);
        }
    }
    packer.finish().and_then(Pieces::finish).map_err(write)
}

enum Packer {
    Plain(Pieces),
    Gzip(GzEncoder<Pieces>),
    Zstd(zstd::Encoder<'static, Pieces>),
}

impl Packer {
    fn new(packing: Packing, pieces: Pieces) -> io::Result<Self> {
        Ok(match packing {
            Packing::Plain => Self::Plain(pieces),
            Packing::Gzip => Self::Gzip(GzEncoder::new(pieces, Compression::default())),
            Packing::Zstd => Self::Zstd(zstd::Encoder::new(pieces, ZSTD_LEVEL)?),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(pieces) => pieces.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Pieces> {
        match self {
            Self::Plain(pieces) => Ok(pieces),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// Sums up what is written, and sends it on.
struct Pieces {
    sum: Sha256,
    bytes: u64,
    piece: Vec<u8>,
    to: Option<mpsc::Sender<io::Result<Bytes>>>,
}

impl Pieces {
    fn new(to: Option<mpsc::Sender<io::Result<Bytes>>>) -> Self {
        Self { sum: Sha256::new(), bytes: 0, piece: Vec::new(), to }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        match &self.to {
            Some(to) if !piece.is_empty() => {
                let gone = |_| io::ErrorKind::BrokenPipe.into();
                to.blocking_send(Ok(piece.into())).map_err(gone)
            }
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<Packed> {
        self.send()?;
        Ok(Packed { digest: Digest::new(self.sum.finalize().into()), bytes: self.bytes })
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.to.is_some() {
            self.piece.extend_from_slice(bytes);
            if self.piece.len() >= PIECE_BYTES {
                self.send()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
