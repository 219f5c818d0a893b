//! What was seen of a machine: plain data, made by `probe` or by a test.

use std::path::PathBuf;

use super::Trials;
use crate::cgroup::Layout;
use crate::plan::Facts;

/// Who asks, and in what surroundings: enough to say what to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// Whom the agent would run as.
    pub uid: u32,
    /// That user's name, or its number.
    pub user: String,
    /// Whether systemd runs this machine.
    pub systemd: bool,
    /// Whether that user has a systemd of their own here.
    pub user_manager: bool,
    /// Which kind of container this is, if it is one: `docker`.
    pub inside: Option<String>,
}

impl Ground {
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The command as this user types it.
    pub(super) fn as_root(&self, command: &str) -> String {
        if self.is_root() { command.to_owned() } else { format!("sudo {command}") }
    }

    /// One that redirects or goes on, as this user types it.
    pub(super) fn as_root_in_shell(&self, commands: &str) -> String {
        if self.is_root() { commands.to_owned() } else { format!("sudo sh -c \"{commands}\"") }
    }
}

/// Switches of the kernel that close user namespaces; `None` where there is no such switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// `user.max_user_namespaces`
    pub most: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian.
    pub unprivileged: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu.
    pub apparmor: Option<u64>,
    /// Whether SELinux enforces.
    pub selinux: bool,
}

/// What the network offers to containers on a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridging {
    /// Why there is no bridge, if so.
    pub refused: Option<String>,
    /// Whether the host passes packets on.
    pub forwards: bool,
    /// What may keep containers from being reached, as [`crate::net`] says it.
    pub warnings: Vec<String>,
}

/// How much of what is counted the agent may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Open files: what holds, and what may be asked for.
    pub open_files: Option<(u64, u64)>,
    /// Processes, and what says so.
    pub processes: Option<(u64, String)>,
    /// `fs.inotify.max_user_instances`
    pub inotify_instances: Option<u64>,
    /// `fs.inotify.max_user_watches`
    pub inotify_watches: Option<u64>,
}

/// Where the data directory lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The data directory.
    pub dir: PathBuf,
    /// That, or what exists above it.
    pub exists: PathBuf,
    /// Where its file system is mounted.
    pub mount: PathBuf,
    /// The file system's kind, as `mount` calls it.
    pub kind: String,
    /// Bytes that may be written, and all.
    pub free: u64,
    /// Bytes that there are.
    pub total: u64,
    /// Files that may be made; none where that is not counted.
    pub files_free: Option<u64>,
    /// Whether programs on it can be executed.
    pub executes: bool,
    /// Whether the user may write there.
    pub writable: bool,
}

/// What systemd was told of the agent's unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// `starling.service`
    pub name: String,
    /// `KillMode=`, if it says one.
    pub kill_mode: Option<String>,
    /// `Delegate=`, if it says so.
    pub delegate: Option<String>,
}

/// What was seen of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What plans go by.
    pub facts: Facts,
    /// As `uname -r` says it.
    pub release: String,
    /// Its control groups.
    pub layout: Layout,
    /// What was tried.
    pub trials: Trials,
    /// Who asks, where.
    pub ground: Ground,
    /// What closes user namespaces.
    pub switches: Switches,
    /// The security modules that run, as the kernel lists them.
    pub modules: String,
    /// The first id behind all that `/etc/subuid` and `/etc/subgid` grant.
    pub next_grant: u32,
    /// The network.
    pub bridging: Bridging,
    /// Numbers.
    pub room: Room,
    /// The data directory, if it could be looked at.
    pub storage: Option<Storage>,
    /// Seconds since 1970, as the clock has it.
    pub clock: u64,
    /// The agent's unit, if it has one.
    pub unit: Option<Unit>,
    /// Whether this user's processes outlive their last session.
    pub lingers: bool,
    /// Other engines: name and socket.
    pub engines: Vec<(String, PathBuf)>,
}
