//! `events`: what this agent saw and did, a line each.
//!
//! Events carry ids; people read names. The names come from two lists, asked
//! for once, and from the events themselves. An event of a kind that only a
//! newer agent tells is shown as it came, never an end.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::Args;
use gossip_core::id::{JobId, NodeId};
use gossip_core::slot::SlotId;
use starling_core::event::{Event, What};
use starling_core::view::{JobView, Listing, NodeView};

use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::follow::{self, To};
use crate::cli::interrupt::or_interrupt;
use crate::cli::output::{Format, Output, plain};
use crate::cli::run::job_path;
use crate::cli::times::timestamp;

/// The flags of `events`.
#[derive(Args, Clone, Debug)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only what concerns this job
    #[arg(long)]
    job: Option<String>,
}

/// `starling events`.
pub(crate) async fn run(args: EventsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    or_interrupt(show(args, client, out)).await
}

async fn show(args: EventsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let only = match &args.job {
        None => None,
        Some(job) => Some(client.get(&job_path(job)).await?.parse::<JobView>()?.id),
    };
    let mut names = match out.format {
        Format::Json => Names::default(),
        Format::Human | Format::Quiet => Names::ask(client).await?,
    };
    let path = if args.follow { "/v1/events?follow=true" } else { "/v1/events" };
    let mut lines = client.stream(path).await?;
    while let Some(line) = lines.next().await? {
        let Some(data) = data_of(&line) else { continue };
        let event: Option<Event> = serde_json::from_slice(&data).ok();
        let job = event.as_ref().and_then(|event| event.what.job());
        if only.is_some() && only != job {
            continue;
        }
        let text = match (&event, out.format) {
            (Some(event), Format::Human | Format::Quiet) => names.tell(event).into_bytes(),
            _ => data.to_vec(),
        };
        follow::write(vec![(To::Stdout, [&text[..], b"\n"].concat())]).await?;
    }
    Ok(0)
}

/// The data of one line of a server-sent event; all else is framing.
fn data_of(line: &Bytes) -> Option<Bytes> {
    let data = line.strip_prefix(b"data:")?;
    Some(line.slice_ref(data.trim_ascii()))
}

/// What ids are called.
#[derive(Debug, Default)]
struct Names {
    jobs: BTreeMap<JobId, String>,
    nodes: BTreeMap<NodeId, String>,
}

impl Names {
    async fn ask(client: &mut Client) -> Result<Self, Failed> {
        let nodes: Listing<NodeView> = client.get("/v1/nodes").await?.parse()?;
        let jobs: Listing<JobView> = client.get("/v1/jobs?all=true").await?.parse()?;
        Ok(Self {
            jobs: jobs.items.into_iter().map(|job| (job.id, job.name)).collect(),
            nodes: nodes.items.into_iter().map(|node| (node.id, node.name)).collect(),
        })
    }

    fn job(&self, job: &JobId) -> String {
        self.jobs.get(job).cloned().unwrap_or_else(|| job.short())
    }

    fn node(&self, node: &NodeId) -> String {
        self.nodes.get(node).cloned().unwrap_or_else(|| node.short())
    }

    fn slot(&self, slot: &SlotId) -> String {
        format!("{}.{}", self.job(&slot.job), slot.index)
    }

    fn tell(&mut self, event: &Event) -> String {
        match &event.what {
            What::JobSubmitted { job, name } => {
                self.jobs.insert(*job, name.clone());
            }
            What::NodeJoined { node, name } => {
                self.nodes.insert(*node, name.clone());
            }
            _ => {}
        }
        format!("{}  {}", timestamp(event.at), plain(&self.sentence(&event.what)))
    }

    fn sentence(&self, what: &What) -> String {
        match what {
            What::JobSubmitted { job, name } => format!("job {name} submitted ({})", job.short()),
            What::JobStopped { job } => format!("job {} stopped", self.job(job)),
            What::TenderOpened { job, slots, asked } => {
                format!("{}: called for bids on {slots}, asked {asked} nodes", self.job(job))
            }
            What::Bid { job, node, slots, price } => {
                format!("{}: {} bids for {slots} at {price}", self.job(job), self.node(node))
            }
            What::Declined { job, node, reason } => {
                format!("{}: {} declines: {reason}", self.job(job), self.node(node))
            }
            What::Awarded { job, node, indices } => {
                format!("{}: {} awarded {}", self.job(job), self.node(node), ranges(indices))
            }
            What::Unplaced { job, slots } => format!("{}: nobody took {slots}", self.job(job)),
            What::Claimed { slot, node, epoch } => {
                format!("{} claimed by {}, epoch {epoch}", self.slot(slot), self.node(node))
            }
            What::Running { slot, node } => {
                format!("{} runs on {}", self.slot(slot), self.node(node))
            }
            What::Checked { slot, node, health } => {
                let why = if health.output.is_empty() { "" } else { ": " };
                let (slot, node) = (self.slot(slot), self.node(node));
                format!("{slot} on {node} is {}{why}{}", health.state.as_str(), health.output)
            }
            What::Restarting { slot, node, end } => {
                format!("{} restarts on {}: {end}", self.slot(slot), self.node(node))
            }
            What::Ended { slot, node, end } => {
                format!("{} ended on {}: {end}", self.slot(slot), self.node(node))
            }
            What::ClaimedTwice { slot, better, lesser } => {
                let (better, lesser) = (self.node(better), self.node(lesser));
                format!("{} claimed twice: {better} stays, {lesser} will stop", self.slot(slot))
            }
            What::NodeJoined { node, name } => format!("node {name} is known ({})", node.short()),
            What::NodeLost { node } => format!("node {} is silent", self.node(node)),
            What::NodeBack { node } => format!("node {} is back", self.node(node)),
            What::NodeRemoved { name, by, .. } => {
                let by = by.map_or_else(|| "nobody known".to_owned(), |by| self.node(&by));
                format!("node {name} is no member any more, removed by {by}")
            }
        }
    }
}

/// `1-3, 7` for 1, 2, 3, 7.
fn ranges(indices: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(index) => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let shown =
        runs.iter().map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        );
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_learnt_from_events() {
        let (job, node) = (JobId::new([7; 16]), NodeId::new([1; 32]));
        let mut names = Names::default();
        let mut tell = |what| {
            let event = Event { number: 1, at: gossip_core::moment::WallTime(0), what };
            names.tell(&event)["1970-01-01T00:00:00.000Z  ".len()..].to_owned()
        };
        let awarded = What::Awarded { job, node, indices: vec![1, 2, 3, 7] };
        assert_eq!(tell(awarded.clone()), "070707070707: 010101010101 awarded 1-3, 7");
        tell(What::JobSubmitted { job, name: "web".into() });
        tell(What::NodeJoined { node, name: "h1".into() });
        assert_eq!(tell(awarded), "web: h1 awarded 1-3, 7");
    }

    #[test]
    fn only_data_lines_are_events() {
        let data = |line: &str| data_of(&Bytes::from(line.to_owned()));
        assert_eq!(data("data: {}\r").as_deref(), Some(&b"{}"[..]));
        for line in [": keep-alive", "", "event: x", "id: 1"] {
            assert_eq!(data(line), None, "{line}");
        }
    }
}
