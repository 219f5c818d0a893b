//! Sessions with something inside a running task: another program, an archive of
//! its files in either direction, and a look at its processes.
//!
//! ```text
//! agent ──Order::Enter──▶ a waiting supervisor ──fork, setns, fork──▶ visitor
//!       ◀─── Word… ────── (passage: poll, bounded) ◀──── pipes ─────── inside
//!       ──── Typed… ───▶
//! ```
//!
//! The agent never enters a task: a waiting supervisor forks a process that does,
//! with nothing of the host's open in it. That one has the task's namespaces,
//! groups, user, powers and filters, so it can do what the task can, and no more.
//!
//! Files: `wire` is what is said; `call` the agent's end; `errand`, `passage` and `rest`
//! the supervisor's; `groups`, `copy` and `archive` the visitor's; `rows` only looks.
//!
//! A supervisor that is told of a visitor kills what is in its task's groups at the
//! task's end, and leaves: no other task ever has groups that somebody may still enter.
//!
//! Invariant: the connection's end is the visitor's end, and the task's end too.

mod archive;
mod call;
mod content;
mod copy;
mod errand;
mod groups;
mod passage;
mod rest;
mod rows;
mod wire;

pub(crate) use archive::{Writer, timeless};
pub use call::ExecError;
pub(crate) use call::open;
pub use copy::{COPIED_IN_PART, pack, pack_plain};
pub(crate) use errand::{Began, begin};
pub(crate) use passage::Passage;
pub(crate) use rest::kill;
pub(crate) use rows::{is_paused, processes};
pub(crate) use wire::{Deed, Errand};
