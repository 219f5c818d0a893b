//! Which hierarchies this machine has, and where in them we may work.
//!
//! Probed once, by the keeper: whoever comes later must use the same answer, since
//! v1 groups lie below the group that the keeper was started in, and a restarted
//! agent may be started in another. So this is plain data that can be kept on disk.
//!
//! The rule for the base. v1: below our own group of each controller. v2: our own
//! group when it was delegated to us, else, as root, `/starling` at the top. A
//! group that is not ours to divide (a login session, another service) is left
//! alone: its manager would not know of our groups and could undo them.
//!
//! The decision is a pure function of two texts and of what the directories say.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::mounts::{self, Mount};

/// The leaf that our own processes move to, so that their group can be divided:
/// v2 lets a group have processes or divided controllers, not both. Also what to
/// name in a systemd unit's `DelegateSubgroup=`.
pub(super) const LEAF: &str = "agent";

/// What lies at the top of v2 when nothing is delegated to us.
pub(super) const TOP: &str = "starling";

/// Version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// One hierarchy for one set of controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// What limits or measures in a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// Shares and quotas of processor time.
    Cpu,
    /// Counts processor time (v1; part of the core in v2).
    Cpuacct,
    /// Memory and swap.
    Memory,
    /// Number of processes and threads.
    Pids,
    /// Which processors may be used.
    Cpuset,
    /// Block devices' bandwidth; `blkio` in v1.
    Io,
    /// Which devices may be opened (v1; a program in v2).
    Devices,
    /// Stops all at once (v1; part of the core in v2).
    Freezer,
}

impl Controller {
    /// By its name in v1.
    pub(super) fn from_legacy(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "cpuacct" => Self::Cpuacct,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "cpuset" => Self::Cpuset,
            "blkio" => Self::Io,
            "devices" => Self::Devices,
            "freezer" => Self::Freezer,
            _ => return None,
        })
    }

    /// Those of `cgroup.controllers` that we use.
    pub(super) fn from_unified(text: &str) -> Vec<Self> {
        let known = [Self::Cpu, Self::Memory, Self::Pids, Self::Cpuset, Self::Io];
        let has = |controller: &Self| text.split_ascii_whitespace().any(|n| n == controller.name());
        known.into_iter().filter(has).collect()
    }

    /// Its name in v2, and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
        }
    }
}

/// Whether we may work in the v2 hierarchy, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// In this group, which was given to us to divide.
    Delegated {
        /// Its directory.
        base: PathBuf,
    },
    /// In a group of our own at the top, as root.
    Top,
    /// Nowhere.
    Refused {
        /// A sentence that says why, and what would help.
        why: String,
    },
}

/// The v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unified {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Where in it we may work.
    pub standing: Standing,
    /// What can be limited there.
    pub controllers: Vec<Controller>,
}

/// One v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    /// What it limits; controllers may be mounted together.
    pub controllers: Vec<Controller>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own group in it, where we may make groups.
    pub base: Option<PathBuf>,
}

/// The hierarchies of this machine as its keeper found them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The v2 hierarchy, if it is mounted.
    pub unified: Option<Unified>,
    /// Every v1 hierarchy with a controller that we use.
    pub legacy: Vec<Legacy>,
    /// Whether the probing process was root, of its user namespace at least.
    pub root: bool,
}

/// What a directory of a hierarchy says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) writable: bool,
    /// Belongs to the user we run as.
    pub(super) owned: bool,
    /// Carries systemd's mark of delegation.
    pub(super) delegated: bool,
    /// Is not the root of the whole hierarchy: only the others have these files.
    pub(super) inner: bool,
    /// The text of `cgroup.controllers`.
    pub(super) controllers: String,
}

impl Layout {
    /// Looks at this process's own groups and at what is mounted. A machine without
    /// any is an answer, not an error.
    pub fn probe() -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let cgroup =
            fs::read_to_string("/proc/self/cgroup").or_else(|error| match error.kind() {
                // A kernel without control groups.
                io::ErrorKind::NotFound => Ok(String::new()),
                _ => Err(error),
            })?;
        Ok(plan(&mountinfo, &cgroup, geteuid().is_root(), &look))
    }
}

