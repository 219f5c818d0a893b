//! The HTTP API: one router behind every door.
//!
//!     Unix socket ─┐
//!     QUIC ────────┼──▶ /v1 ──▶ Agent (asks and looks)
//!     members ─────┘       └──▶ /v1/local on other members, for what only they have
//!
//! Handlers translate; they decide nothing. `/v1/local` answers from this node
//! alone and never asks further, so that questions cannot go in circles.

mod answer;
mod cluster;
mod events;
mod find;
mod jobs;
mod local;
mod logs;
mod metrics;
mod peer;
pub(crate) mod serve;
pub(crate) mod types;

use axum::Router;
use axum::routing::{get, post};

use crate::agent::Doors;

/// The largest request body: a spec with room for its wrapping.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// All routes.
fn router(doors: Doors) -> Router {
    Router::new()
        .route("/v1/status", get(cluster::status))
        .route("/v1/nodes", get(cluster::nodes))
        .route("/v1/invitations", post(cluster::invite))
        .route("/v1/down", post(cluster::down))
        .route("/v1/jobs", get(jobs::list).post(jobs::submit))
        .route("/v1/jobs/{job}", get(jobs::show).delete(jobs::remove))
        .route("/v1/jobs/{job}/stop", post(jobs::stop))
        .route("/v1/jobs/{job}/wait", get(jobs::wait))
        .route("/v1/jobs/{job}/why", get(jobs::why))
        .route("/v1/jobs/{job}/logs", get(logs::logs))
        .route("/v1/jobs/{job}/follow", get(logs::follow))
        .route("/v1/tasks", get(jobs::tasks))
        .route("/v1/events", get(events::events))
        .route("/v1/metrics", get(metrics::metrics))
        .route("/v1/local/opinion/{job}", get(local::opinion))
        .route("/v1/local/logs/{tender}/{index}", get(local::logs))
        .fallback(answer::no_such_route)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(doors)
}
