//! What this machine does: starts, isolates, watches, logs and ends processes and
//! containers.
//!
//! ```text
//!                keeper ──forks a few that wait──▶ supervisor ──clone──▶ task
//!              (one, small,                        ▲ (one per task)        │
//!               no threads)                        │   ◀── pipes, exit ────┘
//! agent ──launch, over keeper-3.sock───────────────┘
//!   ▲ ◀──started, ended───────────────────────────┘│
//!   └── when it was away: files of the task directory
//! ```
//!
//! The agent is never a parent of tasks, so it may crash, restart or be upgraded
//! and no task notices. Everything that must outlive it lies in the task's
//! directory: what was asked, who runs it and how it ended (`state`, see `record`) and
//! its output (`log.N`). A restarted agent reads these and goes on. They outlive the
//! agent, not the host: what must is in its user's own journal.
//!
//! [`keeper_main`] is the keeper; `supervisor` and `sandbox` are its forks; `plan` is pure
//! and says step by step what `sandbox` does; all the rest is the agent's.
//!
//! Invariant: this crate knows nothing of clusters, jobs or nodes. It is told
//! what to run and says what became of it.

#[macro_use]
mod complaint;

mod adopt;
mod alone;
mod apart;
mod attach;
mod call;
mod capability;
pub mod cgroup;
mod container;
mod control;
pub mod doctor;
mod exact;
mod frame;
mod ids;
pub mod image;
mod inside;
mod keeper;
mod landlock;
mod launch;
mod leftovers;
mod loans;
mod log;
mod mend;
mod names;
pub mod net;
mod order;
mod plan;
mod proc;
mod record;
mod refusal;
mod removal;
mod sandbox;
mod seccomp;
mod session;
mod shipped;
mod spare;
mod supervisor;
mod sys;
mod underway;
pub mod unpack;
mod usage;
mod volume;
mod watch;

pub use adopt::OpenError;
pub use apart::move_apart;
pub use attach::Attached;
pub use call::KeeperError;
pub use capability::{Capability, CapabilitySet, UnknownCapability};
pub use cgroup::{Limits, Usage};
pub use container::{
    Access, Changes, Clocks, Container, Device, IDS, Ids, Init, Mount, Network, Protocol, Publish,
    Root, SHM_BYTES, Seccomp, SystemPaths,
};
pub use control::{Config, Opened, Runtime};
pub use exact::{
    Depth, Exact, FirstHold, Mounted, NamespaceKind, Node, NodeKind, PlainMount, PlainUser, Powers,
    Privileges, Propagation, Share,
};
pub use inside::{COPIED_IN_PART, ExecError, pack, pack_plain};
pub use keeper::{keeper_main, keeper_main_looking_every};
pub use launch::{
    BadTaskId, End, Event, Found, FoundState, Hold, Launch, LaunchFlaw, Place, Process, Rlimit,
    Start, StartFault, Streams, TaskId, User,
};
pub use log::{LogError, LogLimits, LogReader, LogRecord, LogRequest, LogStream};
pub use names::Names;
pub use order::{LOCK as KEEPER_LOCK, Recipient};
pub use plan::{
    Cover, ExactStep, Facts, IdMap, IdRange, Kernel, MapWriter, Namespaces, Owners, Plan, PlanFlaw,
    Problem, Source, Special, Step, Tree, plan, vet,
};
pub use record::RecordError;
pub use refusal::{ControlError, LaunchError, RemoveError};
pub use session::{
    Exec, Piece, ProcessRow, Session, SessionInput, SessionOutput, SessionOver, Typed,
};
