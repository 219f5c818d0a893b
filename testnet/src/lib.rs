//! Proof for Starling: real agents on a network that can be broken at will.
//!
//! Ring two is the [`sim`]ulator, which steps the pure cores in virtual time; ring
//! three is real processes on a real network.
//! What needs a kernel of its own runs in a [`vm`].
//!
//! The library part is what both the `testnet` command and tests use: the
//! [`fabric`] (hosts in network namespaces, joined by a userspace switch whose
//! every directed link can be cut, slowed or made lossy) and the processes of
//! its hosts. Must never reach into an agent other than through the shipped
//! binary, its socket and its signals.

pub mod complaint;
pub mod escape;
pub mod fabric;
pub mod oci;
pub mod program;
pub mod sim;
pub mod sys;
pub mod vm;
