//! Walks through a log's records, over the borders of its files, without waiting.
//!
//! A record that is not whole yet is left where it is and read again later, so
//! it does not matter how the writer's bytes become visible. What can never
//! become a record is skipped with the rest of its file, and said.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::record::unix_ns;

use super::{
    CHUNK_BYTES, HEAD_BYTES, Head, Kind, LogError, LogRecord, MAGIC, file_name, file_number,
};

/// Bytes read at a time: several whole records at least.
const READ_BYTES: usize = 4 * (CHUNK_BYTES + HEAD_BYTES);

/// Where a reader stands.
#[derive(Debug)]
pub(crate) struct Cursor {
    dir: OwnedFd,
    /// The number of the file that is read, or of the next one to come.
    number: u64,
    file: Option<File>,
    /// Where in the file `window` begins.
    offset: u64,
    window: Vec<u8>,
    /// How much of `window` was taken.
    taken: usize,
    /// Output bytes still to be left out, to begin with a given line.
    skip: u64,
    /// Older output is gone, and nobody was told.
    gap: bool,
}

/// What a step found.
#[derive(Debug)]
pub(crate) enum Step {
    Record(LogRecord),
    /// Nothing more for now.
    AtEnd,
}

enum Parsed {
    Record(Head),
    Partial,
    Garbled,
}

