//! Making an image of staged layers: seen in one moment, and on the disk before that.
//!
//! ```text
//! write config, manifest, info ─▶ flush all ─▶ layers get their places ─▶ names, ahead
//!     ─▶ the image gets its place: from here on it is seen ─▶ told
//! ```
//!
//! Each step is on the disk before the next begins. A crash before the last leaves layers
//! that no image has, which the next start sweeps, and names that say who had them before.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::super::{Digest, ImageConfig, ImageError, Reference};
use super::disk::{self, INFO, VERSION};
use super::hold::Grip;
use super::record::{self, CONFIG, DOCUMENT_BYTES_MAX, ImageRecord, MANIFEST, NAMES_MAX};
use super::stage::{Fresh, Ground, Staged};
use super::{ImageInfo, Images, Inner, LayerInfo, Origin, now_ms};
use crate::unpack::part::Part;

/// An image about to be made.
struct Wanted<'a> {
    id: Digest,
    config: &'a [u8],
    manifest: Option<&'a [u8]>,
    record: ImageRecord,
    names: BTreeSet<Reference>,
}

impl Images {
    /// Makes an image of a config, whose layers are each here or staged, and gives it names
    /// (which other images lose). All of it is on the disk when this returns. Blocks.
    ///
    /// # Errors
    ///
    /// If the config is none or wants a layer that is neither here nor staged, or if the disk
    /// fails. The store is then as it was, and so is every name.
    pub fn commit(
        &self,
        config: &[u8],
        manifest: Option<&[u8]>,
        staged: Vec<Staged>,
        names: &[Reference],
        origin: Origin,
    ) -> Result<ImageInfo, ImageError> {
        for (what, document) in [("the image's config", Some(config)), ("the manifest", manifest)] {
            if document.is_some_and(|bytes| bytes.len() as u64 > DOCUMENT_BYTES_MAX) {
                let why = format!("it is longer than {DOCUMENT_BYTES_MAX} bytes");
                return Err(ImageError::Document { what: what.to_owned(), why });
            }
        }
        let said = ImageConfig::parse(config)?;
        // That they are not too many was seen when it was read.
        if said.layers.is_empty() {
            let why = "it has no layers".to_owned();
            return Err(ImageError::Document { what: "the image's config".to_owned(), why });
        }
        let (layers, _here) = self.0.gather(&said.layers, &staged)?;
        let record = ImageRecord {
            version: VERSION,
            manifest: manifest.map(Digest::of),
            created: said.created.clone(),
            platform: said.platform(),
            came_ms: now_ms(),
            origin,
            layers,
        };
        let names = names.iter().cloned().collect();
        let wanted = Wanted { id: Digest::of(config), config, manifest, record, names };
        let fresh: Vec<_> = staged
            .iter()
            .filter(|staged| said.layers.contains(&staged.diff_id()))
            .filter_map(|staged| match &staged.ground {
                Ground::Fresh(fresh) => Some(Arc::clone(fresh)),
                Ground::Here { .. } => None,
            })
            .collect();
        let part = self.0.write_image(&wanted, &fresh)?;
        self.0.settle(&wanted, part, &fresh)?;
        // What is still in hand is let go after the lock in `settle`, never under it.
        let unknown = || ImageError::Unknown { wanted: wanted.id.to_string() };
        self.get(&wanted.id).ok_or_else(unknown)
    }
}

impl Inner {
    /// Finds every layer of a config, taking those into hand that are here.
    fn gather(
        self: &Arc<Self>,
        wanted: &[Digest],
        staged: &[Staged],
    ) -> Result<(Vec<LayerInfo>, Grip), ImageError> {
        let mut state = self.state();
        let (mut layers, mut here) = (Vec::new(), Vec::new());
        for diff_id in wanted {
            let fresh = staged.iter().find(|staged| staged.diff_id() == *diff_id);
            let bytes = match (state.sound(diff_id), fresh) {
                (Some(record), _) => {
                    here.push(*diff_id);
                    record.bytes
                }
                (None, Some(fresh)) => fresh.bytes(),
                (None, None) if state.layers.contains_key(diff_id) => {
                    return Err(ImageError::Damaged { layer: *diff_id });
                }
                (None, None) => {
                    let why = format!("its layer {diff_id} is not there");
                    return Err(ImageError::Document { what: "the image".to_owned(), why });
                }
            };
            layers.push(LayerInfo { diff_id: *diff_id, bytes });
        }
        state.hold(&[], &here);
        let grip = Grip::counted(self, Vec::new(), here);
        drop(state);
        Ok((layers, grip))
    }

