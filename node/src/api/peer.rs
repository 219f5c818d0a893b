//! Asks another member over the cluster's own streams: HTTP, NAT or not.

use std::time::Duration;

use bytes::Bytes;
use gossip_core::id::{JobId, NodeId};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::http::request;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use starling_core::view::Opinion;

use crate::agent::Doors;
use crate::session::PROTOCOL;

/// How long a member may take to begin its answer, once the stream to it is open.
const ANSWER_FOR: Duration = Duration::from_secs(3);

/// The largest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("cannot be reached from here: {0}")]
    Stream(#[from] gossip::OpenStreamError),
    #[error("broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("did not answer within {}s", ANSWER_FOR.as_secs())]
    Late,
    #[error("is not heard any more")]
    Lost,
    #[error("answered with status {0}")]
    Status(u16),
    #[error("answered in words that this version does not know")]
    Unreadable,
}

/// Sends one request without a body over a stream of its own. The wait for a stream is no part
/// of the member's time, for many may be wanted at once.
async fn exchange(
    doors: &Doors,
    node: NodeId,
    request: request::Builder,
) -> Result<Response<Incoming>, PeerError> {
    let stream = doors.gossip.open_stream(node).await?;
    let request = request.header(header::HOST, "member").body(Empty::<Bytes>::new());
    let request = request.map_err(|_bad_path| PeerError::Unreadable)?;
    let asked = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        doors.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a stream to a member ended");
            }
        });
        Ok::<_, PeerError>(sender.send_request(request).await?)
    };
    tokio::time::timeout(ANSWER_FOR, asked).await.unwrap_or(Err(PeerError::Late))
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, PeerError> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(ANSWER_FOR, body).await.map_err(|_elapsed| PeerError::Late)?;
    Ok(body.map_err(|_too_large_or_broken| PeerError::Unreadable)?.to_bytes())
}

/// Reads something of a member; the body comes as it comes.
pub(super) async fn get(
    doors: &Doors,
    node: NodeId,
    path: &str,
) -> Result<Response<Incoming>, PeerError> {
    let response = exchange(doors, node, Request::get(path)).await?;
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(PeerError::Status(status.as_u16())),
    }
}

/// Opens a stream that begins as a request and becomes a session.
pub(super) async fn upgrade(
    doors: &Doors,
    node: NodeId,
    path: &str,
) -> Result<Upgraded, PeerError> {
    let request =
        Request::get(path).header(header::CONNECTION, "upgrade").header(header::UPGRADE, PROTOCOL);
    let response = exchange(doors, node, request).await?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(hyper::upgrade::on(response).await?),
        status => Err(PeerError::Status(status.as_u16())),
    }
}

/// Asks a member for one document, or to do something; its answer, whatever it is.
pub(super) async fn ask(
    doors: &Doors,
    node: NodeId,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), PeerError> {
    let response = exchange(doors, node, Request::builder().method(method).uri(path)).await?;
    Ok((response.status(), whole(response).await?))
}

/// What a member says to a job's open slots.
pub(super) async fn opinion(doors: &Doors, node: NodeId, job: JobId) -> Result<Opinion, PeerError> {
    let bytes = whole(get(doors, node, &format!("/v1/local/opinion/{job}")).await?).await?;
    serde_json::from_slice(&bytes).map_err(|_not_json| PeerError::Unreadable)
}
