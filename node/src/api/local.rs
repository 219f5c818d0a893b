//! What only this node has, for other members: its opinion and its logs.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use gossip_core::id::JobId;
use serde::Deserialize;
use starling_core::view::Opinion;

use super::answer::{Query, Refused};
use super::logs::{Lines, Source};
use super::spot;
use super::starts;
use crate::agent::Doors;

#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    pub(super) follow: bool,
    pub(super) tail: Option<usize>,
    #[serde(default)]
    pub(super) label: String,
}

/// `GET /v1/local/opinion/{job}`.
pub(super) async fn opinion(
    State(doors): State<Doors>,
    Path(job): Path<String>,
) -> Result<Json<Opinion>, Refused> {
    let id: JobId = job.parse().map_err(|_not_an_id| Refused::no_such_job(&job))?;
    let opinion = doors.agent.look(move |core, _| core.opinion_on(&id)).await?;
    opinion.map(Json).ok_or_else(|| Refused::no_such_job(&job))
}

/// `GET /v1/local/logs/{tender}/{index}`: newline-delimited `LogItem`s.
pub(super) async fn logs(
    State(doors): State<Doors>,
    Path((tender, index)): Path<(String, u32)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refused> {
    let tender = spot::tender(&tender)?;
    let (lines, body) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let source = Source { tender, index, label: query.label, tail: query.tail };
        starts::send(&doors, &source, query.follow, &lines).await;
    });
    Ok(Body::from_stream(body).into_response())
}
