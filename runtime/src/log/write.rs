//! The supervisor's side of a log.
//!
//! Output that cannot be stored is counted and dropped: a full disk must not
//! block the task, whose pipe would fill, nor end it. The count is written as a
//! mark as soon as something can be written again.
//!
//! Invariant: a file never holds a broken record between whole ones; a write
//! that came through in part is taken back.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{CHUNK_BYTES, HEAD_BYTES, Head, Kind, LogLimits, LogStream, MAGIC, file_name};
use crate::record::unix_ns;

#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: OwnedFd,
    limits: LogLimits,
    /// Number of the next record.
    number: u64,
    file: Option<File>,
    /// Number of the next file.
    next: u64,
    /// Where the next record goes.
    end: u64,
    pending: Vec<u8>,
    /// Output bytes that were dropped and not yet marked.
    dropped: u64,
}

impl LogWriter {
    /// A log in a task's directory, which has none yet. A silent task never gets one.
    pub(crate) fn new(dir: OwnedFd, limits: LogLimits) -> Self {
        Self {
            dir,
            limits,
            number: 0,
            file: None,
            next: 0,
            end: 0,
            pending: Vec::new(),
            dropped: 0,
        }
    }

    /// Adds output, to be written by the next `flush`.
    pub(crate) fn append(&mut self, stream: LogStream, output: &[u8]) {
        for bytes in output.chunks(CHUNK_BYTES) {
            let head = self.head(Kind::Output(stream), bytes.len());
            head.write(&mut self.pending);
            self.pending.extend_from_slice(bytes);
        }
    }

    fn head(&mut self, kind: Kind, length: usize) -> Head {
        let number = self.number;
        self.number += 1;
        Head { unix_ns: unix_ns(), number, kind, length }
    }

    /// Marks what could not be written, if that can be written now.
    pub(crate) fn finish(&mut self) {
        self.flush();
    }

    /// Writes what was added, or drops it.
    pub(crate) fn flush(&mut self) {
        if self.dropped > 0 && self.write_mark().is_ok() {
            self.dropped = 0;
        }
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let stored = if self.dropped == 0 { self.write(&pending) } else { 0 };
        let lost = records(pending.get(stored..).unwrap_or_default());
        let lost = lost.map(|(_, head)| head.length as u64).sum();
        self.dropped = self.dropped.saturating_add(lost);
        self.pending = pending;
        self.pending.clear();
    }

    fn write_mark(&mut self) -> Result<(), ()> {
        let mut mark = Vec::new();
        let count = self.dropped.to_le_bytes();
        self.head(Kind::Missing, count.len()).write(&mut mark);
        mark.extend_from_slice(&count);
        if self.write(&mark) == mark.len() { Ok(()) } else { Err(()) }
    }

    /// Writes as many whole records as fit; returns their length.
    fn write(&mut self, text: &[u8]) -> usize {
        let full = self.end + text.len() as u64 > self.limits.file_bytes;
        let file = match &mut self.file {
            Some(file) if !full => file,
            slot => {
                let Ok(file) = begin_file(&self.dir, self.next, self.limits) else { return 0 };
                self.end = MAGIC.len() as u64;
                self.next += 1;
                slot.insert(file)
            }
        };
        let mut written = 0;
        let stored = loop {
            let rest = text.get(written..).unwrap_or_default();
            match file.write_at(rest, self.end + written as u64) {
                Ok(length) if length == rest.len() => break text.len(),
                Ok(length) if length > 0 => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Records that came in whole may have been read: they stay.
                Ok(_) | Err(_) => {
                    let ends = records(text).map(|(end, _)| end);
                    break ends.take_while(|end| *end <= written).last().unwrap_or(0);
                }
            }
        };
        self.end += stored as u64;
        if stored < text.len() {
            // If even this fails, the next write overwrites what is there.
            let _ = file.set_len(self.end);
        }
        stored
    }
}

/// The records in a text of our own making, with where each ends.
fn records(text: &[u8]) -> impl Iterator<Item = (usize, Head)> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let head = Head::read(text.get(end..)?.first_chunk()?)?;
        end += HEAD_BYTES + head.length;
        Some((end, head))
    })
}

