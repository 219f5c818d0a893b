//! One thing to do on the way from a launch to a running program.
//!
//! A step prints as what is done ("mount overlay at /"), so that the printed plan
//! and the reason of a failure ("cannot mount overlay at /: Invalid argument
//! (step 14)") are the same words.

use std::fmt;
use std::path::PathBuf;

use super::exact::ExactStep;
use super::namespaces::Namespaces;
use crate::capability::CapabilitySet;
use crate::container::{Access, Changes, Clocks};
use crate::exact::Depth;
use crate::launch::{Rlimit, User};

/// Something of the host that is mounted in a container, opened once by the
/// supervisor; later steps name it by its number, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files of the root, lowest layer first.
    Layer(PathBuf),
    /// Where changes to the root go: `root/` of the task's directory.
    Changes,
    /// A file or directory of the host.
    Host(PathBuf),
    /// A device of the host.
    Device(PathBuf),
    /// A named directory that the runtime keeps.
    Volume(String),
    /// Something of the host, as it is there: with its attributes, its twins and, if that
    /// is said, the mounts below it.
    Plain(PathBuf, Depth),
    /// A namespace, by its file.
    Namespace(PathBuf),
    /// A control group, by its `cgroup.procs`.
    Procs(PathBuf),
    /// A file of the task's directory, which the runtime wrote for the container.
    Text(String),
}

/// How it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// What.
    pub source: Source,
    /// Whether it may be changed.
    pub access: Access,
    /// Whether the container's user N is shown as, and has the rights of, the
    /// owner N on disk.
    pub owners: Owners,
}

/// How the owners of mounted files are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// As they are on disk, which the container sees through its own ids.
    Disk,
    /// The container's user N for the owner N on disk.
    Mapped,
    /// Mapped where the file system can; as on disk otherwise, which gives no more.
    MappedIfPossible,
}

/// Who gets the ids of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// Lines of `uid_map`: inside, outside, count.
    pub uids: Vec<[u32; 3]>,
    /// Lines of `gid_map`.
    pub gids: Vec<[u32; 3]>,
    /// Who writes them.
    pub writer: MapWriter,
}

/// Who writes an id map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWriter {
    /// The supervisor, as root.
    Root,
    /// The supervisor, as the user whose id is the only one mapped.
    Owner,
    /// `newuidmap` and `newgidmap`, which know what the user was granted.
    Helpers,
}

/// A file system of the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `/proc`
    Proc,
    /// `/sys`, read-only.
    Sys,
    /// `/sys` of the host, read-only: the container's network is not its own.
    HostSys,
    /// `/sys/fs/cgroup`, read-only, from the container's own group down.
    Cgroup,
    /// `/dev`: a tmpfs with the harmless devices.
    Dev,
    /// `/dev/pts`
    Terminals,
    /// `/dev/mqueue`
    Queues,
}

impl Special {
    /// Where it is mounted.
    pub fn target(self) -> &'static str {
        match self {
            Self::Proc => "/proc",
            Self::Sys | Self::HostSys => "/sys",
            Self::Cgroup => "/sys/fs/cgroup",
            Self::Dev => "/dev",
            Self::Terminals => "/dev/pts",
            Self::Queues => "/dev/mqueue",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sys => "sysfs",
            Self::HostSys => "the host's /sys",
            Self::Cgroup => "cgroup2",
            Self::Dev => "tmpfs",
            Self::Terminals => "devpts",
            Self::Queues => "mqueue",
        }
    }
}

