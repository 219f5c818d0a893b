//! What a user submits: one validated `JobSpec` behind every door.
//!
//! A spec is an immutable blob named by its hash; its bytes are kept as they
//! came, and fields that this version does not know are kept with them, so
//! that an older node relays a newer node's jobs unharmed.

mod bad;
mod program;
mod task;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::ContentHash;
use crate::limits::LimitKind;
use crate::resources::Resources;
use crate::slot::{GroupName, check_name};

pub use crate::signal::signal_number;
pub use bad::BadSpec;
pub use program::Program;
pub use task::{STOP_GRACE_MS, STOP_GRACE_MS_MAX, Streams, TaskSpec};

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

fn current_version() -> u32 {
    SPEC_VERSION
}

fn default_namespace() -> String {
    "default".to_owned()
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

fn is_label(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '=' || c.is_control())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
