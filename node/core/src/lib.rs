//! What a Starling node decides, as pure machines.
//!
//!     submit ─▶ driver ─call─▶ bidder (hold) ─bid─▶ tender ─award─▶ claim ─▶ launch ─▶ outcome
//!
//! `Core` composes the parts and is all that the agent (or the simulator)
//! steps: `handle(now, dice, input, out)`. Effects are plain values; whoever
//! performs them reports back with another input.
//!
//! *Invariant:* no clock, no randomness of its own, no I/O, no async.

pub mod allocation;
pub mod bidder;
pub mod core;
pub mod driver;
pub mod effect;
pub mod event;
pub mod fetch;
pub mod health;
pub mod ledger;
pub mod liveness;
pub mod stock;
pub mod tender;
pub mod view;

pub use crate::core::Core;
