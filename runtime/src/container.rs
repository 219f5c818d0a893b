//! What a container is made of, as its launch asks for it.
//!
//! The defaults are Docker's where Docker has one, and stricter where that costs
//! a user nothing: a user namespace always, no new privileges always.
//!
//! Invariant: nothing here comes from an image. What an image says of itself is
//! data; what a task may do is said by whoever launches it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exact::Exact;
use crate::image::Digest;
use crate::launch::TaskId;
use crate::names::Names;

/// Ids in the range that a container has of its own: all that a 16 bit system knows.
pub const IDS: u32 = 65_536;

/// Docker's size of `/dev/shm`.
pub const SHM_BYTES: u64 = 64 << 20;

/// A container, but for what runs in it and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Where its files come from. They are never changed.
    pub root: Root,
    /// Where its changes to them go.
    pub changes: Changes,
    /// `USER[:GROUP]` by name or number; names are looked up in its own root.
    pub user: String,
    /// Whose ids its users are.
    pub ids: Ids,
    /// The first of the [`IDS`] host ids that it has of its own. The runtime picks one
    /// that no other task has when none is given.
    pub id_base: Option<u32>,
    /// Which network it has.
    pub network: Network,
    /// What it calls itself; the task's id, cut to fit, if none is given.
    pub hostname: Option<String>,
    /// Names and resolvers of its own.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub names: Names,
    /// In this order, after the root and the system's own file systems.
    pub mounts: Vec<Mount>,
    /// Beside the usual harmless ones.
    pub devices: Vec<Device>,
    /// Capabilities beyond Docker's default set, by name; `ALL` is all there are.
    pub cap_add: BTreeSet<String>,
    /// Capabilities of the default set it does not get.
    pub cap_drop: BTreeSet<String>,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Whether the dangerous parts of `/proc` and `/sys` are hidden or read-only.
    pub system_paths: SystemPaths,
    /// Kernel parameters of its own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Who is the first process.
    pub init: Init,
    /// Which clocks it has.
    pub clocks: Clocks,
    /// Size of `/dev/shm`.
    pub shm_bytes: u64,
    /// All of it, by somebody else's description, instead of what is said above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<Box<Exact>>,
}

impl Container {
    /// The default container over these files: isolated in everything, without a network.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            changes: Changes::Disk,
            user: "0:0".to_owned(),
            ids: Ids::Own,
            id_base: None,
            network: Network::None,
            hostname: None,
            names: Names::default(),
            mounts: Vec::new(),
            devices: Vec::new(),
            cap_add: BTreeSet::new(),
            cap_drop: BTreeSet::new(),
            seccomp: Seccomp::Default,
            system_paths: SystemPaths::Confined,
            sysctls: BTreeMap::new(),
            init: Init::Program,
            clocks: Clocks::Host,
            shm_bytes: SHM_BYTES,
            exact: None,
        }
    }
}

/// Where a container's files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// A directory of the host.
    Directory(PathBuf),
    /// A tar archive, plain or compressed, unpacked once and kept.
    Tar(PathBuf),
    /// Unpacked image layers, lowest first.
    Layers(Vec<PathBuf>),
    /// An image of the runtime's own store, by its id; its layers when it is launched.
    Image(Digest),
}

/// Where a container's changes to its root go. They end with the task's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// Nowhere: the root is read-only.
    Refused,
    /// Into the task's directory.
    Disk,
    /// Into memory, which counts as the task's.
    Memory {
        /// Most that fits.
        bytes: u64,
    },
}

/// Whose ids a container's users are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ids {
    /// [`IDS`] ids that no other task has; the runtime picks them. For an ordinary
    /// user's runtime: its own id as root's, and what `/etc/subuid` grants.
    Own,
    /// The host's own: no user namespace. Only for jobs that are trusted with the host.
    Host,
}

/// Which network a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// One of its own, with nothing but its loopback.
    None,
    /// The host's.
    Host,
    /// One of its own, with an address on the runtime's bridge.
    Bridge {
        /// Ports of the host that lead into it.
        publish: Vec<Publish>,
    },
    /// That of another task, which runs.
    Of(TaskId),
}

/// A port of the host that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// At this address of the host; at all if none is given.
    pub host_ip: Option<std::net::IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

/// What a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Something of the host, or of the runtime, inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// A directory or file of the host, with all the rights its owners have there.
    Bind {
        /// Where it is on the host.
        source: PathBuf,
        /// Where it appears.
        target: PathBuf,
        /// Whether it may be changed.
        access: Access,
    },
    /// A named directory that the runtime keeps beyond the task's end.
    Volume {
        /// Its name: one for all tasks of this runtime.
        name: String,
        /// Where it appears.
        target: PathBuf,
        /// Whether it may be changed.
        access: Access,
    },
    /// Memory as files.
    Tmpfs {
        /// Where it appears.
        target: PathBuf,
        /// Most that fits.
        bytes: u64,
        /// Permissions of its root directory.
        mode: u32,
    },
}

/// Whether something may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read and written.
    Write,
    /// Only read.
    Read,
}

/// A device of the host that a container may use: a serial port, a GPU's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its node on the host.
    pub source: PathBuf,
    /// Its node in the container.
    pub target: PathBuf,
    /// Whether it may be written.
    pub access: Access,
}

/// Which system calls a container may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default profile, without vsock.
    Default,
    /// All.
    Unconfined,
}

/// Whether the dangerous parts of `/proc` and `/sys` are hidden or read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemPaths {
    /// As Docker does.
    Confined,
    /// All of them as they are.
    Unconfined,
}

/// Who is the first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The program itself: it reaps what it inherits, or zombies stay.
    Program,
    /// One of ours, which passes signals on and reaps.
    Reaper,
}

/// Which clocks a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clocks {
    /// The host's.
    Host,
    /// A time namespace: its monotonic clocks begin with it.
    Own,
}
