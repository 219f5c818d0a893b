//! The network of containers on one host.
//!
//! ```text
//! outside ── host's interface ──┬── star-TAG (bridge, 10.88.0.1/16)
//!                  table        │      │            │
//!               starling-TAG ───┘    vTAG-2       vTAG-3
//!             (publish, masquerade)    │            │
//!                                    eth0         eth0     in network namespaces
//!                                  10.88.0.2    10.88.0.3  of the containers
//! ```
//!
//! Three modes. *host*: the task keeps the host's network; nothing to do here.
//! *none*: a namespace with only its loopback, started by the task's own child
//! ([`raise_loopback`]). *bridge*: [`Bridge`], run by the agent, which is handed the
//! namespace once the container's first process has it.
//!
//! What is published is held by the task's supervisor ([`Ports`]), and rules that
//! somebody flushes are put back ([`Bridge::repair`]).
//!
//! Links and rules are spoken over netlink with the codecs of the rust-netlink
//! project (MIT, the same that libp2p brings along), on blocking sockets: each
//! answer is there when the call returns, so an async stack would add only tasks.
//! Its nf_tables codec lacks four expressions, which `expression` writes out. Not
//! taken: `nftables`, which runs the `nft` program that many hosts lack; `nftnl`,
//! which links two C libraries; `rustables`, which is GPL; `netlink-bindings`, which
//! is complete and generated, but one person's, and 20,000 lines for our thirty.
//!
//! Where the host has IPv6, containers have it too: local addresses (RFC 4193) of a range
//! that is this machine's own, which leave it behind the host's address, as those of IPv4
//! do. A host that passes packets on is a router, and a Linux router no longer takes its
//! own address from its neighbours: so interfaces that did are told to go on.
//!
//! Invariants: nothing outside what carries the tag is changed, except the host's
//! forwarding switches, what keeps its own IPv6 as it is beside them, and idle networks of
//! agents whose directory is gone; nothing is left of a task that was detached or swept;
//! the network of the host itself is never configured.

mod addresses;
mod bridge;
mod executor;
mod expression;
mod facts;
mod files;
mod flows;
mod home;
mod loopback;
mod nft;
mod plan;
mod publish;
mod route;
mod watch;
mod wire;

pub use addresses::{BadSubnet, Mac, Subnet};
pub use bridge::{Attached, Bridge, BridgeConfig, BridgeError, Closed};
pub use executor::StepError;
pub use facts::{NetworkFacts, NoBridge};
pub use files::{RESOLV_CONF, UPSTREAM_RESOLV_CONF, chosen, hosts, resolv_conf, with_hosts};
pub(crate) use loopback::raise_loopback;
pub use plan::{BadTag, PlanError};
pub use publish::{Ports, PublishError};
pub(crate) use watch::RuleWatch;
pub use wire::WireError;
