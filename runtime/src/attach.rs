//! The agent's side of a task's standard input, and of its other commands.
//!
//! What the task writes is read from its log: that is complete whoever is attached,
//! and nobody who reads slowly holds the task up.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::call::{self, Line};
use crate::frame;
use crate::launch::TaskId;
use crate::order::{self, CONTROL, Command, Done, INPUT_BYTES, Typed};
use crate::watch::Shared;

/// A running task that did not do as it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// There is no such task.
    #[error("there is no task {id} here")]
    Unknown {
        /// The id.
        id: TaskId,
    },
    /// It has ended, or its launch has not returned yet.
    #[error("task {id} is not running")]
    NotRunning {
        /// The id.
        id: TaskId,
    },
    /// It runs, but cannot do that.
    #[error("task {id}: {reason}")]
    Refused {
        /// The id.
        id: TaskId,
        /// Why.
        reason: String,
    },
    /// The machine failed.
    #[error("cannot reach task {id}")]
    Io {
        /// The id.
        id: TaskId,
        /// Why.
        source: io::Error,
    },
}

/// Tells a task's supervisor something, and waits until it is done. The connection
/// is what an attached one goes on with.
pub(crate) async fn tell(
    shared: &Shared,
    id: &TaskId,
    command: &Command,
) -> Result<Line, ControlError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let over = || ControlError::NotRunning { id: id.clone() };
    let dir = match order::open_below(&shared.tasks, id.as_str()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ControlError::Unknown { id: id.clone() });
        }
        dir => dir.map_err(failed)?,
    };
    let mut line = match Line::connect(dir.as_fd(), CONTROL) {
        Err(error) if call::is_absent(&error) => return Err(over()),
        line => line.map_err(failed)?,
    };
    let command = frame::encode(command).map_err(failed)?;
    if line.send(&command).await.is_err() {
        return Err(over());
    }
    match line.hear().await.map_err(failed)? {
        Some(Done::Done) => Ok(line),
        Some(Done::Refused { reason }) => Err(ControlError::Refused { id: id.clone(), reason }),
        // It ended while it was told.
        None => Err(over()),
    }
}

/// A hold on a task's standard input. Dropping it ends nothing.
#[derive(Debug)]
pub struct Attached {
    line: Line,
}

impl Attached {
    pub(crate) fn new(line: Line) -> Self {
        Self { line }
    }

    /// Types something. Waits for as long as the task does not read.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for bytes in bytes.chunks(INPUT_BYTES) {
            self.say(&Typed::Input(bytes.to_vec())).await?;
        }
        Ok(())
    }

    /// Tells a terminal its size. Nothing to a task that has none.
    pub async fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        self.say(&Typed::Resize { rows, columns }).await
    }

    /// Ends the task's standard input, for everybody; in a terminal, types what ends
    /// it there.
    pub async fn close(mut self) -> io::Result<()> {
        self.say(&Typed::InputEnd).await
    }

    async fn say(&mut self, typed: &Typed) -> io::Result<()> {
        match self.line.send(&typed.frame()?).await {
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the task has ended"))
            }
            sent => sent,
        }
    }
}
