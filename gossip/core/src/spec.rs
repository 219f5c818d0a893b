//! What a user submits: one validated `JobSpec` behind every door.
//!
//! A spec is an immutable blob named by its hash; its bytes are kept as they
//! came, and fields that this version does not know are kept with them, so
//! that an older node relays a newer node's jobs unharmed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::container::{BadContainer, ContainerSpec, ImageSpec, RootSpec};
use crate::health::{BadHealth, HealthSpec};
use crate::id::ContentHash;
use crate::limits::{BadLimit, LimitKind, OOM_SCORES, TaskLimits};
use crate::resources::{DEFAULT_ASK, Resources};
use crate::restart::Restart;
use crate::signal::SIGTERM;
use crate::slot::{BadName, GroupName, check_name};

pub use crate::signal::signal_number;

/// The version of the spec format that this code writes.
pub const SPEC_VERSION: u32 = 1;

/// The largest spec as bytes: it travels whole in one log record.
pub const SPEC_BYTES_MAX: usize = 256 * 1024;

/// The most copies one group may want: what one call and one listing can carry.
pub const COUNT_MAX: u32 = 20_000;

/// The most groups of one job.
pub const GROUPS_MAX: usize = 32;

/// The most labels of one job: far more than anybody reads.
pub const LABELS_MAX: usize = 256;

/// How much of a label's bad name is said.
const LABEL_SHOWN_MAX: usize = 80;

/// Fields that a newer version wrote.
pub type Unknown = BTreeMap<String, ciborium::Value>;

/// A job as submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The format's version; a greater one than `SPEC_VERSION` is refused by name.
    #[serde(default = "current_version")]
    pub version: u32,
    /// A label, not an identity: two live jobs may have one name.
    pub name: String,
    /// Which namespace it belongs to.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Who submitted it, as the door that took it knew them.
    #[serde(default)]
    pub owner: String,
    /// Service or batch.
    pub kind: JobKind,
    /// What runs.
    pub groups: Vec<GroupSpec>,
    /// What people say about it, for people and their programs: nothing here acts on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is removed, with all that its tasks wrote, once it is over or stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Whether copies are kept running or run to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Each copy is kept running: restarted when it ends, replaced when its host is lost.
    Service,
    /// Each copy runs until it succeeds or fails; it runs again only when its host is lost.
    Batch,
}

/// Tasks placed together on one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Unique within the job.
    pub name: GroupName,
    /// Wanted copies at submission; later scales are intent, not spec.
    pub count: u32,
    /// What runs in each copy. This version runs exactly one task a group.
    pub tasks: Vec<TaskSpec>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One process tree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Unique within the group.
    pub name: String,
    /// What is started.
    pub run: Program,
    /// Added to the `STARLING_*` variables; nothing else is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What is set aside for it.
    #[serde(default = "default_ask")]
    pub resources: Resources,
    /// What it may use at most, where that is not what is set aside.
    #[serde(default)]
    pub limits: TaskLimits,
    /// Limits of each of its processes, by Docker's names: `nofile = "1024:2048"`.
    #[serde(default)]
    pub ulimits: BTreeMap<String, String>,
    /// Its standard input, and whether it has a terminal.
    #[serde(default)]
    pub streams: Streams,
    /// What asks it to end, like `SIGTERM`, which it is where none is given.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// How long it may take to end after the stop signal, in milliseconds.
    #[serde(default = "default_stop_grace_ms")]
    pub stop_grace_ms: u64,
    /// Whether a batch's task is started again on its node before its end counts. A
    /// service's always is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is asked whether it is well; as its image says where nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// How willingly the kernel kills it when the node runs out of memory, -1000 to 1000;
    /// as its node's agent where none is given. Below 0 only for nodes that trust their jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// A plain process of the host.
    Process {
        /// The program and its arguments; the program is looked up in `PATH`.
        argv: Vec<String>,
        /// The working directory; a scratch directory of its own where none is given.
        #[serde(default)]
        directory: Option<String>,
        /// `USER[:GROUP]` of the node, by name or number, for nodes that trust their jobs;
        /// an unprivileged one of its own where none is given.
        #[serde(default)]
        user: Option<String>,
        /// Files that lie in its scratch directory when it starts, as the one layer of an
        /// image; it starts there, then, and nowhere else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<ImageSpec>,
    },
    /// A container.
    Container(Box<ContainerSpec>),
}

/// What a task's standard input is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Streams {
    /// Nothing to read.
    #[default]
    Closed,
    /// Whoever attaches may write to it.
    Input,
    /// A terminal, for all three.
    Terminal,
}

impl Program {
    /// A plain process, as the unprivileged user that its node gives it.
    pub fn process(argv: Vec<String>, directory: Option<String>) -> Self {
        Self::Process { argv, directory, user: None, files: None }
    }

