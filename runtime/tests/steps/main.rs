//! Agent, keeper, supervisor and the process it makes are killed at every one of their
//! system calls between an order to launch and the end of a stop. Afterwards nothing may
//! be left that was not there before.
//!
//! A step is a system call, for between two of them a process changes nothing but
//! itself. The victim is stopped at one by ptrace(2) and killed there, so the product
//! has no hook for it, and no step can be forgotten.
//!
//! `cargo test` tries a few, others each time; `cargo test -p runtime --test steps --
//! --ignored --nocapture` all of them, or `STARLING_SAMPLE=100` of each role.

#[path = "../net/stage.rs"]
#[allow(dead_code, reason = "shared with the tests of the network")]
mod hosts;
#[path = "../containers/image.rs"]
#[allow(dead_code, reason = "shared with the tests of containers")]
mod image;
#[path = "../tasks/stage.rs"]
#[allow(dead_code, reason = "shared with the tests of plain tasks")]
mod stage;

mod census;
mod table;
mod tracer;