    /// Writes an image's own files and has all that is new of it flushed to the disk.
    fn write_image(&self, wanted: &Wanted, fresh: &[Arc<Fresh>]) -> Result<Part, ImageError> {
        let failed = self.disk.failed("write an image");
        let documents = wanted.config.len() + wanted.manifest.map_or(0, <[u8]>::len);
        self.disk.check_room(Some(documents as u64))?;
        let part =
            Part::make(self.disk.parts.as_fd()).map_err(self.disk.failed("make an image"))?;
        let info = record::text(&wanted.record).map_err(&failed)?;
        let documents = [(CONFIG, wanted.config), (INFO, &info)];
        let manifest = wanted.manifest.map(|manifest| (MANIFEST, manifest));
        for (name, bytes) in documents.into_iter().chain(manifest) {
            let file = disk::write(part.dir(), name, bytes).map_err(&failed)?;
            if fresh.is_empty() {
                file.sync_all().map_err(&failed)?;
            }
        }
        // Through the handle that was opened first: it knows of every failed write since.
        let flushed = match fresh.iter().min_by_key(|fresh| fresh.since) {
            None => rustix::fs::fsync(part.dir()),
            Some(first) if fresh.iter().any(|fresh| fresh.unflushed.load(Ordering::Relaxed)) => {
                let _ = first;
                Err(Errno::IO)
            }
            Some(first) => {
                let flushed = rustix::fs::syncfs(first.part().dir());
                if flushed.is_err() {
                    // The next flush would say that all is well.
                    fresh.iter().for_each(|fresh| fresh.unflushed.store(true, Ordering::Relaxed));
                }
                flushed
            }
        };
        flushed.map_err(self.disk.failed("flush an image to the disk"))?;
        Ok(part)
    }

    /// Gives the layers and the image their places.
    fn settle(
        self: &Arc<Self>,
        wanted: &Wanted,
        part: Part,
        fresh: &[Arc<Fresh>],
    ) -> Result<(), ImageError> {
        let writing = self.writing();
        let mut moved = false;
        for fresh in fresh {
            moved |= self.settle_layer(fresh).map_err(self.disk.failed("place a layer"))?;
        }
        if moved {
            rustix::fs::fsync(&self.disk.layers).map_err(self.disk.failed("flush its layers"))?;
        }
        let known = self.state().images.get(&wanted.id).cloned();
        match known {
            None => self.settle_image(wanted, part)?,
            Some(known) => self.renew(wanted, known)?,
        }
        let mut state = self.state();
        state.names.extend(wanted.names.iter().map(|name| (name.clone(), wanted.id)));
        drop(state);
        drop(writing);
        Ok(())
    }

