//! Layers whose files are no longer what they were: a disk that loses bits or lied about a
//! flush, or somebody who wrote into the store.
//!
//! ```text
//! told again ── its sum is another, or cannot be read ──▶ marked, on the disk ──▶ not there
//!                                                              staged anew ──▶ replaced
//! ```
//!
//! A marked layer stays where it is for the tasks that run from it, and is otherwise as if it
//! were not here: it is neither told nor run from, and whoever brings it brings all of it.
//!
//! Must never: mark a layer for what was read of the one before it in its place, or because
//! this process has too few files or too little memory.

use std::io;

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;
use tracing::{error, warn};

use super::super::Digest;
use super::Inner;

/// The directory of a layer, as the disk knows it.
pub(super) type Place = (u64, u64);

pub(super) fn place_of(stat: &Stat) -> Place {
    (stat.st_dev, stat.st_ino)
}

/// Whether a failure to read a layer's files is the files'.
pub(super) fn is_damage(error: &io::Error) -> bool {
    let of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    let errno = Errno::from_io_error(error);
    !errno.is_some_and(|errno| of_process.contains(&errno))
        // Of a newer program, which can read it.
        && error.kind() != io::ErrorKind::Unsupported
}

impl Inner {
    /// Marks a layer that was found damaged at that place, unless another is there by now.
    pub(super) fn mark_damaged(&self, layer: &Digest, place: Place, why: &str) {
        let _writing = self.writing();
        let stat = rustix::fs::statat(&self.disk.layers, layer.hex(), AtFlags::SYMLINK_NOFOLLOW);
        let is_same = stat.is_ok_and(|stat| place_of(&stat) == place);
        if !is_same || self.state().sound(layer).is_none() {
            return;
        }
        error!(%layer, why, "a layer is damaged on the disk; load, pull or run its image again");
        self.state().damaged.insert(*layer);
        if let Err(error) = self.disk.mark(layer, why) {
            warn!(%layer, %error, "that it is damaged is forgotten with this process");
        }
    }
}
