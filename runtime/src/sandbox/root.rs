//! A container's root: overlayfs over its layers, mounted in its own namespaces.
//!
//! No directory of the host's is needed but one that every host has: all is stacked
//! on `/sys` of the new mount namespace, where nobody else sees it: the tree that takes
//! the changes, the layers, the overlay. They are named through `/proc/self/fd`, and
//! go with the old root, in one unmount: each costs a wait for every processor.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, UnmountFlags, mount as mount_at, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::report::Failure;
use super::special::{self, descriptor};
use crate::container::Changes;

/// Room for mount points in a root that takes no changes: directories and empty files.
const MOUNT_POINTS_BYTES: u64 = 1 << 20;

/// What everything is stacked on until the old root is left.
const STACK: &CStr = c"/sys";

/// Mounts it; returns a handle to it.
pub(super) fn mount(
    layers: &[Option<OwnedFd>],
    upper: Option<&OwnedFd>,
    changes: Changes,
) -> Result<OwnedFd, Failure> {
    let memory;
    let upper = match upper {
        Some(upper) => {
            put_on_stack(upper)?;
            upper
        }
        None => {
            memory = in_memory(changes)?;
            &memory
        }
    };
    // An index would refuse a place for changes whose last container is just being unmounted.
    let mut options = String::from("userxattr,volatile,index=off,lowerdir=");
    // The highest comes first here, and the lowest in a launch.
    for (at, layer) in layers.iter().rev().enumerate() {
        let layer = layer.as_ref().ok_or_else(|| Failure::because("a layer is missing"))?;
        put_on_stack(layer)?;
        let separator = if at == 0 { "" } else { ":" };
        let _ = write!(options, "{separator}{}", descriptor(layer.as_fd()));
    }
    let above = descriptor(upper.as_fd());
    let _ = write!(options, ",upperdir={above}/upper,workdir={above}/work");
    let options = CString::new(options).unwrap_or_default();
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount_at(c"overlay", STACK, c"overlay", flags, &*options)
        .map_err(|error| refused(error, layers))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(STACK, flags, Mode::empty())?)
}

/// Why the kernel takes no overlay. To an ordinary user what is mounted below a layer is
/// locked to it, and a layer must be without: `has_locked_children` of `fs/namespace.c`.
fn refused(error: Errno, layers: &[Option<OwnedFd>]) -> Failure {
    let is_mounted_on = |layer: &Option<OwnedFd>| layer.as_ref().is_some_and(has_mounts);
    if error == Errno::INVAL && layers.iter().any(is_mounted_on) {
        return Failure::because(
            "other file systems are mounted below its directory, and an ordinary user's \
             container takes none with it; use a directory without, or let root start the agent",
        );
    }
    error.into()
}

/// Whether something is mounted on a mount. Formats: proc(5).
fn has_mounts(tree: &OwnedFd) -> bool {
    let about = format!("/proc/self/fdinfo/{}", tree.as_raw_fd());
    let about = std::fs::read_to_string(about).unwrap_or_default();
    let Some(id) = about.lines().find_map(|line| line.strip_prefix("mnt_id:")) else {
        return false;
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(id.trim()))
}

/// Puts a tree where a root is stacked; returns a handle to it.
pub(super) fn bind(tree: &OwnedFd) -> Result<OwnedFd, Failure> {
    put_on_stack(tree)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(STACK, flags, Mode::empty())?)
}

/// A place for changes that end with the container, or for mount points alone.
fn in_memory(changes: Changes) -> Result<OwnedFd, Failure> {
    let bytes = match changes {
        Changes::Memory { bytes } => bytes,
        Changes::Disk | Changes::Refused => MOUNT_POINTS_BYTES,
    };
    let options = [("size", bytes.to_string()), ("mode", "700".to_owned())];
    let memory = special::make("tmpfs", &options, special::QUIET)?;
    put_on_stack(&memory)?;
    for (name, mode) in [(c"upper", 0o755), (c"work", 0o700)] {
        rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(mode))?;
    }
    Ok(memory)
}

/// Makes the root behind a handle this process's, and leaves nothing of the old one.
pub(super) fn leave(root: BorrowedFd<'_>) -> Result<(), Failure> {
    fchdir(root)?;
    // The old root comes to lie on the new one, at the same place, so that no
    // directory is needed for it.
    pivot_root(c".", c".").map_err(Failure::at("pivot_root"))?;
    unmount(c".", UnmountFlags::DETACH).map_err(Failure::at("the old root"))?;
    Ok(chdir(c"/")?)
}

/// Attaches a detached mount in this namespace, where a kernel accepts it as a layer.
fn put_on_stack(tree: &OwnedFd) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, c"", CWD, STACK, flags)?)
}
