//! Images on their way, beside the tasks that wait for them: asked of the nodes that fetch
//! when somebody looks, and kept by nobody.
//!
//! ```text
//! ps, why, follow ─▶ tasks that start ─▶ their nodes, all at once ─▶ how far each image is
//! ```
//!
//! Must never: keep a list waiting. Whoever is silent, or too old to know, gives no detail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use gossip_core::id::NodeId;
use gossip_core::slot::SlotId;
use runtime::image::Digest;
use starling_core::Core;
use starling_core::fetch::Fetching;
use starling_core::view::TaskView;

use super::answer::Refused;
use super::image_types::{Fetch, Fetches};
use super::peer;
use crate::agent::images::{Giver, Reading};
use crate::agent::{Doors, Gone};

/// Tasks of one list that are looked after: as many as people read.
const TASKS_MAX: usize = 256;

/// Members that are asked for one list.
const NODES_MAX: usize = 32;

/// How long they may take: less than whoever looks notices.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// Images that one node tells of.
const FETCHES_MAX: usize = 64;

/// The largest answer that is read: so many images with long names.
const FETCHES_BYTES_MAX: usize = 256 * 1024;

/// Names of givers that are shown of what a member told.
const GIVERS_MAX: usize = 8;

/// `GET /v1/local/fetches`.
pub(super) async fn local(State(doors): State<Doors>) -> Result<Json<Fetches>, Refused> {
    Ok(Json(own(&doors).await?))
}

/// What is on its way to this node.
async fn own(doors: &Doors) -> Result<Fetches, Gone> {
    let mut readings = doors.supply.meters().read();
    readings.truncate(FETCHES_MAX);
    let name = |core: &Core, giver: Giver| match giver {
        Giver::Member(node) => core.node_name(&node),
        Giver::Host(host) => host,
    };
    let told = move |core: &Core, _| {
        let fetch = |reading: Reading| Fetch {
            id: reading.id,
            fetching: Fetching {
                image: reading.name,
                bytes: reading.bytes,
                of: reading.of,
                from: reading.from.into_iter().map(|giver| name(core, giver)).collect(),
            },
        };
        Fetches { items: readings.into_iter().map(fetch).collect() }
    };
    doors.agent.look(told).await
}

/// Writes beside tasks that start how far the image is that they wait for.
pub(super) async fn fill(doors: &Doors, tasks: &mut [TaskView]) -> Result<(), Gone> {
    let mut starting: Vec<&mut TaskView> =
        tasks.iter_mut().filter(|task| task.state == "starting").take(TASKS_MAX).collect();
    let slots: Vec<SlotId> = starting.iter().map(|task| task.slot.clone()).collect();
    if slots.is_empty() {
        return Ok(());
    }
    let images = doors.agent.look(move |core, _| images(core, &slots)).await?;
    let waits = |(task, image): (&&mut TaskView, &Option<_>)| image.as_ref().and(task.node);
    let nodes: BTreeSet<NodeId> = starting.iter().zip(&images).filter_map(waits).collect();
    let told = ask(doors, nodes).await?;
    for (task, image) in starting.iter_mut().zip(images) {
        let (Some((id, name)), Some(node)) = (image, task.node) else { continue };
        let fetches = told.get(&node).into_iter().flatten();
        let mut fetches = fetches.filter(|fetch| fetch.id == Some(id));
        if let Some(fetch) = fetches.next() {
            task.fetching = Some(shown(&fetch.fetching, name));
        }
    }
    Ok(())
}

/// A member's word, as this job calls the image.
fn shown(told: &Fetching, image: String) -> Fetching {
    let from = told.from.iter().take(GIVERS_MAX).cloned().collect();
    Fetching { image, from, ..*told }
}

/// The image of each slot's task, and what its job calls it.
fn images(core: &Core, slots: &[SlotId]) -> Vec<Option<(Digest, String)>> {
    let image = |slot: &SlotId| {
        let (_, spec) = core.state().spec_of(&slot.job)?;
        let image = spec.group(&slot.group)?.tasks.first()?.run.image()?;
        Some((Digest::new(*image.id?.as_bytes()), image.name.clone()))
    };
    slots.iter().map(image).collect()
}

async fn ask(doors: &Doors, nodes: BTreeSet<NodeId>) -> Result<BTreeMap<NodeId, Vec<Fetch>>, Gone> {
    let me = doors.facts.node;
    let others = nodes.iter().filter(|node| **node != me).take(NODES_MAX);
    let asked = others.map(|node| async move {
        let path = "/v1/local/fetches";
        let answer = peer::document::<Fetches>(doors, *node, path, FETCHES_BYTES_MAX);
        let fetches = tokio::time::timeout(ASKED_WITHIN, answer).await.ok()?.ok()?;
        Some((*node, fetches.items))
    });
    let mut told: BTreeMap<_, _> = join_all(asked).await.into_iter().flatten().collect();
    if nodes.contains(&me) {
        told.insert(me, own(doors).await?.items);
    }
    Ok(told)
}
