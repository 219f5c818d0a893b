//! What a Starling cluster knows, as pure types and machines.
//!
//! Ids, resources, job specs, grants, adverts, intent, facts, signed logs and
//! the words peers say to each other. Everything here is a function of its
//! arguments: the same bytes give the same answer on every node, which is what
//! lets replicas that exchanged everything be equal.
//!
//! *Invariant:* no clock, no randomness, no I/O, no async, no iteration order
//! of a hash map. Time and random numbers come in as arguments.

pub mod advert;
pub mod codec;
pub mod container;
pub mod fact;
pub mod grant;
pub mod health;
pub mod id;
pub mod intent;
pub mod invite;
pub mod limits;
pub mod log;
pub mod market;
pub mod moment;
pub mod names;
pub mod removal;
pub mod rendezvous;
pub mod resources;
pub mod restart;
pub mod sign;
mod signal;
pub mod slot;
pub mod spec;
pub mod state;
pub mod wire;
