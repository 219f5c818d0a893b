//! Logs: the numbered, signed records that one node wrote since one start.
//!
//!     append ──▶ journal (fsync) ──▶ batch, signed ──▶ every peer pulls what it lacks
//!
//! A batch signs the list of its records' hashes, so that what survives can
//! still be verified when the rest is superseded and dropped. Signed bytes are
//! stored and relayed as they came. A log has one writer and no gaps: a batch
//! that does not follow is not kept but pulled again in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fact::RECORD_BYTES_MAX;
use crate::id::{ClusterId, ContentHash, NodeId, Signature};
use crate::sign::{Domain, Key, verifies};
use crate::slot::COUNTER_MAX;

/// The most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 512;

/// The most bytes of records in one batch; a batch fits a frame with room to spare.
pub const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Names a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// Who writes it.
    pub node: NodeId,
    /// The node's start counter.
    pub start: u64,
    /// Random: tells a copied disk from its original.
    pub nonce: u64,
}

/// How much of each log is held: the number of the next record wanted.
pub type Vector = BTreeMap<LogId, u64>;

/// Some consecutive records of one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Which log.
    pub log: LogId,
    /// The number of the first record; a log starts at 0.
    pub first: u64,
    /// One hash for each record.
    pub hashes: Vec<ContentHash>,
    /// By the log's node, over all of the above.
    pub signature: Signature,
    /// The records as written; `None` where a record was superseded and dropped.
    pub records: Vec<Option<Vec<u8>>>,
}

/// Why a batch is not taken. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// Empty, too long, or hashes and records do not pair up.
    #[error("a batch of {hashes} hashes and {records} records")]
    Shape {
        /// How many hashes.
        hashes: usize,
        /// How many records.
        records: usize,
    },
    /// A number that no honest node reaches.
    #[error("an absurd number")]
    Number,
    /// A record too large.
    #[error("a record of {0} bytes")]
    Large(usize),
    /// A record that is not the one that was signed.
    #[error("record {0} is not what was signed")]
    Content(u64),
    /// Not signed by the log's node.
    #[error("the signature does not hold")]
    Signature,
}

impl Batch {
    /// Signs `records` as numbers `first` and on of `log`.
    pub fn sign(
        key: &Key,
        cluster: &ClusterId,
        log: LogId,
        first: u64,
        records: Vec<Vec<u8>>,
    ) -> Self {
        let hashes: Vec<_> = records.iter().map(|record| ContentHash::of(record)).collect();
        let signature = key.sign(Domain::Batch, cluster, &statement(&log, first, &hashes));
        Self { log, first, hashes, signature, records: records.into_iter().map(Some).collect() }
    }

    /// Checks shape, bounds, content and signature.
    pub fn verify(&self, cluster: &ClusterId) -> Result<(), BadBatch> {
        let (hashes, records) = (self.hashes.len(), self.records.len());
        if hashes == 0 || hashes > BATCH_RECORDS_MAX || hashes != records {
            return Err(BadBatch::Shape { hashes, records });
        }
        if self.first > COUNTER_MAX || self.log.start > COUNTER_MAX {
            return Err(BadBatch::Number);
        }
        for (number, (hash, record)) in (self.first..).zip(self.hashes.iter().zip(&self.records)) {
            let Some(record) = record else { continue };
            if record.len() > RECORD_BYTES_MAX {
                return Err(BadBatch::Large(record.len()));
            }
            if ContentHash::of(record) != *hash {
                return Err(BadBatch::Content(number));
            }
        }
        let statement = statement(&self.log, self.first, &self.hashes);
        if verifies(&self.log.node, Domain::Batch, cluster, &statement, &self.signature) {
            Ok(())
        } else {
            Err(BadBatch::Signature)
        }
    }

    /// The number after the last record.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.hashes.len() as u64)
    }

    /// Bytes of all records, for bounds on what is sent at once.
    pub fn payload_bytes(&self) -> usize {
        self.records.iter().flatten().map(Vec::len).sum()
    }
}

fn statement(log: &LogId, first: u64, hashes: &[ContentHash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + hashes.len() * ContentHash::LENGTH);
    bytes.extend_from_slice(log.node.as_bytes());
    for number in [log.start, log.nonce, first] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    for hash in hashes {
        bytes.extend_from_slice(hash.as_bytes());
    }
    bytes
}

/// What to do with a batch whose signature holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It follows what is held: take it.
    Next,
    /// All of it is held already.
    Known,
    /// Something before it is missing: pull from this number.
    Gap(u64),
}

/// Where `batch` stands against what is held.
pub fn place(held: &Vector, batch: &Batch) -> Place {
    let next = held.get(&batch.log).copied().unwrap_or(0);
    if batch.first == next {
        Place::Next
    } else if batch.end() <= next {
        Place::Known
    } else {
        Place::Gap(next)
    }
}

/// What `theirs` has that `ours` lacks: each log with the number to pull from.
pub fn missing(ours: &Vector, theirs: &Vector) -> Vec<(LogId, u64)> {
    theirs
        .iter()
        .filter_map(|(log, their_next)| {
            let next = ours.get(log).copied().unwrap_or(0);
            (*their_next > next).then_some((*log, next))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(key: &Key) -> LogId {
        LogId { node: key.id(), start: 1, nonce: 5 }
    }

    #[test]
    fn a_batch_verifies_whole_and_with_records_dropped() {
        let key = Key::from_seed([1; 32]);
        let cluster = ClusterId::new([1; 32]);
        let mut batch = Batch::sign(&key, &cluster, log(&key), 3, vec![vec![1], vec![2]]);
        assert_eq!((batch.verify(&cluster), batch.end()), (Ok(()), 5));
        batch.records[0] = None;
        assert_eq!(batch.verify(&cluster), Ok(()));
        batch.records[1] = Some(vec![3]);
        assert_eq!(batch.verify(&cluster), Err(BadBatch::Content(4)));
        batch.hashes[1] = ContentHash::of(&[3]);
        assert_eq!(batch.verify(&cluster), Err(BadBatch::Signature));
        batch.hashes.clear();
        assert!(matches!(batch.verify(&cluster), Err(BadBatch::Shape { .. })));
    }

    #[test]
    fn batches_are_taken_in_order() {
        let key = Key::from_seed([1; 32]);
        let cluster = ClusterId::new([1; 32]);
        let batch = Batch::sign(&key, &cluster, log(&key), 2, vec![vec![1], vec![2]]);
        let held = |next| Vector::from([(batch.log, next)]);
        assert_eq!(place(&held(2), &batch), Place::Next);
        assert_eq!(place(&held(4), &batch), Place::Known);
        assert_eq!(place(&held(1), &batch), Place::Gap(1));
        assert_eq!(place(&held(3), &batch), Place::Gap(3));
        assert_eq!(missing(&held(2), &held(9)), [(batch.log, 2)]);
        assert_eq!(missing(&held(9), &held(9)), []);
    }
}