/// Makes a file, and room for it first.
fn begin_file(dir: &OwnedFd, number: u64, limits: LogLimits) -> io::Result<File> {
    if let Some(old) = number.checked_sub(u64::from(limits.files)) {
        // It may be gone already, if making its successor failed the last time.
        let _ = rustix::fs::unlinkat(dir, file_name(old), AtFlags::empty());
    }
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = File::from(rustix::fs::openat(dir, file_name(number), flags, mode)?);
    file.write_all_at(&MAGIC, 0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::read::{Cursor, Step};
    use super::super::{LogError, LogRecord};
    use super::*;

    fn read_all(dir: &std::path::Path) -> Result<Vec<LogRecord>, LogError> {
        let mut cursor = Cursor::open(File::open(dir)?.into(), None)?;
        let mut records = Vec::new();
        while let Step::Record(record) = cursor.step()? {
            records.push(record);
        }
        Ok(records)
    }

    fn bytes_of(records: &[LogRecord]) -> Vec<u8> {
        let bytes = records.iter().map(|record| match record {
            LogRecord::Output { bytes, .. } => bytes.as_slice(),
            LogRecord::Missing { .. } => b"<missing>",
        });
        bytes.collect::<Vec<_>>().concat()
    }

    fn writer(dir: &tempfile::TempDir) -> LogWriter {
        LogWriter::new(File::open(dir.path()).expect("a handle").into(), LogLimits::default())
    }

    #[test]
    fn long_output_is_split_and_comes_back_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = writer(&dir);
        let long: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
        log.append(LogStream::Stderr, &long);
        log.flush();
        let records = read_all(dir.path()).expect("read");
        assert_eq!(records.len(), 3);
        assert_eq!(bytes_of(&records), long);
    }

    #[test]
    fn a_full_disk_leaves_a_mark_with_the_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = writer(&dir);
        log.append(LogStream::Stdout, b"before ");
        log.flush();
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let file = log.file.replace(full).expect("a file");
        for _ in 0..3 {
            log.append(LogStream::Stdout, b"lost");
            log.flush();
        }
        log.file = Some(file);
        log.append(LogStream::Stdout, b" after");
        log.flush();
        let records = read_all(dir.path()).expect("read");
        assert_eq!(bytes_of(&records), b"before <missing> after");
        assert_eq!(records.get(1), Some(&LogRecord::Missing { bytes: Some(12) }));
    }

    #[test]
    fn rotation_keeps_two_files_and_says_that_older_output_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = writer(&dir);
        let chunk = vec![b'x'; CHUNK_BYTES];
        let limits = LogLimits::default();
        let chunks = 3 * limits.file_bytes as usize / CHUNK_BYTES;
        for _ in 0..chunks {
            log.append(LogStream::Stdout, &chunk);
            log.flush();
        }
        let records = read_all(dir.path()).expect("read");
        assert_eq!(records.first(), Some(&LogRecord::Missing { bytes: None }));
        assert!(records.len() > chunks / 3 && records.len() < chunks);
        let files = std::fs::read_dir(dir.path()).expect("listed");
        let sizes: Vec<u64> =
            files.map(|file| file.and_then(|file| file.metadata()).expect("size").len()).collect();
        assert_eq!(sizes.len(), limits.files as usize);
        assert!(sizes.iter().all(|size| *size <= limits.file_bytes), "{sizes:?}");
    }

    /// The writer goes on in the next file at any moment of the reader's look.
    #[test]
    fn a_reader_beside_the_writer_loses_nothing_at_a_border() {
        let dir = tempfile::tempdir().expect("a directory");
        let handle = File::open(dir.path()).expect("a handle");
        let limits = LogLimits { file_bytes: *LogLimits::FILE_BYTES.start(), files: 1_000 };
        let mut log = LogWriter::new(handle.into(), limits);
        const RECORDS: u32 = 20_000;
        let writer = std::thread::spawn(move || {
            for number in 0..RECORDS {
                let mut bytes = [0; 1_000];
                bytes[..4].copy_from_slice(&number.to_le_bytes());
                log.append(LogStream::Stdout, &bytes);
                log.flush();
            }
        });
        let handle = File::open(dir.path()).expect("a handle");
        let mut cursor = Cursor::open(handle.into(), None).expect("opened");
        let mut next = 0;
        while next < RECORDS {
            let Step::Record(record) = cursor.step().expect("read") else { continue };
            let LogRecord::Output { bytes, .. } = record else { panic!("{record:?}") };
            let number = bytes.first_chunk().map(|number| u32::from_le_bytes(*number));
            assert_eq!(number, Some(next));
            next += 1;
        }
        writer.join().expect("written");
    }

    #[test]
    fn a_torn_end_and_a_zeroed_end_hide_nothing_before_them() {
        for tail in [&[7_u8; 5][..], &[0; 64], &[&[9; 16][..], &[1, 200, 0, 0, 0, b'x']].concat()] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut log = writer(&dir);
            log.append(LogStream::Stdout, b"kept");
            log.flush();
            let file = log.file.as_ref().expect("a file");
            file.write_all_at(tail, log.end).expect("written");
            let records = read_all(dir.path()).expect("read");
            assert!(bytes_of(&records).starts_with(b"kept"), "{records:?}");
            assert!(records.len() <= 2, "{records:?}");
        }
    }

    #[test]
    fn the_tail_is_the_last_lines_wherever_records_begin() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = writer(&dir);
        for piece in ["one\ntw", "o\nthree\nfo", "ur\n", "five"] {
            log.append(LogStream::Stdout, piece.as_bytes());
            log.flush();
        }
        let tail = |lines| {
            let dir = File::open(dir.path()).expect("a handle").into();
            let mut cursor = Cursor::open(dir, Some(lines)).expect("opened");
            let mut records = Vec::new();
            while let Step::Record(record) = cursor.step().expect("read") {
                records.push(record);
            }
            String::from_utf8(bytes_of(&records)).expect("text")
        };
        assert_eq!(tail(0), "");
        assert_eq!(tail(1), "five");
        assert_eq!(tail(2), "four\nfive");
        assert_eq!(tail(4), "two\nthree\nfour\nfive");
        assert_eq!(tail(5), "one\ntwo\nthree\nfour\nfive");
        assert_eq!(tail(500), "one\ntwo\nthree\nfour\nfive");
    }
}
