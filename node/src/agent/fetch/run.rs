//! The fetch of one layer while it runs: waits for whatever comes, and does what the plan says.

mod event;
mod take;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;
use runtime::image::chunks::{ListReader, Ranges, Spool};
use runtime::image::{Digest, Staged};
use runtime::unpack::Bounds;
use starling_core::fetch::{Action, Has, Part, Plan, RequestId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::blame::{self, Verdict};
use super::list::{self, Listing};
use super::news;
use super::request::{Piece, Request};
use super::shares::{Asking, Shown};
use super::wire::level_for;
use super::{Brought, Fault, Kin, Notes, Order, Rest, kin};
use crate::agent::Doors;
use crate::agent::images::Meter;
pub(super) use event::{Ended, Event};

/// Events that wait: those who tell them wait too when there are more.
const EVENTS_MAX: usize = 64;

/// How long own layers are looked at before anything is asked of others.
const LOOK_FIRST: Duration = Duration::from_secs(20);

/// A fetch.
pub(super) struct Run {
    doors: Doors,
    layer: Digest,
    spool: Arc<Spool>,
    shown: Shown,
    meter: Meter,
    listing: Option<Listing>,
    plan: Plan,
    starts: Vec<(u64, u32)>,
    /// The spool is of an earlier fetch: who sent what is in it is not known.
    is_old: bool,
    listers: BTreeSet<NodeId>,
    /// What those that fetch too have, and who is followed.
    ranges: BTreeMap<NodeId, Ranges>,
    /// Who fetches it, by whom says so.
    fetchers: BTreeMap<NodeId, BTreeSet<NodeId>>,
    followed: BTreeSet<NodeId>,
    /// Requests that run: dropped, one is called off.
    running: BTreeMap<RequestId, (DropGuard, Asking)>,
    begun: BTreeMap<u32, Vec<u8>>,
    kin: Kin,
    /// Own layers are looked at first.
    waits: bool,
}

impl Run {
    pub(super) fn new(order: Order<'_>, spool: Spool, listing: Option<Listing>) -> Self {
        let Order { doors, layer, meter, .. } = order;
        let shown = doors.shares.show(layer, spool.view());
        meter.coming(&layer, spool.view());
        let mut run = Self {
            doors: doors.clone(),
            layer,
            spool: Arc::new(spool),
            shown,
            meter: meter.clone(),
            is_old: listing.is_none(),
            // Its word for the layer's length is part of the list.
            listers: listing.iter().map(|listing| listing.node).collect(),
            listing,
            plan: Plan::new(doors.facts.node, doors.shares.now()),
            starts: Vec::new(),
            ranges: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            followed: BTreeSet::new(),
            running: BTreeMap::new(),
            begun: BTreeMap::new(),
            kin: Kin::default(),
            waits: false,
        };
        let known = run.spool.list();
        run.learn(&known);
        run
    }

    /// Whose bytes were not what the list says.
    pub(super) fn disagreed(&self) -> impl Iterator<Item = NodeId> {
        self.plan.excluded().iter().copied()
    }

    /// What a fetch that came to nothing tells about those who were asked for the list.
    pub(super) fn verdict(&self, ended: Ended, asked: &[NodeId]) -> Result<Verdict, Fault> {
        let disagreed = self.disagreed().collect();
        let list = blame::List { is_old: self.is_old, by: &self.listers };
        blame::verdict(ended, list, &disagreed, asked)
    }

    pub(super) fn finish(self, staged: Staged) -> Brought {
        Brought { staged, rest: Some(Rest { spool: self.spool, _shown: self.shown }) }
    }

    /// Forgets all that came.
    pub(super) async fn forget(self) {
        let spool = self.spool;
        let removed = self.doors.tasks.spawn_blocking(move || spool.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "a spool cannot be removed");
        }
    }

    /// Runs until the layer is staged, or cannot be.
    pub(super) async fn run(
        &mut self,
        order: Order<'_>,
        notes: Notes<'_>,
    ) -> Result<Staged, Ended> {
        let now = self.now();
        self.kin = order.kin.clone();
        for node in order.holders {
            self.plan.holder(now, *node, Has::Whole);
        }
        let (events, mut came) = mpsc::channel(EVENTS_MAX);
        // Ends with this future, whoever drops it.
        let mut work = JoinSet::new();
        self.begin(order, &events, &mut work);
        let (images, layer) = (self.doors.runtime.images().clone(), self.layer);
        let mut reader = self.spool.reader();
        let closing = Closing(self.spool.clone());
        let mut staging = self.doors.tasks.spawn_blocking(move || {
            images.stage(&mut reader, &layer.short(), Some(&layer), &Bounds::default(), &|_| true)
        });
        let looked_by = tokio::time::Instant::now() + LOOK_FIRST;
        let ended = loop {
            if !self.plan.is_complete() {
                if !self.waits || tokio::time::Instant::now() >= looked_by {
                    self.plan.elsewhere(self.elsewhere());
                    let actions = self.plan.step(self.now());
                    self.act(actions, &events, &mut work);
                }
                if self.plan.is_hopeless(self.now()) || !self.plan.has_sources() {
                    break Err(Ended::There);
                }
            }
            let now = self.now();
            let wake = self.plan.deadline(now).since(now).max(Duration::from_millis(5));
            tokio::select! {
                staged = &mut staging => {
                    let staged = staged.map_err(|died| self.disk(io::Error::other(died)));
                    break staged.and_then(|staged| staged.map_err(Ended::Staged));
                }
                Some(event) = came.recv() => {
                    // What came at once is taken at once.
                    let more = std::iter::from_fn(|| came.try_recv().ok()).take(EVENTS_MAX);
                    let all: Vec<Event> = std::iter::once(event).chain(more).collect();
                    let mut all = all.into_iter();
                    let taken = all.try_for_each(|e| self.take(e, notes, &events, &mut work));
                    if let Err(ended) = taken {
                        break Err(ended);
                    }
                }
                Some(_) = work.join_next() => {}
                () = tokio::time::sleep(wake), if !self.plan.is_complete() => {}
            }
        };
        work.abort_all();
        self.running.clear();
        self.doors.shares.rests();
        drop(closing);
        ended
    }

    fn begin(&mut self, order: Order<'_>, events: &mpsc::Sender<Event>, work: &mut JoinSet<()>) {
        for node in order.holders {
            self.follow(*node, events, work);
        }
        let known = self.spool.list();
        let reader = ListReader::new(self.spool.bytes(), &known);
        if reader.is_whole() {
            self.plan.listed();
            self.look(events, work);
        } else {
            let (doors, layer) = (self.doors.clone(), self.layer);
            let (holders, listing) = (order.holders.to_vec(), self.listing.take());
            self.waits = !order.kin.likely.is_empty();
            let events = events.clone();
            work.spawn(list::follow(doors, layer, holders, listing, reader, known.len(), events));
        }
    }

    /// Looks at own layers, on a thread of its own.
    fn look(&mut self, events: &mpsc::Sender<Event>, work: &mut JoinSet<()>) {
        let kin = &self.kin;
        if kin.likely.is_empty() && kin.others.is_empty() || self.spool.is_whole() {
            self.waits = false;
            return;
        }
        self.waits = !kin.likely.is_empty();
        let (doors, kin, spool) = (self.doors.clone(), kin.clone(), Arc::clone(&self.spool));
        let (events, over) = (events.clone(), Arc::new(AtomicBool::new(false)));
        let ends = Over(Arc::clone(&over));
        work.spawn(async move {
            // When this is aborted, the thread hears of it at its next chunk.
            let _ends = ends;
            let tasks = doors.tasks.clone();
            let looked =
                tasks.spawn_blocking(move || kin::look(&doors, &kin, &spool, &over, &events));
            // What it found was told; what it could not look at comes over the link.
            let _ = looked.await;
        });
    }

    fn follow(&mut self, node: NodeId, events: &mpsc::Sender<Event>, work: &mut JoinSet<()>) {
        if self.followed.insert(node) {
            work.spawn(news::follow(self.doors.clone(), self.layer, node, events.clone()));
        }
    }

    /// What the spool's disk said.
    fn disk(&self, source: io::Error) -> Ended {
        Ended::Staged(self.spool.failure(source))
    }

    fn now(&self) -> Moment {
        self.doors.shares.now()
    }

    /// What is asked of whom for other layers.
    fn elsewhere(&self) -> BTreeMap<NodeId, usize> {
        let mut all = self.doors.shares.asked();
        for (_, own) in self.running.values() {
            if let Some(count) = all.get_mut(&own.node) {
                *count = count.saturating_sub(1);
            }
        }
        all
    }

    fn act(&mut self, actions: Vec<Action>, events: &mpsc::Sender<Event>, work: &mut JoinSet<()>) {
        for action in actions {
            match action {
                Action::CallOff(id) => drop(self.running.remove(&id)),
                Action::Ask { id, to, parts } => {
                    let off = CancellationToken::new();
                    let asking = self.doors.shares.ask(to);
                    self.running.insert(id, (off.clone().drop_guard(), asking));
                    let request = Request {
                        doors: self.doors.clone(),
                        layer: self.layer,
                        spool: Arc::clone(&self.spool),
                        meter: self.meter.clone(),
                        id,
                        to,
                        level: level_for(self.doors.shares.rate()),
                        pieces: parts.into_iter().filter_map(|part| self.piece(part)).collect(),
                        events: events.clone(),
                        off,
                    };
                    work.spawn(request.run());
                }
            }
        }
    }

    fn piece(&mut self, part: Part) -> Option<Piece> {
        let (start, bytes) = *self.starts.get(part.chunk as usize)?;
        let mut begun = self.begun.remove(&part.chunk).unwrap_or_default();
        begun.truncate(part.skip as usize);
        Some(Piece { part, start, bytes, begun })
    }
}

/// Tells whoever unpacks that no more comes, however the fetch ends.
struct Closing(Arc<Spool>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Tells a thread that it is over.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
