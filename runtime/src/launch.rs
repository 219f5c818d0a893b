//! What can be asked of this machine, and what it answers: the values that
//! cross the crate's border.
//!
//! A [`Launch`] is checked once, before anything is created for it, so that the
//! keeper and its forks never meet a request they must refuse halfway.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::container::Container;
use crate::image::Digest;
use crate::log::LogLimits;

/// Longest task id: with the prefixes of unfinished directories it stays well
/// below the 255 bytes of a file name.
const TASK_ID_BYTES: usize = 100;

/// Most bytes of arguments and environment together. The kernel takes a quarter
/// of the stack limit, 2 MiB by default, pointers included.
const ARGUMENT_BYTES: usize = 1 << 20;

/// Most arguments and variables together: their pointers count in the kernel too.
const ARGUMENTS: usize = 16_384;

/// Names a task on this machine, and its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId(String);

/// Text that does not name a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no task id: 1 to {TASK_ID_BYTES} of A-Z a-z 0-9 . _ - and no leading dot")]
pub struct BadTaskId {
    /// What was given.
    pub given: String,
}

impl TaskId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TaskId {
    type Error = BadTaskId;

    fn try_from(text: String) -> Result<Self, BadTaskId> {
        let sound = (1..=TASK_ID_BYTES).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if sound { Ok(Self(text)) } else { Err(BadTaskId { given: text }) }
    }
}

impl FromStr for TaskId {
    type Err = BadTaskId;

    fn from_str(text: &str) -> Result<Self, BadTaskId> {
        Self::try_from(text.to_owned())
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a task runs as. Its supplementary groups are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A resource limit of the classic kind (`setrlimit`), for each process of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which: `nofile`, `core`, `memlock`, ...: Docker's names.
    pub name: String,
    /// What it has at first.
    pub soft: u64,
    /// How far it may raise that.
    pub hard: u64,
}

impl Rlimit {
    /// Whether there is a limit of that name.
    pub fn is_known(name: &str) -> bool {
        crate::sandbox::rlimit::resource(name).is_some()
    }
}

/// How a task's three standard streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Streams {
    /// Nothing to read; what it writes is logged.
    Logged,
    /// As above, but whoever attaches may write to its standard input.
    Input,
    /// One terminal for all three; whoever attaches types into it.
    Terminal {
        /// Lines of it, at first.
        rows: u16,
        /// Columns of it, at first.
        columns: u16,
    },
    /// Those of another process, which lives while the launch does; nothing is logged.
    Of {
        /// Which.
        pid: u32,
    },
}

/// When a launched program begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// As soon as all is made for it.
    #[default]
    AtOnce,
    /// When [`start`](crate::Runtime::start) says so: its process waits, with all made for
    /// it, right before its program. Of containers only: a plain process is not there
    /// before its program is.
    Held,
}

impl Start {
    /// What goes without saying in an order.
    fn is_at_once(&self) -> bool {
        *self == Self::AtOnce
    }
}

/// Whether a task waits before its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It does.
    Held,
    /// Its program runs.
    Released,
}

/// What a plain process is told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Whom it runs as; the agent's own user when none is given.
    pub user: Option<User>,
    /// Directories of the host it must not see into, whatever its user may. Its own
    /// scratch directory stays open to it.
    pub hidden: Vec<PathBuf>,
    /// The image whose files lie in its scratch directory when it starts, as its own and
    /// without any rights that they would give. It has one layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Digest>,
}

/// Where a task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Among the host's processes.
    Process(Process),
    /// In a container.
    Container(Box<Container>),
}

/// A task to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Its name; never used by another task whose directory still exists.
    pub id: TaskId,
    /// The program and its arguments. A program without `/` is looked for in the
    /// `PATH` of `env`, or in the usual system places when that has none.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Where it starts; a process in its own scratch directory and a container in
    /// `/` when none is given.
    pub directory: Option<PathBuf>,
    /// What [`stop`](crate::Runtime::stop) sends first.
    pub stop_signal: i32,
    /// What it may use, all its processes together.
    pub limits: Limits,
    /// What each of its processes may use.
    pub rlimits: Vec<Rlimit>,
    /// How willingly the kernel kills it when the machine runs out of memory, -1000 to
    /// 1000 (`proc_pid_oom_score_adj(5)`); as the keeper where none is given.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Its standard streams.
    pub streams: Streams,
    /// How much of what it writes is kept.
    pub log: LogLimits,
    /// When its supervisor kills it, agent or no agent: nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline_boot_ns: Option<u64>,
    /// When its program begins.
    #[serde(default, skip_serializing_if = "Start::is_at_once")]
    pub start: Start,
    /// Where it runs.
    pub place: Place,
}