    /// Puts a layer where it belongs unless one is there; says whether it did.
    fn settle_layer(self: &Arc<Self>, fresh: &Fresh) -> io::Result<bool> {
        let layer = fresh.diff_id;
        let (is_here, is_sound) = {
            let state = self.state();
            (state.layers.contains_key(&layer), state.sound(&layer).is_some())
        };
        if is_sound {
            return Ok(false);
        }
        let mut part = fresh.part();
        let replaced = if is_here { Some(self.disk.exchange(&mut part, &layer)?) } else { None };
        let placed = match &replaced {
            Some(_) => Ok(()),
            None => part.move_to(self.disk.layers.as_fd(), &layer.hex()),
        };
        match placed {
            // Nobody knows of that one: it could not be removed.
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                let old = self.disk.take_out(self.disk.layers.as_fd(), &layer.hex())?;
                part.move_to(self.disk.layers.as_fd(), &layer.hex())?;
                self.disk.remove(&old);
            }
            moved => moved?,
        }
        let mut state = self.state();
        state.layers.insert(layer, fresh.record.clone());
        state.damaged.remove(&layer);
        if let Some(name) = replaced {
            state.replaced.entry(layer).or_default().push(name);
        }
        state.hold(&[], &[layer]);
        let grip = Grip::counted(self, Vec::new(), vec![layer]);
        drop(state);
        // Once only: from here on the layer is held, and so known above.
        let _ = fresh.settled.set(grip);
        Ok(true)
    }

    fn settle_image(&self, wanted: &Wanted, mut part: Part) -> Result<(), ImageError> {
        if !wanted.names.is_empty() {
            self.write_names(Some((&wanted.names, wanted.id)))?;
        }
        let (images, name) = (self.disk.images.as_fd(), wanted.id.hex());
        let placed = match part.move_to(images, &name) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                let old = self.disk.take_out(images, &name);
                old.and_then(|old| {
                    self.disk.remove(&old);
                    part.move_to(images, &name)
                })
            }
            placed => placed,
        };
        if let Err(error) = placed.and_then(|()| rustix::fs::fsync(images)) {
            if let Ok(part) = self.disk.take_out(images, &name) {
                self.disk.remove(&part);
            }
            return Err(self.disk.failed("place an image")(error));
        }
        self.state().images.insert(wanted.id, wanted.record.clone());
        Ok(())
    }

    /// Writes down that somebody asked for an image that is here.
    pub(super) fn ask_for(&self, id: &Digest) -> Result<(), ImageError> {
        let known = self.state().images.get(id).cloned();
        let Some(mut record) = known.filter(|known| known.origin != Origin::Asked) else {
            return Ok(());
        };
        record.origin = Origin::Asked;
        let failed = self.disk.failed("write down an image");
        let info = record::text(&record).map_err(&failed)?;
        let name = format!("{}/{INFO}", id.hex());
        disk::replace(self.disk.images.as_fd(), &name, &info).map_err(&failed)?;
        self.state().images.insert(*id, record);
        Ok(())
    }

    /// An image that was here comes again: it may have been asked for now, or say by which
    /// manifest it is known.
    fn renew(&self, wanted: &Wanted, known: ImageRecord) -> Result<(), ImageError> {
        let mut record = known.clone();
        if wanted.record.origin == Origin::Asked {
            record.origin = Origin::Asked;
        }
        let dir = format!("{}/", wanted.id.hex());
        let failed = self.disk.failed("write down an image");
        if let (Some(manifest), None) = (wanted.manifest, known.manifest) {
            let name = dir.clone() + MANIFEST;
            disk::replace(self.disk.images.as_fd(), &name, manifest).map_err(&failed)?;
            record.manifest = wanted.record.manifest;
        }
        if record != known {
            let info = record::text(&record).map_err(&failed)?;
            let name = dir + INFO;
            disk::replace(self.disk.images.as_fd(), &name, &info).map_err(&failed)?;
        }
        let mut state = self.state();
        state.used.insert(wanted.id, now_ms());
        state.used_is_news = true;
        state.images.insert(wanted.id, record);
        let has_all = wanted.names.iter().all(|name| state.names.get(name) == Some(&wanted.id));
        drop(state);
        if has_all { Ok(()) } else { self.write_names(Some((&wanted.names, wanted.id))) }
    }

    /// Writes the names down as they are, and those that an image gets once it is here.
    pub(super) fn write_names(
        &self,
        ahead: Option<(&BTreeSet<Reference>, Digest)>,
    ) -> Result<(), ImageError> {
        let names = self.state().names.clone();
        if names.len() + ahead.map_or(0, |(coming, _)| coming.len()) > NAMES_MAX {
            let why = format!("the store has {NAMES_MAX} names already");
            return Err(ImageError::Document { what: "one name more".to_owned(), why });
        }
        record::write_names(&self.disk, &names, ahead).map_err(self.disk.failed("write down names"))
    }
}
