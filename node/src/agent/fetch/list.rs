//! The list of a layer's chunks, from a holder.

use std::time::Duration;

use gossip_core::id::NodeId;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use runtime::image::Digest;
use runtime::image::chunks::{BadList, CHUNK_BYTES_MIN, CHUNKS_MAX, Chunk, ListReader};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Fault;
use super::run::Event;
use crate::agent::Doors;
use crate::api::chunks::LAYER_BYTES;
use crate::api::peer::{self, PeerError};

/// How long a holder may take to begin with it: the link may be full.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take for the next few chunks of it: it reads a layer to make it.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// How many these are, so that nobody lists one now and then for ever: a megabyte of the
/// layer, as any disk gives, and half a KiB of the link.
const CHUNKS_DUE: usize = 16;

/// Before a list that broke is asked for again.
const LIST_PAUSE: Duration = Duration::from_secs(1);

/// A list that comes.
pub(super) struct Listing {
    pub(super) node: NodeId,
    /// Of the layer.
    pub(super) bytes: u64,
    body: Incoming,
    /// So many more chunks are to come by then.
    due: usize,
    by: Instant,
}

/// Why no more of a list comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListFault {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("sent a list of chunks that is none: {0}")]
    Bad(#[from] BadList),
    #[error("broke off in the list of chunks")]
    Broke,
}

impl From<hyper::Error> for ListFault {
    fn from(error: hyper::Error) -> Self {
        Self::Peer(error.into())
    }
}

/// Opens the list of a layer from that chunk on, at the first holder that gives it.
pub(super) async fn open(
    doors: &Doors,
    layer: &Digest,
    holders: &[NodeId],
    from: usize,
) -> Result<Listing, Fault> {
    let path = format!("/v1/local/layers/{layer}/chunks?from={from}");
    let mut none_speaks = !holders.is_empty();
    for node in holders {
        match peer::get_within(doors, *node, &path, BEGIN_WITHIN).await {
            Ok(response) => {
                let length = response.headers().get(LAYER_BYTES);
                let length = length.and_then(|bytes| bytes.to_str().ok()?.parse().ok());
                let Some(bytes) = length else { continue };
                // More than fits into a list, even at its fewest: so it is, or so this one says.
                if bytes / u64::from(CHUNK_BYTES_MIN) > CHUNKS_MAX as u64 {
                    continue;
                }
                let (due, by) = (CHUNKS_DUE, Instant::now() + PAUSE_MAX);
                return Ok(Listing { node: *node, bytes, body: response.into_body(), due, by });
            }
            Err(PeerError::Status(404)) => {}
            Err(error) => {
                none_speaks = false;
                tracing::debug!(%layer, peer = %node.short(), %error, "no list of chunks");
            }
        }
    }
    Err(if none_speaks { Fault::Whole } else { Fault::There })
}

/// The next chunks of a list; none at its end.
pub(super) async fn next(
    doors: &Doors,
    listing: &mut Listing,
    reader: &mut ListReader,
) -> Result<Vec<Chunk>, ListFault> {
    loop {
        if reader.is_whole() {
            return Ok(Vec::new());
        }
        let frame = tokio::time::timeout_at(listing.by, listing.body.frame()).await;
        let Some(frame) = frame.map_err(|_elapsed| PeerError::Late)? else {
            return Err(ListFault::Broke);
        };
        let Ok(data) = frame?.into_data() else { continue };
        doors.shares.came(data.len() as u64, 0);
        let chunks = reader.feed(&data)?;
        listing.due = listing.due.saturating_sub(chunks.len());
        if listing.due == 0 {
            (listing.due, listing.by) = (CHUNKS_DUE, Instant::now() + PAUSE_MAX);
        }
        if !chunks.is_empty() {
            return Ok(chunks);
        }
    }
}

/// Fetches the list to its end, from one holder after another where it breaks.
pub(super) async fn follow(
    doors: Doors,
    layer: Digest,
    mut holders: Vec<NodeId>,
    mut listing: Option<Listing>,
    mut reader: ListReader,
    mut known: usize,
    events: mpsc::Sender<Event>,
) {
    loop {
        let from = match listing.take() {
            Some(listing) => Ok(listing),
            None => open(&doors, &layer, &holders, known).await,
        };
        let mut from = match from {
            Ok(from) => from,
            Err(Fault::Whole) => {
                let _ = events.send(Event::Whole).await;
                return;
            }
            Err(_) => {
                tokio::time::sleep(LIST_PAUSE).await;
                continue;
            }
        };
        if from.bytes != reader.layer_bytes() {
            let why = format!("says that the layer has {} bytes", from.bytes);
            let _ = events.send(Event::Disagrees(from.node, why)).await;
            return;
        }
        reader.begin();
        loop {
            let event = match next(&doors, &mut from, &mut reader).await {
                Ok(chunks) if chunks.is_empty() => {
                    let _ = events.send(Event::ListEnds).await;
                    return;
                }
                Ok(chunks) => {
                    known += chunks.len();
                    Event::Listed(from.node, chunks)
                }
                Err(fault) => {
                    tracing::debug!(%layer, peer = %from.node.short(), %fault, "a list broke off");
                    // The rest from another, if there is one.
                    holders.retain(|node| *node != from.node);
                    match &fault {
                        ListFault::Bad(BadList::Head) => {
                            let none = Event::NoList(from.node, fault.to_string());
                            let _ = events.send(none).await;
                        }
                        ListFault::Bad(_) => {
                            let disagrees = Event::Disagrees(from.node, fault.to_string());
                            let _ = events.send(disagrees).await;
                            return;
                        }
                        ListFault::Peer(_) | ListFault::Broke => holders.push(from.node),
                    }
                    tokio::time::sleep(LIST_PAUSE).await;
                    break;
                }
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}
