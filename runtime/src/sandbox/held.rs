//! A task that waits right before its program, as its supervisor holds it.
//!
//! ```text
//! process  all but the last steps ─▶ "held" ─▶ waits ───────▶ last steps ─▶ exec
//! supervisor                          └▶ obeys ─▶ release ─▶ go ┘             └▶ runs, or why not
//! ```
//!
//! What it waits on is the socket over which it reports anyway: the end of its
//! supervisor is the end of it. Nothing of an ordinary start passes through here.

use std::os::fd::OwnedFd;

use super::NotStarted;
use super::report::{self, Heard, Outcome};
use crate::launch::Hold;
use crate::plan::Plan;

/// The hold on it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(super) socket: OwnedFd,
    pub(super) plan: Plan,
}

impl Held {
    /// Lets it go on; returns when its program runs or when it is held anew. After a
    /// failure the process ends by itself.
    pub(crate) fn release(&self) -> Result<Hold, NotStarted> {
        let gone = |error| NotStarted::system("cannot let it go on", error);
        report::send_go(&self.socket).map_err(gone)?;
        match report::receive(&self.socket).map_err(gone)? {
            Heard { outcome: Outcome::Runs, .. } => Ok(Hold::Released),
            Heard { outcome: Outcome::Held, .. } => Ok(Hold::Held),
            Heard { outcome: Outcome::Failed(at, failure), .. } => {
                Err(report::in_words(&self.plan, at, &failure))
            }
        }
    }
}
