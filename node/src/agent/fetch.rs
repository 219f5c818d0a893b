//! Brings a layer here in chunks, from whoever has some of it, and lets others have what came.
//!
//! ```text
//! own layers ──chunks alike──┐
//! holders, and those that    ├─▶ verified ─▶ spool ─▶ stage (sums up, unpacks)
//!   fetch it too ──chunks────┘      ▲          └────▶ those that fetch it too
//!                                  Plan (what of whom)
//! ```
//!
//! The list of a layer's chunks comes from a holder and is believed until the layer's own
//! digest is found or not; whoever sent a list that led elsewhere is left out, and another's
//! is taken. Where a chunk and the list disagree, that digest alone tells who of the two lied.
//! What came stays in the spool over cut links and restarts.
//!
//! Must never: take a layer for what it should be before `stage` found its digest; ask more
//! than two things at once of one member, where one layer alone is fetched: of several each
//! asks one thing at least.

mod blame;
mod kin;
mod list;
mod news;
mod request;
mod run;
mod shares;
mod wire;

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use gossip_core::id::NodeId;
use runtime::image::chunks::{Spool, SpoolError, Spools};
use runtime::image::{Digest, ImageError, Staged};
use runtime::unpack::Bounds;

use super::Doors;
use super::images::Meter;
use blame::{Verdict, WRONG_CHUNK};
pub(crate) use shares::Shares;
pub(crate) use wire::{LEVEL_MAX, Packer, piece_bytes};

pub(super) use kin::{Kin, kin};

/// The most bytes of a layer that are asked for at once.
pub(crate) const ASK_BYTES_MAX: u64 = 8 << 20;

/// How often a layer is begun, each time without those whose list led to something else.
const TRIES_MAX: u32 = 4;

/// How often it is looked whether another fetch of the same layer is over.
const IN_USE_PAUSE: Duration = Duration::from_millis(250);

/// Why a layer did not come in chunks.
#[derive(Debug)]
pub(super) enum Fault {
    /// No member speaks of chunks, or the layer has too many: it may come as a whole.
    Whole,
    /// No member gave it: others may, or the same ones later.
    There,
    /// This node cannot keep it, whoever sends it.
    Here(ImageError),
}

/// Told what a member did wrong, by its key.
pub(super) type Notes<'a> = &'a mut (dyn FnMut(NodeId, String) + Send);

/// A layer that came.
#[derive(Debug)]
pub(super) struct Brought {
    pub(super) staged: Staged,
    /// Given to others until the layer has its place in the store.
    pub(super) rest: Option<Rest>,
}

/// The spool of a layer that is staged. Dropped, it stays on the disk.
#[derive(Debug)]
pub(super) struct Rest {
    spool: Arc<Spool>,
    _shown: shares::Shown,
}

impl Rest {
    /// The layer has its place. Blocks.
    pub(super) fn remove(self) {
        if let Err(error) = self.spool.remove() {
            tracing::warn!(%error, "the spool of a layer stays until it is old");
        }
    }
}

/// What is to be brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) doors: &'a Doors,
    pub(super) layer: Digest,
    /// Members that have it whole.
    pub(super) holders: &'a [NodeId],
    /// Own layers that may be like it.
    pub(super) kin: &'a Kin,
    /// Where it is seen how far it is.
    pub(super) meter: &'a Meter,
}

/// Brings a layer, or says why not.
pub(super) async fn bring(order: Order<'_>, notes: Notes<'_>) -> Result<Brought, Fault> {
    let mut holders = order.holders.to_vec();
    let mut alone = None;
    for _ in 0..TRIES_MAX {
        let asked = alone.take().map_or_else(|| holders.clone(), |node| vec![node]);
        let order = Order { holders: &asked, ..order };
        let mut run = match begin(order).await? {
            Ok(run) => run,
            Err(staged) => return Ok(Brought { staged, rest: None }),
        };
        let ended = match run.run(order, notes).await {
            Ok(staged) => {
                // The list led to the layer, so whoever disagreed with it lied.
                run.disagreed().for_each(|node| notes(node, WRONG_CHUNK.to_owned()));
                return Ok(run.finish(staged));
            }
            Err(ended) => ended,
        };
        let verdict = match run.verdict(ended, &asked) {
            Ok(verdict) => verdict,
            Err(fault) => {
                // What came is not kept for later where it fills the disk.
                if matches!(&fault, Fault::Here(error) if error.is_full()) {
                    run.forget().await;
                }
                return Err(fault);
            }
        };
        // What is in the spool agrees with a list that lied, and with nothing else.
        run.forget().await;
        match verdict {
            Verdict::Lied(node, why) => {
                notes(node, why);
                holders.retain(|holder| *holder != node);
                if holders.is_empty() {
                    break;
                }
            }
            Verdict::Doubt(next) => alone = next,
        }
    }
    Err(Fault::There)
}

/// Begins a fetch, or gives what another one staged meanwhile.
async fn begin(order: Order<'_>) -> Result<Result<run::Run, Staged>, Fault> {
    let doors = order.doors;
    let spools = spools(doors).await?;
    let begun = spools.begun(&order.layer);
    let (bytes, listing) = match begun {
        Some(bytes) => (bytes, None),
        None => {
            let listing = list::open(doors, &order.layer, order.holders, 0).await?;
            (listing.bytes, Some(listing))
        }
    };
    loop {
        let (spools, layer) = (spools.clone(), order.layer);
        let begun = blocking(doors, move || spools.begin(&layer, bytes)).await?;
        match begun {
            Ok(spool) => return Ok(Ok(run::Run::new(order, spool, listing))),
            Err(SpoolError::InUse(_)) => {
                if let Some(staged) = staged_by_another(doors, layer).await? {
                    return Ok(Err(staged));
                }
                tokio::time::sleep(IN_USE_PAUSE).await;
            }
            Err(error) => return Err(Fault::Here(error.into())),
        }
    }
}

/// The layer, if another fetch staged it or does now.
async fn staged_by_another(doors: &Doors, layer: Digest) -> Result<Option<Staged>, Fault> {
    struct Nothing;
    impl Read for Nothing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    let images = doors.runtime.images().clone();
    let staged = blocking(doors, move || {
        images.stage(&mut Nothing, &layer.short(), Some(&layer), &Bounds::default(), &|_| true)
    });
    match staged.await? {
        Ok(staged) => Ok(Some(staged)),
        Err(ImageError::Read { .. }) => Ok(None),
        Err(error) => Err(Fault::Here(error)),
    }
}

/// The spools of this node's store.
async fn spools(doors: &Doors) -> Result<Spools, Fault> {
    let open = || async {
        let images = doors.runtime.images().clone();
        blocking(doors, move || images.spools()).await?.map_err(|error| Fault::Here(error.into()))
    };
    doors.shares.spools().get_or_try_init(open).await.cloned()
}

async fn blocking<T: Send + 'static>(
    doors: &Doors,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    doors.tasks.spawn_blocking(work).await.map_err(|died| {
        let source = io::Error::other(died);
        Fault::Here(ImageError::Read { what: "a layer's spool".to_owned(), source })
    })
}
