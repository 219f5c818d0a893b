//! Layers in chunks, for members that lack them: lists, what is here of one that still comes,
//! and bytes.
//!
//! All is streamed; what a request holds is one piece, its packer and, of a list, some
//! thousand entries.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use data_encoding::BASE64;
use futures::stream;
use gossip_core::id::NodeId;
use runtime::image::chunks::{HEAD, KeptList, SpoolView, entry};
use runtime::image::{Digest, LayerReader};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{Query, Refused};
use super::serve::Member;
use super::taking::{Impatience, Impatient};
use super::types::Complaint;
use crate::agent::Doors;
use crate::agent::fetch::{ASK_BYTES_MAX, LEVEL_MAX, Packer, Shares, piece_bytes};
use crate::agent::images::in_store;

/// Says how long a layer is, beside its list.
pub(crate) const LAYER_BYTES: HeaderName = HeaderName::from_static("x-layer-bytes");

/// How long the news of a layer may be waited for: less than whoever asks waits for an answer.
const NEWS_WITHIN: Duration = Duration::from_secs(2);

/// The most stretches of one request: bounds what is read of its words.
const STRETCHES_MAX: usize = 256;

/// What this node has of a layer, and who else asks it for that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerNews {
    /// All of it.
    pub(crate) whole: bool,
    /// Else what, as `Ranges` are written, in base64.
    #[serde(default)]
    pub(crate) ranges: String,
    /// Who fetches it.
    #[serde(default)]
    pub(crate) fetchers: Vec<NodeId>,
    /// To be named by whoever wants to wait for the next.
    pub(crate) version: String,
}

#[derive(Debug, Deserialize)]
struct FromChunk {
    #[serde(default)]
    from: usize,
}

#[derive(Debug, Deserialize)]
struct Seen {
    #[serde(default)]
    seen: String,
}

#[derive(Debug, Deserialize)]
struct Stretches {
    /// `FIRST-LENGTH`, with commas between.
    parts: String,
    /// How hard to pack.
    #[serde(default)]
    level: i32,
}

/// What members may ask.
pub(super) fn local_routes() -> Router<Doors> {
    Router::new()
        .route("/v1/local/layers/{diff_id}/chunks", get(chunks))
        .route("/v1/local/layers/{diff_id}/news", get(news))
        .route("/v1/local/layers/{diff_id}/bytes", get(bytes))
}

fn missing() -> Refused {
    let complaint = Complaint::new("no_such_layer", "this node does not have that");
    Refused::new(StatusCode::NOT_FOUND, complaint)
}

fn bad(what: &str) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, Complaint::new("bad_request", what))
}

/// Which layer is meant. A member that asks is one that fetches it.
fn layer(doors: &Doors, text: &str, member: Option<Extension<Member>>) -> Result<Digest, Refused> {
    let layer = text.parse().map_err(|_bad| bad("this is no digest of a layer"))?;
    if let Some(Extension(Member(node))) = member {
        doors.shares.asks(&layer, node);
    }
    Ok(layer)
}

/// `GET /v1/local/layers/{diff_id}/chunks`: the list from a chunk on, as it is made.
async fn chunks(
    State(doors): State<Doors>,
    Extension(impatience): Extension<Impatience>,
    Path(diff_id): Path<String>,
    Query(FromChunk { from }): Query<FromChunk>,
    member: Option<Extension<Member>>,
) -> Result<Response, Refused> {
    let diff_id = layer(&doors, &diff_id, member)?;
    let bytes = doors.runtime.images().layer_bytes(&diff_id).ok_or_else(missing)?;
    let (list, making) = doors.shares.lists().get(&diff_id, bytes);
    if let Some(making) = making {
        let images = doors.runtime.images().clone();
        doors.tasks.spawn_blocking(move || images.list_chunks(&diff_id, making));
    }
    let listing = Listing {
        list,
        at: from,
        shares: doors.shares.clone(),
        is_last: false,
        _impatient: impatience.begin(),
    };
    let first = stream::once(std::future::ready(Ok(Bytes::from_static(HEAD))));
    let entries = stream::try_unfold(listing, listed);
    let body = Body::from_stream(futures::StreamExt::chain(first, entries));
    Ok(([(LAYER_BYTES, bytes.to_string())], body).into_response())
}

/// A list on its way.
struct Listing {
    list: Arc<KeptList>,
    /// The next chunk.
    at: usize,
    shares: Shares,
    is_last: bool,
    _impatient: Impatient,
}

