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
//! Files: `wire` is what is said; `call` the agent's end; `errand` and `passage`
//! the supervisor's; `groups`, `copy` and `archive` the visitor's; `rows` only looks.
//!
//! Invariant: the connection's end is the visitor's end, and the task's end too.

mod archive;
mod call;
mod content;
mod copy;
mod errand;
mod groups;
mod passage;
mod rows;
mod wire;

pub use call::ExecError;
pub(crate) use call::open;
pub use copy::{COPIED_IN_PART, pack};
pub(crate) use errand::{Began, begin};
pub(crate) use passage::Passage;
pub(crate) use rows::{is_paused, processes};
pub(crate) use wire::{Deed, Errand};
