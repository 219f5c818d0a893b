//! The fence around a process task that runs as the agent's own user.
//!
//! Such a task passes every check of owner and mode that the agent passes. Landlock is
//! what keeps it from the agent's data directory, from the scratch of other tasks, and
//! from the processes of both; the rest of the machine stays as its user knows it.
//!
//! Landlock allows and cannot forbid: a right on a directory holds for all below it.
//! So nothing is given on `/` but listing; every entry beside the way to a hidden
//! directory is given whole:
//!
//! ```text
//! /            list                     bin, etc, home, ...: all
//! /var         list                     var/log, var/tmp, ...: all
//! /var/lib     list                     var/lib/apt, ...: all
//! /var/lib/starling                     nothing but names
//! /var/lib/starling/tasks/ID/scratch    all
//! ```
//!
//! What that costs a task:
//! - at the levels on the way (`/`, `/var`, `/var/lib` above; one level down all is as
//!   ever) it cannot create, remove or rename entries: EACCES;
//! - entries that others create or replace there after the fence was built cannot be
//!   opened by it, so each task has a fence built for it;
//! - it cannot mount, not even in namespaces of its own.
//!
//! What Landlock does not guard, so that nobody relies on it: names, sizes and modes in
//! a hidden directory can be seen; its owner's `chmod`, `utimes` and `prlimit` work; a
//! bind mount deep in another place is another way in; before version 9 a socket in it
//! can be connected to; and root's capabilities reach around it (CAP_PERFMON reads
//! memory). Listing is given everywhere because `ls /` and `ls ~` are expected to work,
//! and a task could test names with `stat` anyway.
//!
//! Where user namespaces are allowed, a mount namespace hides more and costs nothing on
//! the way: an ordinary user's agent hides by that (`sandbox/veil`), and uses a fence that
//! hides nothing, which guards the processes and with scopes (version 6) takes nothing
//! else. This fence is for root's tasks of other users.
//!
//! Invariant: a fence that could not be built whole is an error, never a lower fence;
//! what this kernel's version cannot do is said by [`Wall`].

#[cfg(test)]
mod tests;
mod wall;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, stat};
use rustix::io::Errno;

pub(crate) use wall::Wall;
use wall::{LIST, Rights};

use crate::sys::landlock as kernel;

/// Most entries beside the way that a fence is built around. Each costs about 4 us and
/// some 100 bytes in the kernel, for each task; more of them means that the directory
/// lies in a place where files are kept by the thousand.
const ENTRIES_MAX: usize = 8192;

/// Bytes of directory entries read at once: some 200 names.
const LISTING_BYTES: usize = 8192;

/// How a directory on the way is opened: to find entries in it, not to read it.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Why there is no fence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FenceError {
    /// Nothing was built; [`Wall`] has the sentence.
    #[error("{}", Wall::Absent)]
    Absent,
    #[error("cannot hide {}", path.display())]
    Hidden { path: PathBuf, source: io::Error },
    #[error(
        "{} has more than {ENTRIES_MAX} entries, too many to fence a task around {}; \
         keep the data directory in a place with fewer files",
        level.display(), hidden.display()
    )]
    Crowded { level: PathBuf, hidden: PathBuf },
    #[error("Landlock refuses {step}")]
    Kernel { step: &'static str, source: io::Error },
}

/// A ruleset with all its rules, to be entered by a forked child.
///
/// Built before the fork: some 4 us for each entry beside the way, 200 us for a usual
/// `/var/lib`. Then [`admit`](Self::admit) the task's scratch, fork, and
/// [`restrict`](Self::restrict) in the child.
#[derive(Debug)]
pub(crate) struct Fence {
    ruleset: OwnedFd,
    rights: Rights,
    /// The hidden directories and all on the way to them, under whatever name.
    closed: Vec<Identity>,
    entries: usize,
}

/// Device and inode.
type Identity = (u64, u64);

impl Fence {
    /// A fence around these directories, which must exist. Without any it guards only
    /// the processes outside.
    pub(crate) fn around(hidden: &[&Path]) -> Result<Self, FenceError> {
        let Wall::Abi(version) = Wall::here() else { return Err(FenceError::Absent) };
        let rights = Rights::of(version);
        if hidden.is_empty() && rights.scopes() != 0 {
            let ruleset = kernel::create(0, rights.scopes()).map_err(refused("a ruleset"))?;
            return Ok(Self::empty(ruleset, Rights::NONE));
        }
        let ruleset =
            kernel::create(rights.handled(), rights.scopes()).map_err(refused("a ruleset"))?;
        let mut fence = Self::empty(ruleset, rights);
        let root = openat(CWD, "/", PLACE | OFlags::DIRECTORY, Mode::empty())
            .map_err(refused("the root directory"))?;
        let paths: Vec<PathBuf> =
            hidden.iter().map(|path| settled(path)).collect::<Result<_, _>>()?;
        let ways: Vec<&Path> =
            paths.iter().filter_map(|path| path.strip_prefix("/").ok()).collect();
        for path in paths.iter().flat_map(|path| path.ancestors()) {
            let failed =
                |error: Errno| FenceError::Hidden { path: path.to_owned(), source: error.into() };
            fence.closed.push(identity(&stat(path).map_err(failed)?));
        }
        if ways.is_empty() {
            fence.admit(root.as_fd())?;
        } else {
            kernel::allow(fence.ruleset.as_fd(), root.as_fd(), LIST).map_err(refused("listing"))?;
            fence.open_beside(&root, Path::new("/"), &ways)?;
        }
        Ok(fence)
    }

