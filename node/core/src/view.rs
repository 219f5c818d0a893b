//! What people are shown: jobs, tasks and nodes as this node sees them.
//!
//! These types are the API's answers word for word, so the CLI reads what the
//! agent wrote. A view never guesses: what was not heard is said to be so.

use std::collections::BTreeMap;

use gossip_core::fact::{Claim, ClaimState, NodeCard, TaskEnd};
use gossip_core::health::{Health, HealthState};
use gossip_core::id::{JobId, NodeId};
use gossip_core::market::Decline;
use gossip_core::moment::{Moment, WallTime};
use gossip_core::removal::Standing;
use gossip_core::resources::Resources;
use gossip_core::slot::SlotId;
use gossip_core::spec::{JobKind, JobSpec};
use serde::{Deserialize, Serialize};

use crate::Core;
use crate::fetch::Fetching;

/// A list, and how fresh the view behind it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing<T> {
    /// What was asked for.
    pub items: Vec<T>,
    /// When, by the answering node's clock.
    pub as_of: WallTime,
    /// Who answered, and from how much of the cluster.
    pub view: Freshness,
}

/// Whose view it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// The name of the node that answered.
    pub peer: String,
    /// How many members it heard lately, itself included.
    pub heard: u32,
    /// How many it knows.
    pub known: u32,
    /// The names of the silent ones, with seconds of silence.
    pub silent: Vec<(String, u64)>,
}

/// One job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its name, or its id's first digits while the spec is not known here.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Who submitted it.
    pub owner: String,
    /// Service or batch; `None` while the spec is not known here.
    pub kind: Option<JobKind>,
    /// Where it stands.
    pub state: JobState,
    /// Copies that should run, or tasks of a batch in all.
    pub wanted: u32,
    /// How many run now.
    pub running: u32,
    /// How many of those are held still.
    #[serde(default)]
    pub paused: u32,
    /// How many run and are not well, by their checks.
    #[serde(default)]
    pub unhealthy: u32,
    /// How many ended, and wait to be started again.
    #[serde(default)]
    pub restarting: u32,
    /// How many of a batch ended well.
    pub succeeded: u32,
    /// How many of a batch ended badly.
    pub failed: u32,
    /// When it was submitted.
    pub submitted: WallTime,
    /// Of a finished batch: 0, or the first failed task's exit code.
    pub exit_code: Option<i32>,
    /// What people say about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Some copies are not placed yet.
    Pending,
    /// All wanted copies run, or the rest of a batch does.
    Running,
    /// All tasks of a batch ended well.
    Succeeded,
    /// A batch ended, and not well.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl JobState {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Pending => "pending",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Stopped => "stopped",
        }
    }
}

/// One task: a claim, an outcome, or a slot that nobody took yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskView {
    /// `JOB.INDEX`, or `JOB.GROUP.INDEX` where a job has several groups.
    pub task: String,
    /// Which job.
    pub job: JobId,
    /// The job's name.
    pub job_name: String,
    /// Which slot.
    pub slot: SlotId,
    /// What runs, in short.
    pub command: String,
    /// What people say about its job.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where; `None` while nobody took it.
    pub node: Option<NodeId>,
    /// That node's name.
    pub node_name: String,
    /// In one word.
    pub state: String,
    /// In a sentence, where a word is not enough.
    pub detail: String,
    /// Of an ended task; of one that is started again, how it ended last.
    pub exit_code: Option<i32>,
    /// Since when, by its node's clock.
    pub since: WallTime,
    /// How often it was started again there.
    pub restarts: u32,
    /// The counter of its claim's epoch.
    pub epoch: u64,
    /// The tender of its claim: with the index, names the task on its node.
    pub tender: u64,
    /// Whether it ended.
    pub ended: bool,
    /// What its checks came to, while it runs and has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The image that it waits for, as its node tells whoever asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetching: Option<Fetching>,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// Its key.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is the node that answers.
    pub me: bool,
    /// `ready`, `silent` once it is thought to be gone, `removed`, or `ungranted` where the one
    /// was removed that had admitted it.
    pub state: String,
    /// Everything it offers.
    pub capacity: Resources,
    /// What it last said is free; `None` before its first advert.
    pub free: Option<Resources>,
    /// How many tasks it claims, by its log.
    pub tasks: u32,
    /// Milliseconds since it was last heard; `None` if never in this start.
    pub heard_ms: Option<u64>,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Its program's version.
    pub version: String,
    /// Whether it holds tasks to what they asked for.
    pub enforces_limits: bool,
    /// How far from the founder.
    pub rank: u32,
    /// Over what it is connected to the node that answers, which is directly; `None` if it is
    /// not, or if it is that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
}

