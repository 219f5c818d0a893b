//! A container's root: overlayfs over its layers, mounted in its own namespaces.
//!
//! Nothing needs a path of the host. The tree that takes the changes is attached on
//! top of `/`, which is the only place that always exists; layers are named through
//! `/proc/self/fd`. All of it goes when the old root is left.

use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, mount as mount_at, move_mount};

use super::report::Failure;
use super::special::{self, descriptor};
use crate::container::Changes;

/// Room for mount points in a root that takes no changes: directories and empty files.
const MOUNT_POINTS_BYTES: u64 = 1 << 20;

/// Mounts it; returns a handle to it.
pub(super) fn mount(
    layers: &[Option<OwnedFd>],
    upper: Option<&OwnedFd>,
    changes: Changes,
) -> Result<OwnedFd, Failure> {
    let memory;
    let upper = match upper {
        Some(upper) => {
            put_on_top(upper)?;
            upper
        }
        None => {
            memory = in_memory(changes)?;
            &memory
        }
    };
    let mut options = String::from("userxattr,volatile,lowerdir=");
    // The highest comes first here, and the lowest in a launch.
    for (at, layer) in layers.iter().rev().enumerate() {
        let layer = layer.as_ref().ok_or_else(|| Failure::because("a layer is missing"))?;
        put_on_top(layer)?;
        let separator = if at == 0 { "" } else { ":" };
        let _ = write!(options, "{separator}{}", descriptor(layer.as_fd()));
    }
    let above = descriptor(upper.as_fd());
    let _ = write!(options, ",upperdir={above}/upper,workdir={above}/work");
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount_at(c"overlay", format!("{above}/merged"), c"overlay", flags, &*options)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(upper, c"merged", flags, Mode::empty())?)
}

/// A place for changes that end with the container, or for mount points alone.
fn in_memory(changes: Changes) -> Result<OwnedFd, Failure> {
    let bytes = match changes {
        Changes::Memory { bytes } => bytes,
        Changes::Disk | Changes::Refused => MOUNT_POINTS_BYTES,
    };
    let options = [("size", bytes.to_string()), ("mode", "700".to_owned())];
    let memory = special::make("tmpfs", &options, special::QUIET)?;
    put_on_top(&memory)?;
    for (name, mode) in [(c"upper", 0o755), (c"work", 0o700), (c"merged", 0o700)] {
        rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(mode))?;
    }
    Ok(memory)
}

/// Attaches a detached mount where its kernel accepts it as a layer: in this namespace.
fn put_on_top(tree: &OwnedFd) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, c"", CWD, c"/", flags)?)
}