/// What is hidden or made read-only below `/proc` and `/sys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// Reads as empty.
    Hidden,
    /// Cannot be changed.
    ReadOnly,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    // What the supervisor does.
    /// Takes a handle to something of the host.
    Open(Tree),
    /// Makes the directories for changes.
    PrepareChanges {
        /// Whose they are, on disk.
        owner: User,
    },
    /// Enters another task's network before the clone, and leaves it after.
    JoinNetwork,
    /// Makes the process.
    Clone(Namespaces),
    /// Gives its user namespace ids.
    MapIds(IdMap),
    /// Shows a tree's owners through the user namespace.
    ShowOwners {
        /// Which tree.
        tree: usize,
        /// Whether the file system may refuse.
        owners: Owners,
    },
    /// Raises a limit to what the process will set for itself.
    RaiseLimit(Rlimit),
    /// Says how willingly the kernel kills the process when memory runs out.
    ScoreIt(i32),
    /// Gives its network namespace addresses.
    Connect,
    /// Lets the process go on.
    Go,

    // What the process does.
    /// Enters the namespaces of a running container, with a limit as high as is asked.
    Enter(Namespaces),
    /// Waits until it may.
    Await,
    /// Joins the control groups it was not born in.
    JoinGroups,
    /// Sees its own control group as the root.
    OwnGroupView,
    /// Begins a session, with signals, mask and keyring as a fresh program expects.
    Session,
    /// Has clocks that begin now.
    OwnClocks,
    /// Is root of its user namespace.
    BeRoot,
    /// Does not take part in the host's mounts any more.
    LeavePropagation,
    /// Names the machine.
    Hostname(String),
    /// Brings the loopback device up.
    Loopback,
    /// Opens a tree again, in its own mount namespace.
    Reopen {
        /// Which tree.
        tree: usize,
        /// Whether it may be changed.
        access: Access,
    },
    /// Takes a copy of the host's `/sys`, which the root's making covers.
    KeepHostSys,
    /// Mounts the root.
    Root {
        /// How many trees are its layers: the first ones.
        layers: usize,
        /// Which tree takes the changes, if they go to disk.
        upper: Option<usize>,
        /// Where changes go.
        changes: Changes,
    },
    /// Mounts a file system of the kernel's own.
    Special(Special),
    /// Puts one of the host's harmless devices into `/dev`, by its name there.
    Device(String),
    /// Links of `/dev`: `fd`, `stdin`, `ptmx` and their like.
    DeviceLinks,
    /// Mounts memory.
    Tmpfs {
        /// Where.
        target: PathBuf,
        /// Most that fits.
        bytes: u64,
        /// Permissions of its root directory.
        mode: u32,
    },
    /// Mounts a tree.
    Attach {
        /// Which.
        tree: usize,
        /// Where.
        target: PathBuf,
    },
    /// Puts a device of the host where the launch wants it.
    HostDevice {
        /// Which tree it is.
        tree: usize,
        /// Where.
        target: PathBuf,
    },
    /// Sets a kernel parameter of its namespaces.
    Sysctl {
        /// As `sysctl` writes it.
        name: String,
        /// Its new value.
        value: String,
    },
    /// Covers these paths, where they exist.
    Cover {
        /// How.
        how: Cover,
        /// Below `/proc` or `/sys`.
        paths: Vec<String>,
    },
    /// Makes the root read-only.
    FreezeRoot,
    /// Leaves the host's root for good.
    Pivot,
    /// Opens a terminal and hands its other end to the supervisor.
    Terminal {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Makes the terminal that it was given the one of its session.
    TakeTerminal,
    /// Makes the standard streams its own, and all other descriptors end at exec.
    Streams,
    /// Goes into its scratch directory.
    Scratch,
    /// Goes into a directory: one of a container is made if it is missing.
    Directory(PathBuf),
    /// Limits each process.
    Limit(Rlimit),
    /// Says how willingly the kernel kills it when memory runs out.
    Score(i32),
    /// Runs the program in a child, and stays as the first process.
    Reaper,
    /// Finds the user in the container's own files.
    FindUser(String),
    /// Becomes that user of a container, with at most these powers.
    BecomeFound(CapabilitySet),
    /// Becomes a user of the host, with no groups but its own.
    Become(User),
    /// Cannot gain privileges by executing a file.
    NoNewPrivileges,
    /// Cannot see into these directories of the host.
    Hide(Vec<PathBuf>),
    /// The same, by covering them in its own mount namespace; enters its scratch
    /// directory, which stays open to it.
    Veil(Vec<PathBuf>),
    /// Has nothing to do with processes outside of its task: signals, tracing, abstract
    /// sockets.
    Apart,
    /// May make only the system calls of the default profile, given these powers.
    FilterCalls(CapabilitySet),
    /// Of a container by another's description; see [`ExactStep`].
    Exact(ExactStep),
    /// Waits until its supervisor is told to let it go on.
    Hold,
    /// Runs the program.
    Execute(String),
}

