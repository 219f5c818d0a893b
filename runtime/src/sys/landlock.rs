//! Landlock's three calls. The C library has no functions for them, and the crate that
//! has allocates where a child must not.
//!
//! Names, numbers and structures are those of linux/landlock.h.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

const VERSION: u32 = 1;
const PATH_BENEATH: u32 = 1;

/// Kernels that know less of it take it if what they do not know is zero.
#[repr(C)]
struct RulesetAttributes {
    files: u64,
    net: u64,
    scopes: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// The version of Landlock that this kernel offers; none if it was built without or
/// started without.
pub(crate) fn abi() -> Option<u32> {
    let nothing: *const RulesetAttributes = ptr::null();
    // SAFETY: asking for the version wants a null pointer and no size.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0 as libc::size_t, VERSION)
    };
    u32::try_from(version).ok().filter(|&version| version > 0)
}

/// An empty ruleset: all of `files` is forbidden, everywhere, until a rule allows it.
pub(crate) fn create(files: u64, scopes: u64) -> Result<OwnedFd, Errno> {
    let attributes = RulesetAttributes { files, net: 0, scopes };
    // SAFETY: the structure outlives the call and is as long as said; the kernel reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::from_ref(&attributes),
            size_of::<RulesetAttributes>(),
            0,
        )
    };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just made it, and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_error()),
    }
}

/// Allows these rights on a file, or on a directory and all below it.
pub(crate) fn allow(
    ruleset: BorrowedFd<'_>,
    beneath: BorrowedFd<'_>,
    allowed: u64,
) -> Result<(), Errno> {
    let rule = PathBeneath { allowed, parent: beneath.as_raw_fd() };
    // SAFETY: the rule outlives the call, has the kernel's layout, and is only read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            ptr::from_ref(&rule),
            0,
        )
    };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

/// Puts this thread, and all that come of it, under the ruleset. Needs no-new-privileges
/// or CAP_SYS_ADMIN. Allocates nothing: for use between fork and exec.
pub(crate) fn restrict(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
