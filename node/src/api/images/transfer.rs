//! Archives in and out, as streams: nothing of them is held but a few pieces.
//!
//! ```text
//! request body ──▶ pipe ──▶ store        progress, then what came of it ──▶ lines
//! store ──▶ pieces ──▶ answer
//! ```
//!
//! Whoever leaves calls the work off, and nothing of it stays.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use runtime::image::{
    Changes, ImageError, ImageInfo, Images, Origin, Progress, Reference, Watcher,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::super::answer::{Query, Refused};
use super::super::image_types::ImageItem;
use super::super::logs::Lines;
use super::super::taking::Impatience;
use super::super::types::Complaint;
use super::{failed, here, one};
use crate::agent::images::{Inlet, Outlet, pipe};
use crate::agent::{Doors, sources, words};

/// Between two words on how far one layer is.
pub(super) const TOLD_EVERY: Duration = Duration::from_millis(100);

/// How long a sender may send nothing: `docker save` of a large image thinks for minutes
/// before its first byte.
const STALL_FOR: Duration = Duration::from_secs(600);

/// How long what comes behind a failure is still read: whoever sends it must see why, which
/// a connection that is cut could hide.
const DRAIN_FOR: Duration = Duration::from_secs(5);

/// How long somebody waits for a turn before they are told that too much is moved: some
/// loads of a script take no longer.
const TURN_WITHIN: Duration = Duration::from_secs(20);

/// Pieces of an archive that wait for a slow reader.
const PIECES: usize = 8;

/// How much of an archive is sent at once.
const PIECE_BYTES: usize = 256 * 1024;

/// The most lines of `change` that one import may have.
const CHANGES_MAX: usize = 256;

/// `POST /v1/images/load`.
pub(super) async fn load(
    State(doors): State<Doors>,
    request: Request,
) -> Result<Response, Refused> {
    let body = request.into_body();
    match turn(&doors).await {
        Ok(turn) => Ok(take_in(doors, turn, body, sources::load)),
        Err(refused) => Ok(refuse(doors, body, refused)),
    }
}

/// `POST /v1/images/import?name=…&change=…&change=…&origin=…`. Of origin `needed`, it goes
/// by itself when no job needs it any more.
pub(super) async fn import(
    State(doors): State<Doors>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let body = request.into_body();
    let begun = async {
        let (name, changes, origin) = described(&query)?;
        Ok((turn(&doors).await?, name, changes, origin))
    };
    match begun.await {
        Ok((turn, name, changes, origin)) => {
            take_in(doors, turn, body, move |images, from, watcher| {
                sources::import(images, from, name.as_ref(), &changes, origin, watcher)
            })
        }
        Err(refused) => refuse(doors, body, refused),
    }
}

/// What is said of a root that is imported.
fn described(query: &[(String, String)]) -> Result<(Option<Reference>, Changes, Origin), Refused> {
    let name = query.iter().find(|(key, _)| key == "name");
    let name = name.map(|(_, name)| reference(name)).transpose()?;
    let lines = query.iter().filter(|(key, _)| key == "change").map(|(_, line)| line.as_str());
    let lines: Vec<_> = lines.collect();
    if lines.len() > CHANGES_MAX {
        return Err(too_many_changes(lines.len()));
    }
    let changes = Changes::parse(lines).map_err(|error| failed(&error))?;
    let is_needed = query.iter().any(|(key, value)| key == "origin" && value == "needed");
    let origin = if is_needed { Origin::Needed } else { Origin::Asked };
    Ok((name, changes, origin))
}

/// Answers with a refusal, and reads on for a while: whoever sends an archive reads no answer
/// before they are done, unless the connection holds.
fn refuse(doors: Doors, body: Body, refused: Refused) -> Response {
    let (parts, said) = refused.into_response().into_parts();
    let drain = async move {
        let _late = tokio::time::timeout(DRAIN_FOR, feed(body, None, &doors)).await;
        None
    };
    let behind = stream::once(drain).filter_map(|end: Option<_>| std::future::ready(end));
    let said = said.into_data_stream();
    Response::from_parts(parts, Body::from_stream(said.chain(behind)))
}

fn too_many_changes(count: usize) -> Refused {
    let message = format!("an import has {CHANGES_MAX} lines of --change at most");
    let complaint = Complaint::new("bad_request", message)
        .because(format!("there are {count}"))
        .hint("ENV, LABEL, EXPOSE and VOLUME take several words in one line: ENV A=1 B=2");
    Refused::new(StatusCode::BAD_REQUEST, complaint)
}

pub(super) fn reference(text: &str) -> Result<Reference, Refused> {
    text.parse().map_err(|bad| failed(&ImageError::Reference(bad)))
}

/// A turn to move an image for a user, or what to answer.
pub(super) async fn turn(doors: &Doors) -> Result<OwnedSemaphorePermit, Refused> {
    let soon = tokio::time::timeout(TURN_WITHIN, doors.supply.turn()).await;
    soon.ok().flatten().ok_or_else(|| {
        let complaint = Complaint::new("busy", "too many images are moved here just now")
            .hint("try again when one of them is done, or ask another node with --peer");
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, complaint)
    })
}

