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

use std::io::{self, Read as _};

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;
use tracing::{error, warn};

use super::super::{Digest, ImageError, Progress, Stage, Watcher};
use super::taken::progress;
use super::{Images, Inner, LayerReader};

/// Bytes of a layer that are read at once.
const PIECE_BYTES: usize = 256 << 10;

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

impl Images {
    /// Reads a layer whole, and answers whether it is what it should be. One that is not is
    /// marked. Blocks.
    ///
    /// # Errors
    ///
    /// If it is not here or cannot be read for want of something else, or if the watcher wants
    /// no more.
    pub fn verify_layer(&self, diff_id: &Digest, watcher: Watcher) -> Result<bool, ImageError> {
        let of_its = |error: ImageError| match self.0.state().damaged.contains(diff_id) {
            true => Ok(false),
            false => Err(error),
        };
        let mut reader = match self.read_layer(diff_id) {
            Ok(reader) => reader,
            Err(error) => return of_its(error),
        };
        let (label, of) = (diff_id.short(), Some(LayerReader::bytes(&reader)));
        let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0);
        loop {
            let told = Progress { of, ..progress(&label, Stage::Working, bytes) };
            if !watcher(told) {
                return Err(ImageError::CalledOff);
            }
            match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => bytes += read as u64,
                Err(source) => {
                    return of_its(ImageError::Read { what: format!("layer {label}"), source });
                }
            }
        }
        watcher(progress(&label, Stage::Done, bytes));
        Ok(true)
    }
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
