//! Trees being made or removed: temporary names, each locked by its maker.
//!
//! The lock goes with the process that holds it. So a part that can be locked is
//! one that a crash left, and may be swept; by any process, at any time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::rename_new;
use crate::unpack::remove_tree;
use crate::unpack::walk::DIRECTORY;

const PREFIX: &str = "part-";

/// Tries at a fresh name. More than one is taken only by a sweep that came
/// between making and locking.
const TRIES: usize = 16;

/// A tree being made. Removed if dropped before it got its name.
#[derive(Debug)]
pub(crate) struct Part {
    store: OwnedFd,
    name: String,
    dir: OwnedFd,
    is_named: bool,
}

/// A name that no other part of this machine has.
pub(crate) fn name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", rustix::process::getpid().as_raw_nonzero())
}

impl Part {
    /// An empty, locked directory with mode 0755.
    pub(crate) fn make(store: BorrowedFd) -> rustix::io::Result<Self> {
        for _ in 0..TRIES {
            let name = name();
            match rustix::fs::mkdirat(store, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            let flags = DIRECTORY | OFlags::NOFOLLOW;
            let dir = match rustix::fs::openat(store, &name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                opened => opened?,
            };
            if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            // A sweeper may have had the lock before us, and removed it.
            if rustix::fs::statat(store, &name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                continue;
            }
            rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
            let store = rustix::io::fcntl_dupfd_cloexec(store, 0)?;
            return Ok(Self { store, name, dir, is_named: false });
        }
        Err(Errno::EXIST)
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Gives the tree its name, unless there is one of that name.
    pub(crate) fn rename(mut self, to: &str) -> rustix::io::Result<()> {
        rename_new(self.store.as_fd(), &self.name, self.store.as_fd(), to)?;
        self.is_named = true;
        Ok(())
    }

    /// The same in another directory. On an error it is a part still.
    pub(crate) fn move_to(&mut self, dir: BorrowedFd, to: &str) -> rustix::io::Result<()> {
        rename_new(self.store.as_fd(), &self.name, dir, to)?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_named {
            // What cannot be removed now is swept by the next `open`.
            let _ = remove_tree(self.store.as_fd(), self.name.as_bytes());
        }
    }
}

/// All names in the store.
pub(crate) fn names(store: BorrowedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(store)? {
        names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
    }
    Ok(names)
}

/// Removes the parts that nobody holds.
pub(crate) fn sweep(store: BorrowedFd) -> io::Result<()> {
    for name in names(store)?.iter().filter(|name| name.starts_with(PREFIX)) {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let held = match rustix::fs::openat(store, name, flags, Mode::empty()) {
            // Kept open until it is removed, and with it the lock.
            Ok(dir) => rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)
                .map(|()| Some(dir)),
            Err(_) => Ok(None),
        };
        if held.is_ok() {
            remove_tree(store, name.as_bytes())?;
        }
    }
    Ok(())
}
