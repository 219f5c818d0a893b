//! The API's words about members and invitations, shared by server and client.
//!
//! Stable under `/v1`, as `types`. No secret of an invitation is ever in one of
//! these but in the answer to whoever made it.

use gossip_core::fact::Grants;
use gossip_core::grant::Role;
use gossip_core::id::NodeId;
use gossip_core::moment::WallTime;
use serde::{Deserialize, Serialize};
use starling_core::view::NodeView;

use super::types::Durable;

/// `GET /v1/nodes/{node}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeDetail {
    /// What lists say of it.
    #[serde(flatten)]
    pub(crate) view: NodeView,
    /// Who admitted whom, from the founder down to it.
    pub(crate) chain: Vec<NodeName>,
    /// Whether it trusts jobs with itself.
    pub(crate) trusts_jobs: bool,
    /// Its end of the connection to the node that answers, as a multiaddr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connected_at: Option<String>,
    /// Microseconds until it took a stream, asked just now; `None` if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered_us: Option<u64>,
    /// What ended its membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) removed: Option<RemovedBy>,
}

/// A node, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeName {
    /// Its key.
    pub(crate) id: NodeId,
    /// Its name, or its key's first digits.
    pub(crate) name: String,
}

/// What ended a membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RemovedBy {
    /// Who was removed: the node itself, or one through whom it was admitted.
    pub(crate) whom: NodeName,
    /// By whom.
    pub(crate) by: NodeName,
    /// When, by that one's clock.
    pub(crate) at: WallTime,
}

/// The query of `DELETE /v1/nodes/{node}`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct RemovalQuery {
    /// What becomes of those whom it admitted; has to be said where there are some.
    pub(crate) grants: Option<Grants>,
    /// Although tasks run there.
    #[serde(default)]
    pub(crate) force: bool,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RemovedNode {
    /// Which.
    pub(crate) node: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// How safe that is.
    pub(crate) durable: Durable,
    /// The names of the members that have it on disk, as far as known.
    pub(crate) on: Vec<String>,
    /// What whoever asked should know, each in a sentence.
    pub(crate) notices: Vec<String>,
}

/// One of `GET /v1/invitations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvitationView {
    /// Its name; its secret is known to whoever holds the token only.
    pub(crate) id: NodeId,
    /// `open`, `used up`, `expired`, `revoked`, or `void` where its issuer was removed.
    pub(crate) state: String,
    /// Who made it; `None` where that is not known here.
    pub(crate) issuer: Option<NodeName>,
    /// What the invited become.
    pub(crate) role: Option<Role>,
    /// How many may join with it.
    pub(crate) uses: Option<u32>,
    /// How many did.
    pub(crate) used: u32,
    /// When it ends, by the clock of the member asked.
    pub(crate) expires: Option<WallTime>,
    /// Who took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked_by: Option<NodeName>,
}

/// The answer to `DELETE /v1/invitations/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RevokedInvitation {
    /// Which.
    pub(crate) id: NodeId,
    /// How many had joined with it; they stay.
    pub(crate) used: u32,
}
