//! The fetch of one layer while it runs: waits for whatever comes, and does what the plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;
use runtime::image::chunks::{Chunk, ListReader, Ranges, Spool};
use runtime::image::{Digest, ImageError, Staged};
use runtime::unpack::Bounds;
use starling_core::fetch::{self as plan, Action, Came, Has, Part, Plan, RequestId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::blame::{self, Verdict};
use super::list::{self, Listing};
use super::news::{self, News};
use super::request::{Piece, Request};
use super::shares::Shown;
use super::wire::level_for;
use super::{Brought, Fault, Kin, Notes, Order, Rest, kin};
use crate::agent::Doors;

/// Events that wait: those who tell them wait too when there are more.
const EVENTS_MAX: usize = 64;

/// Members that fetch too and are asked: more add nothing that these do not have.
const FETCHERS_MAX: usize = 8;

/// How long own layers are looked at before anything is asked of others.
const LOOK_FIRST: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// More of the list, by whom.
    Listed(NodeId, Vec<Chunk>),
    /// The list is whole.
    ListEnds,
    /// A member's list is none.
    NoList(NodeId, String),
    /// It is none, or of another layer, if what is known of the list is true.
    Disagrees(NodeId, String),
    /// No holder speaks of chunks any more.
    Whole,
    News {
        node: NodeId,
        news: News,
    },
    Bytes {
        id: RequestId,
        bytes: u64,
    },
    Came {
        id: RequestId,
        chunk: u32,
        came: Came,
    },
    Ended {
        id: RequestId,
        node: NodeId,
        how: plan::Ended,
        rest: Option<(Part, Vec<u8>)>,
    },
    /// A chunk was found here.
    Local(u32),
    /// What was likeliest to have chunks was looked at.
    LookedAtLikely,
    Disk(io::Error),
}

/// Why a fetch came to nothing.
#[derive(Debug)]
pub(super) enum Ended {
    There,
    Whole,
    /// What a member says of the layer's chunks is not what others said before.
    Disagrees(NodeId, String),
    Staged(ImageError),
}

/// A fetch.
pub(super) struct Run {
    doors: Doors,
    layer: Digest,
    spool: Arc<Spool>,
    shown: Shown,
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
    offs: BTreeMap<RequestId, DropGuard>,
    begun: BTreeMap<u32, Vec<u8>>,
    kin: Kin,
    /// Own layers are looked at first.
    waits: bool,
}

