//! One directory of a hierarchy, opened once: its files are written and read through
//! the handle, so that nobody can exchange a path under us.
//!
//! A value is one write(2): the kernel takes it whole or refuses it whole.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, mkdirat, openat, unlinkat};
use rustix::io::{Errno, read, retry_on_intr, write};

use super::CgroupError;

/// Longest name of a slot: it stays well below the 255 bytes of a file name.
pub(super) const NAME_BYTES: usize = 100;

/// How deep groups below a task's own are looked for processes. The kernel kills to
/// any depth by itself; this bounds the handles held where it cannot.
pub(super) const DEPTH_MAX: usize = 32;

/// Enough for every file but lists of processes and of devices.
const SMALL_BYTES: usize = 2048;

/// Longest list that is read: the numbers of as many processes as Linux can have.
const LIST_BYTES: usize = 8 * (1 << 22);

/// A container mounts its own part of version 2 only if its root, who is nobody to the
/// host, may search every group above it. systemd makes its groups so, too.
const SEARCHED: Mode =
    Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A group's directory.
#[derive(Debug)]
pub(super) struct Group {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Refuses what could leave the directory it is meant for.
pub(super) fn check_name(name: &str) -> Result<(), CgroupError> {
    let sound = (1..=NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if sound { Ok(()) } else { Err(CgroupError::Name { given: name.to_owned() }) }
}

impl Group {
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty());
        match fd {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(source) => Err(CgroupError::Open { path: path.to_owned(), source: source.into() }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A group directly below; none if there is none.
    pub(super) fn below(&self, name: &str) -> Result<Option<Self>, CgroupError> {
        match openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.path.join(name) })),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => {
                Err(CgroupError::Open { path: self.path.join(name), source: source.into() })
            }
        }
    }

    /// A group directly below, made if need be. Second: whether it is new.
    pub(super) fn make(&self, name: &str) -> Result<(Self, bool), CgroupError> {
        let new = match mkdirat(&self.fd, name, SEARCHED) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(source) => {
                return Err(CgroupError::Make {
                    path: self.path.join(name),
                    source: source.into(),
                });
            }
        };
        match self.below(name)? {
            Some(group) => {
                if new {
                    // The umask has no say here.
                    let changed = fchmod(&group.fd, SEARCHED);
                    changed.map_err(|source| CgroupError::Make {
                        path: group.path.clone(),
                        source: source.into(),
                    })?;
                }
                Ok((group, new))
            }
            // Somebody removed it at once.
            None => {
                Err(CgroupError::Make { path: self.path.join(name), source: Errno::NOENT.into() })
            }
        }
    }

    /// Removes an empty group directly below; false if it still has processes or
    /// groups. One that is gone is as good as removed.
    pub(super) fn remove(&self, name: &str) -> Result<bool, CgroupError> {
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
            Err(source) => {
                Err(CgroupError::Remove { path: self.path.join(name), source: source.into() })
            }
        }
    }

    pub(super) fn open_file(&self, file: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        openat(&self.fd, file, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes one value.
    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        self.try_write(file, value).map_err(|errno| self.unwritten(file, value, errno))
    }

    /// Writes one value, for callers that can make something of the kernel's answer.
    pub(super) fn try_write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        match retry_on_intr(|| write(&fd, value.as_bytes()))? {
            whole if whole == value.len() => Ok(()),
            _ => Err(Errno::IO),
        }
    }

    pub(super) fn unwritten(&self, file: &str, value: &str, errno: Errno) -> CgroupError {
        let value = value.chars().take(SMALL_BYTES).collect();
        CgroupError::Write { path: self.path.join(file), value, source: errno.into() }
    }

    pub(super) fn unread(&self, file: &str, errno: Errno) -> CgroupError {
        CgroupError::Read { path: self.path.join(file), source: errno.into() }
    }

    /// What `f` makes of a small file; none if the file is not there or `f` says so.
    pub(super) fn small<T>(&self, file: &str, f: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let fd = self.open_file(file, OFlags::RDONLY).ok()?;
        read_small(fd.as_fd(), f)
    }

    /// A number in a file of its own; `max` is none.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.small(file, |text| text.trim_ascii().parse().ok())
    }

    /// The number behind a word, in a file of such lines.
    pub(super) fn entry(&self, file: &str, key: &str) -> Option<u64> {
        self.small(file, |text| entry(text, key))
    }

    /// A file of any length; none if it is not there.
    pub(super) fn text(&self, file: &str) -> Result<Option<String>, CgroupError> {
        let fd = match self.open_file(file, OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.unread(file, errno)),
        };
        let mut text = Vec::new();
        let mut part = [0; SMALL_BYTES];
        while text.len() < LIST_BYTES {
            match retry_on_intr(|| read(&fd, &mut part)) {
                Ok(0) => break,
                Ok(got) => text.extend_from_slice(part.get(..got).unwrap_or_default()),
                // The group was removed while we read.
                Err(Errno::NODEV) => return Ok(None),
                Err(errno) => return Err(self.unread(file, errno)),
            }
        }
        Ok(Some(match String::from_utf8_lossy(&text) {
            Cow::Borrowed(text) => text.to_owned(),
            Cow::Owned(text) => text,
        }))
    }

    /// The processes in this group alone. Those of other pid namespaces are 0.
    pub(super) fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let text = self.text("cgroup.procs")?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Whether this group alone has no process.
    pub(super) fn has_no_process(&self) -> bool {
        self.small("cgroup.procs", |text| Some(text.is_empty())).unwrap_or(true)
    }

    /// The names of the groups directly below.
    pub(super) fn names(&self) -> Result<Vec<String>, CgroupError> {
        let unread = |errno: Errno| CgroupError::Read {
            path: self.path.clone(),
            source: io::Error::from(errno),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            if entry.file_type() == FileType::Directory
                && let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Visits this group and those below, down to [`DEPTH_MAX`].
    pub(super) fn visit(
        &self,
        each: &mut dyn FnMut(&Self) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        self.visit_to(DEPTH_MAX, each)
    }

    fn visit_to(
        &self,
        depth: usize,
        each: &mut dyn FnMut(&Self) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        each(self)?;
        if depth == 0 {
            return Ok(());
        }
        for name in self.names()? {
            if let Some(below) = self.below(&name)? {
                below.visit_to(depth - 1, each)?;
            }
        }
        Ok(())
    }

    /// Removes the groups below, however deep, leaf by leaf; false if one of them
    /// is not empty.
    pub(super) fn remove_below(&self) -> Result<bool, CgroupError> {
        loop {
            // Two handles at a time, whatever the depth.
            let Some(mut name) = self.names()?.pop() else { return Ok(true) };
            let mut parent: Option<Self> = None;
            loop {
                let here = parent.as_ref().unwrap_or(self);
                let Some(below) = here.below(&name)? else { break };
                let Some(deeper) = below.names()?.pop() else {
                    if !here.remove(&name)? {
                        return Ok(false);
                    }
                    break;
                };
                parent = Some(below);
                name = deeper;
            }
        }
    }
}

/// What `f` makes of a small file, read from its beginning.
pub(super) fn read_small<T>(fd: BorrowedFd<'_>, f: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut text = [0; SMALL_BYTES];
    let got = retry_on_intr(|| rustix::io::pread(fd, &mut text, 0)).ok()?;
    f(std::str::from_utf8(text.get(..got)?).ok()?)
}

/// The number behind a word, in lines of a word and a number.
pub(super) fn entry(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        for good in ["a", "web.0_task-1", &"x".repeat(NAME_BYTES)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "a\0", &"x".repeat(NAME_BYTES + 1)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_entry_is_a_whole_word() {
        let text = "oom 1\noom_kill 2\noom_group_kill 3\n";
        assert_eq!(entry(text, "oom_kill"), Some(2));
        assert_eq!(entry(text, "oom"), Some(1));
        assert_eq!(entry(text, "max"), None);
    }
}
