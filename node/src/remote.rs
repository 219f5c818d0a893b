//! The door for operators: HTTP on QUIC streams, from anywhere.
//!
//!     client ── TLS 1.3, both sides by their bare Ed25519 keys ──▶ agent
//!            ── first stream: Hello with the operator's grant ──▶
//!            ◀─ Welcome with the member's own, or «not authorised» ──
//!            ── every further stream: one HTTP connection ──▶ the /v1 router
//!
//! There is no certificate authority: a key is a name, and grants say what a
//! name may do. Nothing but the first exchange is spoken with a key whose grant
//! does not hold, in either direction.
//!
//! Operators administer the cluster: they use every route that local users do.
//! That includes inviting, members as well as operators, so in this version an
//! operator's grant is worth no less than a member's, and is given as sparingly.

pub(crate) mod client;
mod hello;
pub(crate) mod login;
pub(crate) mod server;
mod tls;

/// The UDP port that operators use where none is said.
pub(crate) const PORT: u16 = 7828;
