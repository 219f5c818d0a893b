//! Taking images away again: asked for, pruned, or for want of room.
//!
//! Memory comes first, so that nobody takes into hand what is about to go; then the names,
//! the images and the layers, each out of sight by a rename; and last, when nobody waits any
//! more, what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use tracing::{info, warn};

use super::super::{Digest, ImageConfig, ImageError, Reference};
use super::record::{self, ImageRecord};
use super::state::{Meant, State};
use super::{Images, Inner, Origin, Removed, ms_of, now_ms};

/// What is to go.
#[derive(Debug, Default)]
struct Plan {
    names: BTreeSet<Reference>,
    images: Vec<Digest>,
}

impl Images {
    /// Gives an image one more name, which another may lose.
    ///
    /// # Errors
    ///
    /// If it is not here, or the disk fails.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<(), ImageError> {
        let _writing = self.0.writing();
        if !self.0.state().images.contains_key(id) {
            return Err(ImageError::Unknown { wanted: id.to_string() });
        }
        // Whoever names an image wants it, by whatever way it came.
        self.0.ask_for(id)?;
        self.0.write_names(Some((&BTreeSet::from([name.clone()]), *id)))?;
        self.0.state().names.insert(name.clone(), *id);
        Ok(())
    }

    /// Removes a name, and with its last one the image; or the image with all its names if it
    /// is asked for by id. One that a task runs from is refused; with `force` it and its names
    /// go at once, and its layers with its last task.
    ///
    /// # Errors
    ///
    /// If there is no such image, if it is in use, or if the disk fails.
    pub fn remove(&self, wanted: &str, force: bool) -> Result<Removed, ImageError> {
        self.0.take_away(|state| plan_removal(state, wanted, force))
    }

    /// Removes images that nobody holds: those without a name, with `all` named ones too;
    /// only those unused since `before`, where it is given.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn prune(&self, all: bool, before: Option<SystemTime>) -> Result<Removed, ImageError> {
        let before = before.map(ms_of);
        self.0.disk.forget_damaged();
        self.0.take_away(|state| {
            let unused = |id: &Digest| before.is_none_or(|ms| state.last_needed_ms(id) < ms);
            let nameless = |id: &Digest| all || !state.names.values().any(|named| named == id);
            Ok(whole(state, |id, _| nameless(id) && unused(id)))
        })
    }

    /// Removes images that came because a task needed them and that nobody holds: those unused
    /// for `age`, and, the longest unused first, as many as it takes until `room` bytes are
    /// free on the disk.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn collect(&self, age: Duration, room: u64) -> Result<Removed, ImageError> {
        let before = before_ms(age);
        let needed = |record: &ImageRecord| record.origin == Origin::Needed;
        let mut removed = self.0.take_away(|state| {
            Ok(whole(state, |id, record| is_old_need(state, id, record, before)))
        })?;
        let short = || self.0.disk.room().map(|free| free < room);
        while short().map_err(self.0.disk.failed("look how full the disk is"))? {
            let more = self.0.take_away(|state| {
                let mut all = whole(state, |_, record| needed(record)).images;
                all.sort_by_key(|id| state.last_needed_ms(id));
                all.truncate(1);
                Ok(with_names(state, all))
            })?;
            if more.images.is_empty() {
                break;
            }
            removed.names.extend(more.names);
            removed.images.extend(more.images);
            removed.bytes += more.bytes;
        }
        Ok(removed)
    }

    /// Files that plain processes brought along and that nobody needed for `age`: images that
    /// came with a task, have no name, and say nothing of how anything in them is called.
    /// Blocks.
    pub fn shipped(&self, age: Duration) -> Vec<Digest> {
        let before = before_ms(age);
        let nameless: Vec<Digest> = {
            let state = self.0.state();
            let ids = whole(&state, |id, record| is_old_need(&state, id, record, before)).images;
            ids.into_iter().filter(|id| state.names_of(id).is_empty()).collect()
        };
        let says_nothing = |id: &Digest| {
            self.config(id).is_ok_and(|says| {
                let ImageConfig { os, architecture, variant, layers, .. } =
                    ImageConfig::clone(&says);
                *says == ImageConfig { os, architecture, variant, layers, ..ImageConfig::default() }
            })
        };
        nameless.into_iter().filter(says_nothing).collect()
    }

    /// Removes those of them that are still as old and that nobody holds.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub fn collect_shipped(&self, ids: &[Digest], age: Duration) -> Result<Removed, ImageError> {
        let before = before_ms(age);
        self.0.take_away(|state| {
            Ok(whole(state, |id, record| {
                ids.contains(id) && is_old_need(state, id, record, before)
            }))
        })
    }

    /// Removes layers that no image has and nobody holds, once those have said so with
    /// [`hold_layers`](Self::hold_layers) who hold some since before this store was opened.
    pub fn sweep(&self) {
        let all: Vec<_> = self.0.state().layers.keys().copied().collect();
        self.0.remove_orphans(&all);
        let replaced = {
            let mut state = self.0.state();
            let all: Vec<_> = state.replaced.keys().copied().collect();
            state.take_replaced(&all)
        };
        self.0.remove_replaced(&replaced);
    }
}

