//! Images: what a container's files and its way to be run come from.
//!
//! ```text
//! docker save, OCI layout ──load──┐                       ┌──▶ layers, lowest first ─▶ launch
//! registry ─────────────────pull──┼──▶ stage ──commit──▶ Images ──▶ config ─▶ argv, env, user
//! another machine ────────────────┘   (verified)          └──▶ save, push, another machine
//! ```
//!
//! An image is its config: the digest of that file names it and, through the digests of the
//! uncompressed layers in it, every byte of its files. How it came here, and how it was
//! compressed on the way, is no part of it. Layers are kept unpacked, once each, with what is
//! needed to write their archives again byte by byte; so nothing is on the disk twice.
//!
//! Invariant: nothing of an image is seen before all of it is here, verified and on the disk.
//! What an image says of itself is data and never policy: it says how its program is called
//! and never what that may do.

mod archive;
pub mod chunks;
mod config;
mod digest;
mod documents;
mod error;
mod progress;
mod reference;
mod registry;
mod save;
mod store;

pub use archive::{Changes, LoadOptions, Loaded, import, load, pack_layout};
pub use config::{HealthCheck, ImageConfig};
pub use digest::{BadDigest, Digest};
pub use documents::{
    ACCEPTED, CONFIG_BYTES, Descriptor, Document, INDEX_DEPTH, Index, LAYERS, MANIFEST_BYTES,
    Manifest, Packing, Platform,
};
pub use error::ImageError;
pub use progress::{Progress, Stage, Watcher};
pub use reference::{BadReference, Reference};
pub use registry::{
    Credential, Patience, PullOptions, PushOptions, RegistryError, RegistryOptions, SharedWatcher,
    Speak, pull, push, read_docker_config,
};
pub use save::save;
pub use store::{Held, ImageInfo, Images, LayerInfo, LayerReader, Origin, Removed, Staged};