impl Step {
    /// Whether the supervisor does it, and not the new process.
    pub fn is_supervisors(&self) -> bool {
        if let Self::Exact(step) = self {
            return step.is_supervisors();
        }
        matches!(
            self,
            Self::Open(_)
                | Self::PrepareChanges { .. }
                | Self::JoinNetwork
                | Self::Clone(_)
                | Self::MapIds(_)
                | Self::ShowOwners { .. }
                | Self::RaiseLimit(_)
                | Self::ScoreIt(_)
                | Self::Connect
                | Self::Go
        )
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(path) => write!(f, "the layer {}", path.display()),
            Self::Changes => f.write_str("the directory for changes"),
            Self::Procs(path) => write!(f, "the control group's {}", path.display()),
            Self::Namespace(path) => write!(f, "the namespace {}", path.display()),
            Self::Host(path) | Self::Device(path) | Self::Plain(path, _) => {
                write!(f, "{} of the host", path.display())
            }
            Self::Volume(name) => write!(f, "the volume {name}"),
            Self::Text(name) => write!(f, "the runtime's {name}"),
        }
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, lines) in [("users", &self.uids), (", groups", &self.gids)] {
            f.write_str(kind)?;
            for [inside, outside, count] in lines {
                write!(f, " {inside}->{outside}+{count}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(tree) => {
                let write = if tree.access == Access::Write { "for writing" } else { "read-only" };
                write!(f, "open {} {write}", tree.source)
            }
            Self::PrepareChanges { owner } => {
                write!(f, "make the directories for changes, owned by {}:{}", owner.uid, owner.gid)
            }
            Self::JoinNetwork => f.write_str("enter the network of the other task"),
            Self::Clone(namespaces) => write!(f, "make a process in {namespaces}"),
            Self::MapIds(map) => write!(f, "map {map}"),
            Self::ShowOwners { tree, .. } => {
                write!(f, "show the owners of tree {tree} through the user namespace")
            }
            Self::RaiseLimit(limit) => {
                write!(f, "raise the limit {} to {}", limit.name, limit.hard)
            }
            Self::ScoreIt(score) | Self::Score(score) => {
                write!(f, "set its OOM score adjustment to {score}")
            }
            Self::Connect => f.write_str("connect its network"),
            Self::Go => f.write_str("let it go on"),
            Self::Enter(namespaces) => {
                f.write_str("enter the container's namespaces:")?;
                namespaces.names().try_for_each(|name| write!(f, " {name}"))
            }
            Self::Await => f.write_str("wait for the supervisor"),
            Self::JoinGroups => f.write_str("join its control groups"),
            Self::OwnGroupView => f.write_str("see its control group as the root"),
            Self::Session => f.write_str("begin a session"),
            Self::OwnClocks => f.write_str("begin its own clocks"),
            Self::BeRoot => f.write_str("be root of the user namespace"),
            Self::LeavePropagation => f.write_str("leave the propagation of mounts"),
            Self::Hostname(name) => write!(f, "set the hostname {name}"),
            Self::Loopback => f.write_str("bring the loopback device up"),
            Self::Reopen { tree, .. } => write!(f, "open tree {tree} in its own mount namespace"),
            Self::KeepHostSys => f.write_str("copy the mounts of the host's /sys"),
            Self::Root { layers, changes, .. } => {
                write!(f, "mount overlay at / ({layers} layers, changes ")?;
                match changes {
                    Changes::Refused => f.write_str("refused)"),
                    Changes::Disk => f.write_str("on disk)"),
                    Changes::Memory { bytes } => write!(f, "in {bytes} bytes of memory)"),
                }
            }
            Self::Special(special) => {
                write!(f, "mount {} at {}", special.kind(), special.target())
            }
            Self::Device(name) => write!(f, "bind the host's /dev/{name}"),
            Self::DeviceLinks => {
                f.write_str("link fd, stdin, stdout, stderr, core and ptmx in /dev")
            }
            Self::Tmpfs { target, bytes, mode } => {
                write!(f, "mount tmpfs at {} ({bytes} bytes, mode {mode:o})", target.display())
            }
            Self::Attach { tree, target } => write!(f, "mount tree {tree} at {}", target.display()),
            Self::HostDevice { tree, target } => {
                write!(f, "put device tree {tree} at {}", target.display())
            }
            Self::Sysctl { name, value } => write!(f, "set {name} to {value:?}"),
            Self::Cover { how: Cover::Hidden, paths } => write!(f, "hide {}", paths.join(" ")),
            Self::Cover { how: Cover::ReadOnly, paths } => {
                write!(f, "make read-only {}", paths.join(" "))
            }
            Self::FreezeRoot => f.write_str("make the root read-only"),
            Self::Pivot => f.write_str("pivot into the root"),
            Self::Terminal { rows, columns } => write!(f, "open a terminal of {rows}x{columns}"),
            Self::TakeTerminal => f.write_str("take its terminal"),
            Self::Streams => f.write_str("take its standard streams"),
            Self::Scratch => f.write_str("enter scratch"),
            Self::Directory(path) => write!(f, "enter {}", path.display()),
            Self::Limit(limit) => {
                write!(f, "set the limit {} to {}:{}", limit.name, limit.soft, limit.hard)
            }
            Self::Reaper => f.write_str("leave a reaper as the first process"),
            Self::FindUser(user) => write!(f, "find the user {user:?}"),
            Self::BecomeFound(caps) => write!(f, "become that user with {caps}"),
            Self::Become(user) => write!(f, "run as {}:{}", user.uid, user.gid),
            Self::NoNewPrivileges => f.write_str("renounce new privileges"),
            Self::Hide(paths) => {
                f.write_str("renounce")?;
                paths.iter().try_for_each(|path| write!(f, " {}", path.display()))
            }
            Self::Veil(paths) => {
                f.write_str("cover")?;
                paths.iter().try_for_each(|path| write!(f, " {}", path.display()))?;
                f.write_str(" and enter scratch")
            }
            Self::Apart => f.write_str("renounce the processes outside"),
            Self::FilterCalls(_) => f.write_str("filter system calls"),
            Self::Exact(step) => step.fmt(f),
            Self::Hold => f.write_str("wait for the order to start"),
            Self::Execute(program) => write!(f, "execute {program}"),
        }
    }
}

impl Clocks {
    /// Whether they need a namespace.
    pub(crate) fn are_own(self) -> bool {
        self == Self::Own
    }
}
