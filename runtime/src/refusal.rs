//! What a runtime answers when it did not do what it was asked to.
//!
//! Apart from those who answer, since they call each other. Never holds what only one
//! of them knows how to read.

use std::io;

use crate::call::KeeperError;
use crate::launch::{End, LaunchFlaw, StartFault, TaskId};
use crate::record::RecordError;

/// A task that was not launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The request is flawed; nothing was done.
    #[error("the launch cannot be")]
    Flawed(#[from] LaunchFlaw),
    /// There is a task of that id, running or ended and not yet removed.
    #[error("there is a task {id} already")]
    Exists {
        /// The id.
        id: TaskId,
    },
    /// Its program did not start. The task has ended; no event will come.
    #[error("{reason}")]
    NotStarted {
        /// The kind of failure.
        fault: StartFault,
        /// The failure in words.
        reason: String,
    },
    /// It may have run, and has ended. No event will come.
    #[error("the task was lost while it was started: {end:?}")]
    Lost {
        /// How it ended.
        end: End,
    },
    /// No keeper; nothing was done.
    #[error("there is no keeper to start tasks")]
    Keeper {
        /// Why.
        source: KeeperError,
    },
    /// The file system failed.
    #[error("cannot use the directory of task {id}")]
    Io {
        /// The task.
        id: TaskId,
        /// Why.
        source: io::Error,
    },
    /// The task's directory cannot be understood.
    #[error("cannot tell what became of task {id}")]
    Record {
        /// The task.
        id: TaskId,
        /// Why.
        source: RecordError,
    },
    /// This handle was shut down; a launch under way goes on unwatched.
    #[error("the runtime is shut down")]
    ShutDown,
}

/// A task that was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// There is no such task.
    #[error("there is no task {id} here")]
    Unknown {
        /// The id.
        id: TaskId,
    },
    /// It runs, or is being launched: stop it first.
    #[error("task {id} has not ended; stop it first")]
    Running {
        /// The id.
        id: TaskId,
    },
    /// The file system failed.
    #[error("cannot remove the directory of task {id}")]
    Io {
        /// The id.
        id: TaskId,
        /// Why.
        source: io::Error,
    },
}

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