/// The next entries of a list, once there are some.
async fn listed(mut listing: Listing) -> io::Result<Option<(Bytes, Listing)>> {
    let mut changes = listing.list.changes();
    loop {
        changes.mark_unchanged();
        let (found, ends) = listing.list.from(listing.at).map_err(io::Error::other)?;
        if listing.is_last || (found.is_empty() && ends) {
            return Ok(None);
        }
        if found.is_empty() {
            // The list itself is held: whoever tells of changes is there.
            let _ = changes.changed().await;
            continue;
        }
        let bytes: Vec<u8> = found.iter().flat_map(entry).collect();
        tokio::time::sleep(listing.shares.sent(bytes.len(), 0)).await;
        listing.at += found.len();
        listing.is_last = ends;
        return Ok(Some((Bytes::from(bytes), listing)));
    }
}

/// `GET /v1/local/layers/{diff_id}/news`: what is here of a layer, as soon as it is another
/// than the asker has seen.
async fn news(
    State(doors): State<Doors>,
    Path(diff_id): Path<String>,
    Query(Seen { seen }): Query<Seen>,
    member: Option<Extension<Member>>,
) -> Result<Json<LayerNews>, Refused> {
    let own = member.as_ref().map(|Extension(Member(node))| *node);
    let diff_id = layer(&doors, &diff_id, member)?;
    let until = tokio::time::Instant::now() + NEWS_WITHIN;
    loop {
        let mut askers = doors.shares.askers_changes();
        let coming = doors.shares.coming(&diff_id);
        let mut came = coming.as_ref().map(SpoolView::changes);
        let mut told = told(&doors, &diff_id, coming.as_ref())?;
        let is_news = told.version != seen;
        if is_news || tokio::time::Instant::now() >= until || doors.stop.is_cancelled() {
            told.fetchers.retain(|node| Some(*node) != own);
            return Ok(Json(told));
        }
        tokio::select! {
            _ = askers.changed() => {}
            () = changed(&mut came) => {}
            () = doors.stop.cancelled() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn changed(came: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    let is_change = match came {
        // One that is over changes no more.
        Some(came) => came.changed().await.is_ok(),
        None => false,
    };
    if !is_change {
        std::future::pending().await
    }
}

fn told(doors: &Doors, diff_id: &Digest, coming: Option<&SpoolView>) -> Result<LayerNews, Refused> {
    let fetchers: Vec<NodeId> = doors.shares.askers(diff_id).into_iter().collect();
    let whole = doors.runtime.images().has_layer(diff_id);
    let ranges = match coming {
        _ if whole => Vec::new(),
        Some(view) => view.ranges().encode(),
        None => return Err(missing()),
    };
    let sum = Digest::of(format!("{whole} {fetchers:?} {}", Digest::of(&ranges)).as_bytes());
    Ok(LayerNews { whole, ranges: BASE64.encode(&ranges), fetchers, version: sum.short() })
}

/// Where bytes come from.
enum Source {
    Layer(Box<LayerReader>),
    Coming(SpoolView),
}

impl Source {
    fn read(&mut self, from: u64, bytes: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Layer(reader) => {
                let mut piece = Vec::with_capacity(bytes);
                reader.seek(from)?;
                reader.take(bytes as u64).read_to_end(&mut piece)?;
                if piece.len() == bytes { Ok(piece) } else { Err(io::ErrorKind::NotFound.into()) }
            }
            Self::Coming(view) => {
                let mut piece = vec![0; bytes];
                view.read_at(&mut piece, from).map(|()| piece)
            }
        }
    }
}

/// A request's bytes on their way.
struct Sending {
    doors: Doors,
    source: Source,
    packer: Packer,
    piece: usize,
    stretches: std::vec::IntoIter<(u64, u64)>,
    now: (u64, u64),
    turn: Option<OwnedSemaphorePermit>,
    _impatient: Impatient,
}

/// `GET /v1/local/layers/{diff_id}/bytes`: stretches of a layer, one behind the other.
async fn bytes(
    State(doors): State<Doors>,
    Extension(impatience): Extension<Impatience>,
    Path(diff_id): Path<String>,
    Query(Stretches { parts, level }): Query<Stretches>,
    member: Option<Extension<Member>>,
) -> Result<Response, Refused> {
    let diff_id = layer(&doors, &diff_id, member)?;
    let stretches = stretches(&parts).ok_or_else(|| bad("these are no stretches of a layer"))?;
    let source = match doors.shares.coming(&diff_id) {
        Some(view) if !doors.runtime.images().has_layer(&diff_id) => {
            let here = view.ranges();
            if !stretches.iter().all(|(from, bytes)| here.covers(*from, from + bytes)) {
                return Err(missing());
            }
            Source::Coming(view)
        }
        _ => {
            let opened = in_store(&doors, move |images| images.read_layer(&diff_id)).await;
            let reader = opened.map_err(|error| super::images::failed(&error))?;
            let bytes = LayerReader::bytes(&reader);
            if stretches.iter().any(|(from, length)| from + length > bytes) {
                return Err(bad("this is beyond the layer's end"));
            }
            Source::Layer(Box::new(reader))
        }
    };
    let level = level.clamp(0, LEVEL_MAX);
    let packer = Packer::new(level).map_err(|error| {
        let complaint = Complaint::new("packing", "the layer cannot be packed").because(error);
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, complaint)
    })?;
    let piece = piece_bytes(level);
    let mut stretches = stretches.into_iter();
    let now = stretches.next().unwrap_or_default();
    let _impatient = impatience.begin();
    let sending = Sending { doors, source, packer, piece, stretches, now, turn: None, _impatient };
    Ok(Body::from_stream(stream::try_unfold(sending, next)).into_response())
}

/// The next piece of a request, when it is its turn and within the budget.
async fn next(mut sending: Sending) -> io::Result<Option<(Bytes, Sending)>> {
    let doors = sending.doors.clone();
    if doors.stop.is_cancelled() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    if sending.turn.is_none() {
        let turn = doors.shares.sending().acquire_owned().await;
        sending.turn = Some(turn.map_err(io::Error::other)?);
    }
    let read = doors.tasks.spawn_blocking(move || {
        let piece = sending.read()?;
        let unpacked = piece.len();
        let wire = sending.packer.pack(piece)?;
        Ok::<_, io::Error>((wire, unpacked, sending))
    });
    let (wire, unpacked, sending) = read.await.map_err(io::Error::other)??;
    if unpacked == 0 {
        return Ok(None);
    }
    tokio::time::sleep(doors.shares.sent(wire.len(), unpacked)).await;
    Ok(Some((Bytes::from(wire), sending)))
}

impl Sending {
    /// Up to a piece, across the ends of stretches; empty behind the last.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        while piece.len() < self.piece {
            let (from, left) = self.now;
            if left == 0 {
                match self.stretches.next() {
                    Some(next) => self.now = next,
                    None => break,
                }
                continue;
            }
            let room = self.piece - piece.len();
            let bytes = usize::try_from(left).unwrap_or(room).min(room);
            piece.append(&mut self.source.read(from, bytes)?);
            self.now = (from + bytes as u64, left - bytes as u64);
        }
        Ok(piece)
    }
}