impl Run {
    pub(super) fn new(
        doors: &Doors,
        layer: Digest,
        spool: Spool,
        listing: Option<Listing>,
    ) -> Self {
        let shown = doors.shares.show(layer, spool.view());
        let mut run = Self {
            doors: doors.clone(),
            layer,
            spool: Arc::new(spool),
            shown,
            is_old: listing.is_none(),
            // Its word for the layer's length is part of the list.
            listers: listing.iter().map(|listing| listing.node).collect(),
            listing,
            plan: Plan::new(doors.facts.node, doors.shares.now()),
            starts: Vec::new(),
            ranges: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            followed: BTreeSet::new(),
            offs: BTreeMap::new(),
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
                staged = &mut staging => break staged_of(staged),
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
        self.offs.clear();
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

    fn now(&self) -> Moment {
        self.doors.shares.now()
    }

    fn learn(&mut self, chunks: &[Chunk]) {
        let now = self.now();
        for chunk in chunks {
            let at = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
            let start = self.starts.last().map_or(0, |(start, bytes)| start + u64::from(*bytes));
            self.starts.push((start, chunk.bytes));
            let comes = self.spool.is_here(at) || self.spool.twin(at).is_some();
            self.plan.chunk(now, chunk.bytes, comes);
        }
    }

    /// Which chunks a member has, of those that are known.
    fn tell_plan(&mut self, node: NodeId) {
        let Some(ranges) = self.ranges.get(&node) else { return };
        // Both are in order, and there may be many of both.
        let mut stretches = ranges.iter().peekable();
        let mut covers = |(start, bytes): &(u64, u32)| {
            let end = start + u64::from(*bytes);
            while stretches.next_if(|(_, to)| *to < end).is_some() {}
            stretches.peek().is_some_and(|(from, _)| from <= start)
        };
        let has = Has::Some(self.starts.iter().map(&mut covers).collect());
        self.plan.holder(self.now(), node, has);
    }

    fn take(
        &mut self,
        event: Event,
        notes: Notes<'_>,
        events: &mpsc::Sender<Event>,
        work: &mut JoinSet<()>,
    ) -> Result<(), Ended> {
        let now = self.now();
        match event {
            Event::Listed(node, chunks) => {
                self.listers.insert(node);
                self.spool.extend(&chunks).map_err(disk)?;
                self.learn(&chunks);
            }
            Event::ListEnds => {
                self.plan.listed();
                for node in self.ranges.keys().copied().collect::<Vec<_>>() {
                    self.tell_plan(node);
                }
                self.look(events, work);
            }
            Event::Disagrees(node, why) => return Err(Ended::Disagrees(node, why)),
            Event::NoList(node, why) => {
                notes(node, why);
                let actions = self.plan.lost(&node);
                self.act(actions, events, work);
            }
            Event::Whole => return Err(Ended::Whole),
            Event::News { node, news } => self.hear(node, news, events, work),
            Event::Bytes { id, bytes } => self.plan.bytes(now, id, bytes),
            Event::Came { id, chunk, came } => {
                if came == Came::Good {
                    self.begun.remove(&chunk);
                }
                if let Some((node, actions)) = self.plan.chunk_came(now, id, chunk, came) {
                    let (layer, peer) = (&self.layer, node.short());
                    tracing::info!(%layer, %peer, chunk, "a chunk is not what the list says");
                    self.act(actions, events, work);
                }
            }
            Event::Ended { id, node, how, rest } => self.ended(now, id, node, how, rest),
            Event::Local(chunk) => self.plan.is_here(now, chunk),
            Event::LookedAtLikely => self.waits = false,
            Event::Disk(error) => return Err(disk(error)),
        }
        Ok(())
    }

    fn ended(
        &mut self,
        now: Moment,
        id: RequestId,
        node: NodeId,
        how: plan::Ended,
        rest: Option<(Part, Vec<u8>)>,
    ) {
        let was_off = self.offs.remove(&id).is_none();
        let rest = rest.filter(|(_, bytes)| !bytes.is_empty());
        if let Some((part, bytes)) = rest {
            let prefix = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            if !was_off || self.plan.rest(node, part, prefix) {
                self.begun.insert(part.chunk, bytes);
            }
        }
        self.plan.ended(now, id, how);
    }

    fn hear(
        &mut self,
        node: NodeId,
        news: News,
        events: &mpsc::Sender<Event>,
        work: &mut JoinSet<()>,
    ) {
        let now = self.now();
        match news {
            News::Has { whole, ranges, fetchers } => {
                let mut others: BTreeSet<NodeId> = fetchers.into_iter().collect();
                others.remove(&self.doors.facts.node);
                if whole {
                    self.ranges.remove(&node);
                    self.plan.holder(now, node, Has::Whole);
                    // Whoever has all knows best who fetches it.
                    self.fetchers.insert(node, others.clone());
                    self.plan.fetchers(self.fetchers.values().flatten().copied().collect());
                } else {
                    self.ranges.insert(node, ranges);
                    self.tell_plan(node);
                }
                for other in others {
                    if self.followed.len() < FETCHERS_MAX + self.listers.len() + 1 {
                        self.follow(other, events, work);
                    }
                }
            }
            News::Nothing => {
                self.ranges.remove(&node);
                self.fetchers.remove(&node);
                let actions = self.plan.lost(&node);
                self.act(actions, events, work);
            }
            // Requests to it break by themselves.
            News::Silent => {}
        }
    }

    fn act(&mut self, actions: Vec<Action>, events: &mpsc::Sender<Event>, work: &mut JoinSet<()>) {
        for action in actions {
            match action {
                Action::CallOff(id) => drop(self.offs.remove(&id)),
                Action::Ask { id, to, parts } => {
                    let off = CancellationToken::new();
                    self.offs.insert(id, off.clone().drop_guard());
                    let request = Request {
                        doors: self.doors.clone(),
                        layer: self.layer,
                        spool: Arc::clone(&self.spool),
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

fn staged_of(
    staged: Result<Result<Staged, ImageError>, tokio::task::JoinError>,
) -> Result<Staged, Ended> {
    match staged {
        Ok(staged) => staged.map_err(Ended::Staged),
        Err(died) => Err(disk(io::Error::other(died))),
    }
}

fn disk(source: io::Error) -> Ended {
    Ended::Staged(ImageError::Read { what: "a layer's spool".to_owned(), source })
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