fn before_ms(age: Duration) -> u64 {
    now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// Whether an image came because a task needed it, and none did since.
fn is_old_need(state: &State, id: &Digest, record: &ImageRecord, before: u64) -> bool {
    record.origin == Origin::Needed && state.last_needed_ms(id) < before
}

fn plan_removal(state: &State, wanted: &str, force: bool) -> Result<Plan, ImageError> {
    let in_use = || ImageError::InUse { wanted: wanted.to_owned() };
    let (id, name) = match state.meant(wanted)? {
        Meant::Name(name, id) => (id, Some(name)),
        Meant::Image(id) => (id, None),
    };
    match name {
        Some(name) if state.names_of(&id).len() > 1 => {
            Ok(Plan { names: BTreeSet::from([name]), images: Vec::new() })
        }
        _ if state.is_held(&id) && !force => Err(in_use()),
        _ => Ok(with_names(state, vec![id])),
    }
}

/// All images that nobody holds and of which this is true, with their names.
fn whole(state: &State, wanted: impl Fn(&Digest, &ImageRecord) -> bool) -> Plan {
    let images = state.images.iter();
    let images = images.filter(|(id, record)| !state.is_held(id) && wanted(id, record));
    with_names(state, images.map(|(id, _)| *id).collect())
}

fn with_names(state: &State, images: Vec<Digest>) -> Plan {
    let names = images.iter().flat_map(|id| state.names_of(id)).collect();
    Plan { names, images }
}

impl Inner {
    /// Removes what is planned, looking at what is held in the same moment.
    fn take_away(
        &self,
        plan: impl FnOnce(&State) -> Result<Plan, ImageError>,
    ) -> Result<Removed, ImageError> {
        let writing = self.writing();
        let mut state = self.state();
        let plan = plan(&state)?;
        let before = state.names.clone();
        state.names.retain(|name, _| !plan.names.contains(name));
        let mut taken = BTreeMap::new();
        for id in &plan.images {
            taken.extend(state.forget(id).map(|record| (*id, record)));
        }
        let used = std::mem::take(&mut state.used_is_news).then(|| state.used.clone());
        drop(state);
        if let Some(used) = used {
            record::write_used(&self.disk, &used);
        }
        if plan.names.is_empty() && plan.images.is_empty() {
            return Ok(Removed::default());
        }
        let written = if plan.names.is_empty() { Ok(()) } else { self.write_names(None) };
        if let Err(error) = written {
            // A full disk must not keep images from going: that is what frees it. Names of
            // images that are gone are nobody's, whatever the file still says.
            if taken.is_empty() {
                self.state().names = before;
                return Err(error);
            }
            warn!(%error, "the names of what is removed are written down later");
        }
        let mut removed = Removed { names: plan.names.into_iter().collect(), ..Removed::default() };
        let (parts, result) = self.take_out_images(&mut taken, &mut removed);
        self.state().images.extend(taken.clone());
        let layers: Vec<_> = removed.images.iter().flat_map(|id| plan_layers(&parts, id)).collect();
        let (mut garbage, bytes) = self.take_out_orphans(&layers);
        removed.bytes = bytes;
        drop(writing);
        garbage.extend(parts.into_values().map(|(part, _)| part));
        garbage.iter().for_each(|part| self.disk.remove(part));
        for id in &removed.images {
            info!(%id, "image removed");
        }
        result.map(|()| removed)
    }

    /// Takes images out of sight; what could not be is left in `taken`.
    fn take_out_images(
        &self,
        taken: &mut BTreeMap<Digest, ImageRecord>,
        removed: &mut Removed,
    ) -> (BTreeMap<Digest, (String, ImageRecord)>, Result<(), ImageError>) {
        let mut parts = BTreeMap::new();
        let failed = self.disk.failed("remove an image");
        while let Some((id, record)) = taken.pop_first() {
            match self.disk.take_out(self.disk.images.as_fd(), &id.hex()) {
                Ok(part) => {
                    parts.insert(id, (part, record));
                    removed.images.push(id);
                }
                Err(error) => {
                    taken.insert(id, record);
                    return (parts, Err(failed(error)));
                }
            }
        }
        let flushed = if parts.is_empty() { Ok(()) } else { rustix::fs::fsync(&self.disk.images) };
        (parts, flushed.map_err(failed))
    }

    /// Removes what lay aside for tasks that are gone.
    pub(super) fn remove_replaced(&self, names: &[String]) {
        for name in names {
            match self.disk.take_out_replaced(name) {
                Ok(part) => self.disk.remove(&part),
                Err(error) => warn!(name, %error, "a damaged layer stays until the next start"),
            }
        }
    }

    /// Removes those of some layers that nobody needs.
    pub(super) fn remove_orphans(&self, among: &[Digest]) {
        let writing = self.writing();
        let (garbage, _) = self.take_out_orphans(among);
        drop(writing);
        garbage.iter().for_each(|part| self.disk.remove(part));
    }

    /// Takes them out of sight; says what is to be removed, and the bytes of their archives.
    fn take_out_orphans(&self, among: &[Digest]) -> (Vec<String>, u64) {
        let (mut garbage, mut bytes) = (Vec::new(), 0);
        let mut state = self.state();
        let orphans = state.orphans(among);
        let records: Vec<_> = orphans.iter().map(|id| state.layers.remove(id)).collect();
        state.damaged.retain(|id| !orphans.contains(id));
        drop(state);
        for (id, record) in orphans.into_iter().zip(records) {
            match self.disk.take_out(self.disk.layers.as_fd(), &id.hex()) {
                Ok(part) => {
                    garbage.push(part);
                    bytes += record.map_or(0, |record| record.bytes);
                }
                Err(Errno::NOENT) => {}
                // The next start finds it, and tries again.
                Err(error) => warn!(%id, %error, "a layer that nobody needs stays"),
            }
        }
        (garbage, bytes)
    }
}

fn plan_layers(parts: &BTreeMap<Digest, (String, ImageRecord)>, id: &Digest) -> Vec<Digest> {
    let record = parts.get(id).map(|(_, record)| record);
    record
        .map(|record| record.layers.iter().map(|layer| layer.diff_id).collect())
        .unwrap_or_default()
}
