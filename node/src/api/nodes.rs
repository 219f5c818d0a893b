//! Members: who they are, one of them in full, and the end of a membership.
//!
//! Whoever removes a node must have said what becomes of those whom it
//! admitted, and that its tasks may go: both are asked for here, before the
//! core is. Nothing of it is guessed where it matters.

use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use gossip::Transport;
use gossip_core::fact::Grants;
use gossip_core::id::{ContentHash, NodeId};
use gossip_core::removal::{Removal, Standing};
use serde::Deserialize;
use starling_core::Core;
use starling_core::effect::{Ask, Now, Reply};
use starling_core::view::{Listing, NodeView};

use super::answer::{Refused, refusal};
use super::member_types::{NodeDetail, NodeName, RemovalQuery, RemovedBy, RemovedNode};
use super::serve::Caller;
use super::types::{Complaint, Durable};
use crate::agent::{Doors, wall_now};

/// The fewest digits of an id that are taken for one.
const ID_DIGITS_MIN: usize = 4;

/// The most names in one sentence.
const NAMES_MAX: usize = 8;

/// The query of `GET /v1/nodes`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct NodesQuery {
    /// Those too that are no members any more.
    #[serde(default)]
    all: bool,
}

/// `GET /v1/nodes`.
pub(super) async fn list(
    State(doors): State<Doors>,
    Query(query): Query<NodesQuery>,
) -> Result<Json<Listing<NodeView>>, Refused> {
    let mut listing = doors
        .agent
        .look(move |core, now| {
            let mut items = core.node_views(now.moment);
            if query.all {
                items.extend(core.former_node_views(now.moment));
            }
            Listing { items, as_of: wall_now(), view: core.freshness(now.moment) }
        })
        .await?;
    let peers = doors.gossip.peers();
    for view in &mut listing.items {
        let peer = peers.iter().find(|peer| peer.node == view.id);
        view.over = peer.map(|peer| transport(peer.transport).to_owned());
    }
    Ok(Json(listing))
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "quic",
        Transport::Tcp => "tcp",
    }
}

