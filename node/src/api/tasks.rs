//! What can be asked of one running task, from any node: its use and its
//! processes; to pause, go on, or take a signal.
//!
//! The node that is asked finds the task; the task's node does it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use runtime::{Recipient, TaskId};
use serde::Deserialize;

use super::answer::{Query, Refused};
use super::peer;
use super::spot::{self, Spot};
use super::types::{Complaint, Processes, Usage};
use crate::agent::{Doors, words};

/// What a signal is sent to, and which.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Wish {
    /// By number.
    signal: Option<i32>,
    /// Whether to its first process alone.
    #[serde(default)]
    main: bool,
}

impl Wish {
    fn query(&self) -> String {
        let signal = self.signal.map_or(String::new(), |signal| format!("&signal={signal}"));
        format!("?main={}{signal}", self.main)
    }
}

/// `GET /v1/tasks/{task}/stats` and `/processes`.
pub(super) async fn look(
    State(doors): State<Doors>,
    Path((text, verb)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let spot = spot::running(&doors, &text).await?;
    if spot.node != doors.facts.node {
        return far(&doors, &spot, Method::GET, &verb).await;
    }
    let task = spot::held(&doors, spot.tender, spot.index).await?;
    seen(&doors, &task, &spot.label, &verb).await
}

/// `POST /v1/tasks/{task}/pause`, `/resume` and `/signal`.
pub(super) async fn act(
    State(doors): State<Doors>,
    Path((text, verb)): Path<(String, String)>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refused> {
    let spot = spot::running(&doors, &text).await?;
    if spot.node != doors.facts.node {
        return far(&doors, &spot, Method::POST, &format!("{verb}{}", wish.query())).await;
    }
    let task = spot::held(&doors, spot.tender, spot.index).await?;
    done(&doors, &task, &verb, &wish).await
}

/// `GET /v1/local/tasks/{tender}/{index}/{verb}`.
pub(super) async fn local_look(
    State(doors): State<Doors>,
    Path((tender, index, verb)): Path<(String, u32, String)>,
) -> Result<Response, Refused> {
    let task = spot::named(&doors, &tender, index).await?;
    seen(&doors, &task, "", &verb).await
}

/// `POST /v1/local/tasks/{tender}/{index}/{verb}`.
pub(super) async fn local_act(
    State(doors): State<Doors>,
    Path((tender, index, verb)): Path<(String, u32, String)>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refused> {
    let task = spot::named(&doors, &tender, index).await?;
    done(&doors, &task, &verb, &wish).await
}

async fn far(doors: &Doors, spot: &Spot, method: Method, verb: &str) -> Result<Response, Refused> {
    let asked = peer::ask(doors, spot.node, method, &spot.path(verb)).await;
    let (status, body) = asked.map_err(|error| {
        let complaint =
            Complaint::new("unreachable_node", format!("{:?} cannot be reached", spot.label))
                .because(format!("its node {} {error}", spot.node_name))
                .hint("starling nodes   shows who is silent");
        Refused::new(StatusCode::BAD_GATEWAY, complaint)
    })?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn seen(doors: &Doors, task: &TaskId, label: &str, verb: &str) -> Result<Response, Refused> {
    let node = doors.facts.name.clone();
    match verb {
        "stats" => {
            let usage = doors.runtime.usage(task).await.map_err(|error| failed(&error))?;
            let paused = doors.runtime.is_paused(task).await.map_err(|error| failed(&error))?;
            Ok(Json(Usage { task: label.to_owned(), node, paused, usage }).into_response())
        }
        "processes" => {
            let items = doors.runtime.processes(task).await.map_err(|error| failed(&error))?;
            Ok(Json(Processes { node, items }).into_response())
        }
        _ => Err(no_such(verb)),
    }
}

async fn done(doors: &Doors, task: &TaskId, verb: &str, wish: &Wish) -> Result<Response, Refused> {
    match verb {
        "pause" => {
            doors.runtime.pause(task).await.map_err(|error| failed(&error))?;
            doors.agent.held(task.clone(), true).await?;
        }
        "resume" => {
            doors.runtime.resume(task).await.map_err(|error| failed(&error))?;
            doors.agent.held(task.clone(), false).await?;
        }
        "signal" => {
            let signal = wish.signal.ok_or_else(|| {
                let complaint = Complaint::new("bad_request", "which signal is not said");
                Refused::new(StatusCode::BAD_REQUEST, complaint)
            })?;
            let whom = if wish.main { Recipient::Main } else { Recipient::All };
            doors.runtime.signal(task, signal, whom).await.map_err(|error| failed(&error))?;
        }
        _ => return Err(no_such(verb)),
    }
    Ok(Json(serde_json::json!({ "task": task.as_str() })).into_response())
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Refused {
    let why = words::refusal(error);
    let complaint = Complaint::new("task", "the task's node could not do it").because(why);
    Refused::new(StatusCode::CONFLICT, complaint)
}

fn no_such(verb: &str) -> Refused {
    let complaint = Complaint::new("no_such_route", format!("a task knows no {verb:?}"))
        .hint("GET stats or processes; POST pause, resume or signal");
    Refused::new(StatusCode::NOT_FOUND, complaint)
}
