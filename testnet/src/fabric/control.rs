//! What the switch can be told, and how to tell it: one datagram there, one back.
//!
//! Orders and answers are JSON in Unix datagrams: a torn or foreign one is
//! refused by itself and disturbs no other. Must never carry more than fits
//! into one datagram; long listings say how much they left out.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Fabric;
use super::link::{Change, Faults, Tally};

/// An order names every host of the largest fabric with room to spare.
pub const ORDER_BYTES_MAX: usize = 64 << 10;
/// Links one answer lists: at most some 300 bytes each, below the kernel's 208 KiB.
pub const LISTED_MAX: usize = 400;
/// The switch answers within a turn of its loop; after this long it is stuck or gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Directions from each of some hosts to each of others, never to itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directions {
    pub from: BTreeSet<String>,
    pub to: BTreeSet<String>,
}

impl Directions {
    /// From each of these to each of those.
    pub fn between<'a>(
        from: impl IntoIterator<Item = &'a str>,
        to: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self {
            from: from.into_iter().map(str::to_owned).collect(),
            to: to.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The way back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// How much a healing mends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Healing {
    /// Back to what the fabric began with.
    Everything,
    /// Cuts end; delay, loss and the like stay.
    Cuts,
}

/// What the switch can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    Set {
        on: Vec<Directions>,
        change: Change,
    },
    Heal {
        on: Vec<Directions>,
        healing: Healing,
    },
    /// Lists these links.
    Show {
        on: Vec<Directions>,
    },
    /// Lists the links that are not as they began, or that lost something.
    ShowTroubled,
}

/// One direction as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    pub from: String,
    pub to: String,
    pub faults: Faults,
    pub tally: Tally,
}

/// What the switch says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Changed { links: usize },
    Links { links: Vec<LinkRow>, left_out: usize },
    Refused { why: String },
}

/// Why the switch did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the switch at {} does not answer", socket.display())]
    Unanswered { socket: PathBuf, source: io::Error },
    #[error("the switch refused: {why}")]
    Refused { why: String },
    #[error("the switch's answer makes no sense: {answer}")]
    Senseless { answer: String },
}

/// Cuts, slows or otherwise changes directions; gives how many.
pub fn set(fabric: &Fabric, on: Vec<Directions>, change: Change) -> Result<usize, ControlError> {
    changed(ask(fabric, &Order::Set { on, change })?)
}

/// Mends directions; gives how many.
pub fn heal(fabric: &Fabric, on: Vec<Directions>, healing: Healing) -> Result<usize, ControlError> {
    changed(ask(fabric, &Order::Heal { on, healing })?)
}

/// Lists directions, and how many more there are.
pub fn show(fabric: &Fabric, on: Vec<Directions>) -> Result<(Vec<LinkRow>, usize), ControlError> {
    listed(ask(fabric, &Order::Show { on })?)
}

/// Lists the directions in trouble, and how many more there are.
pub fn show_troubled(fabric: &Fabric) -> Result<(Vec<LinkRow>, usize), ControlError> {
    listed(ask(fabric, &Order::ShowTroubled)?)
}

fn changed(answer: Answer) -> Result<usize, ControlError> {
    match answer {
        Answer::Changed { links } => Ok(links),
        other => Err(unexpected(other)),
    }
}

fn listed(answer: Answer) -> Result<(Vec<LinkRow>, usize), ControlError> {
    match answer {
        Answer::Links { links, left_out } => Ok((links, left_out)),
        other => Err(unexpected(other)),
    }
}

fn unexpected(answer: Answer) -> ControlError {
    match answer {
        Answer::Refused { why } => ControlError::Refused { why },
        other => ControlError::Senseless { answer: format!("{other:?}") },
    }
}

fn ask(fabric: &Fabric, order: &Order) -> Result<Answer, ControlError> {
    let socket = fabric.control_socket();
    let order = serde_json::to_vec(order).map_err(io::Error::from);
    let answer = order
        .and_then(|order| exchange(&fabric.dir, &socket, &order))
        .map_err(|source| ControlError::Unanswered { socket, source })?;
    serde_json::from_slice(&answer).map_err(|_not_json| ControlError::Senseless {
        answer: String::from_utf8_lossy(&answer).into_owned(),
    })
}

/// Sends one datagram and waits for the one that comes back.
fn exchange(dir: &Path, socket: &Path, order: &[u8]) -> io::Result<Vec<u8>> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let number = ASKED.fetch_add(1, Ordering::Relaxed);
    // A path rather than an abstract name: those end at the network namespace.
    let mine = ReplyPath(dir.join(format!("ask-{}-{number}", std::process::id())));
    let local = UnixDatagram::bind(&mine.0)?;
    local.set_read_timeout(Some(PATIENCE))?;
    local.set_write_timeout(Some(PATIENCE))?;
    local.send_to(order, socket)?;
    let mut answer = vec![0; 256 << 10];
    let length = local.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

struct ReplyPath(PathBuf);

impl Drop for ReplyPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
