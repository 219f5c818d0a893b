//! Layers that are here and may be like one that is not: chunks that they share with it need
//! not come over a link.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime::image::chunks::{Chunk, KeptList, Put, Spool};
use runtime::image::{Digest, Images, Reference};
use tokio::sync::mpsc;

use super::run::Event;
use crate::agent::Doors;

/// Layers of other images that are looked at: each takes a reading of the whole layer when it
/// is looked at first.
const OTHERS_MAX: usize = 32;

/// Layers of this image's elders that are looked at.
const LIKELY_MAX: usize = 64;

/// From this rate on, in bytes a second, fetching is as fast as looking.
const FAST_LINK: u64 = 30_000_000;

/// How often it is looked whether a list is still wanted that another makes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What to look at, the likeliest first.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Kin {
    /// Layers of images of the same repository.
    pub(super) likely: Vec<Digest>,
    /// Of all others.
    pub(super) others: Vec<Digest>,
}

/// What of this store may be like an image of that name.
pub(in crate::agent) fn kin(images: &Images, name: Option<&Reference>) -> Kin {
    let mut kin = Kin::default();
    let is_elder = |other: &Reference| {
        name.is_some_and(|name| (name.host(), name.path()) == (other.host(), other.path()))
    };
    let (elders, others): (Vec<_>, Vec<_>) =
        images.list().into_iter().partition(|image| image.names.iter().any(is_elder));
    // What changes between two of them lies on top.
    let layers = |image: runtime::image::ImageInfo| {
        image.layers.into_iter().rev().map(|layer| layer.diff_id)
    };
    kin.likely = elders.into_iter().flat_map(layers).take(LIKELY_MAX).collect();
    kin.others = others.into_iter().flat_map(layers).collect();
    kin.others.retain(|layer| !kin.likely.contains(layer));
    kin.others.truncate(OTHERS_MAX);
    kin
}

/// Looks for chunks of the spool's layer in own layers. Blocks, and ends when the spool is
/// whole or nobody listens.
pub(super) fn look(
    doors: &Doors,
    kin: &Kin,
    spool: &Arc<Spool>,
    over: &AtomicBool,
    events: &mpsc::Sender<Event>,
) {
    let mut look = Look { doors, spool, over, events, piece: Vec::new() };
    for layer in &kin.likely {
        if look.is_over() {
            return;
        }
        look.layer(layer);
    }
    if events.blocking_send(Event::LookedAtLikely).is_err() {
        return;
    }
    for layer in &kin.others {
        if look.is_over() || doors.shares.rate().is_none_or(|rate| rate >= FAST_LINK) {
            return;
        }
        look.layer(layer);
    }
}

struct Look<'a> {
    doors: &'a Doors,
    spool: &'a Arc<Spool>,
    over: &'a AtomicBool,
    events: &'a mpsc::Sender<Event>,
    piece: Vec<u8>,
}

impl Look<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.events.is_closed() || self.spool.is_whole()
    }

    fn layer(&mut self, layer: &Digest) {
        let images = self.doors.runtime.images();
        // One that was removed meanwhile.
        let Some(bytes) = images.layer_bytes(layer) else { return };
        let (list, making) = self.doors.shares.lists().get(layer, bytes);
        match making {
            Some(making) => images.list_chunks(layer, making),
            None => self.wait_for(&list),
        }
        let Ok((chunks, true)) = list.from(0) else { return };
        let alike = chunks.iter().scan(0, |end, chunk| {
            let start = *end;
            *end += u64::from(chunk.bytes);
            Some((start, *chunk))
        });
        let alike: Vec<_> = alike
            .filter_map(|(start, chunk)| Some((start, chunk, self.spool.lacks(&chunk.digest)?)))
            .collect();
        if !alike.is_empty()
            && let Err(error) = self.take(layer, &alike)
        {
            tracing::warn!(%layer, %error, "a layer that is here cannot be read");
        }
    }

    /// Waits for a list that another makes: another layer of the same image looks for what is
    /// alike just now, or a member wants it.
    fn wait_for(&self, list: &KeptList) {
        let mut changes = list.changes();
        while !self.is_over() && matches!(list.from(0), Ok((_, false))) {
            let changed = tokio::time::timeout(LOOK_EVERY, changes.changed());
            // Late or not, it is looked at again.
            let _ = tokio::runtime::Handle::current().block_on(changed);
        }
    }

    fn take(&mut self, layer: &Digest, alike: &[(u64, Chunk, u32)]) -> std::io::Result<()> {
        let images = self.doors.runtime.images();
        let mut reader = images.read_layer(layer).map_err(std::io::Error::other)?;
        for (start, chunk, index) in alike {
            if self.is_over() {
                return Ok(());
            }
            reader.seek(*start)?;
            self.piece.clear();
            (&mut reader).take(chunk.bytes.into()).read_to_end(&mut self.piece)?;
            if self.spool.put(*index, &self.piece)? == Put::Here {
                let counts = self.doors.shares.counts();
                counts.local.fetch_add(chunk.bytes.into(), Ordering::Relaxed);
                if self.events.blocking_send(Event::Local(*index)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