/// `GET /v1/nodes/{node}`.
pub(super) async fn inspect(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<Json<NodeDetail>, Refused> {
    let detail = doors
        .agent
        .look(move |core, now| {
            let view = find(core, now.moment, &text)?;
            Ok::<_, Refused>(detail(core, view))
        })
        .await?;
    let mut detail = detail?;
    let peer = doors.gossip.peers().into_iter().find(|peer| peer.node == detail.view.id);
    if let Some(peer) = peer {
        detail.view.over = Some(transport(peer.transport).to_owned());
        detail.connected_at = Some(peer.address);
        let asked = Instant::now();
        if doors.gossip.open_stream(peer.node).await.is_ok() {
            detail.answered_us = u64::try_from(asked.elapsed().as_micros()).ok();
        }
    }
    Ok(Json(detail))
}

fn detail(core: &Core, view: NodeView) -> NodeDetail {
    let card = core.state().node(&view.id);
    let links = card.map_or(&[][..], |card| card.chain.links());
    NodeDetail {
        chain: links.iter().map(|link| name(core, link.subject)).collect(),
        trusts_jobs: card.is_some_and(|card| card.trusts_jobs),
        connected_at: None,
        answered_us: None,
        removed: core.state().standing_of(&view.id).against().map(|it| removed_by(core, it)),
        view,
    }
}

/// A node with its name.
pub(super) fn name(core: &Core, id: NodeId) -> NodeName {
    NodeName { id, name: core.node_name(&id) }
}

/// What a removal says, with names.
pub(super) fn removed_by(core: &Core, removal: &Removal) -> RemovedBy {
    let by = removal.issuer().unwrap_or(removal.subject);
    RemovedBy { whom: name(core, removal.subject), by: name(core, by), at: removal.at }
}

/// The node that a user means, members before those that are none any more.
fn find(core: &Core, now: gossip_core::moment::Moment, text: &str) -> Result<NodeView, Refused> {
    for mut views in [core.node_views(now), core.former_node_views(now)] {
        if let Some(at) = views.iter().position(|view| view.id.to_string() == text) {
            return Ok(views.swap_remove(at));
        }
        let is_id = text.len() >= ID_DIGITS_MIN;
        let named = |view: &NodeView| view.name == text;
        let has_name = views.iter().any(named);
        views.retain(|view| {
            if has_name { named(view) } else { is_id && view.id.to_string().starts_with(text) }
        });
        match views.as_slice() {
            [] => {}
            [_one] => return Ok(views.swap_remove(0)),
            several => {
                let ids = several.iter().map(|view| view.id.short()).collect::<Vec<_>>();
                let complaint =
                    Complaint::new("ambiguous", format!("{text:?} may be one of several nodes"))
                        .because(ids.join(", "))
                        .hint("say which by its id");
                return Err(Refused::new(StatusCode::CONFLICT, complaint));
            }
        }
    }
    let complaint = Complaint::new("no_such_node", format!("there is no node {text:?}"))
        .hint("`starling node ls` lists all that are known here");
    Err(Refused::new(StatusCode::NOT_FOUND, complaint))
}

/// What is known of a node that somebody wants to remove.
struct Candidate {
    view: NodeView,
    /// Whether it is nearer to the founder than whoever removes it.
    outranks: bool,
    notices: Vec<String>,
}

/// `DELETE /v1/nodes/{node}`.
pub(super) async fn remove(
    State(doors): State<Doors>,
    Extension(Caller(caller)): Extension<Caller>,
    Path(text): Path<String>,
    Query(query): Query<RemovalQuery>,
) -> Result<(StatusCode, Json<RemovedNode>), Refused> {
    let candidate = move |core: &Core, now: Now| {
        candidate(core, now, find(core, now.moment, &text)?, query.force)
    };
    let Candidate { view, outranks, mut notices } = doors.agent.look(candidate).await??;
    let admitted = doors.gossip.admitted_by(view.id).await;
    let grants = grants(&doors, &view, &admitted, query.grants).await?;
    if outranks {
        notices.push(format!(
            "{} stands nearer to the founder than {}: whoever has its key can undo this by \
             removing {1}; a member above it could not be undone",
            view.name, doors.facts.name
        ));
    }
    let reply = doors.agent.ask(Ask::RemoveNode { node: view.id, grants }).await?;
    let here = doors.facts.name.clone();
    let (durable, on) = match reply {
        Reply::NodeRemoved { replicated: None, .. } => (Durable::Local, vec![here]),
        Reply::NodeRemoved { replicated: Some(node), .. } => {
            let there = doors.agent.look(move |core, _| core.node_name(&node)).await?;
            (Durable::Replicated, vec![here, there])
        }
        Reply::RemovedHereOnly { .. } => (Durable::NotReplicated, vec![here]),
        other => return Err(refusal(&other)),
    };
    tracing::info!(node = %view.id.short(), name = view.name, caller, "removed from the cluster");
    let removed = RemovedNode { node: view.id, name: view.name, durable, on, notices };
    Ok((StatusCode::OK, Json(removed)))
}

fn candidate(core: &Core, now: Now, view: NodeView, force: bool) -> Result<Candidate, Refused> {
    let conflict = |complaint| Refused::new(StatusCode::CONFLICT, complaint);
    if core.own_removal().is_some() {
        return Err(refusal(&Reply::Outcast));
    }
    let name = &view.name;
    if view.me {
        let other = core.node_views(now.moment).into_iter().find(|other| !other.me);
        return Err(conflict(match other {
            Some(other) => Complaint::new("own_removal", format!("{name} cannot remove itself"))
                .because("a removal is a member's word about another")
                .hint(format!("run this on another member, such as {}", other.name)),
            None => Complaint::new("only_member", format!("{name} is the only member"))
                .because("nobody else would be left to remove it")
                .hint("starling down --stop-tasks   ends its agent and its tasks"),
        }));
    }
    if let Standing::Removed(removal) = core.state().standing_of(&view.id) {
        let by = removed_by(core, removal).by.name;
        let complaint = Complaint::new("removed_before", format!("{name} was removed before"));
        return Err(conflict(complaint.because(format!("{by} removed it, which is for ever"))));
    }
    let mut notices = Vec::new();
    if view.tasks > 0 {
        if view.state == "ready" && !force {
            let complaint = Complaint::new("node_busy", format!("{name} runs tasks"))
                .because(format!("{} of them; a removed node stops them", view.tasks))
                .hint("--force removes it all the same; what is wanted is placed elsewhere");
            return Err(conflict(complaint));
        }
        notices.push(format!("{} of its tasks are placed elsewhere", view.tasks));
    }
    if view.rank == 0 {
        notices.push(format!("{name} founded this cluster, which goes on without it"));
    }
    let own_rank = core.state().node(&core.me()).map_or(u32::MAX, |card| card.chain.rank());
    let place = |rank: u32, id: &NodeId| (rank, ContentHash::of(id.as_bytes()));
    let outranks = place(view.rank, &view.id) < place(own_rank, &core.me());
    Ok(Candidate { view, outranks, notices })
}

/// What becomes of those whom it admitted: nobody guesses where it matters.
async fn grants(
    doors: &Doors,
    view: &NodeView,
    admitted: &[NodeId],
    said: Option<Grants>,
) -> Result<Grants, Refused> {
    match said {
        Some(grants) => return Ok(grants),
        None if admitted.is_empty() => return Ok(Grants::Keep),
        None => {}
    }
    let ids = admitted.to_vec();
    let names = doors
        .agent
        .look(move |core, _| {
            let known = |id: &NodeId| core.state().node(id).map(|card| card.name.clone());
            let mut names: Vec<_> = ids.iter().filter_map(known).collect();
            let others = ids.len() - names.len();
            names.sort();
            let more = names.len().saturating_sub(NAMES_MAX);
            names.truncate(NAMES_MAX);
            if more > 0 {
                names.push(format!("{more} more"));
            }
            if others > 0 {
                names.push(format!("{others} operators or hosts that are not known here"));
            }
            names.join(", ")
        })
        .await?;
    let name = &view.name;
    let complaint = Complaint::new("grants_undecided", format!("{name} admitted others"))
        .because(format!("by its word belong here: {names}"))
        .hint("--keep-grants: they stay; --drop-grants: they have to be invited anew");
    Err(Refused::new(StatusCode::CONFLICT, complaint))
}
