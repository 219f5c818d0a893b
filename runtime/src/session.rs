//! A connection with something inside a task: what goes in, what comes out.
//!
//! Both directions are bounded queues: whoever reads slowly makes the other
//! side wait, and nobody's memory grows.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::control::Runtime;
use crate::inside::{self, Deed, ExecError};
use crate::launch::{End, Streams, TaskId};
use crate::record::{self, RecordError};
use crate::refusal::ControlError;
use crate::spare;
use crate::watch::blocking;

/// Pieces that wait in either direction.
pub(crate) const PIECES: usize = 16;

/// Another program inside a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments; looked up as the task's own was.
    pub argv: Vec<String>,
    /// Beside the task's variables; where both have one, this one counts.
    pub env: BTreeMap<String, String>,
    /// Where it starts; where the task did if none is given.
    pub directory: Option<PathBuf>,
    /// `USER[:GROUP]` of the container; the task's own if none is given. A plain
    /// process has no other.
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
    /// A signal for its process group.
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

impl Runtime {
    /// Runs another program inside a task, with the task's rights.
    ///
    /// A program that cannot be started ends the session with
    /// [`End::NotStarted`]. Dropping either half of the session hangs it up: SIGHUP,
    /// and SIGKILL after a grace.
    pub async fn exec(&self, id: &TaskId, exec: Exec) -> Result<Session, ExecError> {
        inside::open(self, id, Deed::Exec(exec)).await
    }

    /// A tar archive of a file or directory of a task, as the pieces of standard output.
    ///
    /// Symbolic links are archived as links; only one that the path itself ends with a
    /// slash behind is followed, and never out of the task. Of a plain process its scratch
    /// directory can be copied, which paths start from. A failure is text on standard
    /// error and an exit code. What is copied is called as its path ends, or as `name` says.
    pub async fn copy_out(
        &self,
        id: &TaskId,
        path: &Path,
        name: Option<String>,
    ) -> Result<Session, ExecError> {
        inside::open(self, id, Deed::CopyOut { path: path.to_owned(), name }).await
    }

    /// What is at a path of a task, links followed: a piece of standard output that says
    /// `directory`, `file` or `nothing`.
    pub async fn look_at(&self, id: &TaskId, path: &Path) -> Result<Session, ExecError> {
        inside::open(self, id, Deed::Look(path.to_owned())).await
    }

    /// Unpacks the tar archive that is sent as input into a directory of a task.
    pub async fn copy_in(&self, id: &TaskId, path: &Path) -> Result<Session, ExecError> {
        inside::open(self, id, Deed::CopyIn(path.to_owned())).await
    }

    /// The processes of a running task, its first one first.
    pub async fn processes(&self, id: &TaskId) -> Result<Vec<ProcessRow>, ControlError> {
        self.look(id, inside::processes).await
    }

    /// Whether a running task is held still.
    pub async fn is_paused(&self, id: &TaskId) -> Result<bool, ControlError> {
        self.look(id, inside::is_paused).await
    }

    /// How a task ended; none while it has not.
    pub async fn end(&self, id: &TaskId) -> Result<Option<End>, ControlError> {
        self.look(id, |state, _boot| Ok(Some(state.end))).await
    }

    /// Looks at a task's record and at this machine; none if it does not run.
    async fn look<T: Send + 'static>(
        &self,
        id: &TaskId,
        look: impl FnOnce(record::State, &str) -> io::Result<Option<T>> + Send + 'static,
    ) -> Result<T, ControlError> {
        let failed = |source| ControlError::Io { id: id.clone(), source };
        let dir = match spare::hold(&self.shared().tasks, id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ControlError::Unknown { id: id.clone() });
            }
            dir => dir.map_err(failed)?,
        };
        let boot = self.shared().host.boot.clone();
        let found = blocking(move || match record::read(dir.as_fd()) {
            Ok(state) => look(state, &boot),
            Err(RecordError::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        });
        let found = found.await.and_then(|found| found).map_err(failed)?;
        found.ok_or_else(|| ControlError::NotRunning { id: id.clone() })
    }
}
