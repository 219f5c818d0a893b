//! The images of this machine: layers unpacked once each, configs, names.
//!
//! ```text
//! stage ──▶ a part, verified ──commit──▶ layers, image, names ──hold──▶ a task
//!                                              │                   │
//!                                              └──remove, collect──┴──▶ gone
//! ```
//!
//! Two locks. One, over what is in memory, is short and never held while the disk works: a
//! launch takes it. The other is held by whoever changes what has its place on the disk, and
//! always taken first.
//!
//! Invariant: what memory shows is on the disk, whole; what the disk shows after a crash at
//! any moment is whole too. What somebody holds stays.

mod commit;
mod damage;
mod disk;
mod hold;
mod reader;
mod record;
mod removal;
mod sharing;
mod stage;
mod state;
mod taken;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::archive::Budget;
use super::{Digest, ImageConfig, ImageError, Reference};
use crate::unpack::Owners;
use disk::Disk;
use record::{CONFIG, LayerRecord, MANIFEST};
use state::{Meant, State};

pub use hold::Held;
pub use reader::LayerReader;
pub use stage::Staged;

/// Longest config that is kept parsed, in bytes: honest ones have a tenth of it, and what a
/// stranger writes into a large one takes several times its size.
const CONFIG_KEPT_MAX: usize = 64 * 1024;

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
    /// Its layers whose files are not what they were. It starts no task before they came
    /// again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Digest>,
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
    disk: Disk,
    owners: Owners,
    state: Mutex<State>,
    /// Told whenever a layer is no longer being staged.
    changed: Condvar,
    /// Held by whoever changes what has its place.
    writing: Mutex<()>,
    /// For the archives that are loaded.
    documents: Arc<Budget>,
}

impl Images {
    /// Opens a store, making its directory (whose parent must exist) and removing parts that a
    /// crash left in it. Layers that it left are removed by [`sweep`](Self::sweep).
    ///
    /// # Errors
    ///
    /// If the directory cannot be used, is another user's, or was written by a newer program.
    pub fn open(path: &Path, owners: Owners) -> Result<Self, ImageError> {
        let disk = Disk::open(path)?;
        let state = Mutex::new(record::read_all(&disk)?);
        let (changed, writing) = (Condvar::new(), Mutex::new(()));
        let documents = Arc::default();
        Ok(Self(Arc::new(Inner { disk, owners, state, changed, writing, documents })))
    }

    /// Makes sure that the disk has room for so many bytes more, beside what stays free on it.
    ///
    /// # Errors
    ///
    /// If it has not.
    pub fn check_room(&self, bytes: u64) -> Result<(), ImageError> {
        self.0.disk.check_room(Some(bytes))
    }

    /// Whether a layer is here and sound as far as is known, of whichever image.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.0.state().sound(diff_id).is_some()
    }

    /// The layer whose compressed form had this digest, if one is here that came so.
    pub fn layer_of(&self, packed: &Digest) -> Option<Digest> {
        let state = self.0.state();
        let mut layers = state.layers.iter();
        let is_it = |layer: &Digest, record: &LayerRecord| {
            record.packed == *packed && !state.damaged.contains(layer)
        };
        layers.find(|(layer, record)| is_it(layer, record)).map(|(layer, _)| *layer)
    }

    /// The memory that all archives share which are loaded at once.
    pub(super) fn documents(&self) -> Arc<Budget> {
        Arc::clone(&self.0.documents)
    }

    /// All images, the newest first.
    pub fn list(&self) -> Vec<ImageInfo> {
        let state = self.0.state();
        let mut all: Vec<_> = state.images.keys().filter_map(|id| state.info(id)).collect();
        all.sort_by_key(|info| std::cmp::Reverse(info.came_ms));
        all
    }

    /// What is known of an image.
    pub fn get(&self, id: &Digest) -> Option<ImageInfo> {
        self.0.state().info(id)
    }

    /// The image of that name (by tag, or by its manifest's digest).
    pub fn named(&self, name: &Reference) -> Option<ImageInfo> {
        let state = self.0.state();
        state.named(name).and_then(|id| state.info(&id))
    }

    /// The image that people mean: a name, an id, or an id's first digits.
    ///
    /// # Errors
    ///
    /// If there is none, or several begin so.
    pub fn find(&self, text: &str) -> Result<ImageInfo, ImageError> {
        let state = self.0.state();
        let (Meant::Name(_, id) | Meant::Image(id)) = state.meant(text)?;
        state.info(&id).ok_or_else(|| ImageError::Unknown { wanted: text.to_owned() })
    }

    /// What an image says of itself.
    ///
    /// # Errors
    ///
    /// If it is not here, or cannot be read.
    pub fn config(&self, id: &Digest) -> Result<Arc<ImageConfig>, ImageError> {
        if let Some(config) = self.0.state().config(id) {
            return Ok(config);
        }
        let bytes = self.config_bytes(id)?;
        let config = Arc::new(ImageConfig::parse(&bytes)?);
        if bytes.len() <= CONFIG_KEPT_MAX {
            self.0.state().keep_config(*id, Arc::clone(&config));
        }
        Ok(config)
    }

    /// The bytes of an image's config, whose digest is its id.
    ///
    /// # Errors
    ///
    /// If it is not here, or cannot be read.
    pub fn config_bytes(&self, id: &Digest) -> Result<Vec<u8>, ImageError> {
        self.0.known(id)?;
        record::document(&self.0.disk, id, CONFIG).map_err(self.0.disk.failed("read a config"))
    }

    /// The bytes of the manifest that an image came with, if it came with one.
    ///
    /// # Errors
    ///
    /// If the image is not here, or it cannot be read.
    pub fn manifest_bytes(&self, id: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        if self.0.known(id)?.manifest.is_none() {
            return Ok(None);
        }
        let manifest = record::document(&self.0.disk, id, MANIFEST);
        manifest.map(Some).map_err(self.0.disk.failed("read a manifest"))
    }
}

impl Inner {
    fn known(&self, id: &Digest) -> Result<ImageInfo, ImageError> {
        let unknown = || ImageError::Unknown { wanted: id.to_string() };
        self.state().info(id).ok_or_else(unknown)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.used_is_news {
            record::write_used(&self.disk, &state.used);
        }
    }
}

fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// In milliseconds since 1970.
fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
