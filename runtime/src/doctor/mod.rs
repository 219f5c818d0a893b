//! What this machine can and cannot enforce, each with its fix.
//!
//! ```text
//! Trials ─┐
//! Facts ──┤
//! Layout ─┼─▶ Host ─▶ diagnose ─▶ findings: ok, warn or fail, a sentence, a fix
//! Ground ─┤
//! …      ─┘
//! ```
//!
//! `probe` and `trials` look, everything else is a pure function of what they saw, so
//! that machines we do not have are diagnosed in tests. What can be tried is tried,
//! in a forked child whose namespaces take every trace along: a version or a switch
//! says what should work, not what does.
//!
//! Failed means that a kind of work cannot be done here at all; a warning, that it is
//! done with less than is usual. A fix is something to type.
//!
//! Must never: change the machine, or need an agent.

mod containers;
mod host;
mod limits;
mod network;
mod probe;
mod processes;
mod room;
mod service;
mod storage;
mod trials;

#[cfg(test)]
mod tests;

use serde::Serialize;

pub use host::{Bridging, Ground, Host, Room, Storage, Switches, Unit};
pub use limits::limits;
pub use processes::processes;
pub use trials::{Trial, Trials};

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works with less than is usual.
    Warn,
    /// Some work cannot be done here.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or three; the same on every machine.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// A sentence.
    pub what: String,
    /// What to type, and behind three spaces what to know about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// Nothing to do.
    pub fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, state: State::Ok, what: what.into(), fix: None }
    }

    /// Works with less.
    pub fn warn(name: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warn, what: what.into(), fix: Some(fix.into()) }
    }

    /// Does not work.
    pub fn fail(name: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Fail, what: what.into(), fix: Some(fix.into()) }
    }
}

/// The worst of these; ok if there are none.
pub fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
}

/// Everything that is to be said of this machine, in the order of reading: what runs,
/// what limits it, where it lies, what is around it.
pub fn diagnose(host: &Host) -> Vec<Finding> {
    let mut found = containers::findings(host);
    let programs = &host.trials.device_programs;
    found.extend(limits::judge(&host.layout, &host.ground, programs));
    found.extend(network::findings(host));
    found.extend(room::findings(host));
    found.extend(storage::findings(host));
    found.extend(service::findings(host));
    found
}