    /// The program and its arguments.
    pub fn argv(&self) -> &[String] {
        match self {
            Self::Process { argv, .. } => argv,
            Self::Container(container) => &container.argv,
        }
    }

    /// The image that whichever node runs it must have: that of a container, or the files
    /// that come with a process.
    pub fn image(&self) -> Option<&ImageSpec> {
        match self {
            Self::Process { files, .. } => files.as_ref(),
            Self::Container(container) => container.image(),
        }
    }

    /// The same, to say which content it is.
    pub fn image_mut(&mut self) -> Option<&mut ImageSpec> {
        match self {
            Self::Process { files, .. } => files.as_mut(),
            Self::Container(container) => match &mut container.root {
                RootSpec::Image(image) => Some(image),
                RootSpec::Path(_) => None,
            },
        }
    }

    /// What runs, in short: its words, behind the name of its image where it has one.
    pub fn command(&self) -> String {
        let image = match self {
            Self::Container(container) => container.image(),
            Self::Process { .. } => None,
        };
        let words = image.map(|image| image.name.as_str()).into_iter();
        words.chain(self.argv().iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }

    /// Whether it may do without an argv: its image, or the job's entrypoint, says what runs.
    fn has_own_command(&self) -> bool {
        let Self::Container(container) = self else { return false };
        match &container.root {
            RootSpec::Image(_) => container.entrypoint.is_none() || container.has_entrypoint(),
            RootSpec::Path(_) => container.has_entrypoint(),
        }
    }
}

fn current_version() -> u32 {
    SPEC_VERSION
}

fn default_namespace() -> String {
    "default".to_owned()
}

fn default_ask() -> Resources {
    DEFAULT_ASK
}

/// Docker's grace between SIGTERM and SIGKILL.
pub const STOP_GRACE_MS: u64 = 10_000;

/// The longest grace a job may ask for: a day.
pub const STOP_GRACE_MS_MAX: u64 = 24 * 3600 * 1000;

fn default_stop_grace_ms() -> u64 {
    STOP_GRACE_MS
}

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

impl JobSpec {
    /// A job of one group with one task; the door that takes it says who owns it.
    pub fn of_task(name: String, kind: JobKind, count: u32, task: TaskSpec) -> Self {
        let group = GroupSpec {
            name: GroupName::main(),
            count,
            tasks: vec![task],
            unknown: Unknown::new(),
        };
        Self {
            version: SPEC_VERSION,
            name,
            namespace: default_namespace(),
            owner: String::new(),
            kind,
            groups: vec![group],
            labels: BTreeMap::new(),
            remove: false,
            unknown: Unknown::new(),
        }
    }

    /// Checks everything that must hold before a job is accepted or run.
    pub fn check(&self) -> Result<(), BadSpec> {
        if self.version > SPEC_VERSION {
            return Err(BadSpec::Newer(self.version));
        }
        check_name(&self.name)?;
        check_name(&self.namespace)?;
        if self.groups.is_empty() || self.groups.len() > GROUPS_MAX {
            return Err(BadSpec::Groups(self.groups.len()));
        }
        let mut names = BTreeSet::new();
        for group in &self.groups {
            if !names.insert(&group.name) {
                return Err(BadSpec::GroupTwice(group.name.clone()));
            }
            group.check()?;
        }
        if self.labels.len() > LABELS_MAX {
            return Err(BadSpec::Labels(self.labels.len()));
        }
        if let Some(name) = self.labels.keys().find(|name| !is_label(name)) {
            return Err(BadSpec::Label(name.chars().take(LABEL_SHOWN_MAX).collect()));
        }
        let restarts = self.groups.iter().flat_map(|group| &group.tasks);
        if self.kind == JobKind::Service && restarts.into_iter().any(|it| it.restart.is_some()) {
            return Err(BadSpec::Restart);
        }
        Ok(())
    }

    /// The spec as the blob that its hash names.
    pub fn to_blob(&self) -> Result<(ContentHash, Vec<u8>), BadSpec> {
        let bytes = codec::to_cbor(self)?;
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(BadSpec::Large(bytes.len()));
        }
        Ok((ContentHash::of(&bytes), bytes))
    }

    /// Reads and checks a blob.
    pub fn from_blob(bytes: &[u8]) -> Result<Self, BadSpec> {
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(BadSpec::Large(bytes.len()));
        }
        let spec: Self = codec::from_cbor(bytes)?;
        spec.check()?;
        Ok(spec)
    }

    /// The group of that name.
    pub fn group(&self, name: &GroupName) -> Option<&GroupSpec> {
        self.groups.iter().find(|group| group.name == *name)
    }
}

impl GroupSpec {
    fn check(&self) -> Result<(), BadSpec> {
        if self.count > COUNT_MAX {
            return Err(BadSpec::Count { group: self.name.clone(), count: self.count });
        }
        let [task] = self.tasks.as_slice() else {
            return Err(BadSpec::Tasks { group: self.name.clone(), tasks: self.tasks.len() });
        };
        task.check()
    }

