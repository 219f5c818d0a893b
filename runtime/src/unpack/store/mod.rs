//! The roots that were unpacked on this machine, one for each content.
//!
//! ```text
//! DIR/sha256-HEX   a tree, whole; HEX is the sum of the archive as it lay on disk
//! DIR/part-PID-N   one being made or removed; its maker holds a lock on it
//! DIR/known        which archive had which sum, so that it is not summed again
//! DIR/boot         the boot in which all this was written
//! ```
//!
//! A tree is made under a temporary name and renamed when it is whole, so a crash
//! leaves nothing that looks like one; what it leaves is swept by the next `open`.
//! Nothing is flushed to disk, as a launch must not wait for that, and a machine
//! that lost power may keep names without content. So trees of an earlier boot
//! are not trusted: `open` removes them, and they are unpacked again when wanted.
//!
//! Invariant: DIR is ours and closed to everybody else, for the trees hold setuid
//! programs of strangers. A tree in somebody's hands ([`Kept`]) is never removed.

mod known;
pub(crate) mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::walk::DIRECTORY;
use super::{Bounds, Digest, Form, Options, Owners, UnpackError, Unpacked, remove_tree, unpack};
use known::{Known, Source};
use part::Part;

/// Read at once while summing.
const PIECE_BYTES: usize = 256 * 1024;

/// Why a root cannot be had from the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory of the store.
    #[error("cannot {action} in {}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// The store's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody else's directory was named as a store.
    #[error("{} belongs to user {owner}; name a directory of your own", path.display())]
    Foreign {
        /// The store's directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The archive itself.
    #[error("cannot read {}", path.display())]
    Archive {
        /// As it was named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory, pipe or device was named as an archive.
    #[error("{} is not a file; name a tar archive, plain, gzip or zstd", path.display())]
    NotAFile {
        /// As it was named.
        path: PathBuf,
    },
    /// What is in the archive.
    #[error("cannot unpack {}", path.display())]
    Unpack {
        /// As it was named.
        path: PathBuf,
        /// Which entry, and why.
        source: UnpackError,
    },
}

/// Names a tree by the SHA-256 of the archive it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId([u8; 32]);

impl fmt::Display for ContentId {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str("sha256-")?;
        self.0.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
    }
}

/// A text that is no [`ContentId`].
#[derive(Debug, thiserror::Error)]
#[error("{given:?} is not sha256- and 64 hexadecimal digits")]
pub struct BadContentId {
    given: String,
}

impl FromStr for ContentId {
    type Err = BadContentId;

    fn from_str(text: &str) -> Result<Self, BadContentId> {
        let bad = || BadContentId { given: text.chars().take(80).collect() };
        let hex = text.strip_prefix("sha256-").filter(|hex| hex.len() == 64).ok_or_else(bad)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digit = |at: usize| match pair.get(at) {
                Some(digit @ b'0'..=b'9') => Some(digit - b'0'),
                Some(digit @ b'a'..=b'f') => Some(digit - b'a' + 10),
                _ => None,
            };
            *byte = digit(0).zip(digit(1)).map(|(high, low)| high << 4 | low).ok_or_else(bad)?;
        }
        Ok(Self(bytes))
    }
}

/// Unpacked roots under one directory.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: OwnedFd,
    path: PathBuf,
    owners: Owners,
    state: Mutex<State>,
    /// Told whenever an archive is no longer busy.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    known: Known,
    /// Archives that some thread is summing or unpacking.
    busy: BTreeSet<Source>,
    /// Trees in somebody's hands, and in how many.
    kept: BTreeMap<ContentId, usize>,
}

/// How a tree was come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The archive is unchanged since it was last seen; it was not read.
    Remembered,
    /// The archive was read, and its content was known.
    Summed,
    /// It was unpacked.
    Unpacked(Box<Unpacked>),
}

/// A tree that stays while this is held.
#[derive(Debug)]
pub struct Kept {
    store: Arc<Inner>,
    id: ContentId,
    way: Way,
}

