//! A container to the letter: what somebody else's description of one says, and nothing
//! beside it.
//!
//! A [`Container`](crate::Container) says how it differs from ours, which is safe as it
//! comes; an [`Exact`] says all of it: each mount, node, power and namespace. That is how
//! the bundles of the OCI runtime specification
//! (<https://github.com/opencontainers/runtime-spec>) are run on this isolator. Where the
//! two agree, the steps are the same.
//!
//! Invariant: only for a runtime of root, and for whoever is trusted with the host: what is
//! not named here is the host's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capability::CapabilitySet;
use crate::cgroup::DeviceRule;
use crate::container::Access;

/// Everything of a container but its root's directory, its host name, its kernel
/// parameters, and whether it has ids of its own, which its `Container` says. Of that no
/// other field counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exact {
    /// Those that are not the host's. The mount namespace is never the host's.
    pub namespaces: BTreeMap<NamespaceKind, Share>,
    /// Lines of `uid_map`, if its ids are its own: inside, outside, count.
    pub uids: Vec<[u32; 3]>,
    /// Lines of `gid_map`.
    pub gids: Vec<[u32; 3]>,
    /// Name of the NIS domain, if it is to be set.
    pub domainname: Option<String>,
    /// Whether its root may be changed. What it changes, it changes in the directory itself.
    pub root: Access,
    /// How mounts spread from and to its root; as the host's, but never to the host, if
    /// none is given.
    pub propagation: Option<Propagation>,
    /// In this order.
    pub mounts: Vec<PlainMount>,
    /// In this order, after the mounts.
    pub nodes: Vec<Node>,
    /// Links, made where nothing is: path, target.
    pub links: Vec<(PathBuf, String)>,
    /// What reads as empty, where it exists.
    pub hidden: Vec<PathBuf>,
    /// What cannot be changed, where it exists.
    pub read_only: Vec<PathBuf>,
    /// Whom it runs as.
    pub user: PlainUser,
    /// Its powers.
    pub powers: Powers,
    /// Whether it can gain privileges by executing a file.
    pub privileges: Privileges,
    /// How ready the kernel is to kill it when memory is short, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// A filter of its system calls: words of `struct sock_filter`. The kernel checks it.
    pub filter: Option<Vec<u64>>,
    /// Which devices it may use, if not all: an allow-list.
    pub devices: Option<Vec<DeviceRule>>,
    /// Files that its first process is put into a control group by, beside the runtime's
    /// own groups: `cgroup.procs` of each. Whoever made the groups removes them.
    pub groups: Vec<PathBuf>,
    /// Held also before its root is entered, while the host's is still there.
    pub first_hold: FirstHold,
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceKind {
    /// User and group ids.
    User,
    /// Mounts.
    Mnt,
    /// Processes.
    Pid,
    /// Host name.
    Uts,
    /// Inter-process communication.
    Ipc,
    /// Network.
    Net,
    /// Control groups, as they are seen.
    Cgroup,
    /// Monotonic clocks.
    Time,
}

/// Which namespace of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// One of its own.
    New,
    /// The one behind this file.
    Of(PathBuf),
}

/// How mounts spread between namespaces: `mount_namespaces(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// To and from peers.
    Shared,
    /// From a master.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it cannot be mounted again elsewhere.
    Unbindable,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainMount {
    /// Where it appears, in the container.
    pub target: PathBuf,
    /// What it is.
    pub what: Mounted,
    /// Attributes, as `mount_setattr` takes them: those set, those cleared.
    pub attributes: (u64, u64),
    /// Attributes of all mounts below it too.
    pub deep_attributes: (u64, u64),
    /// How it spreads, alone and with all below it.
    pub propagation: Option<(Propagation, Depth)>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mounted {
    /// A new file system.
    New {
        /// Its type.
        kind: String,
        /// What `mount` calls its source.
        source: Option<String>,
        /// Options of its type; one without a value is a flag.
        options: Vec<(String, Option<String>)>,
    },
    /// Something of the host, whose path leads through no symbolic link.
    Bind {
        /// Where it is.
        source: PathBuf,
        /// Whether mounts below it come along.
        depth: Depth,
    },
}

/// Whether mounts below one are meant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Only itself.
    Itself,
    /// All below.
    All,
}

/// A special file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub kind: NodeKind,
    /// Permissions.
    pub mode: u32,
    /// Its owner, inside.
    pub uid: u32,
    /// Its group, inside.
    pub gid: u32,
}

/// What a special file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A character device of these numbers.
    Character(u32, u32),
    /// A block device of these numbers.
    Block(u32, u32),
    /// A named pipe.
    Pipe,
}

/// A user by numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainUser {
    /// User id, inside.
    pub uid: u32,
    /// Group id, inside.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask; 022 if none is given.
    pub umask: Option<u32>,
}

/// The five sets of `capabilities(7)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Powers {
    /// The most it can ever get.
    pub bounding: CapabilitySet,
    /// What it may use.
    pub permitted: CapabilitySet,
    /// What it uses.
    pub effective: CapabilitySet,
    /// What files that it executes may leave it.
    pub inheritable: CapabilitySet,
    /// What any file that it executes leaves it.
    pub ambient: CapabilitySet,
}

/// Whether privileges can be gained by executing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privileges {
    /// Never again.
    Renounced,
    /// As the file says.
    Gainable,
}

/// Whether it is held before its root is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstHold {
    /// No.
    #[default]
    None,
    /// Yes: [`start`](crate::Runtime::start) lets it go on to the second hold.
    BeforeRoot,
}
