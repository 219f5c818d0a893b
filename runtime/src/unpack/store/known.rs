//! Which archive had which sum: what spares a launch from reading it again.
//!
//! An archive counts as unchanged if device, inode, size and both times are the
//! same. The time of the last change to the inode cannot be set by anybody, so
//! this misses only a write within one tick of a clock after we looked: an
//! archive that was just written is therefore not remembered at once.

use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ContentId;

/// Archives remembered; a small file, read at every start.
const KNOWN_MAX: usize = 256;

/// Longest such file: a few hundred bytes each.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Age at which a file's times can tell two writes apart, on filesystems that
/// count whole seconds and servers whose clocks are near.
const SETTLED_NS: i128 = 2_000_000_000;

const FILE: &str = "known";
const BOOT: &str = "boot";

/// What tells a file and its state from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Source {
    device: u64,
    inode: u64,
    size: i64,
    /// Nanoseconds since 1970.
    modified_ns: i128,
    /// Nanoseconds since 1970.
    changed_ns: i128,
}

impl Source {
    pub(super) fn of(stat: &Stat) -> Self {
        let ns = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified_ns: ns(stat.st_mtime as _, stat.st_mtime_nsec as _),
            changed_ns: ns(stat.st_ctime as _, stat.st_ctime_nsec as _),
        }
    }

    /// Whether a later write must show in the times.
    pub(super) fn is_settled(&self, now_ns: i128) -> bool {
        self.modified_ns.max(self.changed_ns) + SETTLED_NS < now_ns
    }
}

/// The time of day in nanoseconds since 1970.
pub(super) fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// The archives remembered, oldest first.
#[derive(Debug, Default)]
pub(super) struct Known(Vec<(Source, ContentId)>);

impl Known {
    /// What the file says; nothing if there is none or it is broken.
    pub(super) fn read(store: BorrowedFd) -> Self {
        let Ok(text) = read(store, FILE) else { return Self::default() };
        let lines: Vec<(Source, String)> = serde_json::from_str(&text).unwrap_or_default();
        let parsed = lines.into_iter().filter_map(|(source, id)| Some((source, id.parse().ok()?)));
        Self(parsed.take(KNOWN_MAX).collect())
    }

    pub(super) fn get(&self, source: &Source) -> Option<ContentId> {
        self.0.iter().find(|(known, _)| known == source).map(|(_, id)| *id)
    }

    /// Remembers one more, for all processes that open the store from now on.
    pub(super) fn add(
        &mut self,
        store: BorrowedFd,
        source: Source,
        id: ContentId,
    ) -> Result<(), Errno> {
        self.0.retain(|(known, _)| (known.device, known.inode) != (source.device, source.inode));
        if self.0.len() >= KNOWN_MAX {
            self.0.remove(0);
        }
        self.0.push((source, id));
        let lines: Vec<_> = self.0.iter().map(|(source, id)| (source, id.to_string())).collect();
        let text = serde_json::to_string(&lines).map_err(|_unwritable| Errno::INVAL)?;
        write(store, FILE, &text)
    }
}

/// Whether the store was written in this boot of the machine.
pub(super) fn is_this_boot(store: BorrowedFd) -> bool {
    read(store, BOOT).is_ok_and(|boot| Some(boot) == boot_id())
}

/// Notes the boot, and forgets what was known: its trees are gone.
pub(super) fn begin_boot(store: BorrowedFd) -> Result<(), Errno> {
    write(store, FILE, "[]")?;
    write(store, BOOT, &boot_id().unwrap_or_default())
}

fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

fn read(store: BorrowedFd, name: &str) -> std::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::openat(store, name, flags, Mode::empty())?);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_BYTES_MAX), &mut text)?;
    Ok(text)
}

/// Replaces a file whole.
fn write(store: BorrowedFd, name: &str, text: &str) -> Result<(), Errno> {
    let new = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(store, &new, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, text.as_bytes())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::renameat(store, &new, store, name)
}