impl Cursor {
    /// Stands before the last `tail` lines of the log, or before all of it.
    pub(crate) fn open(dir: OwnedFd, tail: Option<usize>) -> Result<Self, LogError> {
        let mut start = Self {
            dir,
            number: 0,
            file: None,
            offset: 0,
            window: Vec::new(),
            taken: 0,
            skip: 0,
            gap: false,
        };
        start.next_file()?;
        let Some(tail) = tail else { return Ok(start) };
        // Counted first, then skipped: memory does not grow with the number of
        // lines. The cursor that counts is a copy, so both keep the same files.
        let mut counter = start.try_clone()?;
        let (mut lines, mut bytes, mut ended) = (0_u64, 0_u64, true);
        // A task that never stops writing would be counted for ever: what it writes
        // from now on is not looked back at.
        let opened_at = unix_ns();
        while let Step::Record(record) = counter.step()? {
            let LogRecord::Output { unix_ns, bytes: output, .. } = record else { continue };
            if unix_ns > opened_at {
                break;
            }
            lines += newlines(&output);
            bytes += output.len() as u64;
            ended = output.ends_with(b"\n");
        }
        lines += u64::from(!ended);
        let surplus = lines.saturating_sub(tail as u64);
        if tail == 0 {
            return Ok(counter);
        }
        if surplus > 0 {
            start.skip = start.bytes_of_lines(surplus, bytes)?;
            start.gap = false;
        }
        Ok(start)
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            dir: self.dir.try_clone()?,
            file: self.file.as_ref().map(File::try_clone).transpose()?,
            window: self.window.clone(),
            ..*self
        })
    }

    /// Length of the first so many lines.
    fn bytes_of_lines(&self, mut lines: u64, most: u64) -> Result<u64, LogError> {
        let mut cursor = self.try_clone()?;
        let mut bytes = 0;
        while let Step::Record(record) = cursor.step()? {
            let LogRecord::Output { bytes: output, .. } = record else { continue };
            let here = newlines(&output);
            if here >= lines {
                let nth = usize::try_from(lines.saturating_sub(1)).unwrap_or(usize::MAX);
                let mut ends = output.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                let at = ends.nth(nth).map_or(0, |(at, _)| at + 1);
                return Ok(bytes + at as u64);
            }
            lines -= here;
            bytes += output.len() as u64;
        }
        Ok(most)
    }

    /// The task's directory.
    pub(crate) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The next record, if there is one.
    pub(crate) fn step(&mut self) -> Result<Step, LogError> {
        loop {
            if std::mem::take(&mut self.gap) {
                // What was to be skipped is gone as well.
                self.skip = 0;
                return Ok(Step::Record(LogRecord::Missing { bytes: None }));
            }
            match self.parse() {
                Parsed::Record(head) => match self.take(head) {
                    Some(record) => return Ok(Step::Record(record)),
                    None => continue,
                },
                Parsed::Garbled => {
                    // Only a crash of the host leaves such a thing.
                    if !self.next_file()? {
                        return Ok(Step::AtEnd);
                    }
                    self.gap = true;
                    continue;
                }
                Parsed::Partial => {}
            }
            if self.fill()? {
                continue;
            }
            // The writer begins a file when it is done with the last. So what this one
            // still got is read once a later one was seen, and never before: the writer
            // may do both between two looks.
            let is_followed = self.is_followed()?;
            if self.fill()? {
                continue;
            }
            if !is_followed {
                return Ok(Step::AtEnd);
            }
            // Whole records only, unless the supervisor died within one.
            self.gap = self.taken < self.window.len();
            if !self.next_file()? {
                return Ok(Step::AtEnd);
            }
        }
    }

    fn parse(&self) -> Parsed {
        let rest = self.window.get(self.taken..).unwrap_or_default();
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Parsed::Partial };
        match Head::read(head) {
            None => Parsed::Garbled,
            Some(head) if rest.len() < HEAD_BYTES + head.length => Parsed::Partial,
            Some(head) => Parsed::Record(head),
        }
    }

    /// Takes the record that `parse` found; none if all of it is skipped.
    fn take(&mut self, head: Head) -> Option<LogRecord> {
        let from = self.taken + HEAD_BYTES;
        self.taken = from + head.length;
        let bytes = self.window.get(from..self.taken).unwrap_or_default();
        let Kind::Output(stream) = head.kind else {
            let count = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            return (self.skip == 0).then_some(LogRecord::Missing { bytes: count });
        };
        let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        let bytes = bytes.get(skipped..).filter(|bytes| !bytes.is_empty())?;
        Some(LogRecord::Output {
            unix_ns: head.unix_ns,
            number: head.number,
            stream,
            bytes: bytes.to_vec(),
        })
    }

    /// Reads the window anew from the first record not taken. False if that
    /// brought nothing new.
    fn fill(&mut self) -> Result<bool, LogError> {
        let Some(file) = &self.file else { return Ok(false) };
        let before = self.window.len() - self.taken;
        self.offset += self.taken as u64;
        self.taken = 0;
        self.window.resize(READ_BYTES, 0);
        let mut length = 0;
        loop {
            let free = self.window.get_mut(length..).unwrap_or_default();
            match file.read_at(free, self.offset + length as u64) {
                Ok(0) => break,
                Ok(got) => length += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(error.into());
                }
            }
        }
        self.window.truncate(length);
        Ok(length > before)
    }

    /// Goes on to the next file there is. False if there is none.
    fn next_file(&mut self) -> Result<bool, LogError> {
        let wanted = if self.file.is_some() { self.number + 1 } else { self.number };
        // The oldest may be removed between being seen and being opened.
        while let Some(number) = self.oldest(wanted)? {
            let Some(file) = self.open_file(number)? else { continue };
            self.gap |= number > wanted;
            self.number = number;
            self.file = Some(file);
            self.offset = MAGIC.len() as u64;
            self.window.clear();
            self.taken = 0;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether there is a later file than the one that is read.
    fn is_followed(&self) -> Result<bool, LogError> {
        Ok(self.oldest(self.number + u64::from(self.file.is_some()))?.is_some())
    }

    fn oldest(&self, from: u64) -> Result<Option<u64>, LogError> {
        let mut oldest = None;
        for entry in Dir::read_from(self.dir.as_fd()).map_err(io::Error::from)? {
            let entry = entry.map_err(io::Error::from)?;
            let number = entry.file_name().to_str().ok().and_then(file_number);
            let number = number.filter(|number| *number >= from);
            oldest = oldest.into_iter().chain(number).min();
        }
        Ok(oldest)
    }

    fn open_file(&self, number: u64) -> Result<Option<File>, LogError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.dir, file_name(number), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let mut magic = [0; MAGIC.len()];
        match file.read_exact_at(&mut magic, 0) {
            Ok(()) if magic == MAGIC => Ok(Some(file)),
            Ok(()) if magic.starts_with(b"STARLOG") => Err(LogError::Newer { number }),
            // Just begun, or nothing but zeros after a crash of the host: there
            // is no record in it that could be read.
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(file)),
            Err(error) => Err(error.into()),
        }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
