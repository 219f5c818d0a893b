//! Images of the whole cluster: listed, inspected, removed wherever they are; loaded and saved
//! at the node that is asked, from where the others fetch what they need.
//!
//! ```text
//! census ──▶ list, inspect, remove, prune      pin ──▶ submissions
//! transfer ◀─▶ archives, registry ◀─▶ registries    local ──▶ other members
//! ```

mod census;
mod local;
mod pin;
mod registry;
mod transfer;
mod verify;

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures::future::join_all;
use gossip_core::id::NodeId;
use runtime::image::{Digest, ImageError, Reference, RegistryError, Removed};
use serde::Deserialize;

use super::answer::{Query, Refused};
use super::image_types::{ImageDetail, ImageList, ImageView, RemovedImages, RemovedOn};
use super::peer;
use super::types::{Complaint, Failure};
use crate::agent::images::{
    DOCUMENTS_BYTES_MAX, Need, Wanted, change_store, hold, in_store, needed, verified,
};
use crate::agent::{Doors, chain, wall_now};
use crate::cli::client::segment;
use census::Whom;
use local::{Prune, Remove};
pub(super) use pin::pin;
use pin::unknown;

/// How long a node may take to remove images: the files of many are many.
const REMOVE_FOR: Duration = Duration::from_secs(60);

/// What makes room.
const PRUNE: &str = "starling image prune   (-a: named ones too) removes what nothing runs from; \
                     starling doctor   says how full the disk is";

/// What users may ask.
pub(super) fn routes() -> Router<Doors> {
    // Archives are streams, bounded as they are read.
    let streams = Router::new()
        .route("/v1/images/load", post(transfer::load))
        .route("/v1/images/import", post(transfer::import))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/v1/images", get(list))
        .route("/v1/images/inspect", get(inspect))
        .route("/v1/images/tag", post(tag))
        .route("/v1/images/save", get(transfer::save))
        .route("/v1/images/pull", post(registry::pull))
        .route("/v1/images/ensure", post(registry::ensure))
        .route("/v1/images/push", post(registry::push))
        .route("/v1/images/verify", post(verify::verify))
        .merge(streams)
}

/// What they may ask that many nodes do, and that is done to its end.
pub(super) fn changes() -> Router<Doors> {
    Router::new().route("/v1/images", delete(remove)).route("/v1/images/prune", post(prune))
}

/// What members may ask.
pub(super) fn local_routes() -> Router<Doors> {
    Router::new()
        .route("/v1/local/images", get(local::list))
        .route("/v1/local/images/{id}", get(local::documents))
        .route("/v1/local/images/remove", post(local::remove))
        .route("/v1/local/images/prune", post(local::prune))
        .route("/v1/local/layers/{diff_id}", get(local::layer))
        .route("/v1/local/layers/{diff_id}/doubt", post(verify::doubt))
}

/// What the store says, for whoever asked.
pub(super) fn failed(error: &ImageError) -> Refused {
    let (status, code, message, hint) = match error {
        error if error.is_full() => (
            StatusCode::INSUFFICIENT_STORAGE,
            "disk_full",
            "the node's disk has no room for it",
            Some(PRUNE),
        ),
        ImageError::Unknown { .. } => (
            StatusCode::NOT_FOUND,
            "no_such_image",
            "there is no such image",
            Some("starling image ls   which there are"),
        ),
        ImageError::Damaged { .. } => (
            StatusCode::NOT_FOUND,
            "damaged_image",
            "the image is damaged on this node's disk",
            Some(
                "load or pull it again: what is damaged is replaced; starling image where says who has it",
            ),
        ),
        ImageError::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too much is loaded here just now",
            Some("try again when one of the others is done, or ask another node with --peer"),
        ),
        ImageError::Ambiguous { .. } => (
            StatusCode::CONFLICT,
            "ambiguous",
            "this means several images",
            Some("write more digits, or a name"),
        ),
        ImageError::InUse { .. } => (
            StatusCode::CONFLICT,
            "in_use",
            "the image is in use",
            Some("stop what runs from it, or take its names away with --force"),
        ),
        ImageError::Reference(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "bad_image",
            "this is no name of an image",
            Some("write it like nginx:1.27 or ghcr.io/owner/app:2.1"),
        ),
        ImageError::Store { .. } | ImageError::Foreign { .. } => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "image_store",
            "the node cannot keep it",
            Some("starling doctor   whether its disk has room"),
        ),
        ImageError::Registry(error) if error.wants_credentials() => (
            StatusCode::FORBIDDEN,
            "registry",
            "the registry does not let this node in",
            Some(
                "write \"auths\", as in Docker's config.json, into registries.json in the node's \
                  data directory; or docker login, as its agent's user",
            ),
        ),
        ImageError::Registry(
            RegistryError::NoRepository { .. } | RegistryError::NotFound { .. },
        ) => (
            StatusCode::NOT_FOUND,
            "no_such_image",
            "the registry does not have it",
            Some("look at its name and tag; starling image ls   what is here"),
        ),
        ImageError::Registry(_) => (
            StatusCode::BAD_GATEWAY,
            "registry",
            "the registry cannot be used",
            Some(
                "registries.json in the node's data directory says how one is reached: \
                  \"mirrors\", \"plain\", \"authorities\"",
            ),
        ),
        ImageError::CalledOff => (StatusCode::CONFLICT, "called_off", "it was called off", None),
        _ => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "bad_image",
            "the image cannot be used",
            Some("make it anew where it comes from, or take another of its tags"),
        ),
    };
    let complaint = Complaint::new(code, message).because(chain(error));
    let complaint = hint.into_iter().fold(complaint, Complaint::hint);
    Refused::new(status, complaint)
}

