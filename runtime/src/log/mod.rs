//! A task's output on disk: what the supervisor writes and the agent reads.
//!
//! ```text
//! log.7    "STARLOG" 2 │ record │ record │ …          full, no longer written
//! log.8    "STARLOG" 2 │ record │ rec                 the end may be torn
//!
//! record   u64 unix nanoseconds │ u64 number │ u8 kind │ u32 length │ bytes
//!                                                          (little endian)
//! ```
//!
//! Files are numbered and never renamed, so a reader that keeps its file open
//! loses nothing to a rotation, and one that comes late sees from the first
//! number whether older output is gone.
//!
//! Invariant: only the supervisor writes, only whole records count, and nothing
//! the reader does can slow the writer down.

mod follow;
mod read;
mod wake;
mod write;

pub use follow::LogReader;
pub(crate) use write::LogWriter;

use std::io;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::launch::TaskId;

/// How much of a task's output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Size at which a new file is begun.
    pub file_bytes: u64,
    /// Files kept.
    pub files: u32,
}

impl LogLimits {
    /// Sizes that a file may have: a few of the longest records, and what a small
    /// machine may lose in one go.
    pub const FILE_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;

    /// Numbers of files: one would be emptied under its readers.
    pub const FILES: RangeInclusive<u32> = 2..=1_000;
}

impl Default for LogLimits {
    /// Two files hold the last hundred thousand lines and more, and a thousand tasks
    /// fit a small disk.
    fn default() -> Self {
        Self { file_bytes: 8 << 20, files: 2 }
    }
}

/// Longest output in one record. Longer writes are split.
pub(crate) const CHUNK_BYTES: usize = 16 << 10;

/// How each file begins; the last byte is the version.
const MAGIC: [u8; 8] = *b"STARLOG\x02";

/// Bytes before a record's own.
const HEAD_BYTES: usize = 8 + 8 + 1 + 4;

/// Which of its two outputs a task wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a task's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// What the task wrote, as it came: a record may hold many lines or a part of one.
    Output {
        /// When it was read from the task, in nanoseconds since 1970.
        unix_ns: u64,
        /// Its place in the log: each piece has one more than the last, and what was
        /// dropped has numbers too.
        number: u64,
        /// Where the task wrote it.
        stream: LogStream,
        /// What it wrote.
        bytes: Vec<u8>,
    },
    /// Output that should be here was dropped: by rotation, by a full disk or
    /// by a crash of the host.
    Missing {
        /// How many bytes, if that is known.
        bytes: Option<u64>,
    },
}

/// What to read of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Whether to wait for more until the task has ended.
    pub follow: bool,
    /// Begin with the last so many lines; with everything kept, if none is given.
    pub tail: Option<usize>,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// There is no such task.
    #[error("there is no task {id} here")]
    Unknown {
        /// The id.
        id: TaskId,
    },
    /// A later version of this program wrote it.
    #[error("log.{number} has a format this program does not know; upgrade it")]
    Newer {
        /// The file's number.
        number: u64,
    },
    /// The file system failed.
    #[error("cannot read the log")]
    Io(#[from] io::Error),
}

/// A record's kind, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Output(LogStream),
    /// The bytes are a little-endian u64: how many bytes were dropped here.
    Missing,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Output(LogStream::Stdout) => 1,
            Self::Output(LogStream::Stderr) => 2,
            Self::Missing => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Output(LogStream::Stdout)),
            2 => Some(Self::Output(LogStream::Stderr)),
            3 => Some(Self::Missing),
            _ => None,
        }
    }
}

/// A record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    unix_ns: u64,
    number: u64,
    kind: Kind,
    length: usize,
}

impl Head {
    fn write(self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        out.extend_from_slice(&self.unix_ns.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.push(self.kind.byte());
        out.extend_from_slice(&length.to_le_bytes());
    }

    /// None if these bytes cannot be a record's head.
    fn read(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (time, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let ([kind], length) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length.first_chunk()?)).ok()?;
        let kind = Kind::of(*kind)?;
        let (unix_ns, number) = (u64::from_le_bytes(*time), u64::from_le_bytes(*number));
        let fits = (1..=CHUNK_BYTES).contains(&length);
        fits.then_some(Self { unix_ns, number, kind, length })
    }
}

/// The name of a log file.
fn file_name(number: u64) -> String {
    format!("log.{number}")
}

/// The number in the name of a log file.
fn file_number(name: &str) -> Option<u64> {
    name.strip_prefix("log.")?.parse().ok()
}