    fn empty(ruleset: OwnedFd, rights: Rights) -> Self {
        Self { ruleset, rights, closed: Vec::new(), entries: 0 }
    }

    /// Allows a directory and all below it, also inside a hidden one. For good: a fence
    /// that admits a task's scratch is that task's alone.
    pub(crate) fn admit(&self, directory: BorrowedFd<'_>) -> Result<(), FenceError> {
        if self.rights.handled() == 0 {
            return Ok(());
        }
        kernel::allow(self.ruleset.as_fd(), directory, self.rights.handled())
            .map_err(refused("an exception"))
    }

    /// Puts this process under the fence, for good. Between fork and exec, after the
    /// working directory was entered, with no-new-privileges set; allocates nothing.
    pub(crate) fn restrict(&self) -> Result<(), Errno> {
        kernel::restrict(self.ruleset.as_fd())
    }

    /// Allows every entry of a directory that is not on one of the ways, and goes on
    /// along them.
    fn open_beside(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        ways: &[&Path],
    ) -> Result<(), FenceError> {
        let hidden = |source: Errno| FenceError::Hidden {
            path: ways.first().map_or(path.to_owned(), |way| path.join(way)),
            source: source.into(),
        };
        self.open_entries(dir, path, ways).map_err(|error| error.unwrap_or_else(hidden))?;
        let mut names: Vec<&OsStr> = ways.iter().filter_map(|way| first(way)).collect();
        names.sort();
        names.dedup();
        for name in names {
            let along = || ways.iter().filter_map(|way| way.strip_prefix(name).ok());
            if along().any(|rest| rest.as_os_str().is_empty()) {
                continue; // Here it is: nothing at and below it.
            }
            let next =
                openat(dir, name, PLACE | OFlags::DIRECTORY, Mode::empty()).map_err(hidden)?;
            self.open_beside(&next, &path.join(name), &along().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn open_entries(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        ways: &[&Path],
    ) -> Result<(), EntryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = match openat(dir, ".", flags, Mode::empty()) {
            // Nobody of this user could list it, fence or not.
            Err(Errno::ACCESS) => return Ok(()),
            other => other?,
        };
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(listed, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || ways.iter().any(|way| first(way) == Some(name)) {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                let hidden = path.join(ways.first().unwrap_or(&path));
                return Err(EntryError::Fence(FenceError::Crowded {
                    level: path.to_owned(),
                    hidden,
                }));
            }
            self.open_entry(dir, name, entry.file_type())?;
        }
        Ok(())
    }

    fn open_entry(&self, dir: &OwnedFd, name: &OsStr, kind: FileType) -> Result<(), EntryError> {
        // What a link leads to has a rule of its own, or lies below something that has.
        if kind == FileType::Symlink {
            return Ok(());
        }
        let entry = match openat(dir, name, PLACE, Mode::empty()) {
            // Gone since it was listed, or not for this user.
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
            other => other?,
        };
        let found = fstat(&entry)?;
        // Names can lie: bind mounts, and file systems that fold case.
        if self.closed.contains(&identity(&found)) {
            return Ok(());
        }
        let rights = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => self.rights.handled(),
            _ => self.rights.of_files(),
        };
        match kernel::allow(self.ruleset.as_fd(), entry.as_fd(), rights) {
            // Of a kind that needs no rule.
            Ok(()) | Err(Errno::INVAL | Errno::BADFD) => Ok(()),
            Err(error) => Err(EntryError::Fence(refused("a rule")(error))),
        }
    }
}

/// A failure at an entry: whole, or still without the path that it is about.
#[derive(Debug)]
enum EntryError {
    Fence(FenceError),
    Plain(Errno),
}

impl EntryError {
    fn unwrap_or_else(self, complete: impl FnOnce(Errno) -> FenceError) -> FenceError {
        match self {
            Self::Fence(error) => error,
            Self::Plain(error) => complete(error),
        }
    }
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        Self::Plain(error)
    }
}

fn refused(step: &'static str) -> impl Fn(Errno) -> FenceError {
    move |error| FenceError::Kernel { step, source: error.into() }
}

/// The path without links, because rules stand on what is really on the way.
fn settled(path: &Path) -> Result<PathBuf, FenceError> {
    let failed = |source| FenceError::Hidden { path: path.to_owned(), source };
    let settled = fs::canonicalize(path).map_err(failed)?;
    if settled == Path::new("/") {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    Ok(settled)
}

fn first(way: &Path) -> Option<&OsStr> {
    way.iter().next()
}

fn identity(found: &Stat) -> Identity {
    (found.st_dev, found.st_ino)
}
