//! How much Landlock this kernel has, and what that leaves open.

use std::fmt;

use crate::sys::landlock as kernel;

// linux/landlock.h.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const RESOLVE_UNIX: u64 = 1 << 16;
/// Bits 0 to 12: all of version 1, the above and making and removing of every kind.
const VERSION_1: u64 = REFER - 1;
/// No abstract sockets of processes outside.
const ABSTRACT_SOCKET: u64 = 1 << 0;
/// No signals to processes outside.
const SIGNAL: u64 = 1 << 1;

/// The one right that is given everywhere.
pub(super) const LIST: u64 = READ_DIR;

/// What a version can forbid, as far as we use it. Not used: calls on devices (5), for a
/// data directory has none; the network (4, 10), which a process task shares with its user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    version: u32,
}

impl Rights {
    /// Of a ruleset that leaves files alone.
    pub(super) const NONE: Self = Self { version: 0 };

    pub(super) fn of(version: u32) -> Self {
        Self { version }
    }

    /// All rights on directories: what is forbidden without a rule.
    pub(super) fn handled(self) -> u64 {
        let since = |version, right| if self.version >= version { right } else { 0 };
        since(1, VERSION_1) | since(2, REFER) | since(3, TRUNCATE) | since(9, RESOLVE_UNIX)
    }

    /// Those of them that a rule on a file may have.
    pub(super) fn of_files(self) -> u64 {
        (EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | RESOLVE_UNIX) & self.handled()
    }

    pub(super) fn scopes(self) -> u64 {
        if self.version >= 6 { SIGNAL | ABSTRACT_SOCKET } else { 0 }
    }
}

/// Landlock on this machine. Its text is a fact to be told with the machine's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wall {
    /// Not built, or not started, with it.
    Absent,
    /// Its version, from 1 on.
    Abi(u32),
}

/// What a task can still do, below which version.
const GAPS: [(u32, &str); 3] = [
    (3, "empty the agent's files"),
    (6, "signal the agent and other tasks"),
    (9, "connect to sockets in the agent's directory"),
];

/// What tasks lose under version 1: it refuses this everywhere, with EXDEV.
const LOSS: &str = "they cannot move or link files from one directory to another";

impl Wall {
    /// Asks the kernel.
    pub(crate) fn here() -> Self {
        kernel::abi().map_or(Self::Absent, Self::Abi)
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Abi(version) = *self else {
            return f.write_str(
                "this kernel has no Landlock, so a process task that runs as the agent's user \
                 can read the agent's keys and stop it; Linux 5.13 and newer have it, if \
                 started with lsm=landlock,...",
            );
        };
        write!(f, "Landlock {version} keeps process tasks out of the agent's directory")?;
        let gaps = GAPS.iter().filter(|(since, _)| version < *since);
        for (index, (_, gap)) in gaps.enumerate() {
            let before = if index == 0 { "; this version lets them" } else { "," };
            write!(f, "{before} {gap}")?;
        }
        if version < 2 { write!(f, "; {LOSS}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_forbids_what_it_knows() {
        assert_eq!(Rights::of(1).handled(), 0x1fff);
        assert_eq!(Rights::of(2).handled(), 0x3fff);
        assert_eq!(Rights::of(7).handled(), 0x7fff);
        assert_eq!(Rights::of(7).of_files(), 0x4007);
        assert_eq!(Rights::of(12).handled(), 0x1_7fff);
        assert_eq!((Rights::of(5).scopes(), Rights::of(6).scopes()), (0, 3));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(Wall::Absent.to_string().contains("has no Landlock"));
        let first = Wall::Abi(1).to_string();
        assert!(GAPS.iter().all(|(_, gap)| first.contains(gap)), "{first}");
        assert!(first.ends_with(LOSS), "{first}");
        let seventh = Wall::Abi(7).to_string();
        assert_eq!(
            seventh,
            "Landlock 7 keeps process tasks out of the agent's directory; \
             this version lets them connect to sockets in the agent's directory"
        );
        assert!(!Wall::Abi(9).to_string().contains("lets"));
    }
}