/// What one node says to a job's open slots, if it were asked now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opinion {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it would bid.
    pub would_bid: bool,
    /// Why not, or what room it has.
    pub reason: String,
}

impl Core {
    /// How fresh this node's view is.
    pub fn freshness(&self, now: Moment) -> Freshness {
        let nodes: Vec<_> = self.state().nodes().collect();
        let silent = nodes.iter().filter(|(id, _)| self.is_lost(id));
        let silent: Vec<_> = silent
            .map(|(id, card)| {
                let seconds = self.silence(id, now).map_or(0, |silence| silence.as_secs());
                (card.name.clone(), seconds)
            })
            .collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let known = count(nodes.len());
        let peer = self.node_name(&self.me());
        Freshness { peer, heard: known.saturating_sub(count(silent.len())), known, silent }
    }

    /// A node's name, or its id's first digits.
    pub fn node_name(&self, node: &NodeId) -> String {
        self.state().node(node).map_or_else(|| node.short(), |card| card.name.clone())
    }

    /// All nodes, by name.
    pub fn node_views(&self, now: Moment) -> Vec<NodeView> {
        let nodes = self.state().nodes();
        let mut views: Vec<_> = nodes.map(|(id, card)| self.node_view(now, id, card)).collect();
        views.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        views
    }

    /// All that are no members any more, by name.
    pub fn former_node_views(&self, now: Moment) -> Vec<NodeView> {
        let nodes = self.state().former_nodes();
        let mut views: Vec<_> = nodes.map(|(id, card)| self.node_view(now, id, card)).collect();
        views.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        views
    }

    fn node_view(&self, now: Moment, id: &NodeId, card: &NodeCard) -> NodeView {
        let me = *id == self.me();
        let free = self.advert_of(id).map(|advert| advert.free);
        let state = match self.state().standing_of(id) {
            Standing::Removed(_) => "removed",
            Standing::Orphaned(_) => "ungranted",
            Standing::Good if self.is_lost(id) => "silent",
            Standing::Good => "ready",
        };
        NodeView {
            id: *id,
            name: card.name.clone(),
            me,
            state: state.to_owned(),
            capacity: card.capacity,
            free: if me { Some(self.ledger().free()) } else { free },
            tasks: u32::try_from(self.state().holdings(id).len()).unwrap_or(u32::MAX),
            heard_ms: self
                .silence(id, now)
                .map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
            addresses: card.addresses.clone(),
            version: card.version.clone(),
            enforces_limits: card.enforces_limits,
            rank: card.chain.rank(),
            over: None,
        }
    }

    /// All jobs that were not removed, newest last.
    pub fn job_views(&self) -> Vec<JobView> {
        let jobs = self.state().jobs().filter(|(_, intent)| !intent.removed);
        let mut views: Vec<_> = jobs.filter_map(|(job, _)| self.job_view(job)).collect();
        views.sort_by_key(|view| (view.submitted, view.id));
        views
    }

