//! A layer's archive, for whoever saves or sends it.
//!
//! Read from its first byte to its last it is summed up: what another machine or a registry
//! is to trust must not be what a failing disk made of it.
//!
//! Must never: hand out the last bytes of a layer that was read whole and is another.

use std::io::{self, Read};
use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::super::{Digest, ImageError};
use super::Images;
use super::damage::{Place, is_damage, place_of};
use super::hold::Grip;
use crate::unpack::{DIRECTORY, Replay, again};

/// The uncompressed archive of a layer, byte by byte as it once was. The layer stays while
/// this lives. One that is found to be damaged is marked so.
#[derive(Debug)]
pub struct LayerReader {
    layer: Digest,
    place: Place,
    replay: Replay,
    at: u64,
    /// Of all before `at`, as long as all of it was read.
    sum: Option<Sha256>,
    grip: Grip,
}

impl Images {
    /// A layer's archive again.
    ///
    /// # Errors
    ///
    /// If it is not here, or damaged.
    pub fn read_layer(&self, diff_id: &Digest) -> Result<LayerReader, ImageError> {
        let grip = {
            let mut state = self.0.state();
            match (state.sound(diff_id), state.layers.get(diff_id)) {
                (Some(_), _) => {}
                (None, Some(_)) => return Err(ImageError::Damaged { layer: *diff_id }),
                (None, None) => {
                    return Err(ImageError::Unknown { wanted: format!("layer {diff_id}") });
                }
            }
            state.hold(&[], &[*diff_id]);
            Grip::counted(&self.0, Vec::new(), vec![*diff_id])
        };
        let failed =
            |source: io::Error| ImageError::Read { what: format!("layer {diff_id}"), source };
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let dir = rustix::fs::openat(&self.0.disk.layers, diff_id.hex(), flags, Mode::empty());
        let dir = dir.map_err(|error| failed(error.into()))?;
        let place = rustix::fs::fstat(&dir).map_err(|error| failed(error.into()))?;
        let place = place_of(&place);
        let replay = again(dir.as_fd()).map_err(|error| {
            grip.judge(diff_id, place, &error);
            failed(error)
        })?;
        let sum = Some(Sha256::new());
        Ok(LayerReader { layer: *diff_id, place, replay, at: 0, sum, grip })
    }
}

impl Grip {
    /// Marks a layer as damaged if that is what this failure to read it means.
    fn judge(&self, layer: &Digest, place: Place, error: &io::Error) {
        if is_damage(error) {
            self.store().mark_damaged(layer, place, &error.to_string());
        }
    }
}

impl LayerReader {
    /// How many bytes it has in all. Beside [`Read`] it is called by its full name.
    pub fn bytes(&self) -> u64 {
        self.replay.length()
    }

    /// Goes on at this byte, up to the end. What is passed over is not read.
    pub fn seek(&mut self, to: u64) -> io::Result<()> {
        if to == self.at {
            return Ok(());
        }
        self.sum = None;
        // A place behind the end is the asker's mistake.
        let is_within = to <= self.replay.length();
        let sought = self.replay.seek(to);
        if let (Err(error), true) = (&sought, is_within) {
            self.grip.judge(&self.layer, self.place, error);
        }
        self.at = to;
        sought
    }

    /// Takes what was read into account; whether it is the layer, once all of it was.
    fn check(&mut self, read: &[u8]) -> io::Result<()> {
        self.at += read.len() as u64;
        let Some(sum) = &mut self.sum else { return Ok(()) };
        sum.update(read);
        if self.at < self.replay.length() {
            return Ok(());
        }
        let found = self.sum.take().map(|sum| Digest::new(sum.finalize().into()));
        if found == Some(self.layer) {
            return Ok(());
        }
        let what = "the layer is damaged: its files are not what they were";
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

impl Read for LayerReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.replay.read(into).and_then(|length| {
            self.check(into.get(..length).unwrap_or_default())?;
            Ok(length)
        });
        if let Err(error) = &read {
            self.grip.judge(&self.layer, self.place, error);
        }
        read
    }
}