impl Kept {
    /// Where the tree is. Not to be changed: others may be using it.
    pub fn path(&self) -> PathBuf {
        self.store.path.join(self.id.to_string())
    }

    /// The name under which [`Store::sweep`] knows it.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// How it was come by.
    pub fn way(&self) -> &Way {
        &self.way
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        if let Some(count) = state.kept.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.kept.remove(&self.id);
            }
        }
    }
}

impl Store {
    /// Opens a store, making its directory (whose parent must exist) and removing
    /// what a crash or an earlier boot left in it. Several processes may have the
    /// same store open.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made, read and written, or is another user's.
    pub fn open(path: &Path, owners: Owners) -> Result<Self, StoreError> {
        let failed = |action| {
            move |source: Errno| StoreError::Directory {
                action,
                path: path.to_owned(),
                source: source.into(),
            }
        };
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(failed("make the store")(error)),
        }
        let dir = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(failed("look"))?;
        let stat = rustix::fs::fstat(&dir).map_err(failed("look"))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StoreError::Foreign { path: path.to_owned(), owner: stat.st_uid });
        }
        rustix::fs::fchmod(&dir, Mode::RWXU).map_err(failed("keep others out"))?;
        let inner = Inner {
            dir,
            path: path.to_owned(),
            owners,
            state: Mutex::default(),
            idle: Condvar::new(),
        };
        inner.clean().map_err(|source| StoreError::Directory {
            action: "remove what is left over",
            path: path.to_owned(),
            source,
        })?;
        inner.lock().known = Known::read(inner.dir.as_fd());
        Ok(Self(Arc::new(inner)))
    }

    /// The root that an archive holds, unpacked now unless it was before. Blocks
    /// while it works, and while another thread does so for the same archive.
    ///
    /// # Errors
    ///
    /// If the archive cannot be read or must not be unpacked, or the store is full.
    pub fn tree(&self, tar: &Path, bounds: &Bounds) -> Result<Kept, StoreError> {
        let unread =
            |source: Errno| StoreError::Archive { path: tar.to_owned(), source: source.into() };
        // Not blocking: it may be a pipe that nobody writes to.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(tar, flags, Mode::empty()).map_err(unread)?);
        let stat = rustix::fs::fstat(&file).map_err(unread)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StoreError::NotAFile { path: tar.to_owned() });
        }
        let source = Source::of(&stat);
        let mut state = self.0.lock();
        while state.busy.contains(&source) {
            state = self.0.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(id) = state.known.get(&source)
            && let Some(kept) = self.keep(&mut state, id, Way::Remembered)
        {
            return Ok(kept);
        }
        state.busy.insert(source);
        drop(state);
        let _busy = Busy { store: &self.0, source };
        let lasting = source.is_settled(known::now_ns());
        let kept = self.sum_or_unpack(tar, file, bounds)?;
        let same = rustix::fs::stat(tar).is_ok_and(|stat| Source::of(&stat) == source);
        if lasting && same {
            // Only a shortcut: without it the archive is summed again.
            let _ = self.0.lock().known.add(self.0.dir.as_fd(), source, kept.id);
        }
        Ok(kept)
    }

    /// Removes all trees that are neither named nor in somebody's hands; returns
    /// which. Only hands of this process count: name all that others use.
    ///
    /// # Errors
    ///
    /// If a tree cannot be removed, say for a mount in it. Others are then gone.
    pub fn sweep(&self, keep: &BTreeSet<ContentId>) -> Result<Vec<ContentId>, StoreError> {
        let failed = |source| StoreError::Directory {
            action: "remove a tree",
            path: self.0.path.clone(),
            source,
        };
        let mut removed = Vec::new();
        for id in self.0.ids().map_err(failed)? {
            let state = self.0.lock();
            if keep.contains(&id) || state.kept.contains_key(&id) {
                continue;
            }
            let part = part::name();
            let renamed = rustix::fs::renameat(&self.0.dir, id.to_string(), &self.0.dir, &part);
            drop(state);
            renamed.map_err(|error| failed(error.into()))?;
            remove_tree(self.0.dir.as_fd(), part.as_bytes()).map_err(failed)?;
            removed.push(id);
        }
        Ok(removed)
    }

    /// Takes a tree into hand if it is there.
    fn keep(&self, state: &mut State, id: ContentId, way: Way) -> Option<Kept> {
        let name = id.to_string();
        rustix::fs::statat(&self.0.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        *state.kept.entry(id).or_default() += 1;
        Some(Kept { store: self.0.clone(), id, way })
    }

    fn sum_or_unpack(
        &self,
        tar: &Path,
        mut file: File,
        bounds: &Bounds,
    ) -> Result<Kept, StoreError> {
        let unread = |source| StoreError::Archive { path: tar.to_owned(), source };
        let failed = |source| StoreError::Unpack { path: tar.to_owned(), source };
        let mut sum = Summing { file: &mut file, hash: Sha256::new(), until: bounds.until };
        sum.finish().map_err(unread)?;
        let id = ContentId(sum.hash.finalize().into());
        if let Some(kept) = self.keep(&mut self.0.lock(), id, Way::Summed) {
            return Ok(kept);
        }
        io::Seek::rewind(&mut file).map_err(unread)?;
        let stored = |source: Errno| StoreError::Directory {
            action: "make a tree",
            path: self.0.path.clone(),
            source: source.into(),
        };
        let part = Part::make(self.0.dir.as_fd()).map_err(stored)?;
        let options = Options {
            bounds: bounds.clone(),
            form: Form::Rootfs,
            owners: self.0.owners,
            digest: Digest::Skip,
        };
        // Summed again on the way: it may be written to under our hands, and the
        // tree must have the name of what it was made from.
        let mut sum = Summing { file: &mut file, hash: Sha256::new(), until: bounds.until };
        let done = unpack(&mut sum, part.dir(), &options).map_err(failed)?;
        sum.finish().map_err(unread)?;
        let id = ContentId(sum.hash.finalize().into());
        let mut state = self.0.lock();
        let way = match part.rename(&id.to_string()) {
            Ok(()) => Way::Unpacked(Box::new(done)),
            // Another archive of the same content was faster.
            Err(Errno::EXIST | Errno::NOTEMPTY) => Way::Summed,
            Err(error) => return Err(stored(error)),
        };
        self.keep(&mut state, id, way).ok_or_else(|| stored(Errno::NOENT))
    }
}

