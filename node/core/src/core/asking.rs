//! What users ask of the node they reached: submit, stop, remove; and remove a node.
//!
//! An ask is answered once it is durable here and, where there is another
//! member, on one other disk; if none confirms in time the answer says so.
//! Durable is not placed, so the first tender does not wait for the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::fact::{Entry, Record};
use gossip_core::id::{JobId, NodeId};
use gossip_core::intent::{Edit, JobIntent};
use gossip_core::moment::Moment;
use gossip_core::slot::Generation;
use gossip_core::spec::JobSpec;

use super::Core;
use crate::effect::{Ask, Effect, Now, Reply, Ticket};
use crate::event::What;

/// How long an answer waits for another member's fsync.
const REPLICATE_FOR: Duration = Duration::from_secs(2);

/// The most asks that wait at once; more are refused.
const ASKS_MAX: usize = 4096;

/// Asks that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Asks {
    waiting: BTreeMap<Ticket, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    request: u64,
    about: About,
    /// Namespace and name of a submission.
    label: Option<(String, String)>,
    durable: bool,
    persisted: Option<NodeId>,
    until: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Job(JobId),
    Node(NodeId),
}

impl About {
    fn done(self, replicated: Option<NodeId>) -> Reply {
        match self {
            About::Job(job) => Reply::Accepted { job, replicated },
            About::Node(node) => Reply::NodeRemoved { node, replicated },
        }
    }

    fn not_replicated(self) -> Reply {
        match self {
            About::Job(job) => Reply::NotReplicated { job },
            About::Node(node) => Reply::RemovedHereOnly { node },
        }
    }

    fn refused(self, reason: String) -> Reply {
        match self {
            About::Job(_) => Reply::BadSpec { reason },
            About::Node(_) => Reply::NotRemoved { reason },
        }
    }
}

impl Asks {
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.waiting.values().map(|ask| ask.until).min()
    }
}

impl Core {
    pub(super) fn asked(&mut self, now: Now, request: u64, ask: Ask, out: &mut Vec<Effect>) {
        if self.asks.waiting.len() >= ASKS_MAX {
            return out.push(Effect::Reply { request, reply: Reply::Busy });
        }
        if self.is_outcast() {
            return out.push(Effect::Reply { request, reply: Reply::Outcast });
        }
        let label = match &ask {
            Ask::Submit { spec, .. } => Some((spec.namespace.clone(), spec.name.clone())),
            Ask::Stop(_) | Ask::Remove(_) | Ask::RemoveNode { .. } => None,
        };
        let (job, entries) = match ask {
            Ask::Submit { job, spec } => match self.submission(now, job, &spec, out) {
                Ok(entries) => (job, entries),
                Err(reply) => return out.push(Effect::Reply { request, reply }),
            },
            Ask::Stop(job) if self.is_removed_at_its_end(&job) => {
                (job, vec![Entry::Edit { job, edit: Edit::Remove }])
            }
            Ask::Stop(job) => (job, vec![Entry::Edit { job, edit: Edit::Stop }]),
            Ask::Remove(job) => (job, vec![Entry::Edit { job, edit: Edit::Remove }]),
            Ask::RemoveNode { node, grants } => {
                let entries = vec![Entry::Remove { node, grants, at: now.wall }];
                return self.wait_for(now, (request, About::Node(node), None), entries, out);
            }
        };
        let submits = entries.iter().any(|entry| matches!(entry, Entry::Fact(_)));
        if !submits && self.state.job(&job).is_none() {
            let reply = Reply::NoSuchJob { job };
            return out.push(Effect::Reply { request, reply });
        }
        self.wait_for(now, (request, About::Job(job), label), entries, out);
    }

    fn wait_for(
        &mut self,
        now: Now,
        (request, about, label): (u64, About, Option<(String, String)>),
        entries: Vec<Entry>,
        out: &mut Vec<Effect>,
    ) {
        let ticket = self.append(entries, out);
        let until = now.moment + REPLICATE_FOR;
        let waiting = Waiting { request, about, label, durable: false, persisted: None, until };
        self.asks.waiting.insert(ticket, waiting);
    }

