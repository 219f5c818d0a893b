//! Why a spec cannot be a job, in the words of its fields.

use super::{COUNT_MAX, GROUPS_MAX, LABELS_MAX, SPEC_BYTES_MAX, SPEC_VERSION};
use crate::codec::CodecError;
use crate::container::BadContainer;
use crate::health::BadHealth;
use crate::limits::BadLimit;
use crate::slot::{BadName, GroupName};

/// Why a spec cannot be a job.
#[derive(Debug, thiserror::Error)]
pub enum BadSpec {
    /// Written by a newer Starling.
    #[error("the job is written in format {0}, and this Starling reads up to {SPEC_VERSION}")]
    Newer(u32),
    /// The job's or a group's name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Nothing to run, or too much of it.
    #[error("a job has 1 to {GROUPS_MAX} groups, this one has {0}")]
    Groups(usize),
    /// Two groups with one name.
    #[error("two groups are called {0}")]
    GroupTwice(GroupName),
    /// This version runs one task a group.
    #[error("group {group} has {tasks} tasks; this version runs exactly one")]
    Tasks {
        /// Which group.
        group: GroupName,
        /// How many it has.
        tasks: usize,
    },
    /// Too many copies.
    #[error("group {group} wants {count} copies, and at most {COUNT_MAX} are possible")]
    Count {
        /// Which group.
        group: GroupName,
        /// How many it wants.
        count: u32,
    },
    /// An argv without a program.
    #[error("argv: there is no command to run")]
    NoCommand,
    /// An argument or variable that no process can be given.
    #[error("{0}: it holds a NUL byte")]
    Nul(&'static str),
    /// A container that cannot be.
    #[error(transparent)]
    Container(#[from] BadContainer),
    /// No signal is called so.
    #[error("stop_signal: {0:?} names no signal that a task can be stopped with")]
    StopSignal(String),
    /// Not a limit, or too many.
    #[error("ulimits: {0:?} is no limit; write it like 1024, 1024:2048 or unlimited")]
    Ulimit(String),
    /// A check that cannot be.
    #[error(transparent)]
    Health(#[from] BadHealth),
    /// Limits that cannot be.
    #[error(transparent)]
    Limits(#[from] BadLimit),
    /// A variable name that cannot be one.
    #[error("env: {0:?} cannot be the name of an environment variable")]
    Variable(String),
    /// Files where nobody would find them.
    #[error("directory: a process starts where its files are, which is its scratch directory")]
    Elsewhere,
    /// A user that cannot be one.
    #[error("user: it is empty or holds a NUL byte")]
    User,
    /// A grace beyond reason.
    #[error("stop_grace_ms: {0} ms is more than a day")]
    Grace(u64),
    /// Beyond what the kernel knows.
    #[error("oom_score_adj: {0} is not between -1000 and 1000")]
    OomScore(i32),
    /// A label without a name, or with one that no screen can show.
    #[error("labels: {0:?} cannot be the name of a label")]
    Label(String),
    /// More labels than anybody reads.
    #[error("labels: {0} of them, and at most {LABELS_MAX} are possible")]
    Labels(usize),
    /// A service with a rule that is a batch's.
    #[error("restart: a service is started again however it ended; a rule is for a batch")]
    Restart,
    /// More bytes than a record carries.
    #[error("the job takes {0} bytes, and at most {SPEC_BYTES_MAX} are possible")]
    Large(usize),
    /// Not a spec at all.
    #[error("the job cannot be read")]
    Unreadable(#[from] CodecError),
}
