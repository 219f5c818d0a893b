//! Unpacking a layer, once, however many want it at the same time.
//!
//! Whoever names the layer that they bring waits for another who brings the same, and need
//! not be read at all. Whoever cannot name it is read, and compared at the end.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::super::{Digest, ImageError, Stage, Watcher};
use super::disk::{self, INFO};
use super::hold::Grip;
use super::record::{self, LayerRecord};
use super::taken::{Taken, progress};
use super::{Images, Inner};
use crate::unpack::part::Part;
use crate::unpack::{self, Bounds, Form, Options, UnpackError, again, unpack_layer};

/// How often a watcher is asked whether to go on while another thread does the work.
const ASK: Duration = Duration::from_millis(200);

/// Another thread that brings less than this in that time is not waited for: a tenth of a
/// link of 1 Mbit/s.
const DRIP_BYTES: u64 = 128 * 1024;
const DRIP_FOR: Duration = Duration::from_secs(10);

/// Bytes read at once of an archive that is written again to be compared.
const PIECE_BYTES: usize = 256 * 1024;

/// A layer that is unpacked and verified but belongs to no image yet. Removed when dropped,
/// unless another has it too.
#[derive(Debug)]
pub struct Staged {
    diff_id: Digest,
    packed: Digest,
    packed_bytes: u64,
    bytes: u64,
    pub(super) ground: Ground,
}

/// Where a staged layer is.
#[derive(Debug)]
pub(super) enum Ground {
    /// In the store.
    Here { _grip: Grip },
    /// In a part, perhaps of several who brought it.
    Fresh(Arc<Fresh>),
}

/// A layer that was unpacked just now.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) diff_id: Digest,
    pub(super) record: LayerRecord,
    /// Before its first byte was written.
    pub(super) since: Instant,
    part: Mutex<Part>,
    /// Since it has its place in the store.
    pub(super) settled: OnceLock<Grip>,
    /// That the disk may not have what was written.
    pub(super) unflushed: AtomicBool,
}

impl Fresh {
    pub(super) fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    /// The digest of what was unpacked.
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// The digest of what was read: the same for an archive that is not compressed. If the
    /// source was not read, as the layer was here, of what it came from then.
    pub fn packed(&self) -> Digest {
        self.packed
    }

    /// Bytes read; 0 if the layer was here.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// Bytes unpacked.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Images {
    /// Unpacks a layer from its archive, plain, gzip or zstd, read to its end; sums up both
    /// what is read and what it unpacks to. Blocks. If the layer with `diff_id` is here or
    /// being staged by another thread, that is waited for and the source is not read.
    ///
    /// # Errors
    ///
    /// If the source fails or the archive must not be unpacked, if it is not the layer with
    /// `diff_id`, if the disk is full, or if the watcher wants no more. Nothing of it stays.
    pub fn stage(
        &self,
        from: &mut dyn Read,
        label: &str,
        diff_id: Option<&Digest>,
        bounds: &Bounds,
        watcher: Watcher,
    ) -> Result<Staged, ImageError> {
        let busy = match diff_id {
            None => None,
            Some(wanted) => match self.0.find_or_begin(wanted, label, watcher)? {
                Begun::Found(staged) => return Ok(staged),
                Begun::Ours(busy) => busy,
            },
        };
        let mut taken = Taken::new(from, label, watcher);
        taken.count_in(busy.as_ref().map(|busy| Arc::clone(&busy.read)));
        let since = Instant::now();
        self.0.disk.check_room(None)?;
        let part = Part::make(self.0.disk.parts.as_fd());
        let part = part.map_err(self.0.disk.failed("make a layer"))?;
        let unpacked = self.0.unpack(&mut taken, part.dir(), bounds);
        let (bytes, hides_all, sum) = taken.judge(unpacked, &self.0.disk)?;
        let (packed, packed_bytes) = taken.finish();
        let found = sum.map_or(packed, Digest::new);
        if let Some(wanted) = diff_id.filter(|wanted| **wanted != found) {
            let (what, wanted) = (format!("layer {label}"), *wanted);
            return Err(ImageError::Mismatch { what, wanted, found });
        }
        let record = LayerRecord::new(bytes, hides_all, packed);
        record::text(&record)
            .and_then(|text| disk::write(part.dir(), INFO, &text))
            .map_err(self.0.disk.failed("write down a layer"))?;
        let fresh = Fresh {
            diff_id: found,
            record,
            since,
            part: Mutex::new(part),
            settled: OnceLock::new(),
            unflushed: AtomicBool::new(false),
        };
        let ground = self.0.place(fresh);
        watcher(progress(label, Stage::Done, packed_bytes));
        Ok(Staged { diff_id: found, packed, packed_bytes, bytes, ground })
    }
}

/// What became of the wish for a layer.
enum Begun<'a> {
    Found(Staged),
    /// With no sign for others that it is staged, if that of somebody slow is there.
    Ours(Option<Busy<'a>>),
}

