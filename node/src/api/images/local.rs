//! What one node has of images, for other members: lists, documents, layers; and what they
//! may ask it to do with them.

use std::io::{self, Read as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use data_encoding::BASE64;
use futures::stream;
use runtime::image::{Digest, ImageError, LayerReader, Removed};
use serde::Deserialize;

use super::super::answer::{Query, Refused};
use super::super::image_types::{Documents, HeldImages};
use super::super::taking::Impatience;
use super::{census, failed};
use crate::agent::Doors;
use crate::agent::images::{Need, change_store, hold, in_store, needed};

/// How much of a layer is read at a time: large enough that the walk to a thread that may
/// block costs nothing beside it, small enough for many readers.
const PIECE_BYTES: usize = 512 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Meant {
    /// A name, an id, or an id's first digits.
    pub(super) name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct From {
    #[serde(default)]
    from: u64,
}

/// What to remove.
#[derive(Debug, Deserialize)]
pub(super) struct Remove {
    pub(super) name: String,
    #[serde(default)]
    pub(super) force: bool,
}

/// What to prune.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Prune {
    /// Named ones too.
    #[serde(default)]
    pub(super) all: bool,
    /// Only those that no task ran from for so many seconds.
    pub(super) unused_s: Option<u64>,
}

/// `GET /v1/local/images`.
pub(in crate::api) async fn list(
    State(doors): State<Doors>,
    Query(meant): Query<Meant>,
) -> Result<Json<HeldImages>, Refused> {
    let items = census::own(&doors, meant.name).await.map_err(|error| failed(&error))?;
    Ok(Json(HeldImages { items }))
}

/// `GET /v1/local/images/{id}`.
pub(in crate::api) async fn documents(
    State(doors): State<Doors>,
    Path(id): Path<String>,
) -> Result<Json<Documents>, Refused> {
    let id = digest(&id)?;
    let documents = in_store(&doors, move |images| {
        let unknown = || ImageError::Unknown { wanted: id.to_string() };
        let info = images.get(&id).ok_or_else(unknown)?;
        Ok(Documents {
            config: BASE64.encode(&images.config_bytes(&id)?),
            manifest: images.manifest_bytes(&id)?.map(|bytes| BASE64.encode(&bytes)),
            layers: info.layers,
        })
    })
    .await;
    documents.map(Json).map_err(|error| failed(&error))
}

/// `GET /v1/local/layers/{diff_id}`: its uncompressed archive from a byte on.
pub(in crate::api) async fn layer(
    State(doors): State<Doors>,
    Extension(impatience): Extension<Impatience>,
    Path(diff_id): Path<String>,
    Query(From { from }): Query<From>,
) -> Result<Response, Refused> {
    let diff_id = digest(&diff_id)?;
    let opened = in_store(&doors, move |images| {
        let mut reader = images.read_layer(&diff_id)?;
        let what = || format!("layer {}", diff_id.short());
        reader.seek(from).map_err(|source| ImageError::Read { what: what(), source })?;
        Ok(reader)
    });
    let reader = opened.await.map_err(|error| failed(&error))?;
    let impatient = impatience.begin();
    let all = (doors, Some(reader), impatient);
    let pieces = stream::unfold(all, |(doors, reader, impatient)| async move {
        let (piece, reader) = match next(&doors, reader?).await {
            Ok((piece, _)) if piece.is_empty() => return None,
            Ok((piece, reader)) => (Ok(piece), Some(reader)),
            Err(error) => (Err(error), None),
        };
        Some((piece, (doors, reader, impatient)))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, Body::from_stream(pieces)).into_response())
}

/// The next piece of a layer; empty at its end. Nobody waits in a thread for a slow reader.
async fn next(doors: &Doors, mut reader: LayerReader) -> io::Result<(Bytes, LayerReader)> {
    if doors.stop.is_cancelled() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let read = doors.tasks.spawn_blocking(move || {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut reader).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        Ok::<_, io::Error>((Bytes::from(piece), reader))
    });
    let (piece, reader) = read.await.map_err(io::Error::other)??;
    tokio::time::sleep(doors.shares.sent(piece.len(), piece.len())).await;
    Ok((piece, reader))
}

/// `POST /v1/local/images/remove`.
pub(in crate::api) async fn remove(
    State(doors): State<Doors>,
    Query(wanted): Query<Remove>,
) -> Result<Json<Removed>, Refused> {
    let Remove { name, force } = wanted;
    let removed = change_store(&doors, move |images| images.remove(&name, force)).await;
    removed.map(Json).map_err(|error| failed(&error))
}

/// `POST /v1/local/images/prune`.
pub(in crate::api) async fn prune(
    State(doors): State<Doors>,
    Query(wish): Query<Prune>,
) -> Result<Json<Removed>, Refused> {
    let before = before(&wish);
    let needed = needed(&doors, Need::All).await?;
    let removed = change_store(&doors, move |images| {
        let _held = hold(images, &needed);
        images.prune(wish.all, before)
    })
    .await;
    removed.map(Json).map_err(|error| failed(&error))
}

/// Since when an image must be unused, by this node's clock.
pub(super) fn before(wish: &Prune) -> Option<SystemTime> {
    let age = wish.unused_s.map(Duration::from_secs)?;
    // Before the clock began, nothing was used.
    Some(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH))
}

pub(super) fn digest(text: &str) -> Result<Digest, Refused> {
    text.parse().map_err(|bad: runtime::image::BadDigest| {
        let complaint = super::super::types::Complaint::new("bad_request", bad.to_string());
        Refused::new(StatusCode::BAD_REQUEST, complaint)
    })
}
