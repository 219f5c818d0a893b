//! Tells who bid and who won, live, from one host's event feed.

use std::collections::BTreeMap;
use std::time::Instant;

use gossip_core::id::{JobId, NodeId};
use starling_core::event::{Event, What};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::client::Client;
use crate::cli::door::Door;

/// How many of a large tender's rounds are told in full; the rest is counted.
const ROUNDS_TOLD: u32 = 4;

/// Reads events until it is dropped.
#[derive(Debug)]
pub(super) struct Narrator {
    _reader: AbortOnDropHandle<()>,
}

impl Narrator {
    /// Begins to tell.
    pub(super) fn start(door: Door, began: Instant) -> Self {
        let reader = tokio::spawn(async move {
            let mut client = Client::new(door);
            let Ok(mut lines) = client.stream("/v1/events?follow=true").await else { return };
            let mut tale = Tale::new(began);
            while let Ok(Some(line)) = lines.next().await {
                if let Some(json) = line.strip_prefix(b"data: ")
                    && let Ok(event) = serde_json::from_slice::<Event>(json)
                {
                    tale.hear(event.what);
                }
            }
        });
        Self { _reader: AbortOnDropHandle::new(reader) }
    }
}

struct Tale {
    began: Instant,
    names: BTreeMap<NodeId, String>,
    jobs: BTreeMap<JobId, String>,
    bids: BTreeMap<JobId, Vec<String>>,
    rounds: BTreeMap<JobId, u32>,
}

impl Tale {
    fn new(began: Instant) -> Self {
        let (names, jobs) = (BTreeMap::new(), BTreeMap::new());
        Self { began, names, jobs, bids: BTreeMap::new(), rounds: BTreeMap::new() }
    }

    fn name(&self, node: &NodeId) -> String {
        self.names.get(node).cloned().unwrap_or_else(|| node.short())
    }

    fn hear(&mut self, what: What) {
        match what {
            What::NodeJoined { node, name } => {
                self.names.insert(node, name);
            }
            What::JobSubmitted { job, name } => {
                self.jobs.insert(job, name);
            }
            What::TenderOpened { job, .. } => {
                self.bids.insert(job, Vec::new());
            }
            What::Bid { job, node, slots, price } => {
                let bid = format!("{} bids {price} for {slots}", self.name(&node));
                self.bids.entry(job).or_default().push(bid);
            }
            What::Declined { job, node, reason } => {
                let decline = format!("{} declines ({reason})", self.name(&node));
                self.bids.entry(job).or_default().push(decline);
            }
            What::Awarded { job, node, indices } => self.awarded(job, &node, &indices),
            What::NodeLost { node } => self.tell(&format!("  {} is silent", self.name(&node))),
            What::NodeBack { node } => self.tell(&format!("  {} is heard again", self.name(&node))),
            _ => {}
        }
    }

    fn awarded(&mut self, job: JobId, node: &NodeId, indices: &[u32]) {
        let bids = self.bids.remove(&job);
        let rounds = self.rounds.entry(job).or_default();
        *rounds += u32::from(bids.is_some());
        if *rounds > ROUNDS_TOLD {
            return;
        }
        let name = self.jobs.get(&job).cloned().unwrap_or_else(|| job.short());
        if let Some(bids) = bids.filter(|bids| !bids.is_empty()) {
            self.tell(&format!("  {name}: {}", bids.join("; ")));
        }
        let won: Vec<_> = indices.iter().map(ToString::to_string).collect();
        self.tell(&format!("  {name}: {} wins {}", self.name(node), won.join(",")));
    }

    fn tell(&self, text: &str) {
        super::say(self.began, text);
    }
}
