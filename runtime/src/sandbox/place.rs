//! Paths inside a container's root, followed as if it were the root of the world.
//!
//! An image, or another container that shares a volume, may put a link anywhere and
//! exchange it at any time. So every path is turned into a handle once, with the
//! kernel keeping it inside, and only the handle is used: what is mounted is mounted
//! on what was looked at.
//!
//! Invariant: nothing in this crate resolves a container's path in another way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::report::Failure;

/// A lookup that races with a rename is tried again this often; nobody renames
/// faster for longer without meaning to.
const TRIES: usize = 64;

/// Deepest path that is made: the kernel's longest path of one-letter names is
/// deeper, and nobody needs it.
const DEPTH: usize = 255;

/// What is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// A handle to what is at `path` below `root`; symbolic links stay inside.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    again(|| openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// A handle below a file system of our own, where no link has a place.
pub(super) fn open_plain(
    base: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    again(|| openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

fn again(look: impl Fn() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 1..TRIES {
        match look() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => return found,
        }
    }
    look()
}

/// A handle to a place in the root, made if nothing is there.
pub(super) fn make(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd, Failure> {
    if path.components().count() > DEPTH {
        return Err(Failure::at("the path is too deep")(Errno::NAMETOOLONG));
    }
    make_below(root, path, kind).map_err(Failure::at(path.display()))
}

fn make_below(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT);
    };
    let parent = make_below(root, parent, Kind::Directory)?;
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Somebody was faster, or there is a link that leads nowhere: the lookup tells.
        Ok(()) | Err(Errno::EXIST) => open(root, path, OFlags::PATH),
        Err(error) => Err(error),
    }
}

/// Whether a handle is a directory's.
pub(super) fn kind(handle: impl AsFd) -> Result<Kind, Errno> {
    let stat = rustix::fs::fstat(handle)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if directory { Kind::Directory } else { Kind::File })
}

/// Mounts a detached mount on the place behind a handle.
pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", place, c"", flags)
}

/// Refuses a place inside a file system of the kernel's: an image's link can lead a
/// volume onto what we have hidden there.
pub(super) fn not_the_kernels(place: BorrowedFd<'_>) -> Result<(), Failure> {
    /// `SYSFS_MAGIC`, `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
    const OTHERS: [u64; 2] = [0x6265_6572, 0x6367_7270];
    let magic = rustix::fs::fstatfs(place)?.f_type as u64;
    if magic == PROC_MAGIC || OTHERS.contains(&magic) {
        return Err(Failure::because("it leads into a file system of the kernel's"));
    }
    Ok(())
}

/// `PROC_SUPER_MAGIC` of `linux/magic.h`.
const PROC_MAGIC: u64 = 0x9fa0;

/// Whether a handle is inside a real procfs: only there may we write what the kernel
/// is to believe.
pub(super) fn is_procfs(handle: impl AsFd) -> Result<(), Failure> {
    if rustix::fs::fstatfs(handle)?.f_type as u64 == PROC_MAGIC {
        Ok(())
    } else {
        Err(Failure::because("/proc is not a proc file system"))
    }
}
