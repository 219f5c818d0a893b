//! What the market says: call, bid or decline, award, claim.
//!
//! Every message may be lost, doubled or late; none of them is the only
//! carrier of a promise. A hold lapses by itself, and a claim is a fact in the
//! claimant's log, whatever became of the confirmation.

use serde::{Deserialize, Serialize};

use crate::id::JobId;
use crate::slot::{ClaimRank, Epoch, Generation, GroupName, SlotId};

/// The most slots that one call covers.
pub const CALL_SLOTS_MAX: usize = 4096;

/// A driver asks for bids on some slots of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The epoch of every claim that comes of it; its tender id names the tender.
    pub epoch: Epoch,
    /// Which job.
    pub job: JobId,
    /// Of which spec.
    pub generation: Generation,
    /// The spec itself, for those whom the log has not reached yet.
    pub spec: Vec<u8>,
    /// Which group.
    pub group: GroupName,
    /// Which indices, in the order they will be awarded.
    pub indices: Vec<u32>,
    /// How long a bidder must hold what it offers, in milliseconds.
    pub hold_ms: u32,
}

/// What a bidder offers, or why it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which call is answered.
    pub epoch: Epoch,
    /// The price of each next slot, lower is better; as many as it would take.
    pub prices: Vec<u64>,
    /// Why it takes no more than that.
    pub decline: Option<Decline>,
    /// Slots of the call that it holds already, with the rank of its claim.
    pub held: Vec<(u32, ClaimRank)>,
}

/// Why a node does not bid: part of the protocol, kept for `why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decline {
    /// It would never fit, whatever ended here.
    TooLarge {
        /// What is lacking, in words.
        lacks: String,
    },
    /// It does not fit beside what is here now.
    Full {
        /// What is lacking, in words.
        lacks: String,
    },
    /// The node takes no work now.
    NotBidding {
        /// In words.
        reason: String,
    },
    /// A call with a greater epoch was answered before.
    Outdated {
        /// Its epoch's counter: what the driver must go beyond. A tender that came to
        /// nothing left no claim to learn it from.
        answered: u64,
    },
    /// The spec cannot be run here.
    Unfit {
        /// In words.
        reason: String,
    },
}

impl std::fmt::Display for Decline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decline::TooLarge { lacks } => write!(f, "too large for this node: {lacks}"),
            Decline::Full { lacks } => write!(f, "no room now: {lacks}"),
            Decline::NotBidding { reason } => write!(f, "takes no work: {reason}"),
            Decline::Outdated { .. } => f.write_str("answered a later call"),
            Decline::Unfit { reason } => write!(f, "cannot run it: {reason}"),
        }
    }
}

/// All that nodes say to each other about placing work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To a candidate: what will you take?
    Call(Call),
    /// To the driver.
    Answer(Answer),
    /// To a winner: these indices of the call are yours.
    Award {
        /// Of which call.
        epoch: Epoch,
        /// Which.
        indices: Vec<u32>,
    },
    /// To the driver: claimed, journaled.
    Claimed {
        /// By which call.
        epoch: Epoch,
        /// Which.
        indices: Vec<u32>,
    },
    /// To the driver: the award is not taken.
    Refused {
        /// Of which call.
        epoch: Epoch,
        /// Which.
        indices: Vec<u32>,
    },
    /// To a loser: forget your hold.
    Release {
        /// Of which call.
        epoch: Epoch,
    },
    /// To all: I drive this job now; stay behind.
    Driving {
        /// Which.
        job: JobId,
    },
    /// To all: I am restarted on purpose; my tasks go on, do not tender them meanwhile.
    Away {
        /// How long at most, in milliseconds.
        for_ms: u32,
    },
    /// To the holder of a better claim: do you run it, and is it ready?
    Probe {
        /// Which slot.
        slot: SlotId,
        /// The better claim, as the asker knows it.
        rank: ClaimRank,
        /// Echoed, so that an old answer does not count.
        nonce: u64,
    },
    /// To the holder of a lesser claim: yes.
    Ready {
        /// Which slot.
        slot: SlotId,
        /// The claim that runs.
        rank: ClaimRank,
        /// From the probe.
        nonce: u64,
    },
}
