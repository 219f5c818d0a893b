//! Writing an archive again, by its recipe.
//!
//! Nothing that the recipe says is taken on trust: lengths are bounded, frames carry sums, and
//! what does not add up is damage.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use zstd::bulk::Decompressor;

use super::files::Files;
use super::{
    FILE, FOOT_BYTES, FRAME_BYTES_MAX, INDEX_BYTES_MAX, LITERAL, MAGIC, MARK_BYTES, Mark,
    PATH_BYTES_MAX,
};
use crate::unpack::error::printable;

/// The archive of a tree.
pub(crate) struct Replay {
    recipe: File,
    files: Files,
    marks: Vec<Mark>,
    bytes: u64,
    unpacker: Decompressor<'static>,
    /// The frame at hand, and how far in it we are.
    frame: Vec<u8>,
    at: usize,
    next_frame: usize,
    now: Now,
    /// The byte of the archive that comes next.
    archive: u64,
}

/// What is being read.
#[derive(Debug)]
enum Now {
    /// A record is to be taken next.
    Nothing,
    /// Bytes of the frame.
    Literal { left: usize },
    /// A file, opened once something of it is wanted.
    Content { path: Vec<u8>, inode: u64, size: u64, done: u64, file: Option<File> },
}

impl fmt::Debug for Replay {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "Replay({} of {} bytes)", self.archive, self.bytes)
    }
}

pub(super) fn damaged(what: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the layer is damaged: {what}"))
}

const SHORT: &str = "its recipe is cut off";

impl Replay {
    /// Begins at the first byte. `aside` holds the files that the archive itself replaced.
    pub(crate) fn new(recipe: File, tree: OwnedFd, aside: Option<OwnedFd>) -> io::Result<Self> {
        let (marks, bytes) = read_index(&recipe)?;
        Ok(Self {
            recipe,
            files: Files::new(tree, aside),
            marks,
            bytes,
            unpacker: Decompressor::new()?,
            frame: Vec::new(),
            at: 0,
            next_frame: 0,
            now: Now::Nothing,
            archive: 0,
        })
    }

    /// Bytes of the archive.
    pub(crate) fn length(&self) -> u64 {
        self.bytes
    }

    /// Goes on at this byte of the archive; at its end there is nothing to read.
    pub(crate) fn seek(&mut self, to: u64) -> io::Result<()> {
        if to > self.bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the layer's end"));
        }
        let frame = self.marks.partition_point(|mark| mark.archive <= to).saturating_sub(1);
        if frame + 1 != self.next_frame || to < self.archive {
            self.next_frame = frame;
            self.archive = self.marks.get(frame).map_or(0, |mark| mark.archive);
            (self.at, self.now) = (0, Now::Nothing);
            self.frame.clear();
        }
        while self.archive < to {
            let ahead = to - self.archive;
            if matches!(self.now, Now::Nothing) && !self.take_record()? {
                return Err(damaged(SHORT));
            }
            let passed = match &mut self.now {
                Now::Nothing => 0,
                Now::Literal { left } => {
                    let passed = usize::try_from(ahead).unwrap_or(usize::MAX).min(*left);
                    *left -= passed;
                    self.at += passed;
                    passed as u64
                }
                Now::Content { size, done, .. } => {
                    let passed = ahead.min(*size - *done);
                    *done += passed;
                    passed
                }
            };
            self.archive += passed;
            self.end_record();
        }
        Ok(())
    }

    /// Forgets a record that has been read.
    fn end_record(&mut self) {
        let over = match &self.now {
            Now::Nothing => false,
            Now::Literal { left } => *left == 0,
            Now::Content { size, done, .. } => done == size,
        };
        if over {
            self.now = Now::Nothing;
        }
    }

    /// Takes the next record into hand; false at the end.
    fn take_record(&mut self) -> io::Result<bool> {
        while self.at >= self.frame.len() {
            let Some(mark) = self.marks.get(self.next_frame).copied() else { return Ok(false) };
            if mark.archive != self.archive {
                return Err(damaged("its recipe does not add up"));
            }
            self.frame = unpack(&mut self.unpacker, &self.recipe, &mark)?;
            self.next_frame += 1;
            self.at = 0;
        }
        let begin = self.at;
        // What is damaged is so for the next who asks, too.
        self.parse_record().inspect_err(|_| self.at = begin)?;
        self.end_record();
        Ok(true)
    }

    fn parse_record(&mut self) -> io::Result<()> {
        match self.take::<1>()? {
            [LITERAL] => {
                let left = u32::from_le_bytes(self.take()?) as usize;
                if left > self.frame.len() - self.at {
                    return Err(damaged(SHORT));
                }
                self.now = Now::Literal { left };
            }
            [FILE] => {
                let length = usize::from(u16::from_le_bytes(self.take()?));
                let path = self.frame.get(self.at..self.at + length);
                let path =
                    path.filter(|_| length <= PATH_BYTES_MAX).ok_or_else(|| damaged(SHORT))?;
                let path = path.to_vec();
                self.at += length;
                let inode = u64::from_le_bytes(self.take()?);
                let size = u64::from_le_bytes(self.take()?);
                self.now = Now::Content { path, inode, size, done: 0, file: None };
            }
            [_] => return Err(damaged("its recipe has what no recipe has")),
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let rest = self.frame.get(self.at..).unwrap_or_default();
        let bytes = *rest.first_chunk::<N>().ok_or_else(|| damaged(SHORT))?;
        self.at += N;
        Ok(bytes)
    }

    /// Some of what comes next; nothing at the end.
    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while matches!(self.now, Now::Nothing) {
            match self.take_record()? {
                true => {}
                false if self.archive == self.bytes => return Ok(0),
                false => return Err(damaged(SHORT)),
            }
        }
        let read = self.read_now(into)?;
        self.archive += read as u64;
        self.end_record();
        Ok(read)
    }

    /// Some of the record at hand; nothing if there is none.
    fn read_now(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.now {
            Now::Nothing => Ok(0),
            Now::Literal { left } => {
                let length = into.len().min(*left);
                let from = self.frame.get(self.at..self.at + length).unwrap_or_default();
                into.get_mut(..length).unwrap_or_default().copy_from_slice(from);
                *left -= length;
                self.at += length;
                Ok(length)
            }
            Now::Content { path, inode, size, done, file } => {
                let file = match file {
                    Some(file) => file,
                    None => file.insert(self.files.open(path, *inode, *size)?),
                };
                let most = usize::try_from(*size - *done).unwrap_or(usize::MAX).min(into.len());
                let read = file.read_at(into.get_mut(..most).unwrap_or_default(), *done)?;
                if read == 0 {
                    return Err(damaged(format_args!("{} is cut off", printable(path))));
                }
                *done += read as u64;
                Ok(read)
            }
        }
    }
}

