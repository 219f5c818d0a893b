//! A layer's archive, for whoever saves or sends it.

use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use super::super::{Digest, ImageError};
use super::Images;
use super::hold::Grip;
use crate::unpack::{DIRECTORY, Replay, again};

/// The uncompressed archive of a layer, byte by byte as it once was. The layer stays while
/// this lives.
#[derive(Debug)]
pub struct LayerReader {
    replay: Replay,
    _grip: Grip,
}

impl Images {
    /// A layer's archive again.
    ///
    /// # Errors
    ///
    /// If it is not here, or damaged beyond reading.
    pub fn read_layer(&self, diff_id: &Digest) -> Result<LayerReader, ImageError> {
        let grip = {
            let mut state = self.0.state();
            if !state.layers.contains_key(diff_id) {
                return Err(ImageError::Unknown { wanted: format!("layer {diff_id}") });
            }
            state.hold(&[], &[*diff_id]);
            Grip::counted(&self.0, Vec::new(), vec![*diff_id])
        };
        let disk = &self.0.disk;
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let layer = rustix::fs::openat(&disk.layers, diff_id.hex(), flags, Mode::empty());
        let replay = layer
            .map_err(io::Error::from)
            .and_then(|layer| again(std::os::fd::AsFd::as_fd(&layer)));
        let unread = |source| ImageError::Read { what: format!("layer {diff_id}"), source };
        Ok(LayerReader { replay: replay.map_err(unread)?, _grip: grip })
    }
}

impl LayerReader {
    /// How many bytes it has in all. Beside [`Read`] it is called by its full name.
    pub fn bytes(&self) -> u64 {
        self.replay.length()
    }

    /// Goes on at this byte, up to the end. What is passed over is not read.
    pub fn seek(&mut self, to: u64) -> io::Result<()> {
        self.replay.seek(to)
    }
}

impl Read for LayerReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.replay.read(into)
    }
}
