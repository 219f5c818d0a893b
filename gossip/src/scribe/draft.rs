//! One append in the making: every entry is checked before any of them is learned.
//!
//!     entries ─▶ read, encode, try edits on copies ─▶ draft ─▶ learn ─▶ batches
//!
//! An append is whole or nothing, and its entries may depend on each other: a
//! claim on the opening before it, an edit on the edit before it. So checking
//! changes nothing but the draft, and what was checked cannot fail any more.
//! Nothing here writes, and of all entries only a removal is signed here.

use std::collections::BTreeMap;

use gossip_core::fact::{RECORD_BYTES_MAX, Record, Update};
use gossip_core::id::JobId;
use gossip_core::log::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, LogId};

use crate::api::Entry;
use crate::document::Resting;
use crate::knowledge::{Knowledge, Meaning, News};

use super::{Author, removing};

/// Entries of which all hold.
#[derive(Debug)]
pub(super) struct Draft {
    log: LogId,
    /// The number of the first record.
    first: u64,
    records: Vec<Vec<u8>>,
    steps: Vec<Step>,
    /// What the edits make of the documents.
    tried: BTreeMap<JobId, Resting>,
}

#[derive(Debug)]
enum Step {
    Fact(u64, Meaning),
    Edit(JobId),
}

impl Draft {
    /// Checks `entries` as the next ones of the author's log; says which does not hold, and why.
    pub(super) fn of(
        entries: Vec<Entry>,
        author: &Author,
        knowledge: &Knowledge,
    ) -> Result<Self, String> {
        let log = author.log;
        let first = knowledge.held().get(&log).copied().unwrap_or(0);
        if first == 0 && !matches!(entries.first(), Some(Entry::Fact(Record::Open { .. }))) {
            return Err("a log starts with its opening".to_owned());
        }
        let (records, steps, tried) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut draft = Self { log, first, records, steps, tried };
        for (at, entry) in (1..).zip(entries) {
            draft
                .add(entry, author, knowledge)
                .map_err(|reason| format!("entry {at}: {reason}"))?;
        }
        Ok(draft)
    }

    fn add(&mut self, entry: Entry, author: &Author, knowledge: &Knowledge) -> Result<(), String> {
        let number = self.first + self.records.len() as u64;
        let (bytes, step) = match entry {
            Entry::Fact(
                Record::Intent { .. }
                | Record::Redeemed { .. }
                | Record::Invited(_)
                | Record::Revoked { .. }
                | Record::Removal(_),
            ) => return Err("this is not for the agent to write".to_owned()),
            Entry::Remove { node, grants, at } => {
                for removal in removing::removals(author, knowledge, (node, grants, at))? {
                    let number = self.first + self.records.len() as u64;
                    self.records.push(encode(&Record::Removal(removal.clone()))?);
                    let meaning = Meaning::Update(Update::Removal(removal));
                    self.steps.push(Step::Fact(number, meaning));
                }
                return Ok(());
            }
            Entry::Fact(record) => {
                let bytes = encode(&record)?;
                (bytes, Step::Fact(number, knowledge.read(&self.log, number, record)?))
            }
            Entry::Edit { job, edit } => {
                let documents = knowledge.documents();
                let tried = documents.attempt_edit(&self.log, &job, &edit, self.tried.get(&job))?;
                let Some((change, after)) = tried else { return Ok(()) };
                self.tried.insert(job, after);
                (encode(&Record::Intent { job, change })?, Step::Edit(job))
            }
        };
        self.records.push(bytes);
        self.steps.push(step);
        Ok(())
    }

    /// Learns everything, and gives the records back as batches to sign in this order.
    pub(super) fn learn(mut self, knowledge: &mut Knowledge, news: &mut News) -> Vec<Vec<Vec<u8>>> {
        for step in self.steps {
            match step {
                Step::Fact(number, meaning) => {
                    if let Err(reason) = knowledge.accept(self.log, number, meaning, news) {
                        news.rejected.push((self.log, number, reason));
                    }
                }
                // The first edit of a job takes its others along: their intent is told once.
                Step::Edit(job) => {
                    if let Some(tried) = self.tried.remove(&job) {
                        knowledge.adopt(self.log, job, tried, news);
                    }
                }
            }
        }
        batches(self.records)
    }
}

fn encode(record: &Record) -> Result<Vec<u8>, String> {
    let bytes = record.encode().map_err(|error| error.to_string())?;
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(format!("a record of {} bytes", bytes.len()));
    }
    Ok(bytes)
}

/// Splits records where a batch is full.
fn batches(records: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut batches: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut bytes = 0;
    for record in records {
        match batches.last_mut() {
            Some(batch)
                if batch.len() < BATCH_RECORDS_MAX && bytes + record.len() <= BATCH_BYTES_MAX =>
            {
                bytes += record.len();
                batch.push(record);
            }
            _ => {
                bytes = record.len();
                batches.push(vec![record]);
            }
        }
    }
    batches
}
