//! An OCI runtime over our isolator: bundles in, the runtime's own launch requests out.
//!
//! ```text
//! create ─▶ read ─▶ translate ─▶ launch, held ─▶ hooks ─▶ record, leave     created
//! start  ─▶ hooks in it ─▶ let it go ─▶ hooks                               running
//! kill, state, delete: ask, tell, remove                                    stopped, gone
//! ```
//!
//! It is here so that the public validation suite can be pointed at the isolator
//! ([`suite`]). The words are those of the OCI runtime specification, 1.0 and 1.1:
//! <https://github.com/opencontainers/runtime-spec>. Each invocation is short; what lasts
//! is the keeper of its root directory, and the supervisors.
//!
//! Invariant: what a bundle asks for and we cannot do is refused with the field's name,
//! before anything was made. What the specification does not know is ignored, as it says.

pub mod cli;
mod config;
mod devices;
mod filter;
mod groups;
mod hooks;
mod life;
mod mounts;
mod refusal;
mod signals;
mod store;
pub mod suite;
mod syscalls;
mod translate;

pub use cli::main;
