//! Facts: what a node did, said by that node alone.
//!
//! A claim is a register, (node, slot), and the newest wins. An outcome is
//! final and never replaced. Claims of dead nodes are never edited by others:
//! a higher epoch outranks them.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::grant::Chain;
use crate::health::Health;
use crate::id::{ContentHash, JobId, NodeId};
use crate::invite::Invitation;
use crate::moment::WallTime;
use crate::removal::Removal;
use crate::resources::Resources;
use crate::slot::{ClaimRank, Epoch, Generation, SlotId};

/// What a node says of itself, restated whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCard {
    /// For people; not unique by any rule, so ids decide where two share it.
    pub name: String,
    /// Where it listens, as multiaddrs.
    pub addresses: Vec<String>,
    /// All it offers.
    pub capacity: Resources,
    /// Why it may speak.
    pub chain: Chain,
    /// Its program's version.
    pub version: String,
    /// Whether it holds tasks to what they asked for.
    pub enforces_limits: bool,
    /// Whether it trusts jobs with itself: its own ids, its system's files.
    #[serde(default)]
    pub trusts_jobs: bool,
}

/// "I run slot S at epoch E."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What is claimed.
    pub slot: SlotId,
    /// Of which spec.
    pub generation: Generation,
    /// By which tender.
    pub epoch: Epoch,
    /// How far it is.
    pub state: ClaimState,
    /// Since when, by the claimant's clock.
    pub since: WallTime,
    /// How often the task was started again here.
    pub restarts: u32,
    /// Whether the task, which runs, is held still.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// What its checks came to, while it runs and has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// How far a claimed slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimState {
    /// Set aside and being started.
    Starting,
    /// The task runs.
    Running,
    /// The task ended and will be started again.
    Waiting {
        /// How it ended last.
        last: TaskEnd,
    },
    /// The task is being stopped.
    Stopping,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskEnd {
    /// By itself, with this code.
    Exited {
        /// What the program returned.
        code: i32,
    },
    /// By a signal that Starling did not send.
    Signalled {
        /// Its number.
        signal: i32,
    },
    /// The kernel killed it: it, or what it is limited with, used all the memory it may.
    OutOfMemory,
    /// Its deadline passed, and it was killed.
    Expired,
    /// It could not be started.
    NotStarted {
        /// 127 not found, 126 not executable, 125 otherwise; as shells and Docker.
        code: i32,
        /// In words.
        reason: String,
    },
    /// Stopped because nobody wants it any more.
    Stopped,
    /// Stopped because a better claim runs elsewhere.
    Superseded,
    /// It vanished, with its supervisor or its host, and left no status.
    Lost {
        /// In words.
        reason: String,
    },
}

impl TaskEnd {
    /// The exit code that `run` and `wait` report: 128 and the signal for signals.
    pub fn exit_code(&self) -> i32 {
        match self {
            TaskEnd::Exited { code } | TaskEnd::NotStarted { code, .. } => *code,
            TaskEnd::Signalled { signal } => 128 + signal,
            TaskEnd::OutOfMemory => 137,
            TaskEnd::Expired => 124,
            TaskEnd::Stopped | TaskEnd::Superseded => 143,
            TaskEnd::Lost { .. } => 125,
        }
    }

    /// Whether it did what it was for.
    pub fn is_success(&self) -> bool {
        matches!(self, TaskEnd::Exited { code: 0 })
    }

    /// Whether the task itself came to its end, well or not; a lost or stopped one may run again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            TaskEnd::Exited { .. }
                | TaskEnd::Signalled { .. }
                | TaskEnd::OutOfMemory
                | TaskEnd::Expired
                | TaskEnd::NotStarted { .. }
        )
    }
}

impl std::fmt::Display for TaskEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TaskEnd::Exited { code } => write!(f, "exited with {code}"),
            TaskEnd::Signalled { signal } => write!(f, "killed by signal {signal}"),
            TaskEnd::OutOfMemory => f.write_str("killed: out of memory; more comes with --memory"),
            TaskEnd::Expired => f.write_str("killed: its deadline passed"),
            TaskEnd::NotStarted { reason, .. } => write!(f, "could not be started: {reason}"),
            TaskEnd::Stopped => f.write_str("stopped"),
            TaskEnd::Superseded => f.write_str("given up to a better claim"),
            TaskEnd::Lost { reason } => write!(f, "lost: {reason}"),
        }
    }
}

