//! What happens to the fetch of one layer, and how it may end.

use std::io;

use gossip_core::id::NodeId;
use runtime::image::ImageError;
use runtime::image::chunks::Chunk;
use starling_core::fetch::{self as plan, Came, Part, RequestId};

use crate::agent::fetch::news::News;

/// What happened.
#[derive(Debug)]
pub(in crate::agent::fetch) enum Event {
    /// More of the list, by whom.
    Listed(NodeId, Vec<Chunk>),
    /// The list is whole.
    ListEnds,
    /// A member's list is none.
    NoList(NodeId, String),
    /// It is none, or of another layer, if what is known of the list is true.
    Disagrees(NodeId, String),
    /// No holder speaks of chunks any more.
    Whole,
    News {
        node: NodeId,
        news: News,
    },
    Bytes {
        id: RequestId,
        bytes: u64,
    },
    Came {
        id: RequestId,
        chunk: u32,
        came: Came,
    },
    Ended {
        id: RequestId,
        node: NodeId,
        how: plan::Ended,
        rest: Option<(Part, Vec<u8>)>,
    },
    /// A chunk was found here.
    Local(u32),
    /// What was likeliest to have chunks was looked at.
    LookedAtLikely,
    Disk(io::Error),
}

/// Why a fetch came to nothing.
#[derive(Debug)]
pub(in crate::agent::fetch) enum Ended {
    There,
    Whole,
    /// What a member says of the layer's chunks is not what others said before.
    Disagrees(NodeId, String),
    Staged(ImageError),
}
