//! Limits, measures and kills tasks through control groups, of either version.
//!
//! ```text
//! Layout (probed once) ─▶ Tree `starling-TAG` ─▶ Slot ─▶ limit, usage, freeze, kill
//!   which hierarchies       one per runtime        one group in every
//!   exist, what is ours     directory              hierarchy that is needed
//! ```
//!
//! A machine may have one v2 hierarchy, a v1 hierarchy for each controller, or
//! both. Everything here chooses by [`Layout`]: it tracks, freezes and kills
//! through v2 where that is there at all, because only v2 can do so in one step,
//! and limits through whichever hierarchy owns the controller.
//!
//! A slot outlives the task in it: making groups costs more than starting a
//! process, so one waiting supervisor uses the same groups for its successive
//! tasks, and only the limits that differ are written again.
//!
//! Invariant: nothing outside the directory `starling-TAG` is ever killed, limited
//! or removed, but for such directories that nobody holds and nothing is in; and no
//! controller is switched on above it but those we need. What the machine cannot
//! enforce is said, never passed over: [`Layout::enforces`].

mod delegate;
mod deserted;
mod enforce;
mod group;
mod kill;
mod layout;
mod limits;
mod mounts;
mod rules;
mod settings;
mod slot;
mod tree;
mod usage;

#[cfg(test)]
mod trials;

use std::io;
use std::path::PathBuf;

pub use enforce::{Enforced, Enforcement};
pub use layout::{Controller, Layout, Legacy, Standing, Unified, Version};
pub use limits::{Device, IoLimit, LimitFlaw, Limits, processors};
pub(crate) use rules::try_program;
pub use rules::{Access, DeviceKind, DeviceRule};
pub use slot::{Joining, Measure, Slot};
pub use tree::{Swept, Tree};
pub use usage::Usage;

/// Why something could not be done to a group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The kernel refused a value.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What it was to hold.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// A file that should tell something does not.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A group could not be made.
    #[error("cannot make the group {}", path.display())]
    Make {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A group could not be opened.
    #[error("cannot open the group {}", path.display())]
    Open {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A group could not be removed.
    #[error("cannot remove the group {}", path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A slot of that name still holds processes.
    #[error("the group {} is not empty; kill what is in it first", path.display())]
    Occupied {
        /// Its directory.
        path: PathBuf,
    },
    /// Processes that we cannot move keep the base from passing its controllers on.
    #[error(
        "{} holds processes that cannot be moved to a leaf; run the agent as a service of its \
         own with Delegate=yes", path.display()
    )]
    Unsettled {
        /// The base.
        path: PathBuf,
    },
    /// There is no group to work with.
    #[error("there is no group of ours here; see Layout::enforces for the reason")]
    NoGroup,
    /// This machine has nothing to freeze a group with.
    #[error("neither a v2 group nor the v1 freezer is there to freeze {slot}")]
    NoFreezer {
        /// Which slot.
        slot: String,
    },
    /// A name that cannot be a directory of ours.
    #[error(
        "{given:?} cannot name a group: 1 to {} of A-Z a-z 0-9 . _ - and no leading dot",
        group::NAME_BYTES
    )]
    Name {
        /// What was given.
        given: String,
    },
    /// The limits contradict themselves.
    #[error("the limits are flawed")]
    Limits {
        /// Where.
        source: LimitFlaw,
    },
    /// v1 groups are not safe to hand to a task.
    #[error("{slot} has no v2 group; only those can be given to a task")]
    NotDelegable {
        /// Which slot.
        slot: String,
    },
    /// More device rules than fit in a program.
    #[error("{given} device rules are given; up to 256 may be")]
    Rules {
        /// How many.
        given: usize,
    },
    /// The kernel does not take a program that decides on devices.
    #[error(
        "cannot restrict the devices of {}: bpf(2) was refused; it needs CAP_BPF or \
         CAP_SYS_ADMIN on the host, or give the container a user namespace", path.display()
    )]
    Bpf {
        /// The group.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Neither version can restrict devices here.
    #[error("nothing here can restrict the devices of {slot}; give the container a user namespace")]
    NoDevices {
        /// Which slot.
        slot: String,
    },
}
