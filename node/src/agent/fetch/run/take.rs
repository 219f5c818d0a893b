//! Takes what happened into the plan of a fetch: more of the list, news of members, bytes,
//! chunks, and how requests ended.

use std::collections::BTreeSet;

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;
use runtime::image::chunks::Chunk;
use starling_core::fetch::{self as plan, Came, Has, Part, RequestId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Ended, Event, Run};
use crate::agent::fetch::Notes;
use crate::agent::fetch::news::News;

/// Members that fetch too and are asked: more add nothing that these do not have.
const FETCHERS_MAX: usize = 8;

impl Run {
    pub(super) fn learn(&mut self, chunks: &[Chunk]) {
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

    pub(super) fn take(
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
                self.spool.extend(&chunks).map_err(|error| self.disk(error))?;
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
            Event::Disk(error) => return Err(self.disk(error)),
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
        let was_off = self.running.remove(&id).is_none();
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
            News::Nothing | News::Lost => {
                self.ranges.remove(&node);
                self.fetchers.remove(&node);
                let actions = self.plan.lost(&node);
                self.act(actions, events, work);
            }
            // Requests to it break by themselves.
            News::Silent => {}
        }
    }
}
