//! Brings images to this node when a task needs them: from members that have them, or from
//! the registry that the job's name leads to.
//!
//! ```text
//! launch ─┐                      ┌──▶ member ──config, layers──┐
//! launch ─┼─▶ one fetch an image ┤                             ├─▶ store ─▶ held
//! save   ─┘                      └──▶ registry ────────────────┘
//! ```
//!
//! However many want an image, it is fetched once at a time, and for as long as somebody of
//! them waits: the last one that leaves calls it off. How far each is can be read (`meter`).
//!
//! Must never: trust who sends. All that is kept has the digest that the job named.

mod documents;
mod fetch;
mod layer;
mod meter;
mod pipe;
mod stock;
mod trust;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, WeakShared};
use gossip_core::id::NodeId;
use runtime::image::{Digest, Held, ImageError, Images, Reference};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::sources::Pulls;
use super::{Doors, chain};
pub(crate) use documents::{DOCUMENTS_BYTES_MAX, verified};
pub(crate) use meter::{Giver, Meter, Meters, Reading, WeakMeter};
pub(crate) use pipe::{Inlet, Outlet, pipe};
pub(super) use stock::tell as tell_stock;
pub(super) use upkeep::keep;
pub(crate) use upkeep::{Need, hold, needed};

/// Archives that are read, written, pulled or pushed at a time for users: each takes a thread,
/// and a disk is no faster for more of them.
const TRANSFERS_MAX: usize = 8;

/// How often an image that was just brought may be gone before a task took it in hand.
const HOLD_TRIES: u32 = 3;

/// An image that a job names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The digest of its config.
    pub(crate) id: Digest,
    /// What whoever submitted the job calls it: a name, or digits of the id.
    pub(crate) name: String,
}

impl Wanted {
    /// Its name, where it is one.
    fn reference(&self) -> Option<Reference> {
        self.name.parse().ok()
    }
}

/// Why an image cannot be had here: a reason a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) why: Vec<String>,
    /// Whether some member that may have it was not heard: it may be had later.
    pub(crate) for_now: bool,
    /// Whether it is for want of room on this node's disk.
    pub(crate) is_full: bool,
}

impl Missing {
    /// The same with another's reasons before its own.
    fn behind(self, first: &Self) -> Self {
        let why = first.why.iter().cloned().chain(self.why).collect();
        Self { why, ..self }
    }
}

impl From<&ImageError> for Missing {
    fn from(error: &ImageError) -> Self {
        Self { why: vec![chain(error)], for_now: false, is_full: error.is_full() }
    }
}

type Fetching = BoxFuture<'static, Result<(), Missing>>;

/// All that is being brought.
#[derive(Clone, Debug)]
pub(crate) struct Supply(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    underway: Mutex<BTreeMap<Digest, WeakShared<Fetching>>>,
    transfers: Arc<Semaphore>,
    pulls: Pulls,
    meters: Meters,
    changed: Notify,
    liars: Mutex<trust::Liars>,
}

impl Supply {
    pub(super) fn new() -> Self {
        let transfers = Arc::new(Semaphore::new(TRANSFERS_MAX));
        let (underway, pulls, meters, changed, liars) = Default::default();
        Self(Arc::new(Inner { underway, transfers, pulls, meters, changed, liars }))
    }

    /// A member sent something else than it should.
    fn distrust(&self, node: NodeId) {
        let mut liars = self.0.liars.lock().unwrap_or_else(PoisonError::into_inner);
        liars.add(node, Instant::now());
    }

    /// Without those that lied lately, if anybody else is left.
    fn trusted<T>(&self, holders: Vec<T>, node: impl Fn(&T) -> NodeId) -> Vec<T> {
        let liars = self.0.liars.lock().unwrap_or_else(PoisonError::into_inner);
        liars.left_out(holders, node, Instant::now())
    }

    /// Something came, or went.
    pub(crate) fn touch(&self) {
        self.0.changed.notify_one();
    }

    /// Pulls from registries.
    pub(super) fn pulls(&self) -> &Pulls {
        &self.0.pulls
    }

    /// How far all is that is on its way here.
    pub(crate) fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// A turn to move an archive for a user, once fewer than too many are moved.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.transfers).acquire_owned().await.ok()
    }

    /// Takes an image in hand that is here, or is here when this returns. Dropped before, it
    /// is called off unless others wait for it too.
    pub(crate) async fn bring(&self, doors: &Doors, wanted: &Wanted) -> Result<Held, Missing> {
        let mut gone = Missing::default();
        for _ in 0..HOLD_TRIES {
            // In memory alone: a start from an image that is here waits for no thread.
            let is_damaged = match doors.runtime.images().hold(&wanted.id) {
                Ok(held) => return Ok(held),
                Err(error @ (ImageError::Unknown { .. } | ImageError::Damaged { .. })) => {
                    let is_damaged = matches!(error, ImageError::Damaged { .. });
                    gone = (&error).into();
                    is_damaged
                }
                Err(error) => return Err((&error).into()),
            };
            let fetched = self.fetched(doors, wanted).await;
            // Why it is not enough that it is here.
            fetched.map_err(|missing| if is_damaged { missing.behind(&gone) } else { missing })?;
        }
        Err(gone)
    }

    async fn fetched(&self, doors: &Doors, wanted: &Wanted) -> Result<(), Missing> {
        let fetching = {
            let mut underway = self.0.underway.lock().unwrap_or_else(PoisonError::into_inner);
            underway.retain(|_, fetching| fetching.upgrade().is_some());
            match underway.get(&wanted.id).and_then(WeakShared::upgrade) {
                Some(fetching) => fetching,
                None => {
                    let (doors, wanted) = (doors.clone(), wanted.clone());
                    let id = wanted.id;
                    let fetch: Fetching =
                        async move { fetch::fetch(&doors, &wanted).await }.boxed();
                    let fetching = fetch.shared();
                    underway.extend(fetching.downgrade().map(|weak| (id, weak)));
                    fetching
                }
            }
        };
        fetching.await
    }
}

/// Changes the store.
pub(crate) async fn change_store<T: Send + 'static>(
    doors: &Doors,
    work: impl FnOnce(&Images) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let done = in_store(doors, work).await;
    doors.supply.touch();
    done
}

/// Asks the store something that may touch the disk.
pub(crate) async fn in_store<T: Send + 'static>(
    doors: &Doors,
    work: impl FnOnce(&Images) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let images = doors.runtime.images().clone();
    let done = doors.tasks.spawn_blocking(move || work(&images)).await;
    done.unwrap_or_else(|died| {
        let source = std::io::Error::other(died);
        Err(ImageError::Read { what: "the images of this node".to_owned(), source })
    })
}
