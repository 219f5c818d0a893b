//! The bytes of an archive, unpacked if they are gzip or zstd, and counted.
//!
//! Every bound that holds for the archive as a whole is kept here, at the one
//! place where its bytes pass: how many, how many for each compressed one, and
//! until when. No header can talk its way around them.

use std::fmt;
use std::io::{BufReader, Chain, Cursor, ErrorKind, Read};
use std::time::Instant;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::error::UnpackError;
use super::header::BLOCK;
use super::recipe::Recorder;
use super::room::Room;
use super::{Bounds, Digest};

/// Read from the source at once: few calls, and small beside any archive.
const BUFFER_BYTES: usize = 128 * 1024;

/// Bytes that may be unpacked before the ratio counts: zeros at the front of an
/// honest archive must not look like a bomb.
const RATIO_FREE_BYTES: u64 = 64 << 20;

/// Largest window of zstd that is kept in memory for one archive, as a power of two: 32 MiB,
/// the most that the tools that make images ask for at their best. What `zstd --long` and
/// `--ultra` make may ask for more; with 128 MiB for each of what may be unpacked at once,
/// eight images of three layers took 3.4 GB.
const WINDOW_LOG_MAX: u32 = 25;

/// First bytes of what we know but do not read.
const FOREIGN: [(&[u8], &str); 3] =
    [(b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")];

/// Longest of the marks above and of gzip's.
const MARK_BYTES: u64 = 5;

#[derive(Debug)]
struct Counted<R> {
    source: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let length = self.source.read(into)?;
        self.bytes += length as u64;
        Ok(length)
    }
}

type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, Counted<R>>>;

enum Source<R> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
}

impl<R> fmt::Debug for Source<R> {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str(match self {
            Self::Plain(_) => "plain",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        })
    }
}

#[derive(Debug)]
pub(super) struct Stream<R> {
    source: Source<R>,
    /// Uncompressed bytes handed out.
    at: u64,
    bytes_max: u64,
    ratio_max: u64,
    until: Option<Instant>,
    hash: Option<Sha256>,
    /// Writes down all that is no content of a file.
    recorder: Option<Recorder>,
    /// Of the disk that all of it is written to.
    room: Option<Room>,
}

/// Whether these bytes begin a zstd frame, or one that its readers skip.
fn is_zstd(mark: &[u8]) -> bool {
    match mark {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
        [first, 0x2a, 0x4d, 0x18, ..] => first & 0xf0 == 0x50,
        _ => false,
    }
}

impl<R: Read> Stream<R> {
    /// Looks at the first bytes for how the rest is packed.
    pub(super) fn open(mut from: R, bounds: &Bounds, digest: Digest) -> Result<Self, UnpackError> {
        let mut mark = Vec::new();
        let read = from.by_ref().take(MARK_BYTES).read_to_end(&mut mark);
        read.map_err(|source| UnpackError::Read { source })?;
        if let Some((_, with)) = FOREIGN.iter().find(|(begin, _)| mark.starts_with(begin)) {
            return Err(UnpackError::Compression { with });
        }
        let (gzip, zstd) = (mark.starts_with(b"\x1f\x8b"), is_zstd(&mark));
        let input = begun(mark, from);
        let source = if gzip {
            Source::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if zstd {
            Source::Zstd(unzstd(input).map_err(|source| UnpackError::Read { source })?)
        } else {
            Source::Plain(input)
        };
        Ok(Self::over(source, bounds, digest))
    }

    /// Bytes that are not packed, whatever they look like.
    pub(super) fn plain(from: R, bounds: &Bounds) -> Self {
        Self::over(Source::Plain(begun(Vec::new(), from)), bounds, Digest::Skip)
    }

    fn over(source: Source<R>, bounds: &Bounds, digest: Digest) -> Self {
        Self {
            source,
            at: 0,
            bytes_max: bounds.bytes,
            ratio_max: bounds.ratio,
            until: bounds.until,
            hash: matches!(digest, Digest::Sha256).then(Sha256::new),
            recorder: None,
            room: None,
        }
    }

    /// From now on ends when what is handed out, and so written, leaves too little room.
    pub(super) fn keep_room(&mut self, room: Room) {
        self.room = Some(room);
    }

    /// From now on has all written down that is no content of a file.
    pub(super) fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Who writes down, if anybody does.
    pub(super) fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_mut()
    }