fn look(dir: &Path) -> Option<Look> {
    let owner = fs::metadata(dir).ok()?.uid();
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    Some(Look {
        writable: access(dir, Access::WRITE_OK).is_ok(),
        owned: owner == geteuid().as_raw(),
        delegated: ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0; 8];
            let got = rustix::fs::getxattr(dir, *name, value.as_mut_slice());
            got.is_ok_and(|length| value.get(..length) == Some(b"1"))
        }),
        inner: dir.join("cgroup.events").exists(),
        controllers,
    })
}

/// Decides from what was read.
pub(super) fn plan(
    mountinfo: &str,
    cgroup: &str,
    root: bool,
    look: &dyn Fn(&Path) -> Option<Look>,
) -> Layout {
    let mounts = mounts::mounts(mountinfo);
    let unified = mounts.iter().filter(|mount| mount.version == Version::V2);
    // Several mounts show the same hierarchy; one where we may work is best.
    let mut unified: Vec<_> =
        unified.map(|mount| unified_at(mount, mounts::own_unified(cgroup), root, look)).collect();
    unified.sort_by_key(|found| matches!(found.standing, Standing::Refused { .. }));
    let mut legacy: Vec<Legacy> = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.version == Version::V1) {
        let own = mount.controllers.first().and_then(|first| mounts::own_legacy(cgroup, *first));
        let base = own.and_then(|own| mount.directory(own));
        let base = base.filter(|base| look(base).is_some_and(|look| look.writable));
        let found =
            Legacy { controllers: mount.controllers.clone(), mount: mount.point.clone(), base };
        match legacy.iter_mut().find(|other| other.controllers == found.controllers) {
            None => legacy.push(found),
            Some(other) if other.base.is_none() => *other = found,
            Some(_) => {}
        }
    }
    Layout { unified: unified.into_iter().next(), legacy, root }
}

fn unified_at(
    mount: &Mount,
    own: Option<&str>,
    root: bool,
    look: &dyn Fn(&Path) -> Option<Look>,
) -> Unified {
    let found = |standing, controllers: &str| Unified {
        mount: mount.point.clone(),
        standing,
        controllers: Controller::from_unified(controllers),
    };
    for group in own.into_iter().flat_map(candidates) {
        let Some(base) = mount.directory(group) else { continue };
        let Some(seen) = look(&base) else { continue };
        // The root of our cgroup namespace is all that we are shown of the machine.
        let ours = seen.delegated || (!root && seen.owned) || (seen.inner && group == "/");
        if ours && seen.writable {
            return found(Standing::Delegated { base }, &seen.controllers);
        }
    }
    let top = look(&mount.point).unwrap_or_default();
    if root && top.writable {
        return found(Standing::Top, &top.controllers);
    }
    let why = if root {
        "the v2 hierarchy is mounted read-only; mount /sys/fs/cgroup writable"
    } else {
        "no v2 group is delegated to this user; run the agent with \
         `systemd-run --user --scope -p Delegate=yes`, or as a service with Delegate=yes"
    };
    found(Standing::Refused { why: why.to_owned() }, "")
}

/// Groups that may be the base: above the leaf that an earlier start moved us to, or
/// our own.
fn candidates(own: &str) -> impl Iterator<Item = &str> {
    let above = own.strip_suffix(LEAF).and_then(|above| above.strip_suffix('/'));
    let above = above.map(|above| if above.is_empty() { "/" } else { above });
    above.into_iter().chain([own])
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |controllers: &[Controller]| {
            let names: Vec<_> = controllers.iter().map(|controller| controller.name()).collect();
            if names.is_empty() { "no controllers".to_owned() } else { names.join(" ") }
        };
        if self.unified.is_none() && self.legacy.is_empty() {
            return f.write_str("no control groups");
        }
        if let Some(Unified { mount, standing, controllers }) = &self.unified {
            let controllers = names(controllers);
            match standing {
                Standing::Delegated { base } => {
                    write!(f, "v2 in {}: {controllers}", base.display())
                }
                Standing::Top => write!(f, "v2 at the top of {}: {controllers}", mount.display()),
                Standing::Refused { why } => write!(f, "v2 unusable: {why}"),
            }?;
        }
        for (at, Legacy { controllers, mount, base }) in self.legacy.iter().enumerate() {
            let comma = if at > 0 || self.unified.is_some() { "; " } else { "" };
            let controllers = names(controllers);
            match base {
                Some(base) => write!(f, "{comma}v1 {controllers} in {}", base.display())?,
                None => write!(f, "{comma}v1 {controllers} unusable at {}", mount.display())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
