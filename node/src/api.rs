//! The HTTP API: one router behind the users' doors, and a small one behind the members'.
//!
//!     Unix socket ─┐
//!     QUIC ────────┴──▶ /v1 ──▶ Agent (asks and looks)
//!                         └──▶ another member ──▶ /v1/local, for what only it has
//!
//! A member decides for itself alone: it cannot make this node submit, stop,
//! invite or go down, so nothing but `/v1/local` is served to it.
//!
//! Handlers translate; they decide nothing. `/v1/local` answers from this node
//! alone and never asks further, so that questions cannot go in circles.

mod answer;
pub(crate) mod chunks;
mod cluster;
mod events;
mod fetching;
mod find;
mod follower;
pub(crate) mod image_types;
mod images;
mod invitations;
mod jobs;
mod local;
mod logs;
pub(crate) mod member_types;
mod metrics;
mod nodes;
pub(crate) mod peer;
mod pulse;
mod relay;
pub(crate) mod serve;
mod sessions;
mod spot;
mod starting;
mod starts;
mod taking;
mod tasks;
pub(crate) mod types;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

use crate::agent::Doors;

/// The largest request body: a spec with room for its wrapping.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// All routes, for those who use the cluster.
fn router(doors: Doors) -> Router {
    let routes = Router::new()
        .route("/v1/status", get(cluster::status))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{node}", get(nodes::inspect).delete(nodes::remove))
        .route("/v1/invitations", get(invitations::list).post(invitations::make))
        .route("/v1/invitations/{id}", delete(invitations::revoke))
        .route("/v1/down", post(cluster::down))
        .route("/v1/jobs/{job}", get(jobs::show).delete(jobs::remove))
        .route("/v1/jobs/{job}/stop", post(jobs::stop))
        .route("/v1/jobs/{job}/wait", get(jobs::wait))
        .route("/v1/jobs/{job}/why", get(jobs::why))
        .route("/v1/jobs/{job}/logs", get(logs::logs))
        .route("/v1/jobs/{job}/follow", get(logs::follow))
        .route("/v1/tasks", get(jobs::tasks))
        .route("/v1/tasks/{task}/session", get(sessions::open))
        .route("/v1/tasks/{task}/{verb}", get(tasks::look).post(tasks::act))
        .route("/v1/events", get(events::events))
        .route("/v1/metrics", get(metrics::metrics))
        .merge(images::changes())
        .merge(local_routes())
        .layer(from_fn_with_state(doors.clone(), answer::finish));
    Router::new()
        // What these bring here comes for whoever waits for it, and for nobody else.
        .route("/v1/jobs", get(jobs::list).post(jobs::submit))
        .merge(images::routes())
        .merge(routes)
        .fallback(answer::no_such_route)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(doors)
}

/// What other members may ask.
fn member_router(doors: Doors) -> Router {
    local_routes()
        .layer(from_fn_with_state(doors.clone(), answer::finish))
        .fallback(answer::no_such_route)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(doors)
}

fn local_routes() -> Router<Doors> {
    Router::new()
        .route("/v1/local/opinion/{job}", get(local::opinion))
        .route("/v1/local/fetches", get(fetching::local))
        .route("/v1/local/logs/{tender}/{index}", get(local::logs))
        .route("/v1/local/tasks/{tender}/{index}/session", get(sessions::local))
        .route(
            "/v1/local/tasks/{tender}/{index}/{verb}",
            get(tasks::local_look).post(tasks::local_act),
        )
        .merge(images::local_routes())
        .merge(chunks::local_routes())
}
