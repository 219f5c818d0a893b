//! A part of the disk of its own for a directory whose files come and go.
//!
//! Ext4 without a journal looks at every inode that was lately freed (in the last minutes)
//! in the part of the disk where it makes one. Overlays of containers make and free half a
//! dozen each: in one part with all else that was an eighth of the machine at 500 containers
//! a second. A removed image frees ten thousand, and the next one took five times as long to
//! load. Must never be needed for anything but speed: other file systems refuse it.

use std::os::fd::BorrowedFd;

use rustix::fs::IFlags;

/// Has what is made in a directory put in a part of the disk of its own, where the file
/// system has such parts; true if that was not so before, and what is there lies elsewhere.
pub fn move_apart(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::ioctl_getflags(dir).is_ok_and(|flags| {
        !flags.contains(IFlags::TOPDIR)
            && rustix::fs::ioctl_setflags(dir, flags | IFlags::TOPDIR).is_ok()
    })
}