/// Ends an archive's busy time, however the work ends.
struct Busy<'a> {
    store: &'a Inner,
    source: Source,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.store.lock().busy.remove(&self.source);
        self.store.idle.notify_all();
    }
}

/// Sums up a file while it is read.
struct Summing<'a> {
    file: &'a mut File,
    hash: Sha256,
    until: Option<Instant>,
}

impl Read for Summing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(into)?;
        self.hash.update(into.get(..length).unwrap_or_default());
        Ok(length)
    }
}

impl Summing<'_> {
    /// Reads what is left of the file.
    fn finish(&mut self) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        while self.read(&mut piece)? > 0 {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trees on disk.
    fn ids(&self) -> io::Result<Vec<ContentId>> {
        Ok(part::names(self.dir.as_fd())?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes parts that nobody works on, and trees of an earlier boot.
    fn clean(&self) -> io::Result<()> {
        if !known::is_this_boot(self.dir.as_fd()) {
            for id in self.ids()? {
                remove_tree(self.dir.as_fd(), id.to_string().as_bytes())?;
            }
            known::begin_boot(self.dir.as_fd())?;
        }
        part::sweep(self.dir.as_fd())
    }
}

/// Renames unless the new name is taken.
fn rename_new(from: BorrowedFd, name: &str, to: BorrowedFd, new: &str) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Some filesystems cannot refuse. A directory replaces only an empty one,
        // which is no worse than ours.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(from, name, to, new),
        renamed => renamed,
    }
}
