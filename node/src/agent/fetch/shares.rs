//! What this node shares of layers while it runs: the ones that are on their way here, who
//! asks for which, and what went over the links.
//!
//! Must never: grow with what others ask. Whoever asks for something new takes the place of
//! whoever asked longest ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;
use runtime::image::Digest;
use runtime::image::chunks::{KeptLists, SpoolView, Spools};
use starling_core::fetch::{Bucket, Link};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};

use super::super::moment;

/// How long after its last word a member counts as fetching: a few of the pauses in which it
/// asks what is new.
const ASKS_FOR: Duration = Duration::from_secs(5);

/// Members that are remembered to fetch a layer: more do not help each other any better.
const ASKERS_MAX: usize = 32;

/// Layers whose askers are remembered.
const ASKED_LAYERS_MAX: usize = 256;

/// Requests that are answered at a time, to all members together: each holds a packer, which
/// takes some 4 MiB at the hardest, so 100 MiB in all. More wait.
const SENDING_MAX: usize = 24;

/// Layers that are looked at at a time because a member was sent something wrong of them:
/// whoever doubts all that is here must not keep the disk busy with it.
const DOUBTING_MAX: usize = 1;

/// What went over the links for images since the agent started, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Sent to members, as it went over the wire.
    pub(crate) sent: AtomicU64,
    /// The same, as it counts in the layers.
    pub(crate) sent_unpacked: AtomicU64,
    /// Of members, as it came over the wire.
    pub(crate) peer: AtomicU64,
    /// The same, as it counts in the layers.
    pub(crate) peer_unpacked: AtomicU64,
    /// Found in layers that were here, instead of fetched.
    pub(crate) local: AtomicU64,
    /// Fetched again, as it was wrong.
    pub(crate) bad: AtomicU64,
}

/// Shared by all that send and fetch.
#[derive(Clone, Debug)]
pub(crate) struct Shares(Arc<Inner>);

type Askers = BTreeMap<Digest, BTreeMap<NodeId, Instant>>;

#[derive(Debug)]
struct Inner {
    origin: Instant,
    spools: OnceCell<Spools>,
    coming: Mutex<BTreeMap<Digest, SpoolView>>,
    askers: Mutex<Askers>,
    askers_changed: watch::Sender<u64>,
    /// Requests of this node that run, by whom they ask.
    asked: Mutex<BTreeMap<NodeId, usize>>,
    lists: KeptLists,
    sending: Arc<Semaphore>,
    doubting: Arc<Semaphore>,
    bucket: Mutex<Bucket>,
    /// As it goes over the wire.
    link: Mutex<Link>,
    /// As it counts in the layers.
    worth: Mutex<Link>,
    counts: Counts,
}

/// A layer that others may fetch from here while it comes, for as long as this lives.
#[derive(Debug)]
pub(super) struct Shown {
    shares: Shares,
    layer: Digest,
}

/// Something that is asked of a member, for as long as this lives.
#[derive(Debug)]
pub(super) struct Asking {
    shares: Shares,
    pub(super) node: NodeId,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shares {
    /// With a budget for all that is sent, in bytes a second.
    pub(crate) fn new(origin: Instant, rate: Option<u64>) -> Self {
        Self(Arc::new(Inner {
            origin,
            spools: OnceCell::new(),
            coming: Mutex::default(),
            askers: Mutex::default(),
            askers_changed: watch::channel(0).0,
            asked: Mutex::default(),
            lists: KeptLists::default(),
            sending: Arc::new(Semaphore::new(SENDING_MAX)),
            doubting: Arc::new(Semaphore::new(DOUBTING_MAX)),
            bucket: Mutex::new(Bucket::new(rate, moment(origin))),
            link: Mutex::default(),
            worth: Mutex::default(),
            counts: Counts::default(),
        }))
    }

    pub(super) fn now(&self) -> Moment {
        moment(self.0.origin)
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.0.counts
    }

    pub(crate) fn lists(&self) -> &KeptLists {
        &self.0.lists
    }

    pub(crate) fn sending(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.sending)
    }