impl Launch {
    /// Whom a plain process runs as, if that is not the agent's own user.
    pub fn user(&self) -> Option<User> {
        match &self.place {
            Place::Process(process) => process.user,
            Place::Container(_) => None,
        }
    }

    /// The first host id of a container's own range, if it was picked.
    pub(crate) fn id_base(&self) -> Option<u32> {
        match &self.place {
            Place::Process(_) => None,
            Place::Container(container) => container.id_base,
        }
    }

    /// A plain process with an empty environment, in its scratch directory, as the
    /// agent's user, without limits, stopped by SIGTERM.
    pub fn new<A: Into<String>>(id: TaskId, argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            id,
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            directory: None,
            stop_signal: libc::SIGTERM,
            limits: Limits::default(),
            rlimits: Vec::new(),
            oom_score_adj: None,
            streams: Streams::Logged,
            log: LogLimits::default(),
            deadline_boot_ns: None,
            start: Start::AtOnce,
            place: Place::Process(Process::default()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), LaunchFlaw> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(LaunchFlaw::NoProgram);
        }
        let count = self.argv.len() + self.env.len();
        let bytes: usize = self.argv.iter().map(|word| word.len() + 1).sum::<usize>()
            + self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        if bytes > ARGUMENT_BYTES || count > ARGUMENTS {
            return Err(LaunchFlaw::TooLong { bytes, count });
        }
        let directory = self.directory.iter().filter_map(|path| path.to_str());
        let texts = self.argv.iter().chain(self.env.keys()).chain(self.env.values());
        if texts.map(String::as_str).chain(directory).any(|text| text.contains('\0')) {
            return Err(LaunchFlaw::Nul);
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(LaunchFlaw::Variable { name: name.clone() });
        }
        match &self.directory {
            Some(path) if !path.is_absolute() || path.to_str().is_none() => {
                return Err(LaunchFlaw::Directory { path: path.clone() });
            }
            _ => {}
        }
        let LogLimits { file_bytes, files } = self.log;
        if !LogLimits::FILE_BYTES.contains(&file_bytes) || !LogLimits::FILES.contains(&files) {
            return Err(LaunchFlaw::Log { limits: self.log });
        }
        if Signal::from_named_raw(self.stop_signal).is_none() {
            return Err(LaunchFlaw::StopSignal { signal: self.stop_signal });
        }
        if self.start == Start::Held && matches!(self.place, Place::Process(_)) {
            return Err(LaunchFlaw::Held);
        }
        Ok(())
    }
}

/// What is wrong with a [`Launch`] before anything was done for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchFlaw {
    /// No program to run.
    #[error("argv names no program")]
    NoProgram,
    /// More than the kernel takes.
    #[error(
        "{count} arguments and variables of {bytes} bytes are more than {ARGUMENTS} or {ARGUMENT_BYTES} bytes"
    )]
    TooLong {
        /// Bytes asked for.
        bytes: usize,
        /// Arguments and variables asked for.
        count: usize,
    },
    /// C strings end at a zero byte.
    #[error("an argument, a variable or the directory holds a zero byte")]
    Nul,
    /// No variable can be called so.
    #[error("{name:?} is no name for an environment variable")]
    Variable {
        /// The name.
        name: String,
    },
    /// Directories are absolute and UTF-8.
    #[error("the directory {} is not an absolute UTF-8 path", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// Logs have a few files of a fair size.
    #[error(
        "a log of {} files of {} bytes cannot be: {} to {} files of {} to {} bytes can",
        limits.files, limits.file_bytes,
        LogLimits::FILES.start(), LogLimits::FILES.end(),
        LogLimits::FILE_BYTES.start(), LogLimits::FILE_BYTES.end()
    )]
    Log {
        /// What was asked for.
        limits: LogLimits,
    },
    /// Only the classic signals can stop a task.
    #[error("{signal} is no signal to stop a task with")]
    StopSignal {
        /// The number.
        signal: i32,
    },
    /// A plain process has nothing that could wait.
    #[error("start: only a container can be held before its program begins")]
    Held,
}