impl Inner {
    /// Takes a layer into hand that is here or staged, waiting for whoever is at it; or gives
    /// it to the caller to stage.
    fn find_or_begin(
        self: &Arc<Self>,
        wanted: &Digest,
        label: &str,
        watcher: Watcher,
    ) -> Result<Begun<'_>, ImageError> {
        let (mut since, mut seen) = (Instant::now(), 0);
        loop {
            // The watcher is called without the lock: it may ask us something.
            if !watcher(progress(label, Stage::Working, 0)) {
                return Err(ImageError::CalledOff);
            }
            // What is found is let go without the lock only: it may be the last of its kind.
            let theirs: Option<Arc<Fresh>>;
            let mut state = self.state();
            theirs = state.fresh.get(wanted).and_then(Weak::upgrade);
            let found = if let Some(record) = state.sound(wanted) {
                let record = record.clone();
                state.hold(&[], &[*wanted]);
                let grip = Grip::counted(self, Vec::new(), vec![*wanted]);
                Some((record, Ground::Here { _grip: grip }))
            } else {
                let fresh = theirs.clone().filter(is_unsettled);
                fresh.map(|fresh| (fresh.record.clone(), Ground::Fresh(fresh)))
            };
            if let Some((LayerRecord { packed, bytes, .. }, ground)) = found {
                drop(state);
                watcher(progress(label, Stage::Known, bytes));
                let (diff_id, packed_bytes) = (*wanted, 0);
                return Ok(Begun::Found(Staged { diff_id, packed, packed_bytes, bytes, ground }));
            }
            let Some(underway) = state.busy.get(wanted) else {
                let read = Arc::default();
                state.busy.insert(*wanted, Arc::clone(&read));
                return Ok(Begun::Ours(Some(Busy { store: self, layer: *wanted, read })));
            };
            let read = underway.load(Ordering::Relaxed);
            if read >= seen + DRIP_BYTES {
                (since, seen) = (Instant::now(), read);
            } else if since.elapsed() > DRIP_FOR {
                // Whoever trickles it in must not keep everybody else from it.
                return Ok(Begun::Ours(None));
            }
            drop(self.changed.wait_timeout(state, ASK).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Unpacks into a part; says how long the archive is, whether it hides all below it, and
    /// its sum if it is not that of what was read.
    fn unpack(
        &self,
        taken: &mut Taken,
        part: BorrowedFd,
        bounds: &Bounds,
    ) -> Result<(u64, bool, Option<[u8; 32]>), UnpackError> {
        let options = Options {
            bounds: bounds.clone(),
            form: Form::Layer,
            owners: self.owners,
            digest: unpack::Digest::Skip,
        };
        let layer = unpack_layer(&mut *taken, part, &options)?;
        if layer.replaced {
            let sum = layer.sum.unwrap_or_else(|| taken.sum());
            compare(part, sum)?;
        }
        Ok((layer.bytes, layer.unpacked.hides_all, layer.sum))
    }

    /// Has others find what was staged; takes theirs if they were faster.
    fn place(self: &Arc<Self>, fresh: Fresh) -> Ground {
        let layer = fresh.diff_id;
        let fresh = Arc::new(fresh);
        // Let go without the lock only, too.
        let theirs: Option<Arc<Fresh>>;
        let mut state = self.state();
        state.fresh.retain(|_, fresh| fresh.strong_count() > 0);
        if state.sound(&layer).is_some() {
            state.hold(&[], &[layer]);
            return Ground::Here { _grip: Grip::counted(self, Vec::new(), vec![layer]) };
        }
        theirs = state.fresh.get(&layer).and_then(Weak::upgrade);
        if let Some(theirs) = theirs.clone().filter(is_unsettled) {
            return Ground::Fresh(theirs);
        }
        state.fresh.insert(layer, Arc::downgrade(&fresh));
        Ground::Fresh(fresh)
    }
}

/// Whether a layer that was staged can be given a place. One that has its own already and is
/// asked for still was found damaged there.
fn is_unsettled(fresh: &Arc<Fresh>) -> bool {
    fresh.settled.get().is_none()
}

/// Writes an archive again and looks whether it is the same.
fn compare(part: BorrowedFd, wanted: [u8; 32]) -> Result<(), UnpackError> {
    let again = || -> io::Result<bool> {
        let mut replay = again(part)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = replay.read(&mut piece)?;
            if read == 0 {
                return Ok(<[u8; 32]>::from(hash.finalize()) == wanted);
            }
            hash.update(piece.get(..read).unwrap_or_default());
        }
    };
    match again() {
        Ok(true) => Ok(()),
        Ok(false) => Err(UnpackError::Replaced),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(UnpackError::Replaced),
        Err(source) => Err(UnpackError::Recipe { source }),
    }
}

/// Ends a layer's busy time, however the work ends.
struct Busy<'a> {
    store: &'a Inner,
    layer: Digest,
    /// Bytes read so far.
    read: Arc<AtomicU64>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.store.state().busy.remove(&self.layer);
        self.store.changed.notify_all();
    }
}
