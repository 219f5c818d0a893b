//! A connection with something inside a task: what goes in, what comes out.
//!
//! Both directions are bounded queues: whoever reads slowly makes the other
//! side wait, and nobody's memory grows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::launch::{End, Streams};

/// Pieces that wait in either direction.
pub(crate) const PIECES: usize = 16;

/// Another program inside a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments; looked up as the task's own was.
    pub argv: Vec<String>,
    /// Beside the task's environment, and before it.
    pub env: BTreeMap<String, String>,
    /// Where it starts; where the task did if none is given.
    pub directory: Option<PathBuf>,
    /// `USER[:GROUP]` of the container; the task's own if none is given.
    pub user: Option<String>,
    /// Its standard streams; what it writes comes back and is not logged.
    pub streams: Streams,
}

/// What comes out of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Standard output, or an archive.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The last piece.
    Ended(End),
}

/// What goes into a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for its standard input.
    Bytes(Vec<u8>),
    /// There will be no more.
    End,
    /// Its terminal has another size now.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// A signal for its first process.
    Signal(i32),
}

/// A session with something inside a task. Dropping either half ends what was started for it.
#[derive(Debug)]
pub struct Session {
    /// What goes in.
    pub input: SessionInput,
    /// What comes out.
    pub output: SessionOutput,
}

/// The way in.
#[derive(Clone, Debug)]
pub struct SessionInput(pub(crate) mpsc::Sender<Typed>);

/// The way out.
#[derive(Debug)]
pub struct SessionOutput(pub(crate) mpsc::Receiver<Piece>);

/// What runs inside has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what ran there has ended")]
pub struct SessionOver;

impl SessionInput {
    /// Waits until there is room, which is when it reads.
    pub async fn send(&self, typed: Typed) -> Result<(), SessionOver> {
        self.0.send(typed).await.map_err(|_closed| SessionOver)
    }
}

impl SessionOutput {
    /// The next piece; none if the session was lost before its end was told.
    pub async fn next(&mut self) -> Option<Piece> {
        self.0.recv().await
    }
}

/// One process of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Its number on the host.
    pub pid: i32,
    /// Its user on the host.
    pub uid: u32,
    /// The letter that `ps` shows.
    pub state: String,
    /// CPU time, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of its own and shared, in bytes.
    pub memory_bytes: u64,
    /// Its program and arguments.
    pub command: String,
}
