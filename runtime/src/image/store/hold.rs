//! Images in somebody's hands.
//!
//! A hold is a count in memory: taken and given back without the disk. Only who gives back
//! the last hold on a layer whose image is gone removes that layer.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::{Digest, ImageError};
use super::{Images, Inner, now_ms};

/// What counts as held while this lives.
#[derive(Debug)]
pub(super) struct Grip {
    store: Arc<Inner>,
    images: Vec<Digest>,
    layers: Vec<Digest>,
}

impl Grip {
    /// For a hold that is in the store's counts already.
    pub(super) fn counted(store: &Arc<Inner>, images: Vec<Digest>, layers: Vec<Digest>) -> Self {
        Self { store: Arc::clone(store), images, layers }
    }

    /// Whose it is.
    pub(super) fn store(&self) -> &Inner {
        &self.store
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        // Not in one with the condition: its lock would last.
        let mut state = self.store.state();
        let orphans = state.release(&self.images, &self.layers);
        let replaced = state.take_replaced(&self.layers);
        drop(state);
        if !orphans.is_empty() {
            self.store.remove_orphans(&orphans);
        }
        self.store.remove_replaced(&replaced);
    }
}

/// An image in somebody's hands: it stays while this is held. The last one of an image that
/// was removed meanwhile removes its layers when it is dropped, which takes a while.
#[derive(Debug)]
pub struct Held {
    layers: Vec<PathBuf>,
    grip: Grip,
}

impl Held {
    /// Where the unpacked layers are, lowest first. Not to be changed.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// Ends the hold of an agent that leaves its tasks running: no layer is removed, and the
    /// next agent takes them into hand by their paths.
    pub(crate) fn leave(mut self) {
        let (images, layers) =
            (std::mem::take(&mut self.grip.images), std::mem::take(&mut self.grip.layers));
        self.grip.store.state().release(&images, &layers);
    }

    /// Whether to drop this removes layers, and so takes a while.
    pub(crate) fn is_last(&self) -> bool {
        self.grip.store.state().are_last(&self.grip.layers)
    }
}

impl Images {
    /// Takes an image into hand, for a task that runs from it. Does not wait for the disk.
    ///
    /// # Errors
    ///
    /// If it is not here, or some of it is damaged.
    pub fn hold(&self, id: &Digest) -> Result<Held, ImageError> {
        let mut state = self.0.state();
        let record = state.images.get(id);
        let record = record.ok_or_else(|| ImageError::Unknown { wanted: id.to_string() })?;
        if let Some(layer) = state.damaged_of(record).first() {
            return Err(ImageError::Damaged { layer: *layer });
        }
        let stack = state.stack(&record.layers);
        state.hold(&[*id], &stack);
        state.used.insert(*id, now_ms());
        state.used_is_news = true;
        drop(state);
        Ok(self.held(vec![*id], stack))
    }

    /// Takes the layers at these paths of the store into hand: those of a task that an earlier
    /// agent launched, and with them the images that are made of just these. Paths elsewhere
    /// are passed over.
    pub fn hold_layers(&self, paths: &[PathBuf]) -> Held {
        let mut state = self.0.state();
        let here = paths.iter().filter_map(|path| self.0.disk.layer_at(path));
        let layers: Vec<_> = here.filter(|layer| state.layers.contains_key(layer)).collect();
        let images = if layers.is_empty() { Vec::new() } else { state.images_of(&layers) };
        state.hold(&images, &layers);
        drop(state);
        self.held(images, layers)
    }

    fn held(&self, images: Vec<Digest>, layers: Vec<Digest>) -> Held {
        let paths = layers.iter().map(|layer| self.0.disk.tree(layer)).collect();
        Held { layers: paths, grip: Grip::counted(&self.0, images, layers) }
    }
}