/// The result of one allocation; immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which slot.
    pub slot: SlotId,
    /// Of which spec.
    pub generation: Generation,
    /// Of which tender.
    pub epoch: Epoch,
    /// How it ended.
    pub end: TaskEnd,
    /// When, by the claimant's clock.
    pub at: WallTime,
    /// How often the task was started again before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Claim {
    /// Its place in the order of claims for its slot.
    pub fn rank(&self, node: NodeId) -> ClaimRank {
        ClaimRank { generation: self.generation, epoch: self.epoch, node }
    }
}

impl Outcome {
    /// The place of the claim that it ends.
    pub fn rank(&self, node: NodeId) -> ClaimRank {
        ClaimRank { generation: self.generation, epoch: self.epoch, node }
    }
}

/// One entry of a log. The CBOR form is a map with the kind as its only key,
/// so a kind that this version does not know is kept, relayed and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// The first of every log: who writes it, and all that it holds now.
    Open {
        /// Who.
        card: NodeCard,
        /// Its live claims, the first [`OPEN_CLAIMS_MAX`] of them; the others follow in the
        /// same append as claims. What is in neither is not held.
        holdings: Vec<Claim>,
    },
    /// The card changed.
    Card(NodeCard),
    /// A claim is new or moved on.
    Claim(Claim),
    /// An allocation ended; its claim with it.
    Outcome(Outcome),
    /// A spec blob, which intent refers to by hash.
    Spec(#[serde(with = "blob")] Vec<u8>),
    /// A change of one job's document.
    Intent {
        /// Which job's.
        job: JobId,
        /// The Automerge change, uncompressed.
        #[serde(with = "blob")]
        change: Vec<u8>,
    },
    /// An invitation admitted somebody.
    Redeemed {
        /// Which invitation.
        invitation: NodeId,
        /// Who came in.
        subject: NodeId,
    },
    /// An invitation was made; its secret is not in it.
    Invited(Invitation),
    /// An invitation admits nobody any more, for good.
    Revoked {
        /// Which.
        invitation: NodeId,
    },
    /// A member was removed; in whoever's log it stands, its own signature counts.
    Removal(Removal),
}

const KINDS: [&str; 10] = [
    "open", "card", "claim", "outcome", "spec", "intent", "redeemed", "invited", "revoked",
    "removal",
];

/// The largest record: a spec with room for its frame.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// The most claims that an opening carries: with names of every length they stay below
/// [`RECORD_BYTES_MAX`], with room for a few hundred bytes of reason each. A node that holds
/// more and put all into its opening could never open a log again.
pub const OPEN_CLAIMS_MAX: usize = 1000;

impl Record {
    /// As stored, hashed and sent.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::to_cbor(self)
    }

    /// Reads a record; `None` for a kind that only newer versions know.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, CodecError> {
        let failure = match codec::from_cbor(bytes) {
            Ok(record) => return Ok(Some(record)),
            Err(failure) => failure,
        };
        let value: ciborium::Value = codec::from_cbor(bytes)?;
        match value.as_map().map(Vec::as_slice) {
            Some([(ciborium::Value::Text(kind), _)]) if !KINDS.contains(&kind.as_str()) => Ok(None),
            _ => Err(failure),
        }
    }
}

/// What a node asks its own log to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record as it is.
    Fact(Record),
    /// A change of one job's document, which becomes a [`Record::Intent`].
    Edit {
        /// Which job's.
        job: JobId,
        /// What changes.
        edit: crate::intent::Edit,
    },
    /// A removal of a member, which is signed on the way and becomes a [`Record::Removal`].
    Remove {
        /// Who.
        node: NodeId,
        /// What becomes of those that it admitted.
        grants: Grants,
        /// When, for people.
        at: WallTime,
    },
}