/// `GET /v1/images`.
async fn list(State(doors): State<Doors>) -> Result<Json<ImageList>, Refused> {
    let census = census::take(&doors, Whom::All, None).await?;
    let view = doors.agent.look(|core, now| core.freshness(now.moment)).await?;
    let unheard = census.unheard.clone();
    Ok(Json(ImageList { items: census.merged(), as_of: wall_now(), view, unheard }))
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// `GET /v1/images/inspect`.
async fn inspect(
    State(doors): State<Doors>,
    Query(Named { name }): Query<Named>,
) -> Result<Json<ImageDetail>, Refused> {
    let (image, unheard) = one(&doors, &name).await?;
    let config = config(&doors, &image).await?;
    Ok(Json(ImageDetail { image, config, unheard }))
}

/// The image that a text means, as it is in the cluster now.
async fn one(doors: &Doors, text: &str) -> Result<(ImageView, pin::Unheard), Refused> {
    let mut census = census::take(doors, Whom::All, Some(text)).await?;
    let unheard = std::mem::take(&mut census.unheard);
    if census.held.iter().all(|(_, _, images)| images.is_empty()) {
        return Err(unknown(text, unheard));
    }
    let Ok(pinned) = pin::resolve(doors, text).await? else { return Err(unknown(text, unheard)) };
    let id = pinned.id;
    // Others may have it under no name.
    let all = census::take(doors, Whom::All, Some(&id.to_string())).await?;
    let found = all.merged().into_iter().find(|view| view.id == id);
    found.map(|view| (view, unheard.clone())).ok_or_else(|| unknown(text, unheard))
}

/// Its config, from whichever node gives it.
async fn config(doors: &Doors, image: &ImageView) -> Result<serde_json::Value, Refused> {
    let id = image.id;
    let mut complaint = Complaint::new("unreachable_node", "nobody gave the image's config");
    for place in &image.nodes {
        let bytes = if place.node == doors.facts.node {
            in_store(doors, move |images| images.config_bytes(&id)).await.map_err(|e| chain(&e))
        } else {
            let path = format!("/v1/local/images/{id}");
            let read = peer::document(doors, place.node, &path, DOCUMENTS_BYTES_MAX).await;
            let checked = |documents| {
                verified(&documents, &id).map(|it| it.0).ok_or_else(|| "sent another".to_owned())
            };
            read.map_err(|error| error.to_string()).and_then(checked)
        };
        let parsed = bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        match parsed {
            Ok(config) => return Ok(config),
            Err(why) => complaint = complaint.because(format!("{}: {why}", place.name)),
        }
    }
    Err(Refused::new(StatusCode::BAD_GATEWAY, complaint))
}

/// `DELETE /v1/images`: on all nodes that have it, or on none where a task runs from it or a
/// job may start one.
async fn remove(
    State(doors): State<Doors>,
    Query(Remove { name, force }): Query<Remove>,
) -> Result<Json<RemovedImages>, Refused> {
    let census = census::take(&doors, Whom::All, Some(&name)).await?;
    let reference: Option<Reference> = name.parse().ok();
    let is_named = |names: &[Reference]| reference.as_ref().is_some_and(|it| names.contains(it));
    let mut having = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    let live = needed(&doors, Need::All).await?;
    let (mut used, mut is_needed) = (Vec::new(), false);
    for (node, node_name, images) in &census.held {
        for info in images {
            // One of several names is only a name, and no task needs it.
            let is_last = !is_named(&info.names) || info.names.len() == 1;
            if info.in_use && is_last {
                used.push(node_name.clone());
            }
            is_needed |= is_last && live.contains(&info.id);
            if !is_named(&info.names) {
                ids.insert(info.id);
            }
        }
        if !images.is_empty() {
            having.push((*node, node_name.clone()));
        }
    }
    if having.is_empty() {
        return Err(unknown(&name, census.unheard));
    }
    if ids.len() > 1 {
        let wanted = name;
        return Err(failed(&ImageError::Ambiguous { wanted, count: ids.len() }));
    }
    if (is_needed || !used.is_empty()) && !force {
        let why = match used.is_empty() {
            true => "a job that is not over starts its tasks from it".to_owned(),
            false => format!("tasks run from it on {}", used.join(", ")),
        };
        let complaint = Complaint::new("in_use", format!("{name} is in use"))
            .because(why)
            .hint("stop them first, or take its names away with --force: it goes with them");
        return Err(Refused::new(StatusCode::CONFLICT, complaint));
    }
    let path = format!("/v1/local/images/remove?name={}&force={force}", segment(&name));
    let mut removed = everywhere(&doors, having, &path, {
        let name = name.clone();
        move |images| images.remove(&name, force)
    })
    .await;
    removed.failed.extend(census.unheard);
    Ok(Json(removed))
}

/// `POST /v1/images/prune`.
async fn prune(
    State(doors): State<Doors>,
    Query(wish): Query<Prune>,
) -> Result<Json<RemovedImages>, Refused> {
    let nodes = doors.agent.look(|core, now| core.node_views(now.moment)).await?;
    let (ready, silent): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| node.me || node.state == "ready");
    let unused = wish.unused_s.map_or(String::new(), |s| format!("&unused_s={s}"));
    let path = format!("/v1/local/images/prune?all={}{unused}", wish.all);
    let nodes = ready.into_iter().map(|node| (node.id, node.name)).collect();
    let own = local::before(&wish);
    let needed = needed(&doors, Need::All).await?;
    let here = move |images: &runtime::image::Images| {
        let _held = hold(images, &needed);
        images.prune(wish.all, own)
    };
    let mut removed = everywhere(&doors, nodes, &path, here).await;
    removed.failed.extend(silent.into_iter().map(|node| (node.name, "is silent".to_owned())));
    Ok(Json(removed))
}