impl Read for Replay {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        // Filled up, as headers are short and whoever asks for much wants few calls.
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                // Told by the next call, which finds the same.
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Where the frames are, and how long the archive is.
fn read_index(recipe: &File) -> io::Result<(Vec<Mark>, u64)> {
    let length = recipe.metadata()?.len();
    let foot_at = length.checked_sub(FOOT_BYTES as u64).ok_or_else(|| damaged(SHORT))?;
    let mut begin = [0; MAGIC.len()];
    let mut foot = [0; FOOT_BYTES];
    recipe.read_exact_at(&mut begin, 0)?;
    recipe.read_exact_at(&mut foot, foot_at)?;
    let (offset, rest) = number::<8>(&foot);
    let (packed, rest) = number::<4>(rest);
    let (raw, rest) = number::<4>(rest);
    let (bytes, magic) = number::<8>(rest);
    match (begin, magic) {
        (MAGIC, end) if end == MAGIC => {}
        (begin, _) if begin[..7] == MAGIC[..7] && begin[7] > MAGIC[7] => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the layer was written by a newer version of this program",
            ));
        }
        _ => return Err(damaged("its recipe is none")),
    }
    let limit = INDEX_BYTES_MAX as u64;
    if packed > limit || raw > limit || offset.checked_add(packed) != Some(foot_at) {
        return Err(damaged("its recipe has no index"));
    }
    let mut index = vec![0; packed as usize];
    recipe.read_exact_at(&mut index, offset)?;
    let index = Decompressor::new()?.decompress(&index, raw as usize)?;
    let marks = index.chunks_exact(MARK_BYTES).map(|mark| {
        let (archive, rest) = number::<8>(mark);
        let (offset, rest) = number::<8>(rest);
        let (packed, rest) = number::<4>(rest);
        let (raw, _) = number::<4>(rest);
        Mark { archive, offset, packed: packed as u32, raw: raw as u32 }
    });
    Ok((marks.collect(), bytes))
}

/// A number of `N` bytes, and what follows it.
fn number<const N: usize>(bytes: &[u8]) -> (u64, &[u8]) {
    let (number, rest) = bytes.split_at_checked(N).unwrap_or((bytes, &[]));
    let number = number.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    (number, rest)
}

fn unpack(unpacker: &mut Decompressor, recipe: &File, mark: &Mark) -> io::Result<Vec<u8>> {
    let (packed, raw) = (mark.packed as usize, mark.raw as usize);
    if raw == 0 || raw > FRAME_BYTES_MAX || packed > 2 * FRAME_BYTES_MAX {
        return Err(damaged("its recipe has a frame of no sound length"));
    }
    let mut bytes = vec![0; packed];
    recipe.read_exact_at(&mut bytes, mark.offset)?;
    let frame = unpacker.decompress(&bytes, raw)?;
    if frame.len() == raw { Ok(frame) } else { Err(damaged(SHORT)) }
}
