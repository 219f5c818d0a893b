//! What a layer is read from, while it is: summed up, counted, told of, and called off.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::super::{Digest, ImageError, Progress, Stage, Watcher};
use super::disk::Disk;
use crate::unpack::UnpackError;

/// Bytes between two words to the watcher: often enough for a bar on a thin link.
const TELL_BYTES: u64 = 128 * 1024;

/// A source on its way: summed up, counted, told of, and called off.
pub(super) struct Taken<'a> {
    from: &'a mut dyn Read,
    label: &'a str,
    watcher: Watcher<'a>,
    hash: Sha256,
    bytes: u64,
    told: u64,
    failed: Option<io::Error>,
    called_off: bool,
    /// Where others see how far it is.
    count: Option<Arc<AtomicU64>>,
}

/// A word to a watcher.
pub(super) fn progress(label: &str, stage: Stage, bytes: u64) -> Progress {
    Progress { layer: Some(label.to_owned()), stage, bytes, of: None }
}

impl<'a> Taken<'a> {
    pub(super) fn new(from: &'a mut dyn Read, label: &'a str, watcher: Watcher<'a>) -> Self {
        let hash = Sha256::new();
        let (bytes, told, failed, called_off, count) = (0, 0, None, false, None);
        Self { from, label, watcher, hash, bytes, told, failed, called_off, count }
    }

    /// Shows others how far it is.
    pub(super) fn count_in(&mut self, count: Option<Arc<AtomicU64>>) {
        self.count = count;
    }

    /// The sum of what was read so far.
    pub(super) fn sum(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Says what went wrong in the words of who brought it.
    pub(super) fn judge<T>(
        &mut self,
        unpacked: Result<T, UnpackError>,
        disk: &Disk,
    ) -> Result<T, ImageError> {
        match unpacked {
            _ if self.called_off => Err(ImageError::CalledOff),
            Ok(done) => Ok(done),
            Err(error) => Err(match self.failed.take() {
                Some(source) => ImageError::Read { what: format!("layer {}", self.label), source },
                // A full disk says nothing of the layer.
                None => disk.of_machine(error).unwrap_or_else(|source| ImageError::Layer {
                    layer: self.label.to_owned(),
                    source,
                }),
            }),
        }
    }

    /// The sum of all that was read, and how much that was.
    pub(super) fn finish(self) -> (Digest, u64) {
        (Digest::new(self.hash.finalize().into()), self.bytes)
    }
}

impl Read for Taken<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.called_off {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let read = match self.from.read(into) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                self.failed = Some(error);
                return Err(kind.into());
            }
            read => read?,
        };
        self.hash.update(into.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        if let Some(count) = &self.count {
            count.store(self.bytes, Ordering::Relaxed);
        }
        if self.bytes - self.told >= TELL_BYTES {
            self.told = self.bytes;
            self.called_off = !(self.watcher)(progress(self.label, Stage::Working, self.bytes));
        }
        Ok(read)
    }
}
