//! The cluster and this node: status, nodes, invitations, going down.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use gossip_core::grant::Role;
use gossip_core::moment::WallTime;
use gossip_core::resources::Resources;
use starling_core::view::{JobState, Listing, NodeView};

use super::answer::Refused;
use super::types::{Complaint, DownRequest, InvitationReply, InvitationRequest, Status};
use crate::agent::{Doors, How, wall_now};

/// The longest an invitation may last: a month.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// `GET /v1/status`.
pub(super) async fn status(State(doors): State<Doors>) -> Result<Json<Status>, Refused> {
    let facts = doors.facts.clone();
    let status = doors
        .agent
        .look(move |core, now| {
            let nodes = core.node_views(now.moment);
            let ready = || nodes.iter().filter(|node| node.state == "ready");
            let jobs = core.job_views();
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let live = |state| matches!(state, JobState::Pending | JobState::Running);
            Status {
                node: facts.node,
                name: facts.name.clone(),
                cluster: facts.cluster,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started: facts.started,
                addresses: facts.addresses.clone(),
                operator_addresses: facts.operator_addresses.clone(),
                capacity: core.ledger().capacity(),
                free: core.ledger().free(),
                view: core.freshness(now.moment),
                cluster_capacity: sum(ready().map(|node| node.capacity)),
                cluster_free: sum(ready().filter_map(|node| node.free)),
                jobs_live: count(jobs.iter().filter(|job| live(job.state)).count()),
                jobs_pending: count(
                    jobs.iter().filter(|job| job.state == JobState::Pending).count(),
                ),
                tasks_running: jobs.iter().map(|job| job.running).sum(),
                warnings: facts.warnings.clone(),
            }
        })
        .await?;
    Ok(Json(status))
}

fn sum(parts: impl Iterator<Item = Resources>) -> Resources {
    parts.fold(Resources::default(), |sum, part| sum.checked_add(&part).unwrap_or(sum))
}

/// `GET /v1/nodes`.
pub(super) async fn nodes(State(doors): State<Doors>) -> Result<Json<Listing<NodeView>>, Refused> {
    let listing = doors
        .agent
        .look(|core, now| Listing {
            items: core.node_views(now.moment),
            as_of: wall_now(),
            view: core.freshness(now.moment),
        })
        .await?;
    Ok(Json(listing))
}

/// `POST /v1/invitations`.
pub(super) async fn invite(
    State(doors): State<Doors>,
    body: Result<Json<InvitationRequest>, JsonRejection>,
) -> Result<Json<InvitationReply>, Refused> {
    let refused = |why: String| {
        let complaint = Complaint::new("bad_invitation", "no invitation was made").because(why);
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, complaint)
    };
    let Json(request) = body.map_err(|e| refused(e.body_text()))?;
    let ttl = Duration::from_secs(request.ttl_s);
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(refused("it must last between a second and 30 days".to_owned()));
    }
    let expires = WallTime(wall_now().0.saturating_add(request.ttl_s.saturating_mul(1000)));
    let token = doors.gossip.invite(request.role, request.uses, expires).await;
    let mut token = token.map_err(|e| refused(crate::agent::chain(&e)))?;
    if request.role == Role::Operator {
        // Operators use a door of their own, and a token's addresses are only hints.
        token.addresses.clone_from(&doors.facts.operator_addresses);
    }
    let token = token.to_text().map_err(|e| refused(e.to_string()))?;
    Ok(Json(InvitationReply { token, expires }))
}

/// `POST /v1/down`.
pub(super) async fn down(
    State(doors): State<Doors>,
    body: Option<Json<DownRequest>>,
) -> Result<StatusCode, Refused> {
    let request = body.map(|Json(request)| request).unwrap_or_default();
    let how = if request.stop_tasks { How::TasksStop } else { How::TasksStay };
    doors.agent.down(how).await?;
    Ok(StatusCode::OK)
}
