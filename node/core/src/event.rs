//! Events: one typed enum for everything a node tells people about.
//!
//! The CLI, the API's stream and the demo's table all read these; a line says
//! why, not only what. Events are told and forgotten: nothing is decided by
//! reading them back.

use gossip_core::fact::TaskEnd;
use gossip_core::health::Health;
use gossip_core::id::{JobId, NodeId};
use gossip_core::moment::WallTime;
use gossip_core::slot::SlotId;
use serde::{Deserialize, Serialize};

/// Something that happened, as the node that tells it saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the events of one start of one node.
    pub number: u64,
    /// By the teller's clock.
    pub at: WallTime,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A job became known here.
    JobSubmitted {
        /// Which.
        job: JobId,
        /// Its name.
        name: String,
    },
    /// Somebody stopped a job.
    JobStopped {
        /// Which.
        job: JobId,
    },
    /// This node called for bids.
    TenderOpened {
        /// For which job.
        job: JobId,
        /// How many slots.
        slots: u32,
        /// How many nodes were asked.
        asked: u32,
    },
    /// A node bid.
    Bid {
        /// For which job.
        job: JobId,
        /// Who.
        node: NodeId,
        /// For how many slots.
        slots: u32,
        /// The price of its first.
        price: u64,
    },
    /// A node took less than it was asked for.
    Declined {
        /// Which job.
        job: JobId,
        /// Who.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// This node awarded slots.
    Awarded {
        /// Of which job.
        job: JobId,
        /// To whom.
        node: NodeId,
        /// Which.
        indices: Vec<u32>,
    },
    /// A tender ended with slots that nobody took.
    Unplaced {
        /// Of which job.
        job: JobId,
        /// How many.
        slots: u32,
    },
    /// A node claimed a slot.
    Claimed {
        /// Which.
        slot: SlotId,
        /// Who.
        node: NodeId,
        /// At which epoch.
        epoch: u64,
    },
    /// A task runs.
    Running {
        /// Which slot's.
        slot: SlotId,
        /// Where.
        node: NodeId,
    },
    /// The checks of a task came to something else.
    Checked {
        /// Which slot's.
        slot: SlotId,
        /// Where.
        node: NodeId,
        /// What.
        health: Health,
    },
    /// A task ended and will be started again.
    Restarting {
        /// Which slot's.
        slot: SlotId,
        /// Where.
        node: NodeId,
        /// How it ended.
        end: TaskEnd,
    },
    /// A task ended for good.
    Ended {
        /// Which slot's.
        slot: SlotId,
        /// Where.
        node: NodeId,
        /// How.
        end: TaskEnd,
    },
    /// Two nodes claim one slot; the better claim will be kept.
    ClaimedTwice {
        /// Which slot.
        slot: SlotId,
        /// Who stays.
        better: NodeId,
        /// Who will stop.
        lesser: NodeId,
    },
    /// A node joined or became known.
    NodeJoined {
        /// Who.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A node was silent for too long.
    NodeLost {
        /// Who.
        node: NodeId,
    },
    /// A lost node was heard again, or a removed one turned out to be a member still.
    NodeBack {
        /// Who.
        node: NodeId,
    },
    /// A node is no member any more.
    NodeRemoved {
        /// Who.
        node: NodeId,
        /// Its name.
        name: String,
        /// Who removed it, or the one that admitted it.
        by: Option<NodeId>,
    },
}

impl What {
    /// The job it is about, if any.
    pub fn job(&self) -> Option<JobId> {
        match self {
            What::JobSubmitted { job, .. }
            | What::JobStopped { job }
            | What::TenderOpened { job, .. }
            | What::Bid { job, .. }
            | What::Declined { job, .. }
            | What::Awarded { job, .. }
            | What::Unplaced { job, .. } => Some(*job),
            What::Claimed { slot, .. }
            | What::Running { slot, .. }
            | What::Checked { slot, .. }
            | What::Restarting { slot, .. }
            | What::Ended { slot, .. }
            | What::ClaimedTwice { slot, .. } => Some(slot.job),
            What::NodeJoined { .. }
            | What::NodeLost { .. }
            | What::NodeBack { .. }
            | What::NodeRemoved { .. } => None,
        }
    }
}
