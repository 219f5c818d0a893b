//! One layer from members: in chunks (`agent::fetch`), or, of members that do not speak of
//! these, as a whole, where what one began, another may go on with at the same byte.
//!
//! ```text
//! member ──bytes──▶ pipe ──▶ stage (a thread: sums up, unpacks)
//!    └── breaks off ──▶ the next member, from where this one was
//! ```
//!
//! All of them send the same archive, because its digest names it. Whoever sends another is
//! found out at its end, and not asked again.

use std::time::Duration;

use gossip_core::id::NodeId;
use http_body_util::BodyExt as _;
use hyper::Method;
use runtime::image::{Digest, ImageError, Staged};
use runtime::unpack::Bounds;

use super::fetch::{Holder, Tried};
use super::meter::{Giver, Meter};
use super::pipe::{Inlet, pipe};
use crate::agent::fetch::{self, Brought, Fault, Kin, Order};
use crate::agent::{Doors, chain};
use crate::api::peer::{self, PeerError};

/// How often in a row a stream may break without a byte having come on it.
const BREAKS_MAX: u32 = 4;

/// Before the second of those; it doubles.
const BREAK_PAUSE: Duration = Duration::from_millis(200);

/// How often a whole layer is begun, each time without those who sent something else.
const TRIES_MAX: u32 = 3;

/// How often it is looked whether a member that sends nothing is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a member may send nothing: the slowest disk and link there are, and far less
/// than anybody waits for.
const STALL_FOR: Duration = Duration::from_secs(20);

/// Why a layer, or all of an image, did not come.
#[derive(Debug)]
pub(super) enum Stuck {
    /// No member gave it: others may, or the same ones later.
    There,
    /// This node cannot keep it, whoever sends it.
    Here(ImageError),
}

/// By what means the layers of an image are brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) doors: &'a Doors,
    /// Own layers that may be like them.
    pub(super) kin: &'a Kin,
    pub(super) meter: &'a Meter,
}

/// Unpacks a layer that members have: in chunks, or as a whole where they do not speak of
/// chunks. Takes those who lied off the list.
pub(super) async fn bring(
    way: Way<'_>,
    diff_id: &Digest,
    holders: &mut Vec<Holder>,
    tried: &mut Tried,
) -> Result<Brought, Stuck> {
    let nodes: Vec<NodeId> = holders.iter().map(|holder| holder.node).collect();
    let Way { doors, kin, meter } = way;
    let order = Order { doors, layer: *diff_id, holders: &nodes, kin, meter };
    let mut liars = Vec::new();
    let mut note = |node: NodeId, what: String| liars.push((node, what));
    let brought = fetch::bring(order, &mut note).await;
    for (liar, what) in liars {
        let holder = holders.iter().find(|holder| holder.node == liar);
        let from = holder.map_or_else(|| liar.short(), |holder| holder.name.clone());
        tracing::warn!(from, layer = %diff_id, what, "a member sent something else than the layer");
        tried.note(&from, what);
        holders.retain(|holder| holder.node != liar);
        doors.tasks.spawn(doubt(doors.clone(), *diff_id, liar));
    }
    let brought = match brought {
        Ok(brought) => Ok(brought),
        Err(Fault::There) => Err(Stuck::There),
        Err(Fault::Here(error)) => Err(Stuck::Here(error)),
        Err(Fault::Whole) => {
            let staged = as_a_whole(way, diff_id, holders, tried).await?;
            Ok(Brought { staged, rest: None })
        }
    }?;
    meter.came(diff_id, brought.staged.bytes());
    Ok(brought)
}

/// Tells a member that it sent something wrong: its disk may have changed the layer.
async fn doubt(doors: Doors, layer: Digest, node: NodeId) {
    let path = format!("/v1/local/layers/{layer}/doubt");
    tokio::select! {
        told = peer::ask(&doors, node, Method::POST, &path) => {
            if let Err(error) = told {
                tracing::debug!(%layer, %error, "a member was not told of a wrong chunk");
            }
        }
        () = doors.stop.cancelled() => {}
    }
}

