//! The images of this machine: layers unpacked once each, configs, names.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Digest, ImageConfig, ImageError, Reference, Watcher};
use crate::unpack::{Bounds, Owners};

/// How an image came here, which decides whether it may go by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Somebody loaded or pulled it: it stays until somebody removes it.
    Asked,
    /// A task needed it: it goes when it is old or the disk is full.
    Needed,
}

/// A layer of an image that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of that archive.
    pub bytes: u64,
}

/// An image that is here, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The digest of its config.
    pub id: Digest,
    /// The digest of the manifest it came with, if it came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// What people call it.
    pub names: Vec<Reference>,
    /// Lowest first.
    pub layers: Vec<LayerInfo>,
    /// When it was made, as its config says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// When it came here, in milliseconds since 1970.
    pub came_ms: u64,
    /// When a task last ran from it, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<u64>,
    /// How it came.
    pub origin: Origin,
    /// Whether somebody holds it now.
    pub in_use: bool,
}

/// What a removal came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<Reference>,
    /// Images that are gone.
    pub images: Vec<Digest>,
    /// Bytes of uncompressed layers that are gone with them.
    pub bytes: u64,
}

/// All images of one directory. One process opens it at a time; clones share it.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
}

/// A layer that is unpacked and verified but belongs to no image yet. Removed when dropped.
#[derive(Debug)]
pub struct Staged {
    diff_id: Digest,
    packed: Digest,
    packed_bytes: u64,
    bytes: u64,
}

/// An image in somebody's hands: it stays while this is held.
#[derive(Debug)]
pub struct Held {
    layers: Vec<PathBuf>,
}

/// The uncompressed archive of a layer, byte by byte as it once was.
#[derive(Debug)]
pub struct LayerReader {
    bytes: u64,
}

impl Images {
    /// Opens a store, making its directory (whose parent must exist) and removing what a
    /// crash left in it.
    pub fn open(path: &Path, owners: Owners) -> Result<Self, ImageError> {
        let _ = owners;
        Ok(Self(Arc::new(Inner { path: path.to_owned() })))
    }

    /// Whether a layer is here, of whichever image.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        let _ = diff_id;
        false
    }

    /// The layer whose compressed form had this digest, if one is here that came so.
    pub fn layer_of(&self, packed: &Digest) -> Option<Digest> {
        let _ = packed;
        None
    }

    /// Unpacks a layer from its archive, plain, gzip or zstd, read to its end; sums up both
    /// what is read and what it unpacks to. Blocks. If the layer with `diff_id` is here or
    /// being staged by another thread, that is waited for and the source is not read.
    pub fn stage(
        &self,
        from: &mut dyn Read,
        label: &str,
        diff_id: Option<&Digest>,
        bounds: &Bounds,
        watcher: Watcher,
    ) -> Result<Staged, ImageError> {
        let _ = (from, label, diff_id, bounds, watcher);
        Err(self.todo())
    }

    /// Makes an image of a config, whose layers are each here or staged, and gives it names
    /// (which other images lose). All of it is on the disk when this returns. Blocks.
    pub fn commit(
        &self,
        config: &[u8],
        manifest: Option<&[u8]>,
        staged: Vec<Staged>,
        names: &[Reference],
        origin: Origin,
    ) -> Result<ImageInfo, ImageError> {
        let _ = (config, manifest, staged, names, origin);
        Err(self.todo())
    }

    /// All images, the newest first.
    pub fn list(&self) -> Vec<ImageInfo> {
        Vec::new()
    }

    /// What is known of an image.
    pub fn get(&self, id: &Digest) -> Option<ImageInfo> {
        let _ = id;
        None
    }

    /// The image of that name (by tag, or by its manifest's digest).
    pub fn named(&self, name: &Reference) -> Option<ImageInfo> {
        let _ = name;
        None
    }

    /// The image that people mean: a name, an id, or an id's first digits.
    pub fn find(&self, text: &str) -> Result<ImageInfo, ImageError> {
        Err(ImageError::Unknown { wanted: text.to_owned() })
    }

    /// What an image says of itself.
    pub fn config(&self, id: &Digest) -> Result<Arc<ImageConfig>, ImageError> {
        let _ = id;
        Err(self.todo())
    }

    /// The bytes of an image's config, whose digest is its id.
    pub fn config_bytes(&self, id: &Digest) -> Result<Vec<u8>, ImageError> {
        let _ = id;
        Err(self.todo())
    }

    /// The bytes of the manifest that an image came with, if it came with one.
    pub fn manifest_bytes(&self, id: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        let _ = id;
        Err(self.todo())
    }

    /// A layer's archive again.
    pub fn read_layer(&self, diff_id: &Digest) -> Result<LayerReader, ImageError> {
        let _ = diff_id;
        Err(self.todo())
    }

    /// Takes an image into hand, for a task that runs from it.
    pub fn hold(&self, id: &Digest) -> Result<Held, ImageError> {
        let _ = id;
        Err(self.todo())
    }

    /// Takes the layers at these paths of the store into hand: those of a task that an earlier
    /// agent launched. Paths elsewhere are passed over.
    pub fn hold_layers(&self, paths: &[PathBuf]) -> Held {
        let _ = paths;
        Held { layers: Vec::new() }
    }

    /// Gives an image one more name, which another may lose.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<(), ImageError> {
        let _ = (id, name);
        Err(self.todo())
    }

    /// Removes a name, and with its last one the image; or the image with all its names if it
    /// is asked for by id. One that a task runs from is refused; with `force` it loses its
    /// names at once and goes with its last task.
    pub fn remove(&self, wanted: &str, force: bool) -> Result<Removed, ImageError> {
        let _ = force;
        Err(ImageError::Unknown { wanted: wanted.to_owned() })
    }

    /// Removes images that nobody holds: those without a name, with `all` named ones too;
    /// only those unused since `before`, where it is given.
    pub fn prune(&self, all: bool, before: Option<SystemTime>) -> Result<Removed, ImageError> {
        let _ = (all, before);
        Err(self.todo())
    }

    /// Removes images that came because a task needed them and that nobody holds: those unused
    /// for `age`, and, the longest unused first, as many as it takes until `room` bytes are
    /// free on the disk.
    pub fn collect(&self, age: Duration, room: u64) -> Result<Removed, ImageError> {
        let _ = (age, room);
        Err(self.todo())
    }

    fn todo(&self) -> ImageError {
        let source = io::ErrorKind::Unsupported.into();
        ImageError::Store { action: "do that yet", path: self.0.path.clone(), source }
    }
}

impl Staged {
    /// The digest of what was unpacked.
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// The digest of what was read: the same for an archive that is not compressed.
    pub fn packed(&self) -> Digest {
        self.packed
    }

    /// Bytes read.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// Bytes unpacked.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Held {
    /// Where the unpacked layers are, lowest first. Not to be changed.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }
}

impl LayerReader {
    /// How many bytes it has in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Goes on at this byte.
    pub fn seek(&mut self, to: u64) -> io::Result<()> {
        let _ = to;
        Ok(())
    }
}

impl Read for LayerReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let _ = into;
        Ok(0)
    }
}
