//! Which namespaces a process is born into.

use std::fmt;

use crate::exact::NamespaceKind;

/// A set of namespaces, as the `CLONE_NEW*` flags of `linux/sched.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u32);

/// Of `linux/sched.h`.
const CLONE_NEWTIME: i32 = 0x80;

const NAMES: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("uts", libc::CLONE_NEWUTS),
    ("ipc", libc::CLONE_NEWIPC),
    ("net", libc::CLONE_NEWNET),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", CLONE_NEWTIME),
];

impl Namespaces {
    /// None: those of the supervisor.
    pub const NONE: Self = Self(0);
    /// User ids.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u32);
    /// Mounts.
    pub const MOUNTS: Self = Self(libc::CLONE_NEWNS as u32);
    /// Network.
    pub const NET: Self = Self(libc::CLONE_NEWNET as u32);
    /// Control groups, as they are seen.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u32);
    /// Clocks.
    pub const TIME: Self = Self(CLONE_NEWTIME as u32);
    /// What every container has: mounts, processes, host name, IPC.
    pub const CONTAINER: Self = Self(
        (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) as u32,
    );

    /// What a plain process has that must not see all its user may: users and mounts.
    pub const PRIVATE: Self = Self((libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u32);

    /// The one of a kind.
    pub const fn of(kind: NamespaceKind) -> Self {
        Self(match kind {
            NamespaceKind::User => libc::CLONE_NEWUSER as u32,
            NamespaceKind::Mnt => libc::CLONE_NEWNS as u32,
            NamespaceKind::Pid => libc::CLONE_NEWPID as u32,
            NamespaceKind::Uts => libc::CLONE_NEWUTS as u32,
            NamespaceKind::Ipc => libc::CLONE_NEWIPC as u32,
            NamespaceKind::Net => libc::CLONE_NEWNET as u32,
            NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP as u32,
            NamespaceKind::Time => CLONE_NEWTIME as u32,
        })
    }

    /// All of these that are not among those.
    #[must_use]
    pub const fn without(self, those: Self) -> Self {
        Self(self.0 & !those.0)
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of the others are in it.
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// As the kernel takes them.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The kernel's names for them, as in `/proc/self/ns`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(_, bit)| self.0 & *bit as u32 != 0).map(|(name, _)| *name)
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("no namespace of its own");
        }
        f.write_str("its own namespaces:")?;
        self.names().try_for_each(|name| write!(f, " {name}"))
    }
}
