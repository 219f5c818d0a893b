//! The room that is left on a disk for what must not stop, whatever is unpacked.
//!
//! ```text
//! before ─▶ look ─▶ write a stretch ─▶ look ─▶ …          ok, or NoRoom and all of it goes
//! ```
//!
//! Images share their disk with the agent's journal, and an agent that cannot write that stops,
//! and with it the node. So whoever takes something large in stops before the last byte, not
//! at it. What others write meanwhile is not known: this is a reserve and no promise.
//!
//! Must never: keep anything from being removed. That is what makes room.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// What stays free on a disk: hundreds of times what the agent's journal grows by in a day.
pub const KEPT_BYTES: u64 = 64 << 20;

/// Of a small disk, one part in so many stays free.
const KEPT_PART: u64 = 100;

/// It is looked again when one part in so many of what is to spare is written. What is made of
/// an archive takes eight times its length at the worst, as each small file takes a block; and
/// eight may be unpacked at once.
const LOOK_PART: u64 = 64;

/// The least and the most that is written between two looks. A look costs a microsecond, and
/// writing the least ten of them; what others write is seen after the most.
const LOOK_BYTES: (u64, u64) = (16 << 10, 1 << 20);

/// That a disk has no room for what is to be written on it, with what it must keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk has {} free, of which {} stay free for the agent{}", mib(*free), mib(*kept), lacking(*needed))]
pub struct NoRoom {
    /// Bytes that an ordinary user could still write.
    pub free: u64,
    /// Bytes of these that stay.
    pub kept: u64,
    /// Bytes that were to be written, where that is known.
    pub needed: Option<u64>,
}

impl From<NoRoom> for io::Error {
    fn from(no: NoRoom) -> Self {
        Self::new(io::ErrorKind::StorageFull, no)
    }
}

/// The room of the disk with some directory, for one who writes there.
#[derive(Debug)]
pub(crate) struct Room {
    dir: OwnedFd,
    /// What may be written before the next look.
    unseen: AtomicU64,
}

impl Room {
    pub(crate) fn of(dir: BorrowedFd) -> io::Result<Self> {
        let dir = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
        Ok(Self { dir, unseen: AtomicU64::new(0) })
    }

    /// Whether there is room at all, and for what is needed, where that is known.
    pub(crate) fn look(&self, needed: Option<u64>) -> Result<(), NoRoom> {
        let spare = look(self.dir.as_fd(), needed)?;
        let (least, most) = LOOK_BYTES;
        self.unseen.store((spare / LOOK_PART).clamp(least, most), Ordering::Relaxed);
        Ok(())
    }

    /// That so much more is written: now and then it is looked whether there is room still.
    pub(crate) fn spend(&self, bytes: u64) -> Result<(), NoRoom> {
        let spend = |unseen: u64| unseen.checked_sub(bytes);
        match self.unseen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend) {
            Ok(_before) => Ok(()),
            Err(_spent) => self.look(None),
        }
    }
}

/// Whether the disk with this directory has room, and for so much. A disk that does not say
/// how large it is has room until it has none. Answers the bytes to spare.
pub(crate) fn look(dir: BorrowedFd, needed: Option<u64>) -> Result<u64, NoRoom> {
    let Ok(stat) = rustix::fs::fstatvfs(dir) else { return Ok(u64::MAX) };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    judge(bytes(stat.f_bavail), bytes(stat.f_blocks), needed)
}

fn judge(free: u64, all: u64, needed: Option<u64>) -> Result<u64, NoRoom> {
    let kept = KEPT_BYTES.min(all / KEPT_PART);
    if all == 0 {
        return Ok(u64::MAX);
    }
    let spare = free.checked_sub(kept).filter(|spare| *spare >= needed.unwrap_or(0));
    spare.ok_or(NoRoom { free, kept, needed })
}

/// As people read it, to a tenth.
fn mib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 20) / 10);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn lacking(needed: Option<u64>) -> String {
    needed.map_or(String::new(), |bytes| format!(", and {} are needed", mib(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_of_a_small_disk_stays_free_and_of_a_large_one_no_more_than_is_needed() {
        let small = 100 << 20;
        assert_eq!(judge((1 << 20) + 5, small, None), Ok(5));
        let no = judge((1 << 20) - 1, small, None).expect_err("less than a hundredth");
        assert_eq!((no.kept, no.needed), (1 << 20, None));
        let large = 1 << 40;
        assert_eq!(judge(KEPT_BYTES, large, None), Ok(0));
        assert!(judge(KEPT_BYTES - 1, large, None).is_err());
        assert_eq!(judge(KEPT_BYTES + 7, large, Some(7)), Ok(7));
        assert!(judge(KEPT_BYTES + 6, large, Some(7)).is_err());
        assert!(judge(u64::MAX, u64::MAX, Some(u64::MAX)).is_err(), "no overflow");
        assert_eq!(judge(0, 0, Some(1 << 40)), Ok(u64::MAX), "one that says nothing of itself");
    }

    #[test]
    fn it_is_said_how_much_there_is_and_how_much_it_takes() {
        let no = NoRoom { free: 70 << 20, kept: KEPT_BYTES, needed: None };
        assert_eq!(
            no.to_string(),
            "the disk has 70.0 MiB free, of which 64.0 MiB stay free for the agent"
        );
        let text = NoRoom { needed: Some(3 << 19), ..no.clone() }.to_string();
        assert!(text.ends_with(", and 1.5 MiB are needed"), "{text}");
        assert_eq!(io::Error::from(no).kind(), io::ErrorKind::StorageFull);
    }
}
