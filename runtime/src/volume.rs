//! Volumes: named directories that the runtime keeps beyond the tasks that use them.
//!
//! They lie in `volumes/` of the runtime's directory, which nobody but root (or the
//! runtime's own user) may enter: files in them belong on disk to the ids that they
//! have inside of containers, so a set-user-id program in one is root's.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::order::open_below;

const VOLUMES: &str = "volumes";

/// The directory of all volumes of a runtime, made if it is not there yet.
pub(crate) fn directory(runtime: &OwnedFd) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(runtime, VOLUMES, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_below(runtime, VOLUMES),
        Err(error) => Err(error.into()),
    }
}