/// Why a program never ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StartFault {
    /// There is no such program.
    NotFound,
    /// It is there, but cannot be executed.
    NotExecutable,
    /// It is there, and the kernel knows no programs of its kind: one for another processor,
    /// or a script that does not say what it is written for.
    UnknownFormat,
    /// Its directory cannot be entered.
    Directory,
    /// It cannot run as that user.
    User,
    /// The agent, the keeper or the supervisor died before the program was
    /// started. It has not run and will not.
    Interrupted,
    /// The machine lacked something.
    System,
}

/// How a task ended. Once told, it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It exited by itself.
    Exited {
        /// Its status.
        code: i32,
    },
    /// A signal ended it.
    Signalled {
        /// Which.
        signal: i32,
    },
    /// The kernel killed it because it, or what it is limited with, used all the
    /// memory it may.
    OutOfMemory,
    /// Its deadline passed, and it was killed.
    Expired,
    /// It never ran.
    NotStarted {
        /// The kind of failure.
        fault: StartFault,
        /// The failure in words.
        reason: String,
    },
    /// It ran, it is gone, and nobody saw how.
    Lost {
        /// What is known.
        reason: String,
    },
}

impl End {
    /// The exit code a shell would give: 128 and the signal (137 when it ran out of
    /// memory), 127 for a program that was not found, 126 for one that cannot be
    /// executed, 124 when its deadline passed, as `timeout` says, 125 for the rest.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } => *code,
            Self::Signalled { signal } => 128 + signal,
            Self::OutOfMemory => 128 + libc::SIGKILL,
            Self::Expired => 124,
            Self::NotStarted { fault: StartFault::NotFound, .. } => 127,
            Self::NotStarted {
                fault: StartFault::NotExecutable | StartFault::UnknownFormat,
                ..
            } => 126,
            Self::NotStarted { .. } | Self::Lost { .. } => 125,
        }
    }
}

/// What happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its program runs, or is held and waits. Not repeated for tasks found running.
    Started {
        /// Which task.
        id: TaskId,
        /// Its main process.
        pid: u32,
    },
    /// It ended, and nothing of it is left running.
    Ended {
        /// Which task.
        id: TaskId,
        /// How.
        end: End,
    },
}

/// A task whose directory was there when the runtime was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which task.
    pub id: TaskId,
    /// What it is doing.
    pub state: FoundState,
}

/// What a found task is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// It runs, and its end will come as an [`Event`].
    Running {
        /// Its main process.
        pid: u32,
    },
    /// It ended, perhaps while no agent lived. No event will come.
    Ended(End),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_are_plain_file_names() {
        for good in ["a", "web.0_task-1", &"x".repeat(100)] {
            assert_eq!(good.parse::<TaskId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", ".new", "a/b", "a b", "ä", "a\0", &"x".repeat(101)] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_launch_the_kernel_would_misread_is_refused() {
        let id: TaskId = "t".parse().expect("an id");
        let good = Launch::new(id.clone(), ["true"]);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(Launch::new(id.clone(), [""]).check(), Err(LaunchFlaw::NoProgram));
        assert_eq!(Launch::new(id.clone(), ["a\0b"]).check(), Err(LaunchFlaw::Nul));
        let long = Launch::new(id, ["x".repeat(ARGUMENT_BYTES)]);
        assert!(matches!(long.check(), Err(LaunchFlaw::TooLong { .. })));
        let mut odd = good.clone();
        odd.env.insert("A=B".into(), String::new());
        assert!(matches!(odd.check(), Err(LaunchFlaw::Variable { .. })));
        let unstoppable = Launch { stop_signal: 0, ..good };
        assert_eq!(unstoppable.check(), Err(LaunchFlaw::StopSignal { signal: 0 }));
    }
}
