//! What the plan of a fetch is told, and what it says is to be done.

use gossip_core::id::NodeId;

/// What a source says that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Has {
    /// The whole layer.
    Whole,
    /// It is fetching it too; by chunk, those beyond the end are not there.
    Some(Vec<bool>),
}

/// Names a request while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A chunk that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place in the list.
    pub chunk: u32,
    /// How many of its bytes came before the last request broke, and are not asked again.
    pub skip: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a source for chunks, on one stream and in this order.
    Ask {
        /// The request.
        id: RequestId,
        /// Whom.
        to: NodeId,
        /// For what.
        parts: Vec<Part>,
    },
    /// End a request; nothing of it is to be told any more.
    CallOff(RequestId),
}

/// How a request ended that was not called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was sent.
    Done,
    /// It broke, with so many bytes here of the chunk that was coming, those skipped included.
    Broke {
        /// Of the first chunk of the request that did not come.
        prefix: u32,
    },
    /// The source says that it does not have it.
    Refused,
}

/// What a chunk that came was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// What it should be.
    Good,
    /// Something else.
    Bad,
}
