//! One process tree of a job: what runs, with what, and how it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BadSpec, Program, Unknown};
use crate::container::ImageSpec;
use crate::health::HealthSpec;
use crate::limits::{OOM_SCORES, TaskLimits};
use crate::resources::{DEFAULT_ASK, Resources};
use crate::restart::Restart;
use crate::signal::{SIGTERM, signal_number};

/// Docker's grace between SIGTERM and SIGKILL.
pub const STOP_GRACE_MS: u64 = 10_000;

/// The longest grace a job may ask for: a day.
pub const STOP_GRACE_MS_MAX: u64 = 24 * 3600 * 1000;

/// Linux knows 16 kinds.
const ULIMITS_MAX: usize = 16;

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

fn default_ask() -> Resources {
    DEFAULT_ASK
}

fn default_stop_grace_ms() -> u64 {
    STOP_GRACE_MS
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

    pub(super) fn check(&self) -> Result<(), BadSpec> {
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

fn rlimit(text: &str) -> Option<u64> {
    if matches!(text, "unlimited" | "-1") { Some(u64::MAX) } else { text.parse().ok() }
}
