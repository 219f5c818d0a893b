//! What goes into the core and what comes out of it.
//!
//! The agent turns the world into inputs and performs effects; the simulator
//! does the same with a world of its own. An effect that takes time is answered
//! by an input with the same ticket or id.

use gossip_core::advert::Advert;
use gossip_core::fact::{Entry, Grants, TaskEnd, Update};
use gossip_core::health::Health;
use gossip_core::id::{JobId, NodeId};
use gossip_core::log::LogId;
use gossip_core::market::Message;
use gossip_core::moment::{Moment, WallTime};
use gossip_core::resources::Resources;
use gossip_core::slot::Generation;
use gossip_core::spec::{JobSpec, TaskSpec};

use crate::event::What;
use crate::ledger::AllocationId;
use crate::stock::Stock;

/// This node's two clocks, read once a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub moment: Moment,
    /// For people.
    pub wall: WallTime,
}

/// Where random numbers come from: an argument, so that a seed repeats a run.
pub trait Dice {
    /// Sixty-four fresh random bits.
    fn roll(&mut self) -> u64;

    /// A number below `bound`, or 0 where there is none.
    fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }
}

/// Ties an effect to the input that answers it.
pub type Ticket = u64;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Verified records of any log, the own one included.
    Updates(Vec<(LogId, Update)>),
    /// An append is on this disk.
    Durable(Ticket),
    /// An append was not taken, and nothing of it was written.
    Refused {
        /// Which append.
        ticket: Ticket,
        /// Why.
        reason: String,
    },
    /// An append is on another member's disk.
    Persisted {
        /// Which append.
        ticket: Ticket,
        /// Whose disk.
        by: NodeId,
    },
    /// A node said what it has free.
    Advert(Advert),
    /// A node said anything.
    Heard(NodeId),
    /// A node said something about placing work.
    Market {
        /// Who.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// A user asked for something.
    Asked {
        /// Comes back in the reply.
        request: u64,
        /// What.
        ask: Ask,
    },
    /// A launch succeeded.
    Started(AllocationId),
    /// A task that runs was held still, or goes on.
    Held {
        /// Whose.
        id: AllocationId,
        /// Which of the two.
        paused: bool,
    },
    /// The checks of a task that runs came to something else.
    Checked {
        /// Whose.
        id: AllocationId,
        /// What.
        health: Health,
    },
    /// A task is gone, or never was.
    Ended {
        /// Whose.
        id: AllocationId,
        /// How.
        end: TaskEnd,
    },
    /// What this node has of images changed.
    Stock(Stock),
    /// Take no more work, and stop what runs: the node goes down with its tasks.
    Drain,
    /// The agent goes down for a while, its tasks go on.
    Away,
    /// Time passed.
    Tick,
}

/// What a user asks of the node that they reached.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Run this.
    Submit {
        /// Derived from who asks and their key.
        job: JobId,
        /// Checked.
        spec: Box<JobSpec>,
    },
    /// Stop it for good.
    Stop(JobId),
    /// Stop it and forget it.
    Remove(JobId),
    /// A node is no member any more.
    RemoveNode {
        /// Which.
        node: NodeId,
        /// What becomes of those that it admitted.
        grants: Grants,
    },
}

/// What became of an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is durable.
    Accepted {
        /// Which job.
        job: JobId,
        /// The other member that holds it; `None` where there is no other member.
        replicated: Option<NodeId>,
    },
    /// It is durable here only: no other member confirmed in time.
    NotReplicated {
        /// Which job.
        job: JobId,
    },
    /// The node was removed, which is durable.
    NodeRemoved {
        /// Which.
        node: NodeId,
        /// The other member that holds it; `None` where there is no other member.
        replicated: Option<NodeId>,
    },
    /// The node was removed, which is durable here only.
    RemovedHereOnly {
        /// Which.
        node: NodeId,
    },
    /// The node was not removed.
    NotRemoved {
        /// Why.
        reason: String,
    },
    /// This node was removed itself: nothing that it says counts for others.
    Outcast,
    /// Too many asks wait already.
    Busy,
    /// There is no such job.
    NoSuchJob {
        /// Which was asked for.
        job: JobId,
    },
    /// A live job of that namespace has the name already.
    NameTaken {
        /// Which job.
        job: JobId,
    },
    /// It was submitted before, and stopped or removed since: a job is over for good then.
    StoppedBefore {
        /// Which job.
        job: JobId,
    },
    /// The spec cannot be a job.
    BadSpec {
        /// Why.
        reason: String,
    },
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Journal these, then answer with `Durable`.
    Append {
        /// For the answer.
        ticket: Ticket,
        /// What.
        entries: Vec<Entry>,
    },
    /// Tell a node.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Tell everybody what is free.
    Publish {
        /// What nobody holds or claims.
        free: Resources,
        /// Everything.
        capacity: Resources,
        /// How many tasks run.
        running: u32,
        /// Whether calls are answered with bids.
        bidding: bool,
    },
    /// Start a task; answered with `Started` or `Ended`.
    Launch(Box<Launch>),
    /// Stop a task; answered with `Ended`.
    Stop {
        /// Whose.
        id: AllocationId,
        /// How long it may take after the stop signal.
        grace_ms: u64,
    },
    /// Answer a user.
    Reply {
        /// From the ask.
        request: u64,
        /// What.
        reply: Reply,
    },
    /// Tell whoever listens.
    Tell(What),
}

/// A task to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Whose.
    pub id: AllocationId,
    /// Of which spec.
    pub generation: Generation,
    /// How many copies the group wants, for the task's environment.
    pub count: u32,
    /// The job's name.
    pub job_name: String,
    /// How often it was started before under this claim.
    pub restarts: u32,
    /// What.
    pub task: TaskSpec,
}
