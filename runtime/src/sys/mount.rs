//! The one mount call that rustix lacks: `mount_setattr`.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_long, c_uint, c_ulong};

/// What a mount forbids, and how it is joined to others. Numbers of `linux/mount.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountAttributes(u64);

impl MountAttributes {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ_ONLY: Self = Self(0x1);
    pub(crate) const NO_SETUID: Self = Self(0x2);
    pub(crate) const NO_DEVICES: Self = Self(0x4);

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = 0x0010_0000;

/// Which mounts of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The one behind the handle.
    This,
    /// That and all below it.
    All,
}

/// `struct mount_attr` of `linux/mount.h`, first version.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

/// Sets attributes, shows owners through a user namespace if one is given, and cuts
/// the mount off from what others mount on its twins: it becomes private.
///
/// # Errors
/// EINVAL or EPERM where the file system cannot be mapped, ENOSYS before Linux 5.12.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttributes,
    ids: Option<BorrowedFd<'_>>,
    reach: Reach,
) -> io::Result<()> {
    let namespace = ids.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let map = if ids.is_some() { IDMAP } else { 0 };
    let propagation = libc::MS_PRIVATE;
    change(mount, Attributes { set: attributes.0 | map, clear: 0, propagation, namespace }, reach)
}

/// Sets some attributes, given as `MOUNT_ATTR_*`, and clears others; changes how a mount
/// is joined to others, given as `MS_SHARED` and its like, unless that is 0.
pub(crate) fn change_attributes(
    mount: BorrowedFd<'_>,
    (set, clear): (u64, u64),
    propagation: c_ulong,
    reach: Reach,
) -> io::Result<()> {
    change(mount, Attributes { set, clear, propagation, namespace: 0 }, reach)
}

fn change(mount: BorrowedFd<'_>, wanted: Attributes, reach: Reach) -> io::Result<()> {
    let deep = match reach {
        Reach::This => 0,
        Reach::All => libc::AT_RECURSIVE,
    };
    let flags = (libc::AT_EMPTY_PATH | deep) as c_uint;
    let wanted_bytes = size_of::<Attributes>() as c_ulong;
    // SAFETY: the path is a terminated empty string, the structure is as long as
    // said, and both live for the call.
    let done: c_long = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            wanted_bytes,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
