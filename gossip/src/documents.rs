//! All jobs' documents, and the changes that wait for what they build on.
//!
//! Logs arrive in any order, so a change may come before one of another log
//! that it builds on. It is parked: journaled with its log, not yet applied,
//! tried again whenever its document moved. How much one author may have
//! parked is bounded; beyond that its logs are not taken until some of it fits.

use std::collections::BTreeMap;

use gossip_core::id::{JobId, NodeId};
use gossip_core::intent::{Edit, JobIntent};
use gossip_core::log::LogId;

use crate::document::{self, Resting};
use crate::quarantine::{self, Verdict};

/// The most changes of one author that wait.
const PARKED_CHANGES_MAX: usize = 4096;

/// The most bytes of one author's changes that wait.
const PARKED_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug)]
struct Parked {
    log: LogId,
    number: u64,
    change: Vec<u8>,
}

#[derive(Debug, Default)]
struct Load {
    changes: usize,
    bytes: usize,
}

/// What offering a change led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This log's record changed the document.
    Applied(LogId),
    /// This record never will.
    Refused(LogId, u64, String),
}

/// The documents.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    jobs: BTreeMap<JobId, Resting>,
    parked: BTreeMap<JobId, Vec<Parked>>,
    load: BTreeMap<NodeId, Load>,
}

impl Documents {
    /// What is wanted of every job.
    pub(crate) fn intents(&self) -> impl Iterator<Item = (&JobId, &JobIntent)> {
        self.jobs.iter().map(|(job, resting)| (job, &resting.intent))
    }

    /// What is wanted of one job.
    pub(crate) fn intent(&self, job: &JobId) -> Option<&JobIntent> {
        self.jobs.get(job).map(|resting| &resting.intent)
    }

    /// Whether `author` has as much waiting as it may.
    pub(crate) fn is_overloaded(&self, author: &NodeId) -> bool {
        self.load.get(author).is_some_and(|load| {
            load.changes >= PARKED_CHANGES_MAX || load.bytes >= PARKED_BYTES_MAX
        })
    }

    /// The change that `edit` makes in the name of `log`, and `job`'s document with it; `None`
    /// if there is nothing to change. Nothing is kept: later edits of one append build on
    /// `tried`, where earlier ones left the document.
    pub(crate) fn attempt_edit(
        &self,
        log: &LogId,
        job: &JobId,
        edit: &Edit,
        tried: Option<&Resting>,
    ) -> Result<Option<(Vec<u8>, Resting)>, String> {
        let new;
        let resting = match tried.or_else(|| self.jobs.get(job)) {
            Some(resting) => resting,
            None => {
                new = document::genesis(job).map_err(|error| error.to_string())?;
                &new
            }
        };
        let actor = document::actor_of(log);
        let change = document::edit(resting, &actor, edit).map_err(|error| error.to_string())?;
        let Some(change) = change else { return Ok(None) };
        match quarantine::judge(job, resting, &actor, &change) {
            Verdict::Accepted(after) => Ok(Some((change, after))),
            Verdict::Refused(reason) => Err(reason),
            Verdict::Known | Verdict::Waits => Err("it does not follow".to_owned()),
        }
    }

    /// Takes the document that edits of `log` led to, and whatever waited for them.
    pub(crate) fn adopt(&mut self, log: LogId, job: JobId, tried: Resting) -> Vec<Outcome> {
        self.jobs.insert(job, tried);
        let mut outcomes = vec![Outcome::Applied(log)];
        self.retry(job, &mut outcomes);
        outcomes
    }

    /// Takes record `number` of `log` through the quarantine, and whatever waited for it.
    pub(crate) fn offer(
        &mut self,
        (log, number): (LogId, u64),
        job: JobId,
        change: Vec<u8>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if let Some(waits) = self.attempt(job, Parked { log, number, change }, &mut outcomes) {
            self.park(job, waits);
        }
        if matches!(outcomes.as_slice(), [Outcome::Applied(_)]) {
            self.retry(job, &mut outcomes);
        }
        outcomes
    }

    /// Gives the change back if it has to wait.
    fn attempt(&mut self, job: JobId, one: Parked, outcomes: &mut Vec<Outcome>) -> Option<Parked> {
        let new;
        let resting = match self.jobs.get(&job) {
            Some(resting) => resting,
            None => match document::genesis(&job) {
                Ok(genesis) => {
                    new = genesis;
                    &new
                }
                Err(error) => {
                    outcomes.push(Outcome::Refused(one.log, one.number, error.to_string()));
                    return None;
                }
            },
        };
        match quarantine::judge(&job, resting, &document::actor_of(&one.log), &one.change) {
            Verdict::Accepted(resting) => {
                self.jobs.insert(job, resting);
                outcomes.push(Outcome::Applied(one.log));
            }
            Verdict::Known => {}
            Verdict::Waits => return Some(one),
            Verdict::Refused(reason) => {
                outcomes.push(Outcome::Refused(one.log, one.number, reason));
            }
        }
        None
    }

    fn park(&mut self, job: JobId, one: Parked) {
        let load = self.load.entry(one.log.node).or_default();
        load.changes += 1;
        load.bytes += one.change.len();
        self.parked.entry(job).or_default().push(one);
    }

    /// Tries all that waits for `job` until nothing moves.
    fn retry(&mut self, job: JobId, outcomes: &mut Vec<Outcome>) {
        loop {
            let Some(waiting) = self.parked.remove(&job) else { return };
            let before = waiting.len();
            for one in waiting {
                if let Some(load) = self.load.get_mut(&one.log.node) {
                    load.changes -= 1;
                    load.bytes -= one.change.len();
                }
                if let Some(waits) = self.attempt(job, one, outcomes) {
                    self.park(job, waits);
                }
            }
            if self.parked.get(&job).is_none_or(|waiting| waiting.len() == before) {
                return;
            }
        }
    }
}
