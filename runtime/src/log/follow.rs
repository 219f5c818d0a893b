//! The agent's side of a log: a cursor, and something that wakes it.
//!
//! It knows nothing but the task's directory. That is enough: the directory says
//! what was written and, by its state, that nothing more will be.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::task::{JoinHandle, spawn_blocking};

use super::read::{Cursor, Step};
use super::wake::Wake;
use super::{LogError, LogRecord, LogRequest};
use crate::record;

/// The most records taken at one look: with the longest, a quarter of a mebibyte or so.
const RECORDS_AT_ONCE: usize = 16;

/// Reads the log of one task.
#[derive(Debug)]
pub struct LogReader {
    /// None while `looking` has it.
    cursor: Option<Cursor>,
    /// A look under way, on a thread that may wait for the disk. Kept here, and not in
    /// the future that waits for it, so that dropping that loses nothing.
    looking: Option<JoinHandle<(Cursor, Result<Sight, LogError>)>>,
    /// What was read and not given out.
    records: VecDeque<LogRecord>,
    /// Nothing will come after `records`.
    ended: bool,
    /// None if the end of what is there is the end.
    wake: Option<Wake>,
}

/// What one look found.
#[derive(Debug)]
struct Sight {
    records: VecDeque<LogRecord>,
    then: Then,
}

/// What is to be expected after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// There may be more already.
    More,
    /// Nothing for now.
    Later,
    /// Nothing ever.
    Nothing,
}

impl LogReader {
    pub(crate) async fn open(dir: OwnedFd, request: LogRequest) -> Result<Self, LogError> {
        // Watched before it is read, so that nothing falls between.
        let wake = if request.follow { Some(Wake::on(&dir)?) } else { None };
        let opened = spawn_blocking(move || Cursor::open(dir, request.tail));
        let cursor = Some(opened.await.map_err(io::Error::other)??);
        Ok(Self { cursor, looking: None, records: VecDeque::new(), ended: false, wake })
    }

    /// The next piece; none at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<LogRecord>, LogError> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(record));
            }
            if self.ended {
                return Ok(None);
            }
            let Sight { records, then } = self.look().await?;
            let is_quiet = records.is_empty() && then == Then::Later;
            self.records = records;
            match &self.wake {
                Some(wake) if is_quiet => wake.wait().await?,
                Some(_) => self.ended = then == Then::Nothing,
                None => self.ended = then != Then::More,
            }
        }
    }

    async fn look(&mut self) -> Result<Sight, LogError> {
        if let Some(cursor) = self.cursor.take() {
            self.looking = Some(spawn_blocking(move || look(cursor)));
        }
        let gone = || io::Error::other("a look at the log broke off");
        let looked = self.looking.as_mut().ok_or_else(gone)?.await;
        self.looking = None;
        let (cursor, sight) = looked.map_err(io::Error::other)?;
        self.cursor = Some(cursor);
        sight
    }
}

/// Reads on from where the cursor stands. Blocks.
fn look(mut cursor: Cursor) -> (Cursor, Result<Sight, LogError>) {
    // Asked before it is read: what is there after the end of the task is all.
    let is_over = record::is_over(cursor.dir().as_fd());
    let mut records = VecDeque::new();
    let mut then = Then::More;
    while records.len() < RECORDS_AT_ONCE && then == Then::More {
        match cursor.step() {
            Ok(Step::Record(record)) => records.push_back(record),
            Ok(Step::AtEnd) => then = if is_over { Then::Nothing } else { Then::Later },
            // What was read first; the failure is met again at the next look.
            Err(_) if !records.is_empty() => break,
            Err(error) => return (cursor, Err(error)),
        }
    }
    (cursor, Ok(Sight { records, then }))
}
