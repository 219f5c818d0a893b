//! The escapes and isolator bugs of the last years, each tried on a container.
//!
//! A row sets a stage, runs a payload in a container and names what should not
//! have happened; beside it the canaries are looked at (see [`canary`]). Every
//! row can also be played in an old runc: [`FAILS_ON_RUNC`] lists those that must
//! fail there, which is the proof that they can.
//!
//! Must never judge by what an isolator says of itself.

mod bare;
pub mod canary;
pub mod cell;
pub mod golden;
pub mod ground;
mod rows;
mod tar;

use std::io;

use serde::Serialize;

pub use self::ground::{Ground, Which};
pub use self::rows::ROWS;

/// One way out, and who is to try it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number; letters for parts.
    pub id: &'static str,
    /// What is tried.
    pub name: &'static str,
    /// Where it applies.
    pub scope: Scope,
    /// What should not have happened, and did.
    play: fn(&mut Ground) -> io::Result<Vec<String>>,
}

/// Where a row applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To every isolator.
    All,
    /// To ours; runc has nothing of the kind.
    Ours,
    /// As above, and it takes more than a few seconds.
    OursSlowly,
    /// To none, for this reason.
    Nobody(&'static str),
}

/// What came of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing got out.
    Held,
    /// This did.
    Broken(Vec<String>),
    /// There is nothing to try.
    NotApplicable(&'static str),
}

/// Rows that Debian's runc 1.1.5, as `runc spec` has it run for root, cannot hold, and why.
pub const FAILS_ON_RUNC: [(&str, &str); 7] = [
    ("E7", "it follows the link, and makes its terminals and links in the host's directory"),
    ("E8", "no filter and no user namespace: a new one may mount cgroups of the host's root"),
    ("E9", "the specs of its time gave inheritable and ambient capabilities"),
    ("E11", "no filter: keys can be made, in a keyring shared by all of root's sessions"),
    ("E14", "no filter: user namespaces can be made"),
    ("E15", "its default spec has no filter"),
    ("E16", "no filter: vsock leads to the hypervisor"),
];

impl Row {
    /// Plays it.
    pub fn play(&self, ground: &mut Ground) -> Verdict {
        match self.scope {
            Scope::Nobody(why) => return Verdict::NotApplicable(why),
            Scope::Ours | Scope::OursSlowly if !ground.is_ours() => {
                return Verdict::NotApplicable("runc has nothing of the kind");
            }
            _ => {}
        }
        if let Some(why) = ground.why_nothing_runs() {
            return Verdict::Broken(vec![why]);
        }
        let before = ground.look();
        let mut broken = (self.play)(ground)
            .unwrap_or_else(|error| vec![format!("could not be played: {error}")]);
        broken.extend(ground.changes(&before));
        if broken.is_empty() { Verdict::Held } else { Verdict::Broken(broken) }
    }

    /// Whether runc must fail it.
    pub fn must_fail_on_runc(&self) -> bool {
        FAILS_ON_RUNC.iter().any(|(id, _)| *id == self.id)
    }
}
