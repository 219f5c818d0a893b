//! What this machine does: starts, watches, logs and ends processes.
//!
//! ```text
//! agent ──keeper.sock──▶ keeper ──fork──▶ supervisor ──fork+exec──▶ task
//!   ▲                   (one, small,      (one per task)              │
//!   │                    no threads)        │  ◀──── pipes, exit ─────┘
//!   └── pidfd, files of the task directory ─┘
//! ```
//!
//! The agent is never a parent of tasks, so it may crash, restart or be upgraded
//! and no task notices. Everything that must outlive it lies in the task's
//! directory: the request (`launch.json`), who runs it (`state.json`), how it
//! ended (`end.json`, durable before the supervisor leaves) and its output
//! (`log.N`). A restarted agent reads these and goes on.
//!
//! Files are named after the process that runs them: [`keeper_main`] is the
//! keeper, `supervisor` and `task` are its forks, all the rest is the agent's.
//!
//! Invariant: this crate knows nothing of clusters, jobs or nodes. It is told
//! what to run and says what became of it.

mod adopt;
mod call;
mod control;
mod keeper;
mod launch;
mod leftovers;
mod log;
mod order;
mod proc;
mod record;
mod supervisor;
mod sys;
mod task;
pub mod unpack;
mod watch;

pub use adopt::OpenError;
pub use call::KeeperError;
pub use control::{Config, LaunchError, Opened, RemoveError, Runtime, StopError};
pub use keeper::keeper_main;
pub use launch::{
    BadTaskId, End, Event, Found, FoundState, Launch, LaunchFlaw, StartFault, TaskId, User,
};
pub use log::{LogError, LogReader, LogRecord, LogRequest, LogStream};
pub use record::RecordError;
