//! The spools of one store: layers that are on their way.
//!
//! ```text
//! DIR/HEX/data    the bytes that are here, each where it belongs
//! DIR/HEX/list    the layer's length, and of its list what is known
//! DIR/HEX/here    the chunks that came, in the order in which they came
//! ```
//!
//! A spool outlives its fetch and the agent, so that neither a cut link nor a restart costs
//! what had come. Nothing is flushed: what comes back after a crash is summed up again, and
//! what does not have its digest is fetched again.
//!
//! Must never: let two fetches into one spool, or let spools nobody wants fill the disk.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::spool::Spool;
use crate::image::Digest;
use crate::unpack::{NoRoom, look_for_room};

/// How long a spool stays that nobody fetches into: a link may be down for a night.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// What all spools that nobody fetches into may take on the disk; beyond it the oldest goes.
const KEPT_BYTES_MAX: u64 = 16 << 30;

/// Bytes of a block as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// Why a layer cannot be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another fetch of this process or another has it.
    #[error("layer {} is being fetched already", .0.short())]
    InUse(Digest),
    /// The disk is to keep what room it has left.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The disk.
    #[error("cannot spool a layer in {}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The directory of all spools of a store.
#[derive(Clone, Debug)]
pub struct Spools {
    dir: PathBuf,
}

impl Spools {
    /// Opens the directory, making it, and removes what is too old or too much. Blocks.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self, SpoolError> {
        let spools = Self { dir: dir.to_owned() };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.and_then(|()| spools.sweep(SystemTime::now())).map_err(|e| spools.failed(dir, e))?;
        Ok(spools)
    }

    /// The spool of a layer of that many bytes: what came of it before is still there, if it
    /// was of as many. Blocks: what is there is summed up.
    ///
    /// # Errors
    ///
    /// If somebody else has it, or the disk does not serve or has no room for the layer and
    /// for what it unpacks to.
    pub fn begin(&self, diff_id: &Digest, bytes: u64) -> Result<Spool, SpoolError> {
        let dir = self.path(diff_id);
        let came = fs::metadata(dir.join("data")).map_or(0, |data| data.blocks() * BLOCK_BYTES);
        let needed = bytes.saturating_sub(came).saturating_add(bytes);
        let home = File::open(&self.dir).map_err(|error| self.failed(&self.dir, error))?;
        look_for_room(home.as_fd(), Some(needed))?;
        let failed = |source| self.failed(&dir, source);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let lock = lock(&dir).map_err(failed)?.ok_or(SpoolError::InUse(*diff_id))?;
        Spool::open(&dir, lock, bytes).map_err(failed)
    }

    /// The length of the layer that a spool is of, if there is one.
    pub fn begun(&self, diff_id: &Digest) -> Option<u64> {
        super::spool::length(&self.path(diff_id))
    }

    /// Removes spools that nobody fetches into: the old ones, and the oldest of too many.
    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let touched = fs::metadata(path.join("here")).or_else(|_| fs::metadata(&path))?;
            let blocks = fs::metadata(path.join("data")).map_or(0, |data| data.blocks());
            found.push((touched.modified()?, blocks.saturating_mul(BLOCK_BYTES), path));
        }
        found.sort_by_key(|(touched, ..)| Reverse(*touched));
        let mut kept = 0_u64;
        for (touched, bytes, path) in found {
            kept = kept.saturating_add(bytes);
            let is_old = now.duration_since(touched).is_ok_and(|age| age > KEPT_FOR);
            if !is_old && kept <= KEPT_BYTES_MAX {
                continue;
            }
            // Whoever fetches into it keeps it.
            if let Some(_lock) = lock(&path)? {
                fs::remove_dir_all(&path)?;
                kept -= bytes;
            }
        }
        Ok(())
    }

    fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(diff_id.hex())
    }

    fn failed(&self, path: &Path, source: io::Error) -> SpoolError {
        SpoolError::Disk { path: path.to_owned(), source }
    }
}

/// The lock of a spool, unless somebody has it. It goes with the process that holds it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let lock = File::open(dir)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn one_fetch_at_a_time_has_a_layers_spool() {
        let home = tempfile::tempdir().expect("dir");
        let spools = Spools::open(home.path()).expect("opens");
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let held = spools.begin(&one, 10).expect("begins");
        assert!(matches!(spools.begin(&one, 10), Err(SpoolError::InUse(_))));
        spools.begin(&other, 10).expect("another layer");
        drop(held);
        spools.begin(&one, 10).expect("free again");
        assert_eq!(spools.begun(&one), Some(10));
        assert_eq!(spools.begun(&Digest::of(b"3")), None);
    }

    #[test]
    fn old_spools_go_unless_somebody_fetches_into_them() {
        let home = tempfile::tempdir().expect("dir");
        let spools = Spools::open(home.path()).expect("opens");
        drop(spools.begin(&Digest::of(b"1"), 10).expect("begins"));
        let held = spools.begin(&Digest::of(b"2"), 10).expect("begins");
        spools.sweep(SystemTime::now()).expect("sweeps");
        assert_eq!(names(home.path()).len(), 2, "a young one stays");
        spools.sweep(SystemTime::now() + KEPT_FOR + KEPT_FOR).expect("sweeps");
        assert_eq!(names(home.path()), [Digest::of(b"2").hex()]);
        drop(held);
    }
}
