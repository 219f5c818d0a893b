//! What the store gives to those who send layers in chunks and fetch them so.

use std::path::PathBuf;

use super::super::Digest;
use super::super::chunks::{Making, SpoolError, Spools};
use super::Images;

/// The list of a layer's chunks, beside its recipe. It goes with the layer.
const CHUNKS: &str = "chunks";

/// Layers that are on their way.
const SPOOLS: &str = "spools";

impl Images {
    /// The spools of this store. Blocks.
    ///
    /// # Errors
    ///
    /// If their directory does not serve.
    pub fn spools(&self) -> Result<Spools, SpoolError> {
        Spools::open(&self.0.disk.path.join(SPOOLS))
    }

    /// How long a layer's archive is, if it is here.
    pub fn layer_bytes(&self, diff_id: &Digest) -> Option<u64> {
        self.0.state().sound(diff_id).map(|layer| layer.bytes)
    }

    /// Makes the list of a layer that is here, or reads the one that is kept. Blocks; whoever
    /// waits for the list is told what fails.
    pub fn list_chunks(&self, diff_id: &Digest, making: Making) {
        making.run(&self.chunks_path(diff_id), || {
            self.read_layer(diff_id).map_err(std::io::Error::other)
        });
    }

    fn chunks_path(&self, diff_id: &Digest) -> PathBuf {
        self.0.disk.path.join("layers").join(diff_id.hex()).join(CHUNKS)
    }
}
