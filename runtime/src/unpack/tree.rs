//! The tree being made: its root, and the directory that was written to last.
//!
//! Archives list a directory's entries together, so the handle of the last
//! directory saves resolving the path again for nearly every entry. It is
//! forgotten whenever something is replaced, for then a path may lead elsewhere.
//!
//! Making an entry changes its directory's time, which the archive has set
//! already. So the time is noted when a directory becomes the current one, and
//! put back when it ceases to be: exact in any order of entries, and without a
//! list of all directories.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::{Flaw, printable};
use super::path::EntryPath;
use super::remove::remove_tree;
use super::walk::{DIRECTORY, Walk, make_dirs, open_dir};

/// The bit by which a directory hands its group to what is made in it.
const SET_GID: u32 = 0o2000;

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    walk: Walk,
    here: Option<Here>,
    /// Where files go that are replaced, if their content is needed still.
    aside: Option<OwnedFd>,
    replaced: bool,
}

/// The current directory.
#[derive(Debug)]
pub(super) struct Here {
    path: Vec<u8>,
    pub(super) dir: OwnedFd,
    /// What its times are to be again.
    times: Timestamps,
    mode: u32,
    touched: bool,
}

impl Here {
    /// Whether what is made here gets this directory's group and not ours.
    pub(super) fn gives_group(&self) -> bool {
        self.mode & SET_GID != 0
    }
}

impl Tree {
    pub(super) fn new(into: BorrowedFd) -> rustix::io::Result<Self> {
        let root = rustix::fs::openat(into, ".", DIRECTORY, Mode::empty())?;
        Ok(Self { root, walk: Walk::Kernel, here: None, aside: None, replaced: false })
    }

    /// Has files that are replaced kept in a directory of the same file system, each under
    /// the number of its inode.
    pub(super) fn keep_replaced(&mut self, aside: OwnedFd) {
        self.aside = Some(aside);
    }

    /// Whether anything was replaced.
    pub(super) fn has_replaced(&self) -> bool {
        self.replaced
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory for an entry, made if missing.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<&mut Here, Flaw> {
        let known = self.here.take_if(|here| here.path == path);
        let here = match known {
            Some(here) => here,
            None => {
                self.leave()?;
                let dir = self.open(path)?;
                let stat = rustix::fs::fstat(&dir).map_err(Flaw::in_step("look at a directory"))?;
                Here::new(path, dir, &stat)
            }
        };
        Ok(self.here.insert(here))
    }

    fn open(&mut self, path: &[u8]) -> Result<OwnedFd, Flaw> {
        let (walk, root) = (&mut self.walk, self.root.as_fd());
        let opened = match path {
            b"" => open_dir(walk, root, b"."),
            _ => match open_dir(walk, root, path) {
                Err(Errno::NOENT) => make_dirs(walk, root, path),
                opened => opened,
            },
        };
        opened.map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::XDEV | Errno::EXIST => {
                Flaw::Parent { parent: printable(path) }
            }
            source => Flaw::System { action: "open its directory", source },
        })
    }

    /// Opens an existing directory, to read or link from it.
    pub(super) fn existing(&mut self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        open_dir(&mut self.walk, self.root.as_fd(), path)
    }

    /// Makes something new at a path; what is there, of whatever kind, goes first.
    pub(super) fn place<T>(
        &mut self,
        path: &EntryPath,
        action: &'static str,
        make: impl Fn(BorrowedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, Flaw> {
        let (parent, name) = path.split().ok_or(Flaw::NoName)?;
        let here = self.parent(parent)?;
        here.touched = true;
        match make(here.dir.as_fd(), name) {
            Err(Errno::EXIST) => {
                self.clear(path)?;
                let here = self.parent(parent)?;
                here.touched = true;
                make(here.dir.as_fd(), name)
            }
            made => made,
        }
        .map_err(Flaw::in_step(action))
    }

    /// Removes what is at a path, with all below it.
    pub(super) fn clear(&mut self, path: &EntryPath) -> Result<(), Flaw> {
        let (parent, name) = path.split().ok_or(Flaw::NoName)?;
        self.replaced = true;
        self.parent(parent)?.touched = true;
        self.set_aside(name)?;
        let here = self.parent(parent)?;
        let removed = match rustix::fs::unlinkat(&here.dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(here.dir.as_fd(), name),
            Err(Errno::NOENT) => Ok(()),
            removed => removed.map_err(Into::into),
        };
        // Links may have led through what is gone.
        self.leave()?;
        removed.map_err(|error| Flaw::System {
            action: "replace what has its name",
            source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    }

    /// Keeps a file of the current directory that is about to go, if such are kept.
    fn set_aside(&mut self, name: &[u8]) -> Result<(), Flaw> {
        let (Some(aside), Some(here)) = (&self.aside, &self.here) else { return Ok(()) };
        match look(here.dir.as_fd(), name)? {
            // If it is there already under another name, this does nothing.
            Some((FileType::RegularFile, stat)) => {
                rustix::fs::renameat(&here.dir, name, aside, stat.st_ino.to_string())
                    .map_err(Flaw::in_step("keep what it replaces"))
            }
            _ => Ok(()),
        }
    }

    /// Makes a directory that was just opened the current one.
    pub(super) fn enter(&mut self, path: &EntryPath, dir: OwnedFd) -> Result<(), Flaw> {
        self.leave()?;
        let stat = rustix::fs::fstat(&dir).map_err(Flaw::in_step("look at a directory"))?;
        self.here = Some(Here::new(path.bytes(), dir, &stat));
        Ok(())
    }

    /// Puts the current directory's times back and forgets it.
    pub(super) fn leave(&mut self) -> Result<(), Flaw> {
        match self.here.take().filter(|here| here.touched) {
            Some(here) => rustix::fs::futimens(&here.dir, &here.times)
                .map_err(Flaw::in_step("put back the time of its directory")),
            None => Ok(()),
        }
    }
}

impl Here {
    fn new(path: &[u8], dir: OwnedFd, stat: &Stat) -> Self {
        let (times, mode) = (times_of(stat), stat.st_mode);
        Self { path: path.to_vec(), dir, times, mode, touched: false }
    }
}

/// What an entry's times are now.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    }
}

/// Kind and identity of what is at a name, if anything.
pub(super) fn look(dir: BorrowedFd, name: &[u8]) -> Result<Option<(FileType, Stat)>, Flaw> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((FileType::from_raw_mode(stat.st_mode), stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(Flaw::System { action: "look at it", source }),
    }
}