/// Takes an archive in, and tells how far it is.
fn take_in(
    doors: Doors,
    turn: OwnedSemaphorePermit,
    body: Body,
    work: impl FnOnce(&Images, Outlet, Watcher) -> Result<Vec<ImageInfo>, ImageError> + Send + 'static,
) -> Response {
    let (lines, answer) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let _turn = turn;
        let (inlet, outlet) = pipe();
        let images = doors.runtime.images().clone();
        let teller = Teller::new(lines.clone());
        let mut working = doors
            .tasks
            .spawn_blocking(move || work(&images, outlet, &|progress| teller.tell(progress)));
        let mut feeding = std::pin::pin!(feed(body, Some(inlet), &doors));
        let mut is_fed = false;
        let done = loop {
            tokio::select! {
                done = &mut working => break done,
                () = &mut feeding, if !is_fed => is_fed = true,
            }
        };
        tell_end(&lines, &doors, ended(done)).await;
        if !is_fed {
            tokio::select! {
                // Either way the answer ends here.
                _late = tokio::time::timeout(DRAIN_FOR, feeding) => {}
                () = lines.left() => {}
            }
        }
    });
    streamed(answer)
}

pub(super) fn ended<T>(
    done: Result<Result<T, ImageError>, tokio::task::JoinError>,
) -> Result<T, ImageError> {
    done.unwrap_or_else(|died| {
        let source = io::Error::other(died);
        Err(ImageError::Read { what: "the images of this node".to_owned(), source })
    })
}

pub(super) async fn tell_end(
    lines: &Lines,
    doors: &Doors,
    done: Result<Vec<ImageInfo>, ImageError>,
) {
    doors.supply.touch();
    let node = doors.facts.name.clone();
    let item = match done {
        Ok(images) => {
            let warnings = images.iter().filter_map(warning).collect();
            ImageItem::Done { images, node, warnings }
        }
        Err(error) => ImageItem::Failed { error: failed(&error).complaint() },
    };
    // The reader left: nobody is there to be told.
    let _ = lines.item(&item).await;
}

/// What is to be known of an image before it is run on this node.
fn warning(image: &ImageInfo) -> Option<String> {
    let name = image.names.first().map_or_else(|| image.id.short(), Reference::familiar);
    words::strange(&image.platform).map(|why| format!("{name}: {why}"))
}

pub(super) fn streamed(
    answer: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(answer)).into_response()
}

/// Passes a body on to its end; what nobody reads any more is thrown away.
async fn feed(mut body: Body, mut inlet: Option<Inlet>, doors: &Doors) {
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(STALL_FOR, body.frame()) => frame,
            () = doors.stop.cancelled() => return,
        };
        match frame {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if let Some(open) = &inlet
                    && open.push(data).await.is_err()
                {
                    inlet = None;
                }
            }
            Ok(None) => {
                if let Some(inlet) = inlet {
                    inlet.end().await;
                }
                return;
            }
            Ok(Some(Err(error))) => return tracing::debug!(%error, "an archive broke off"),
            Err(_elapsed) => return tracing::info!("an archive came no further"),
        }
    }
}

/// Tells how far a work is, now and then.
pub(super) struct Teller {
    lines: Lines,
    told: Mutex<BTreeMap<Option<String>, (Progress, Instant)>>,
}

impl Teller {
    pub(super) fn new(lines: Lines) -> Self {
        Self { lines, told: Mutex::default() }
    }

    /// Whether the work is to go on: not if whoever asked for it left.
    pub(super) fn tell(&self, progress: Progress) -> bool {
        if self.lines.is_left() {
            return false;
        }
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.get(&progress.layer).is_none_or(|(before, at)| {
            let is_late = now.duration_since(*at) >= TOLD_EVERY;
            before.stage != progress.stage || (is_late && *before != progress)
        });
        if is_due {
            told.insert(progress.layer.clone(), (progress.clone(), now));
            self.lines.item_if_room(&ImageItem::Progress(progress));
        }
        true
    }
}

/// `GET /v1/images/save?name=…&name=…`: an archive that `docker load` takes too.
pub(super) async fn save(
    State(doors): State<Doors>,
    Extension(impatience): Extension<Impatience>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Refused> {
    let names: Vec<String> =
        query.into_iter().filter(|(key, _)| key == "name").map(|(_, name)| name).collect();
    if names.is_empty() {
        let complaint = Complaint::new("bad_request", "which image is not said");
        return Err(Refused::new(StatusCode::BAD_REQUEST, complaint));
    }
    let turn = turn(&doors).await?;
    let mut held = Vec::new();
    let mut wanted = Vec::new();
    for name in names {
        let (view, _) = one(&doors, &name).await?;
        held.push(here(&doors, view.id, &name).await?);
        wanted.push((view.id, name));
    }
    let (pieces, waiting) = mpsc::channel(PIECES);
    let images = doors.runtime.images().clone();
    doors.tasks.spawn_blocking(move || {
        let (_turn, _held) = (turn, held);
        let mut out = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces.clone()));
        let saved = sources::save(&images, &wanted, &mut out, &|_| true);
        let flushed = out.flush();
        if let Err(error) = saved {
            tracing::info!(error = crate::agent::chain(&error), "an archive was not saved");
            // A cut is all that the middle of an archive can say.
            let _ = pieces.blocking_send(Err(io::ErrorKind::Interrupted.into()));
        } else if let Err(error) = flushed {
            tracing::debug!(%error, "whoever saved an archive left");
        }
    });
    // With the connection of a reader that takes nothing its turn ends, too.
    let body =
        stream::unfold((waiting, impatience.begin()), |(mut waiting, impatient)| async move {
            waiting.recv().await.map(|piece| (piece, (waiting, impatient)))
        });
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, Body::from_stream(body)).into_response())
}

/// What is written, as pieces of an answer.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(PIECE_BYTES)).unwrap_or_default();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(piece))).map_err(gone)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