    /// Why only a node that trusts its jobs with itself runs this; `None` if any does.
    pub fn needs_trust(&self) -> Option<String> {
        self.tasks.iter().find_map(|task| match &task.run {
            _ if task.oom_score_adj.is_some_and(|score| score < 0) => {
                Some("it asks to be spared when the node runs out of memory".to_owned())
            }
            Program::Container(container) => container.needs_trust(),
            Program::Process { user, .. } => {
                user.as_ref().map(|user| format!("it asks to run as the node's user {user}"))
            }
        })
    }

    /// The limits it asks for that not every node has the means for.
    pub fn limit_kinds(&self) -> BTreeSet<LimitKind> {
        self.tasks.iter().flat_map(|task| task.limits.kinds()).collect()
    }

    /// What one copy of the group takes.
    pub fn ask(&self) -> Resources {
        self.tasks.iter().fold(Resources::default(), |sum, task| Resources {
            cpu_milli: sum.cpu_milli.saturating_add(task.resources.cpu_milli),
            memory_bytes: sum.memory_bytes.saturating_add(task.resources.memory_bytes),
        })
    }
}

impl TaskSpec {
    /// A task of this program, called `main`, with the defaults of everything else.
    pub fn of(run: Program) -> Self {
        Self {
            name: "main".to_owned(),
            run,
            env: BTreeMap::new(),
            resources: DEFAULT_ASK,
            limits: TaskLimits::default(),
            ulimits: BTreeMap::new(),
            streams: Streams::Closed,
            stop_signal: None,
            stop_grace_ms: STOP_GRACE_MS,
            restart: None,
            health: None,
            oom_score_adj: None,
            unknown: Unknown::new(),
        }
    }

    /// The signal that asks it to end, by its number on Linux.
    pub fn stop_signal_number(&self) -> Option<i32> {
        self.stop_signal.as_deref().map_or(Some(SIGTERM), signal_number)
    }

    /// Its `ulimits`: name, soft, hard; `u64::MAX` is unlimited.
    pub fn rlimits(&self) -> impl Iterator<Item = Option<(&str, u64, u64)>> {
        self.ulimits.iter().map(|(name, text)| {
            let (soft, hard) = text.split_once(':').unwrap_or((text, text));
            Some((name.as_str(), rlimit(soft)?, rlimit(hard)?))
                .filter(|(_, soft, hard)| soft <= hard)
        })
    }

    fn check(&self) -> Result<(), BadSpec> {
        let argv = self.run.argv();
        let directory = match &self.run {
            Program::Process { directory, user, files, .. } => {
                files.as_ref().map_or(Ok(()), ImageSpec::check)?;
                if files.is_some() && directory.is_some() {
                    return Err(BadSpec::Elsewhere);
                }
                if user.as_ref().is_some_and(|user| user.is_empty() || user.contains('\0')) {
                    return Err(BadSpec::User);
                }
                directory.as_ref()
            }
            Program::Container(container) => {
                container.check()?;
                None
            }
        };
        if self.stop_signal_number().is_none() {
            return Err(BadSpec::StopSignal(self.stop_signal.clone().unwrap_or_default()));
        }
        if self.ulimits.len() > ULIMITS_MAX {
            return Err(BadSpec::Ulimit(format!("{} of them", self.ulimits.len())));
        }
        if let Some((_, (name, text))) =
            self.rlimits().zip(&self.ulimits).find(|(limit, _)| limit.is_none())
        {
            return Err(BadSpec::Ulimit(format!("{name}={text}")));
        }
        self.limits.check()?;
        self.health.as_ref().map_or(Ok(()), HealthSpec::check)?;
        if let Some(score) = self.oom_score_adj.filter(|score| !OOM_SCORES.contains(score)) {
            return Err(BadSpec::OomScore(score));
        }
        if argv.first().is_none_or(String::is_empty) && !self.run.has_own_command() {
            return Err(BadSpec::NoCommand);
        }
        if argv.iter().any(|arg| arg.contains('\0')) {
            return Err(BadSpec::Nul("argv"));
        }
        if directory.is_some_and(|path| path.contains('\0')) {
            return Err(BadSpec::Nul("directory"));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(BadSpec::Variable(name.clone()));
            }
            if value.contains('\0') {
                return Err(BadSpec::Nul("env"));
            }
        }
        if self.stop_grace_ms > STOP_GRACE_MS_MAX {
            return Err(BadSpec::Grace(self.stop_grace_ms));
        }
        Ok(())
    }
}

/// Linux knows 16 kinds.
const ULIMITS_MAX: usize = 16;

fn is_label(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '=' || c.is_control())
}

fn rlimit(text: &str) -> Option<u64> {
    if matches!(text, "unlimited" | "-1") { Some(u64::MAX) } else { text.parse().ok() }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
