//! Registries, by the protocol of the OCI distribution specification.
//!
//! ```text
//! pull ─┬▶ manifest ─┐                 ┌─ challenge   (what a 401 wants)
//!       └▶ blob ─────┼▶ session ─▶ line ─▶ connect    (HTTP/1.1, TLS, addresses)
//! push ──▶ upload ───┘    └─ url, retry               (pure: where to, when again)
//! ```
//!
//! Spoken over hyper and rustls, which the agent has anyway, and not by `oci-client`, of
//! which version 0.18 was looked at. That one reads manifests and tokens of any length into
//! memory, follows redirects by the rules of its HTTP client, which know no addresses that
//! must not be gone to, asks the foreign addresses that a manifest names when the registry
//! lacks a layer (the flaw of CVE-2020-15157), and neither tries again nor waits when it is
//! told to. It brings 27 crates, among them an HTTP client, chrono and three kits of macros,
//! where three small ones are enough here. Of its own there would have been left the order of
//! its calls.
//!
//! Trusted are the authorities of the system, and files that people name. None are built in:
//! those would be as old as the agent, and nobody could take one away.
//!
//! Invariant: credentials go to the server they are for and to nobody else (see `session`),
//! every answer is bounded, and no byte of an image is kept that is not what a digest names.

mod blob;
mod challenge;
mod connect;
mod credential;
mod crew;
mod error;
mod line;
mod manifest;
mod options;
mod pack;
mod pull;
mod push;
mod refusal;
mod retry;
mod session;
mod token;
mod upload;
mod url;
mod watch;

pub use credential::{Credential, read_docker_config};
pub use error::RegistryError;
pub use options::{Patience, PullOptions, PushOptions, RegistryOptions, Speak};
pub use pull::pull;
pub use push::push;
pub use watch::SharedWatcher;