    fn submission(
        &mut self,
        now: Now,
        job: JobId,
        spec: &JobSpec,
        out: &mut Vec<Effect>,
    ) -> Result<Vec<Entry>, Reply> {
        let bad = |reason: String| Reply::BadSpec { reason };
        spec.check().map_err(|e| bad(e.to_string()))?;
        let (hash, blob) = spec.to_blob().map_err(|e| bad(e.to_string()))?;
        if self.state.job(&job).is_some_and(|intent| !intent.is_live()) {
            return Err(Reply::StoppedBefore { job });
        }
        let label = (spec.namespace.clone(), spec.name.clone());
        if self.state.job(&job).is_none()
            && let Some(other) =
                self.live_job_named(&spec.namespace, &spec.name).or(self.waiting_job(&job, &label))
        {
            return Err(Reply::NameTaken { job: other });
        }
        let counter = self.state.job(&job).and_then(JobIntent::generation);
        let again = counter.filter(|generation| generation.spec == hash);
        let counter = counter.map_or(1, |generation| generation.counter.saturating_add(1));
        let generation = again.unwrap_or(Generation { counter, spec: hash });
        if again.is_none() {
            out.push(Effect::Tell(What::JobSubmitted { job, name: spec.name.clone() }));
        }
        self.drives.entry(job).or_default().own = true;
        let edit = Edit::Submit { generation, at: now.wall };
        Ok(vec![Entry::Fact(Record::Spec(blob)), Entry::Edit { job, edit }])
    }

    /// Another job of that label whose submission is not durable yet.
    fn waiting_job(&self, job: &JobId, label: &(String, String)) -> Option<JobId> {
        let other = |ask: &Waiting| match ask.about {
            About::Job(other) if other != *job => Some(other),
            About::Job(_) | About::Node(_) => None,
        };
        let mut same = self.asks.waiting.values().filter(|ask| ask.label.as_ref() == Some(label));
        same.find_map(other)
    }

    fn live_job_named(&self, namespace: &str, name: &str) -> Option<JobId> {
        self.state.jobs().filter(|(_, intent)| intent.is_live()).map(|(job, _)| *job).find(|job| {
            let named = |spec: &JobSpec| spec.name == name && spec.namespace == namespace;
            self.state.spec_of(job).is_some_and(|(_, spec)| named(spec)) && !self.is_over(job)
        })
    }

    /// Whether all slots of a batch job have ended.
    pub(super) fn is_over(&self, job: &JobId) -> bool {
        self.state.spec_of(job).is_some() && self.state.wanted(job).is_empty()
    }

    pub(super) fn ask_durable(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        let alone = self.others().next().is_none();
        if let Some(ask) = self.asks.waiting.get_mut(&ticket) {
            ask.durable = true;
            if alone || ask.persisted.is_some() {
                self.accept(ticket, out);
            }
        }
    }

    pub(super) fn ask_refused(&mut self, ticket: Ticket, reason: String, out: &mut Vec<Effect>) {
        if let Some(ask) = self.asks.waiting.remove(&ticket) {
            out.push(Effect::Reply { request: ask.request, reply: ask.about.refused(reason) });
        }
    }

    pub(super) fn ask_persisted(&mut self, ticket: Ticket, by: NodeId, out: &mut Vec<Effect>) {
        if let Some(ask) = self.asks.waiting.get_mut(&ticket) {
            ask.persisted.get_or_insert(by);
            if ask.durable {
                self.accept(ticket, out);
            }
        }
    }

    fn accept(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        if let Some(ask) = self.asks.waiting.remove(&ticket) {
            let reply = ask.about.done(ask.persisted);
            out.push(Effect::Reply { request: ask.request, reply });
        }
    }

    pub(super) fn tick_asks(&mut self, now: Now, out: &mut Vec<Effect>) {
        let due = |ask: &Waiting| ask.until <= now.moment && ask.durable;
        let late: Vec<_> =
            self.asks.waiting.iter().filter(|(_, ask)| due(ask)).map(|(t, _)| *t).collect();
        for ticket in late {
            if let Some(ask) = self.asks.waiting.remove(&ticket) {
                let reply = ask.about.not_replicated();
                out.push(Effect::Reply { request: ask.request, reply });
            }
        }
        for ask in self.asks.waiting.values_mut().filter(|ask| ask.until <= now.moment) {
            // Not even durable here: a slow disk. Nothing may be answered yet.
            ask.until = now.moment + REPLICATE_FOR;
        }
    }
}