/// Has the same done on each of these nodes, this one among them or not.
async fn everywhere(
    doors: &Doors,
    nodes: Vec<(NodeId, String)>,
    path: &str,
    here: impl FnOnce(&runtime::image::Images) -> Result<Removed, ImageError> + Send + 'static,
) -> RemovedImages {
    let others = nodes.iter().filter(|(node, _)| *node != doors.facts.node);
    let asked = others.map(|(node, name)| async move {
        let answer = peer::ask_within(doors, *node, Method::POST, path, REMOVE_FOR).await;
        (name.clone(), answer.map_err(|error| error.to_string()).and_then(read))
    });
    let own = async {
        let me = nodes.iter().find(|(node, _)| *node == doors.facts.node)?;
        let done = change_store(doors, here).await.map_err(|error| chain(&error));
        Some((me.1.clone(), done))
    };
    let (own, others) = futures::join!(own, join_all(asked));
    let mut all = RemovedImages::default();
    for (node, done) in own.into_iter().chain(others) {
        match done {
            Ok(removed) if removed == Removed::default() => {}
            Ok(removed) => all.on.push(RemovedOn { node, removed }),
            Err(why) => all.failed.push((node, why)),
        }
    }
    all.on.sort_by(|a, b| a.node.cmp(&b.node));
    all
}

/// What a member answered to that.
fn read((status, body): (StatusCode, bytes::Bytes)) -> Result<Removed, String> {
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| error.to_string());
    }
    let failure: Option<Failure> = serde_json::from_slice(&body).ok();
    let told = failure.map(|failure| failure.error);
    Err(told.map_or_else(
        || format!("answered with status {status}"),
        |it| it.why.into_iter().next().unwrap_or(it.message),
    ))
}

#[derive(Debug, Deserialize)]
struct Tag {
    name: String,
    to: String,
}

/// `POST /v1/images/tag`: names are this node's own, so the image comes here too.
async fn tag(
    State(doors): State<Doors>,
    Query(Tag { name, to }): Query<Tag>,
) -> Result<Json<ImageView>, Refused> {
    let to: Reference = to.parse().map_err(|bad| failed(&ImageError::Reference(bad)))?;
    if to.digest().is_some() {
        let complaint = Complaint::new("bad_image", "an image cannot be named by a digest")
            .hint("write it like app:2.1");
        return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, complaint));
    }
    let (view, _) = one(&doors, &name).await?;
    let _held = here(&doors, view.id, &name).await?;
    let id = view.id;
    in_store(&doors, move |images| images.tag(&id, &to)).await.map_err(|e| failed(&e))?;
    Ok(Json(one(&doors, &id.to_string()).await?.0))
}

/// Has an image of the cluster on this node, and in hand.
async fn here(doors: &Doors, id: Digest, name: &str) -> Result<runtime::image::Held, Refused> {
    let wanted = Wanted { id, name: name.to_owned() };
    doors.supply.bring(doors, &wanted).await.map_err(|missing| {
        let (status, code) = match missing.is_full {
            true => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            false => (StatusCode::BAD_GATEWAY, "no_such_image"),
        };
        let complaint = Complaint::new(code, format!("{name} cannot be had here"));
        let complaint = missing.why.into_iter().fold(complaint, Complaint::because);
        let complaint = if missing.is_full { complaint.hint(PRUNE) } else { complaint };
        Refused::new(status, complaint)
    })
}
