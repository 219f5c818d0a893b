//! One short file per command, and what they share: finding the fabric,
//! explaining its errors, and the report they all return.
//!
//! A command must never print: it returns a [`Report`], and the one printer
//! below shows it to people or to programs.

pub(crate) mod bench;
pub(crate) mod cut;
pub(crate) mod down;
pub(crate) mod escape;
pub(crate) mod exec;
pub(crate) mod heal;
pub(crate) mod isolate;
pub(crate) mod kill;
pub(crate) mod link;
pub(crate) mod ls;
pub(crate) mod oci_validate;
pub(crate) mod partition;
pub(crate) mod pause;
pub(crate) mod restart;
pub(crate) mod resume;
pub(crate) mod sim;
pub(crate) mod switch;
mod table;
pub(crate) mod up;
pub(crate) mod vm;

use std::path::Path;

use serde_json::Value;
use testnet::complaint::{Complaint, NOTHING_UP, USAGE, chain};
use testnet::fabric::control::{ControlError, Directions};
use testnet::fabric::{Fabric, FabricError, Ground, Host};

/// What a command has to say, for people and for programs.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
    json: Value,
    failed: bool,
}

impl Report {
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Self {
        let text = text.into();
        Self { text, json, failed: false }
    }

    /// The same, of something that went wrong.
    pub(crate) fn failed(self) -> Self {
        Self { failed: true, ..self }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn print(&self, json: bool) {
        use std::io::Write;
        let text = if json { format!("{:#}", self.json) } else { self.text.clone() };
        // Whoever reads may have stopped reading.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }
}

/// The fabric that is up.
fn open(dir: &Path) -> Result<Fabric, Complaint> {
    Fabric::open(dir).map_err(record_complaint)
}

/// The fabric that is up, if its links can be broken.
fn open_with_links(dir: &Path) -> Result<Fabric, Complaint> {
    let fabric = open(dir)?;
    if fabric.ground == Ground::Loopback {
        return Err(Complaint::new(
            "links cannot be broken on this fabric",
            "its hosts share the loopback interface, with no switch between them",
            "run `testnet up` as root without --loopback; pause, kill and restart work here too",
        ));
    }
    Ok(fabric)
}

fn host<'a>(fabric: &'a Fabric, given: &str) -> Result<&'a Host, Complaint> {
    fabric.host(given).map_err(record_complaint)
}

/// The names meant by a host, a number, or `*`.
fn names<'a>(fabric: &'a Fabric, given: &str) -> Result<Vec<&'a str>, Complaint> {
    if given == "*" {
        return Ok(fabric.hosts.iter().map(|host| host.name.as_str()).collect());
    }
    Ok(vec![host(fabric, given)?.name.as_str()])
}

/// One direction between two different hosts (or all), or both.
fn directions(fabric: &Fabric, a: &str, b: &str, way: Way) -> Result<Vec<Directions>, Complaint> {
    let (from, to) = (names(fabric, a)?, names(fabric, b)?);
    if from.len() == 1 && from == to {
        return Err(Complaint::new(
            format!("{} has no link to itself", from[0]),
            "a link joins two hosts",
            "name two hosts, or * for all",
        )
        .with_code(USAGE));
    }
    let there = Directions::between(from, to);
    Ok(match way {
        Way::There => vec![there],
        Way::Both => vec![there.reversed(), there],
    })
}

/// Which directions of a link are meant.
#[derive(Clone, Copy, Debug)]
enum Way {
    There,
    Both,
}

impl Way {
    fn from_flag(one_way: bool) -> Self {
        if one_way { Self::There } else { Self::Both }
    }

    fn arrow(self) -> &'static str {
        match self {
            Self::There => "->",
            Self::Both => "<->",
        }
    }
}

fn record_complaint(error: FabricError) -> Complaint {
    match &error {
        FabricError::NothingUp { dir } => Complaint::new(
            "nothing is up",
            format!("there is no fabric.json in {}", dir.display()),
            "start one with `testnet up 3`, or name its directory with --data",
        )
        .with_code(NOTHING_UP),
        FabricError::AlreadyUp { .. } => Complaint::caused(
            "another fabric is in the way",
            &error,
            "take it down with `testnet down`, or use another directory with --data",
        ),
        FabricError::NotOurs { .. } => Complaint::caused(
            "this directory cannot be used",
            &error,
            "name an empty or a new directory with --data",
        ),
        FabricError::PathTooLong { .. } => Complaint::caused(
            "this directory cannot be used",
            &error,
            "name a directory with a shorter path with --data",
        ),
        FabricError::HostCount { .. } => {
            Complaint::caused("cannot build such a fabric", &error, "try `testnet up 3`")
                .with_code(USAGE)
        }
        FabricError::NoSuchHost { .. } => {
            Complaint::caused("no such host", &error, "`testnet ls` lists the hosts")
                .with_code(USAGE)
        }
        FabricError::BadRecord { .. } | FabricError::Foreign { .. } => Complaint::caused(
            "the fabric's record cannot be read",
            &error,
            "remove the directory, then run `testnet down` to sweep up what it left",
        ),
        FabricError::Io { .. } => Complaint::caused(
            "the fabric's directory cannot be used",
            &error,
            "check its owner and mode, or name another with --data",
        ),
    }
}

fn control_complaint(error: ControlError) -> Complaint {
    Complaint::new(
        "the switch did not do it",
        chain(&error),
        "if the switch is gone, `testnet down` and `testnet up` make a new one",
    )
}