fn stretches(text: &str) -> Option<Vec<(u64, u64)>> {
    let stretch = |part: &str| {
        let (from, bytes) = part.split_once('-')?;
        let (from, bytes): (u64, u64) = (from.parse().ok()?, bytes.parse().ok()?);
        (bytes > 0 && from.checked_add(bytes).is_some()).then_some((from, bytes))
    };
    let all: Vec<_> =
        text.split(',').take(STRETCHES_MAX + 1).map(stretch).collect::<Option<_>>()?;
    let bytes = all.iter().try_fold(0_u64, |sum, (_, bytes)| sum.checked_add(*bytes))?;
    (all.len() <= STRETCHES_MAX && bytes <= ASK_BYTES_MAX).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_much_is_asked_for_at_once() {
        assert_eq!(stretches("0-5,7-1"), Some(vec![(0, 5), (7, 1)]));
        let many = vec!["1-1"; STRETCHES_MAX + 1].join(",");
        let large = format!("0-{}", ASK_BYTES_MAX + 1);
        let far = format!("{}-2", u64::MAX);
        let sum = format!("0-{},0-{}", u64::MAX / 2, u64::MAX / 2 + 9);
        for bad in ["", "5", "5-0", "-1-5", "a-b", "1-1,", &many, &large, &far, &sum] {
            assert_eq!(stretches(bad), None, "{bad}");
        }
        assert!(stretches(&vec!["1-1"; STRETCHES_MAX].join(",")).is_some());
    }
}
