//! `exec`, `attach` and `cp`: a request that becomes a connection into a task.
//!
//! ```text
//! user ──upgrade──▶ any node ──upgrade──▶ the task's node ──▶ runtime
//!      ◀═══════════ bytes, not looked at ═══════════▶
//! ```
//!
//! The node that is asked only finds the task and passes bytes on. What may be
//! done is the task's node's to say; it writes down who did what.

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Query, Refused};
use super::serve::Caller;
use super::types::Complaint;
use super::{peer, spot};
use crate::agent::{Doors, inside};
use crate::session::PROTOCOL;

/// `GET /v1/tasks/{task}/session`, upgraded.
pub(super) async fn open(
    State(doors): State<Doors>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let upgrade = upgrade(request)?;
    let spot = spot::running(&doors, &text).await?;
    if spot.node == doors.facts.node {
        let Some(task) = spot::here(&doors, spot.tender, spot.index).await? else {
            return Err(moved(&text));
        };
        return Ok(serve(doors, upgrade, task, caller.0));
    }
    let path = format!("{}?for={}", spot.path("session"), crate::cli::client::segment(&caller.0));
    let far = peer::upgrade(&doors, spot.node, &path).await.map_err(|error| {
        let complaint = Complaint::new("unreachable_node", format!("{text:?} cannot be reached"))
            .because(format!("its node {} {error}", spot.node_name))
            .hint("starling nodes   shows who is silent");
        Refused::new(StatusCode::BAD_GATEWAY, complaint)
    })?;
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let Some(mut near) = upgraded(upgrade).await else { return };
        let mut far = TokioIo::new(far);
        tokio::select! {
            // Either end may leave at any time.
            _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = doors.stop.cancelled() => {}
        }
    });
    Ok(switching())
}

/// Who asked the node that asks, as that node says: for the record, not for rights.
#[derive(Debug, serde::Deserialize)]
pub(super) struct For {
    #[serde(default, rename = "for")]
    whom: String,
}

/// `GET /v1/local/tasks/{tender}/{index}/session`, upgraded.
pub(super) async fn local(
    State(doors): State<Doors>,
    Path((tender, index)): Path<(String, u32)>,
    Query(For { whom }): Query<For>,
    request: Request,
) -> Result<Response, Refused> {
    let upgrade = upgrade(request)?;
    let task = spot::named(&doors, &tender, index).await?;
    Ok(serve(doors, upgrade, task, format!("{whom}, through another member")))
}

fn serve(doors: Doors, upgrade: OnUpgrade, task: runtime::TaskId, whom: String) -> Response {
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let Some(stream) = upgraded(upgrade).await else { return };
        tokio::select! {
            () = inside::serve(&doors.runtime, &task, &whom, stream) => {}
            () = doors.stop.cancelled() => {}
        }
    });
    switching()
}

fn upgrade(mut request: Request) -> Result<OnUpgrade, Refused> {
    let asked = request.headers().get(header::UPGRADE).and_then(|name| name.to_str().ok());
    if asked != Some(PROTOCOL) {
        let complaint = Complaint::new("bad_request", "this is no ordinary request")
            .because(format!("the connection must ask to become {PROTOCOL}"));
        return Err(Refused::new(StatusCode::UPGRADE_REQUIRED, complaint));
    }
    request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| {
        let complaint = Complaint::new("bad_request", "this connection cannot be upgraded");
        Refused::new(StatusCode::BAD_REQUEST, complaint)
    })
}

async fn upgraded(upgrade: OnUpgrade) -> Option<impl AsyncRead + AsyncWrite + Unpin + Send> {
    match upgrade.await {
        Ok(stream) => Some(TokioIo::new(stream)),
        Err(error) => {
            tracing::debug!(%error, "a session ended before it began");
            None
        }
    }
}

fn switching() -> Response {
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn moved(text: &str) -> Refused {
    let complaint = Complaint::new("not_running", format!("{text:?} is not running any more"))
        .because("it has just ended, or moved to another node")
        .hint(format!("`starling ps -a {text}` shows where it stands"));
    Refused::new(StatusCode::CONFLICT, complaint)
}