    /// A turn to look at a layer that a member doubts, unless another is looked at.
    pub(crate) fn doubting(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.doubting).try_acquire_owned().ok()
    }

    pub(super) fn spools(&self) -> &OnceCell<Spools> {
        &self.0.spools
    }

    /// So much went out; how long to wait before more does.
    pub(crate) fn sent(&self, wire: usize, unpacked: usize) -> Duration {
        self.0.counts.sent.fetch_add(wire as u64, Ordering::Relaxed);
        self.0.counts.sent_unpacked.fetch_add(unpacked as u64, Ordering::Relaxed);
        held(&self.0.bucket).spend(self.now(), wire as u64)
    }

    /// So much came in.
    pub(crate) fn came(&self, wire: u64, unpacked: u64) {
        self.0.counts.peer.fetch_add(wire, Ordering::Relaxed);
        self.0.counts.peer_unpacked.fetch_add(unpacked, Ordering::Relaxed);
        held(&self.0.link).came(self.now(), wire);
        held(&self.0.worth).came(self.now(), unpacked);
    }

    /// Nothing is fetched any more.
    pub(crate) fn rests(&self) {
        held(&self.0.link).rests(self.now());
        held(&self.0.worth).rests(self.now());
    }

    /// Bytes a second that the links carried lately, where that is known.
    pub(crate) fn rate(&self) -> Option<u64> {
        held(&self.0.link).rate()
    }

    /// Bytes of layers that came in a second lately, packed or not: what a bid reckons with,
    /// for what it lacks is known by its unpacked size.
    pub(crate) fn worth(&self) -> Option<u64> {
        held(&self.0.worth).rate()
    }

    /// Lets others fetch what is on its way here.
    pub(super) fn show(&self, layer: Digest, view: SpoolView) -> Shown {
        held(&self.0.coming).insert(layer, view);
        Shown { shares: self.clone(), layer }
    }

    /// A layer that is on its way here.
    pub(crate) fn coming(&self, layer: &Digest) -> Option<SpoolView> {
        held(&self.0.coming).get(layer).cloned()
    }

    /// Asks something of a member.
    pub(super) fn ask(&self, node: NodeId) -> Asking {
        *held(&self.0.asked).entry(node).or_default() += 1;
        Asking { shares: self.clone(), node }
    }

    /// How much is asked of whom just now, for all layers.
    pub(super) fn asked(&self) -> BTreeMap<NodeId, usize> {
        held(&self.0.asked).clone()
    }

    /// A member asks for a layer, and so fetches it.
    pub(crate) fn asks(&self, layer: &Digest, member: NodeId) {
        let now = Instant::now();
        if enter(&mut held(&self.0.askers), layer, member, now) {
            self.0.askers_changed.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// Who fetches a layer, as far as they ask here.
    pub(crate) fn askers(&self, layer: &Digest) -> BTreeSet<NodeId> {
        let askers = held(&self.0.askers);
        let fresh = |(_, at): &(&NodeId, &Instant)| at.elapsed() < ASKS_FOR;
        askers.get(layer).into_iter().flatten().filter(fresh).map(|(node, _)| *node).collect()
    }

    /// Changes when somebody new asks for a layer.
    pub(crate) fn askers_changes(&self) -> watch::Receiver<u64> {
        self.0.askers_changed.subscribe()
    }
}

/// Whether the member is new there.
fn enter(askers: &mut Askers, layer: &Digest, member: NodeId, now: Instant) -> bool {
    let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < ASKS_FOR;
    if !askers.contains_key(layer) && askers.len() >= ASKED_LAYERS_MAX {
        for of_layer in askers.values_mut() {
            of_layer.retain(|_, at| is_fresh(at));
        }
        askers.retain(|_, of_layer| !of_layer.is_empty());
        if askers.len() >= ASKED_LAYERS_MAX {
            return false;
        }
    }
    let of_layer = askers.entry(*layer).or_default();
    of_layer.retain(|node, at| is_fresh(at) || *node == member);
    if !of_layer.contains_key(&member) && of_layer.len() >= ASKERS_MAX {
        return false;
    }
    of_layer.insert(member, now).is_none_or(|before| !is_fresh(&before))
}

impl Drop for Shown {
    fn drop(&mut self) {
        held(&self.shares.0.coming).remove(&self.layer);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut asked = held(&self.shares.0.asked);
        if let Some(count) = asked.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                asked.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_known_for_a_while_and_only_so_many() {
        let mut askers = Askers::default();
        let (layer, now) = (Digest::of(b"1"), Instant::now());
        let node = |number: u8| NodeId::new([number; 32]);
        assert!(enter(&mut askers, &layer, node(1), now));
        assert!(!enter(&mut askers, &layer, node(1), now), "it is known");
        for number in 2..=100 {
            enter(&mut askers, &layer, node(number), now);
        }
        assert_eq!(askers[&layer].len(), ASKERS_MAX);
        let later = now + ASKS_FOR;
        assert!(enter(&mut askers, &layer, node(200), later), "others have gone quiet");
        assert_eq!(askers[&layer].len(), 1);
        for number in 0..1000_u32 {
            enter(&mut askers, &Digest::of(&number.to_le_bytes()), node(1), later);
        }
        assert!(askers.len() <= ASKED_LAYERS_MAX);
        assert!(enter(&mut askers, &Digest::of(b"new"), node(1), later + ASKS_FOR));
    }
}
