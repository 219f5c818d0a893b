//! How far a load, pull or save is, for whoever waits for it.

use serde::{Deserialize, Serialize};

/// What is being done with one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is read and unpacked.
    Working,
    /// It was here before.
    Known,
    /// It is unpacked and verified.
    Done,
    /// It is written out: a save or push.
    Sending,
}

/// A step of one layer, or of the whole where it has no layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What people know the layer by: short digits, or the name in its archive.
    pub layer: Option<String>,
    /// What is done with it.
    pub stage: Stage,
    /// Bytes so far, as they come in.
    pub bytes: u64,
    /// Bytes in all, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
}

/// Whoever wants to know how far it is. Called often, from any thread; must not wait.
/// Answers whether to go on: `false` ends the work, and nothing of it stays.
pub type Watcher<'a> = &'a (dyn Fn(Progress) -> bool + Send + Sync);