    /// One job.
    pub fn job_view(&self, job: &JobId) -> Option<JobView> {
        let intent = self.state().job(job)?;
        let mut view = JobView {
            id: *job,
            name: job.short(),
            namespace: String::new(),
            owner: String::new(),
            kind: None,
            state: JobState::Pending,
            wanted: 0,
            running: 0,
            paused: 0,
            unhealthy: 0,
            restarting: 0,
            succeeded: 0,
            failed: 0,
            submitted: intent.submitted,
            exit_code: None,
            labels: BTreeMap::new(),
        };
        let Some((generation, spec)) = self.state().spec_of(job) else {
            if !intent.is_live() {
                view.state = JobState::Stopped;
            }
            return Some(view);
        };
        view.name.clone_from(&spec.name);
        view.namespace.clone_from(&spec.namespace);
        view.owner.clone_from(&spec.owner);
        view.kind = Some(spec.kind);
        view.labels.clone_from(&spec.labels);
        for (group, index) in all_slots(spec) {
            let slot = SlotId { job: *job, group, index };
            view.wanted += 1;
            if let Some(outcome) =
                self.state().settled(&slot, &generation).filter(|_| spec.kind == JobKind::Batch)
            {
                let code = outcome.end.exit_code();
                view.succeeded += u32::from(code == 0);
                view.failed += u32::from(code != 0);
                if code != 0 && view.exit_code.is_none() {
                    view.exit_code = Some(code);
                }
                continue;
            }
            let mine = |(node, claim): &(&NodeId, &Claim)| {
                claim.generation == generation && !self.is_lost(node)
            };
            let waits = |claim: &Claim| matches!(claim.state, ClaimState::Waiting { .. });
            let mut claims = self.state().claims(&slot).filter(mine);
            view.restarting += u32::from(claims.any(|(_, claim)| waits(claim)));
            let claims = self.state().claims(&slot).filter(mine);
            let mut running = claims.filter(|(_, claim)| claim.state == ClaimState::Running);
            let first = running.next();
            view.running += u32::from(first.is_some());
            let health = first.and_then(|(_, claim)| claim.health.as_ref());
            view.unhealthy +=
                u32::from(health.is_some_and(|it| it.state == HealthState::Unhealthy));
            // Of two copies one that goes on is enough.
            let is_held = first.is_some_and(|(_, claim)| claim.paused);
            view.paused += u32::from(is_held && running.all(|(_, claim)| claim.paused));
        }
        view.state = job_state(intent.is_live(), &view);
        match view.state {
            JobState::Succeeded => view.exit_code = Some(0),
            JobState::Pending | JobState::Running => view.exit_code = None,
            JobState::Failed | JobState::Stopped => {}
        }
        Some(view)
    }

    /// The tasks of one job: open slots, live claims and, if `all`, outcomes too.
    pub fn task_views(&self, job: &JobId, all: Ended) -> Vec<TaskView> {
        let Some((generation, spec)) = self.state().spec_of(job) else { return Vec::new() };
        let Some(intent) = self.state().job(job) else { return Vec::new() };
        let mut views = Vec::new();
        for (group, index) in all_slots(spec) {
            let slot = SlotId { job: *job, group, index };
            let before = views.len();
            let settled =
                spec.kind == JobKind::Batch && self.state().settled(&slot, &generation).is_some();
            for (node, claim) in self.state().claims(&slot) {
                // What a lost host once claimed is no news of a slot that ended elsewhere.
                if !settled || !self.is_lost(node) {
                    views.push(self.claim_view(spec, &slot, *node, claim));
                }
            }
            let open = views.len() == before && intent.is_live();
            if all == Ended::Shown {
                for (rank, outcome) in self.state().outcomes(&slot) {
                    let mut view = self.blank_view(spec, &slot);
                    view.node = Some(rank.node);
                    view.node_name = self.node_name(&rank.node);
                    view.state = end_word(&outcome.end).to_owned();
                    view.detail = outcome.end.to_string();
                    view.exit_code = Some(outcome.end.exit_code());
                    view.since = outcome.at;
                    view.restarts = outcome.restarts;
                    view.epoch = rank.epoch.counter;
                    view.tender = rank.epoch.tender;
                    view.ended = true;
                    views.push(view);
                }
            }
            if open && !settled {
                let mut view = self.blank_view(spec, &slot);
                view.state = "pending".to_owned();
                view.since = intent.submitted;
                views.push(view);
            }
        }
        views
    }

