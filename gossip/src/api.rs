//! The words between this crate and the agent: what it may ask, what it hears.

use gossip_core::advert::Advert;
use gossip_core::fact::Update;
use gossip_core::id::NodeId;
use gossip_core::invite::Invitation;
use gossip_core::log::LogId;
use gossip_core::market;
use gossip_core::resources::Resources;

use crate::stream::PeerStream;

pub use gossip_core::fact::Entry;

/// What a node has free right now; the rest of its advert is filled in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Say {
    /// What nobody holds or claims.
    pub free: Resources,
    /// Everything it offers.
    pub capacity: Resources,
    /// How many tasks run.
    pub running: u32,
    /// Whether it answers calls with bids at all.
    pub bidding: bool,
}

/// What the agent is told.
#[derive(Debug)]
pub enum Event {
    /// Verified and on this disk; each log's in its own order.
    Updates(Vec<(LogId, Update)>),
    /// The append with this ticket is on this disk; its updates came before.
    Durable {
        /// Which.
        ticket: u64,
    },
    /// An entry of the append with this ticket did not hold: nothing of it was written.
    Refused {
        /// Which.
        ticket: u64,
        /// Which entry, and why.
        reason: String,
    },
    /// The append with this ticket is on another member's disk too.
    Persisted {
        /// Which.
        ticket: u64,
        /// On whose.
        by: NodeId,
    },
    /// The newest of its node, signed by it.
    Advert(Advert),
    /// A peer, or this node itself, said something about placing work.
    Market {
        /// Who.
        from: NodeId,
        /// What.
        message: market::Message,
    },
    /// A frame came from that member; a few times a second at most.
    Heard(NodeId),
    /// Connected now.
    PeerUp(NodeId),
    /// Not connected any more.
    PeerDown(NodeId),
    /// A member opened a stream to this node's HTTP API.
    Stream {
        /// Who.
        from: NodeId,
        /// The stream.
        stream: PeerStream,
    },
    /// Something of a peer did not hold and was dropped; all else works on.
    Rejected {
        /// Who wrote it, or handed it on where nobody can be proven to have written it.
        author: NodeId,
        /// Why.
        reason: String,
    },
    /// Nothing is acknowledged or stored any more; the agent must end, its tasks need not.
    Failed(Failure),
}

/// Why nothing can be stored any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The journal could not be written: what the disk holds now is not known.
    #[error(
        "the journal cannot be written ({reason}); free some room or replace the disk, \
             then start the agent again"
    )]
    Journal {
        /// As the system said it.
        reason: String,
    },
    /// The journal's writer ended by itself.
    #[error("the journal's writer ended unexpectedly; start the agent again")]
    Writer,
}

/// How a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// Noise and yamux over TCP.
    Tcp,
}

/// A member that is connected now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// The other end, as a multiaddr.
    pub address: String,
    /// Over what.
    pub transport: Transport,
}

/// The queue is full, or gossip has ended: nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gossip is busy; try again")]
pub struct Busy;

/// Why no stream to a peer could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStreamError {
    /// There is no connection to it.
    #[error("node {} is not connected", .0.short())]
    NotConnected(NodeId),
    /// It did not take the stream.
    #[error("node {} does not take the stream", node.short())]
    Refused {
        /// Who.
        node: NodeId,
        /// Why.
        source: std::io::Error,
    },
}

/// An invitation, as far as known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    /// Its name: the public half of its secret.
    pub id: NodeId,
    /// What its issuer signed; `None` where only its use or its end is known here.
    pub invitation: Option<Invitation>,
    /// Who came in by it, the least first.
    pub redeemed: Vec<NodeId>,
    /// Which member took it back.
    pub revoked: Option<NodeId>,
    /// Whether its issuer is no member any more, and so admits nobody.
    pub is_void: bool,
}

/// Why no invitation was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// It would admit nobody.
    #[error("an invitation is for at least one use")]
    NoUses,
    /// The chain of grants cannot grow.
    #[error("this node is too far from the founder to admit others; invite from another node")]
    TooDeep,
    /// This node was removed, so nobody would let its guests in.
    #[error("this node is no member of its cluster any more")]
    Removed,
    /// It cannot be written down, and so cannot be taken back.
    #[error("the invitation cannot be written to this node's log")]
    NotWritten,
    /// Gossip has ended.
    #[error("gossip has ended")]
    Ended,
}