    /// Gives back who wrote down.
    pub(super) fn take_recorder(&mut self) -> Option<Recorder> {
        self.recorder.take()
    }

    /// Sums up what is unpacked, if that is not what is read anyway; says whether it does.
    pub(super) fn sum_if_packed(&mut self) -> bool {
        let packed = !matches!(self.source, Source::Plain(_));
        self.hash = packed.then(Sha256::new);
        packed
    }

    /// Uncompressed bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Fails once the deadline has passed.
    pub(super) fn check_time(&self) -> Result<(), UnpackError> {
        match self.until {
            Some(until) if Instant::now() >= until => Err(UnpackError::TooSlow),
            _ => Ok(()),
        }
    }

    /// Some of what comes next; nothing at the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        let read = self.read_content(into)?;
        if let (Some(recorder), Some(bytes)) = (&mut self.recorder, into.get(..read)) {
            recorder.literal(bytes).map_err(|source| UnpackError::Recipe { source })?;
        }
        Ok(read)
    }

    /// The same for what goes into a file, whose place is then to be written down.
    pub(super) fn read_content(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        let read = loop {
            let read = match &mut self.source {
                Source::Plain(input) => input.read(into),
                Source::Gzip(input) => input.read(into),
                Source::Zstd(input) => input.read(into),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(UnpackError::CutOff { at: self.at });
                }
                Err(source) => return Err(UnpackError::Read { source }),
                Ok(length) => break length,
            }
        };
        self.at += read as u64;
        if let (Some(hash), Some(bytes)) = (&mut self.hash, into.get(..read)) {
            hash.update(bytes);
        }
        self.check_size()?;
        if let Some(room) = &self.room {
            room.spend(read as u64)?;
        }
        Ok(read)
    }

    fn check_size(&self) -> Result<(), UnpackError> {
        if self.at > self.bytes_max {
            return Err(UnpackError::TooMuch { of: "bytes", limit: self.bytes_max });
        }
        let input = match &self.source {
            Source::Plain(_) => return Ok(()),
            Source::Gzip(input) => input.get_ref(),
            Source::Zstd(input) => input.get_ref(),
        };
        let taken = input.get_ref().get_ref().1.bytes;
        if self.at > RATIO_FREE_BYTES && self.at / taken.max(1) > self.ratio_max {
            return Err(UnpackError::Bomb { limit: self.ratio_max });
        }
        Ok(())
    }

    /// Fills a block; false if the stream ended before it.
    pub(super) fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, UnpackError> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read(rest)? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(UnpackError::CutOff { at: self.at }),
                length => filled += length,
            }
        }
        Ok(true)
    }

    /// Reads to the end, so that sums over the whole are right. Returns the sum.
    pub(super) fn finish(&mut self) -> Result<Option<[u8; 32]>, UnpackError> {
        let mut waste = vec![0; BUFFER_BYTES];
        while self.read(&mut waste)? > 0 {
            self.check_time()?;
        }
        Ok(self.hash.take().map(|hash| hash.finalize().into()))
    }
}

/// A source of which these bytes have been read already.
fn begun<R: Read>(mark: Vec<u8>, from: R) -> Input<R> {
    let bytes = mark.len() as u64;
    let input = Cursor::new(mark).chain(Counted { source: from, bytes });
    BufReader::with_capacity(BUFFER_BYTES, input)
}

type Unzstd<R> = Box<zstd::stream::read::Decoder<'static, Input<R>>>;

/// Frames one after the other, those included that are to be skipped.
fn unzstd<R: Read>(input: Input<R>) -> std::io::Result<Unzstd<R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}
