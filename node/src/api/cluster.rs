//! This node and its cluster in short, and going down.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use gossip_core::id::NodeId;
use gossip_core::resources::Resources;
use starling_core::view::JobState;

use super::answer::Refused;
use super::member_types::RemovedBy;
use super::nodes::removed_by;
use super::types::{DownRequest, Status};
use crate::agent::{Doors, How};

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
            let removed = core.own_removal().map(|removal| removed_by(core, removal));
            let mut warnings = facts.warnings.clone();
            let last_word = removed.as_ref().map(|removed| farewell(removed, facts.node));
            warnings.extend(last_word);
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
                warnings,
                removed,
            }
        })
        .await?;
    Ok(Json(status))
}

/// What the user of a removed host is told.
fn farewell(removed: &RemovedBy, me: NodeId) -> String {
    let (whom, by) = (&removed.whom, &removed.by.name);
    if whom.id == me {
        return format!(
            "{by} removed this host from its cluster: it takes no work and reaches nobody. \
             starling down, then starling up --new (a cluster of its own) or \
             starling join --new TOKEN: both make it another host, with a key of its own"
        );
    }
    format!(
        "{by} removed {}, through which this host was admitted: it takes no work and reaches \
         nobody. starling down, then starling join TOKEN with a new invitation",
        whom.name
    )
}

fn sum(parts: impl Iterator<Item = Resources>) -> Resources {
    parts.fold(Resources::default(), |sum, part| sum.checked_add(&part).unwrap_or(sum))
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