    fn claim_view(&self, spec: &JobSpec, slot: &SlotId, node: NodeId, claim: &Claim) -> TaskView {
        let mut view = self.blank_view(spec, slot);
        view.node = Some(node);
        view.node_name = self.node_name(&node);
        view.since = claim.since;
        view.restarts = claim.restarts;
        view.epoch = claim.epoch.counter;
        view.tender = claim.epoch.tender;
        view.health.clone_from(&claim.health);
        let (state, detail) = match &claim.state {
            ClaimState::Starting => ("starting", String::new()),
            ClaimState::Running if claim.paused => ("paused", String::new()),
            ClaimState::Running => ("running", String::new()),
            ClaimState::Waiting { last } => {
                view.exit_code = Some(last.exit_code());
                ("restarting", last.to_string())
            }
            ClaimState::Stopping => ("stopping", String::new()),
        };
        view.state = state.to_owned();
        view.detail = detail;
        if self.is_lost(&node) {
            view.state = "lost".to_owned();
            view.detail = format!("{} is silent", view.node_name);
            view.health = None;
        }
        view
    }

    fn blank_view(&self, spec: &JobSpec, slot: &SlotId) -> TaskView {
        let label = match spec.groups.as_slice() {
            [_only] => format!("{}.{}", spec.name, slot.index),
            _ => format!("{}.{}.{}", spec.name, slot.group, slot.index),
        };
        let task = spec.group(&slot.group).and_then(|group| group.tasks.first());
        let command = task.map(|task| task.run.command());
        TaskView {
            task: label,
            job: slot.job,
            job_name: spec.name.clone(),
            slot: slot.clone(),
            command: command.unwrap_or_default(),
            labels: spec.labels.clone(),
            node: None,
            node_name: String::new(),
            state: String::new(),
            detail: String::new(),
            exit_code: None,
            since: WallTime(0),
            restarts: 0,
            epoch: 0,
            tender: 0,
            ended: false,
            health: None,
            fetching: None,
        }
    }

    /// What this node says to one more copy of each group of a job.
    pub fn opinion_on(&self, job: &JobId) -> Option<Opinion> {
        let (_, spec) = self.state().spec_of(job)?;
        let (node, name) = (self.me(), self.node_name(&self.me()));
        let ledger = self.ledger();
        let decline = spec.groups.iter().find_map(|group| {
            if let Some(unfit) = self.unfit(group) {
                return Some(unfit);
            }
            let ask = group.ask();
            if let Some(lacks) = ledger.capacity().lacking(&ask) {
                return Some(Decline::TooLarge { lacks });
            }
            ledger.free().lacking(&ask).map(|lacks| Decline::Full { lacks })
        });
        let reason = decline
            .as_ref()
            .map_or_else(|| format!("has room: {} free", ledger.free()), Decline::to_string);
        Some(Opinion { node, name, would_bid: decline.is_none(), reason })
    }
}

/// Whether a list shows what ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It does.
    Shown,
    /// Only what is open or lives.
    Hidden,
}

fn all_slots(
    spec: &JobSpec,
) -> impl Iterator<Item = (gossip_core::slot::GroupName, u32)> + use<'_> {
    spec.groups.iter().flat_map(|group| (1..=group.count).map(|index| (group.name.clone(), index)))
}

fn job_state(live: bool, view: &JobView) -> JobState {
    let batch = view.kind == Some(JobKind::Batch);
    if batch && view.succeeded + view.failed >= view.wanted {
        return if view.failed == 0 { JobState::Succeeded } else { JobState::Failed };
    }
    if !live {
        return JobState::Stopped;
    }
    if view.running + view.succeeded + view.failed >= view.wanted {
        JobState::Running
    } else {
        JobState::Pending
    }
}

fn end_word(end: &TaskEnd) -> &'static str {
    match end {
        TaskEnd::Exited { code: 0 } => "succeeded",
        TaskEnd::Exited { .. }
        | TaskEnd::Signalled { .. }
        | TaskEnd::OutOfMemory
        | TaskEnd::Expired
        | TaskEnd::NotStarted { .. } => "failed",
        TaskEnd::Stopped => "stopped",
        TaskEnd::Superseded => "superseded",
        TaskEnd::Lost { .. } => "lost",
    }
}
