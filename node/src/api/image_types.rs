//! The API's requests and answers that are about images; as stable as those of `types`.
//!
//! `ImageInfo`, `Progress` and `Removed` are the store's own words, passed on.

use gossip_core::id::NodeId;
use gossip_core::moment::WallTime;
use runtime::image::{Digest, ImageInfo, LayerInfo, Origin, Progress, Reference, Removed};
use serde::{Deserialize, Serialize};
use starling_core::fetch::Fetching;
use starling_core::view::Freshness;

use super::types::Complaint;

/// One line of the answer to a load, import, pull, push or ensure (newline-delimited JSON). The
/// last one is `Done`, `Meant` or `Failed`; an answer that ends without either broke off.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum ImageItem {
    /// How far it is.
    Progress(Progress),
    /// All of it is done, and on the disk.
    Done {
        /// What came, or was sent.
        images: Vec<ImageInfo>,
        /// The node that has it.
        node: String,
        /// What is to be known before any of it is run there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// What a job's image is (`ensure` only).
    Meant {
        /// The digest of its config.
        id: Digest,
        /// Bytes of its uncompressed layers.
        bytes: u64,
        /// What whoever asked should know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notice: Option<String>,
    },
    /// Nothing of it stays.
    Failed {
        /// Why.
        error: Complaint,
    },
}

/// `GET /v1/local/fetches`: what is on its way to one node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fetches {
    /// In no order.
    pub(crate) items: Vec<Fetch>,
}

/// An image on its way to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fetch {
    /// The digest of its config, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Digest>,
    /// How far it is.
    #[serde(flatten)]
    pub(crate) fetching: Fetching,
}

/// `GET /v1/local/images`: what one node has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HeldImages {
    /// The newest first.
    pub(crate) items: Vec<ImageInfo>,
}

/// `GET /v1/local/images/{id}`: what one needs to know to fetch it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Documents {
    /// The config, byte by byte, base64: its digest is the image's id.
    pub(crate) config: String,
    /// The manifest that it came with, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<String>,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<LayerInfo>,
}

/// An image, wherever in the cluster it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageView {
    /// The digest of its config.
    pub(crate) id: Digest,
    /// What it is called on any node.
    pub(crate) names: Vec<Reference>,
    /// The digest of its manifest, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
    /// Bytes of its uncompressed layers.
    pub(crate) bytes: u64,
    /// Lowest first.
    pub(crate) layers: Vec<LayerInfo>,
    /// When it was made, as its config says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    /// `os/architecture[/variant]`.
    pub(crate) platform: String,
    /// When it last came to a node, in milliseconds since 1970 by that node's clock.
    pub(crate) came_ms: u64,
    /// Who has it.
    pub(crate) nodes: Vec<ImagePlace>,
}

/// A node that has an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImagePlace {
    /// Its key.
    pub(crate) node: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// How the image came there.
    pub(crate) origin: Origin,
    /// When it came there, in milliseconds since 1970.
    pub(crate) came_ms: u64,
    /// When a task last ran from it there, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) used_ms: Option<u64>,
    /// Whether a task runs from it there now.
    pub(crate) in_use: bool,
    /// Its layers that are damaged there: it starts no task there before they came again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) damaged: Vec<Digest>,
}

/// `GET /v1/images`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageList {
    /// The newest first.
    pub(crate) items: Vec<ImageView>,
    /// When, by the answering node's clock.
    pub(crate) as_of: WallTime,
    /// Who answered, and from how much of the cluster.
    pub(crate) view: Freshness,
    /// Members whose images are not known: name, and why.
    #[serde(default)]
    pub(crate) unheard: Vec<(String, String)>,
}

/// `GET /v1/images/inspect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageDetail {
    /// The image, and where it is.
    pub(crate) image: ImageView,
    /// Its config, as it is written.
    pub(crate) config: serde_json::Value,
    /// Members whose images are not known: name, and why.
    #[serde(default)]
    pub(crate) unheard: Vec<(String, String)>,
}

/// What a removal or a pruning came to, node by node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RemovedImages {
    /// Nodes that removed something.
    pub(crate) on: Vec<RemovedOn>,
    /// Nodes that did not do it: name, and why.
    pub(crate) failed: Vec<(String, String)>,
}

/// What one node removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RemovedOn {
    /// Its name.
    pub(crate) node: String,
    /// What.
    pub(crate) removed: Removed,
}