/// What becomes of those whom a removed member admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grants {
    /// They stay.
    Keep,
    /// They have to be admitted anew.
    Drop,
}

/// What the rest of the program is told of a record, once it is verified and durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A log opened: the node's holdings are these.
    Opened {
        /// Who it is.
        card: NodeCard,
        /// What it holds.
        holdings: Vec<Claim>,
    },
    /// A card changed.
    Card(NodeCard),
    /// A claim is new or moved on.
    Claim(Claim),
    /// An allocation ended.
    Outcome(Outcome),
    /// A spec became known.
    Spec {
        /// Its name.
        hash: ContentHash,
        /// What it says.
        spec: crate::spec::JobSpec,
    },
    /// A job's document changed; this is all it says now.
    Intent {
        /// Which job.
        job: JobId,
        /// What is wanted.
        intent: crate::intent::JobIntent,
    },
    /// A member was removed, or was said to be in vain.
    Removal(Removal),
}

mod blob {
    //! Byte strings as CBOR byte strings, not as arrays of numbers.
    use serde::de::{self, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{HealthState, OUTPUT_BYTES_MAX};

    #[test]
    fn a_record_of_a_newer_kind_is_skipped_and_a_broken_one_refused() {
        let record = Record::Spec(vec![1, 2, 3]);
        let bytes = record.encode().expect("encodes");
        assert_eq!(Record::decode(&bytes).expect("decodes"), Some(record));
        let newer =
            codec::to_cbor(&std::collections::BTreeMap::from([("volume", 1)])).expect("cbor");
        assert_eq!(Record::decode(&newer).expect("skips"), None);
        let broken =
            codec::to_cbor(&std::collections::BTreeMap::from([("claim", 1)])).expect("cbor");
        assert!(Record::decode(&broken).is_err());
        assert!(Record::decode(b"\xff").is_err());
    }

    #[test]
    fn an_opening_of_the_longest_claims_fits_a_record() {
        let group = "g".repeat(crate::slot::NAME_LENGTH_MAX).parse().expect("a name");
        let claim = Claim {
            slot: SlotId { job: JobId::new([255; 16]), group, index: u32::MAX },
            generation: Generation { counter: u64::MAX, spec: ContentHash::of(b"spec") },
            epoch: Epoch { counter: u64::MAX, tender: u64::MAX },
            state: ClaimState::Waiting {
                last: TaskEnd::NotStarted { code: i32::MIN, reason: "x".repeat(512) },
            },
            since: WallTime(u64::MAX),
            restarts: u32::MAX,
            paused: true,
            health: None,
        };
        let card = NodeCard {
            name: "n".repeat(256),
            addresses: vec!["a".repeat(256); 32],
            capacity: Resources::default(),
            chain: Chain::found(&crate::sign::Key::from_seed([1; 32]), 1).1,
            version: "v".repeat(256),
            enforces_limits: true,
            trusts_jobs: false,
        };
        // One that runs tells of its checks, and none of its last end.
        let mut running = Claim { state: ClaimState::Running, ..claim.clone() };
        running.health =
            Some(Health { state: HealthState::Unhealthy, output: "x".repeat(OUTPUT_BYTES_MAX) });
        for claim in [claim, running] {
            let holdings = vec![claim; OPEN_CLAIMS_MAX];
            let open = Record::Open { card: card.clone(), holdings };
            let bytes = open.encode().expect("encodes").len();
            assert!(bytes < RECORD_BYTES_MAX, "{bytes}");
        }
    }

    #[test]
    fn a_newer_field_does_not_hide_a_record() {
        #[derive(Serialize)]
        struct Newer {
            invitation: NodeId,
            subject: NodeId,
            color: &'static str,
        }
        let id = NodeId::new([1; 32]);
        let newer = Newer { invitation: id, subject: id, color: "red" };
        let map = std::collections::BTreeMap::from([("redeemed", newer)]);
        let bytes = codec::to_cbor(&map).expect("cbor");
        let known = Record::Redeemed { invitation: id, subject: id };
        assert_eq!(Record::decode(&bytes).expect("reads"), Some(known));
    }
}