async fn as_a_whole(
    way: Way<'_>,
    diff_id: &Digest,
    holders: &mut Vec<Holder>,
    tried: &mut Tried,
) -> Result<Staged, Stuck> {
    for _ in 0..TRIES_MAX {
        let mut senders = Vec::new();
        let staged = attempt(way, diff_id, holders, &mut senders, tried).await;
        let error = match staged {
            Ok(staged) => return Ok(staged),
            Err(error) => error,
        };
        match error {
            // The stream ended early: what was noted says why.
            ImageError::Read { .. } => return Err(Stuck::There),
            ImageError::Mismatch { .. }
            | ImageError::Layer { .. }
            | ImageError::Document { .. } => {
                for sender in &senders {
                    tried.note(&sender.name, chain(&error));
                }
                holders.retain(|holder| !senders.contains(holder));
            }
            other => return Err(Stuck::Here(other)),
        }
        if holders.is_empty() {
            break;
        }
    }
    Err(Stuck::There)
}

async fn attempt(
    way: Way<'_>,
    diff_id: &Digest,
    holders: &[Holder],
    senders: &mut Vec<Holder>,
    tried: &mut Tried,
) -> Result<Staged, ImageError> {
    let (inlet, mut outlet) = pipe();
    let Way { doors, meter, .. } = way;
    let (images, id, told) = (doors.runtime.images().clone(), *diff_id, meter.clone());
    // If this is called off, the inlet goes, and with it whoever reads.
    let mut staging = doors.tasks.spawn_blocking(move || {
        let tell = |progress| {
            told.tell(progress);
            true
        };
        images.stage(&mut outlet, &id.short(), Some(&id), &Bounds::default(), &tell)
    });
    let ended = tokio::select! {
        staged = &mut staging => staged,
        () = pass(way, diff_id, holders, senders, inlet, tried) => staging.await,
    };
    ended.unwrap_or_else(|died| {
        let source = std::io::Error::other(died);
        Err(ImageError::Store { action: "unpack a layer", path: "images".into(), source })
    })
}

/// Passes the archive on to its end, from whichever holders it takes.
async fn pass(
    way: Way<'_>,
    diff_id: &Digest,
    holders: &[Holder],
    senders: &mut Vec<Holder>,
    inlet: Inlet,
    tried: &mut Tried,
) {
    let Way { doors, meter, .. } = way;
    let mut at = 0;
    let mut breaks = 0;
    let mut pause = BREAK_PAUSE;
    for holder in holders.iter().cycle() {
        let before = at;
        let read = read(doors, diff_id, holder, &mut at, &inlet).await;
        if at > before && !senders.contains(holder) {
            senders.push(holder.clone());
            meter.from(Giver::Member(holder.node));
        }
        let error = match read {
            Ok(()) => return inlet.end().await,
            Err(error) => error,
        };
        tracing::info!(layer = %diff_id, from = holder.name, at, %error, "a layer broke off");
        tried.note(&holder.name, error);
        if at > before {
            (breaks, pause) = (0, BREAK_PAUSE);
            continue;
        }
        breaks += 1;
        if breaks >= BREAKS_MAX.max(u32::try_from(holders.len()).unwrap_or(u32::MAX)) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Reads from one holder, from this byte on, to the end or as far as it goes.
async fn read(
    doors: &Doors,
    diff_id: &Digest,
    holder: &Holder,
    at: &mut u64,
    inlet: &Inlet,
) -> Result<(), PeerError> {
    let path = format!("/v1/local/layers/{diff_id}?from={at}");
    let mut body = peer::get(doors, holder.node, &path).await?.into_body();
    let mut silent = Duration::ZERO;
    loop {
        let frame = match tokio::time::timeout(LOOK_EVERY, body.frame()).await {
            Ok(Some(frame)) => frame?,
            Ok(None) => return Ok(()),
            Err(_elapsed) => {
                silent += LOOK_EVERY;
                let node = holder.node;
                let lost = doors.agent.look(move |core, _| core.is_lost(&node)).await;
                if lost.unwrap_or(true) {
                    return Err(PeerError::Lost);
                }
                if silent >= STALL_FOR {
                    return Err(PeerError::Late);
                }
                continue;
            }
        };
        silent = Duration::ZERO;
        let Ok(data) = frame.into_data() else { continue };
        let length = data.len() as u64;
        doors.shares.came(length, length);
        if inlet.push(data).await.is_err() {
            // Whoever unpacks has failed or has it from elsewhere, and says so.
            return Ok(());
        }
        *at += length;
    }
}
