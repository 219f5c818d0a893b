//! Looks whether the layers of this node are what they should be: each is read whole.
//!
//! For whoever mistrusts a disk, and for members that were sent something wrong of one.
//!
//! Must never: read more than one layer at a time because members ask.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use runtime::image::{Digest, ImageError, ImageInfo, Images, Watcher};
use serde::Deserialize;

use super::super::answer::Refused;
use super::super::logs::Lines;
use super::transfer::{Teller, ended, streamed, tell_end, turn};
use crate::agent::Doors;

/// Which images.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// All of this node, if none is named.
    name: Option<String>,
}

/// `POST /v1/images/verify?name=…`: of this node alone. What is found damaged is named in the
/// images of the answer.
pub(super) async fn verify(
    State(doors): State<Doors>,
    Query(Which { name }): Query<Which>,
) -> Result<Response, Refused> {
    let turn = turn(&doors).await?;
    let (lines, answer) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let _turn = turn;
        let teller = Teller::new(lines.clone());
        let (images, stop) = (doors.runtime.images().clone(), doors.stop.clone());
        let work = doors.tasks.spawn_blocking(move || {
            look(&images, name.as_deref(), &|progress| {
                !stop.is_cancelled() && teller.tell(progress)
            })
        });
        tell_end(&lines, &doors, ended(work.await)).await;
    });
    Ok(streamed(answer))
}

/// Reads each layer of the images once. Blocks.
fn look(
    images: &Images,
    name: Option<&str>,
    watcher: Watcher,
) -> Result<Vec<ImageInfo>, ImageError> {
    let chosen = match name {
        Some(name) => vec![images.find(name)?],
        None => images.list(),
    };
    let layers = chosen.iter().flat_map(|image| &image.layers).map(|layer| layer.diff_id);
    for layer in layers.collect::<std::collections::BTreeSet<Digest>>() {
        match images.verify_layer(&layer, watcher) {
            // It went with its image meanwhile.
            Err(ImageError::Unknown { .. }) => {}
            looked => drop(looked?),
        }
    }
    // As they are known now.
    Ok(chosen.iter().filter_map(|image| images.get(&image.id)).collect())
}

/// `POST /v1/local/layers/{diff_id}/doubt`: a member was sent something wrong of it. It is
/// looked at when no other is.
pub(super) async fn doubt(
    State(doors): State<Doors>,
    Path(diff_id): Path<String>,
) -> Result<StatusCode, Refused> {
    let diff_id = super::local::digest(&diff_id)?;
    let Some(turn) = doors.shares.doubting() else { return Ok(StatusCode::ACCEPTED) };
    let (images, stop, supply) =
        (doors.runtime.images().clone(), doors.stop.clone(), doors.supply.clone());
    doors.tasks.spawn_blocking(move || {
        let _turn = turn;
        match images.verify_layer(&diff_id, &|_| !stop.is_cancelled()) {
            Ok(true) => tracing::info!(layer = %diff_id, "a member doubts a layer that is sound"),
            // The store has said so.
            Ok(false) => supply.touch(),
            Err(error) => tracing::debug!(layer = %diff_id, %error, "a layer was not looked at"),
        }
    });
    Ok(StatusCode::ACCEPTED)
}
