//! Asks another member over the cluster's own streams: HTTP, NAT or not.

use std::time::Duration;

use bytes::Bytes;
use gossip_core::id::{JobId, NodeId};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use starling_core::view::Opinion;

use crate::agent::Doors;

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

/// Sends one GET request; the body comes as it comes. The wait for a stream is no part of
/// the member's time, for many may be wanted at once.
pub(super) async fn get(
    doors: &Doors,
    node: NodeId,
    path: &str,
) -> Result<Response<Incoming>, PeerError> {
    let stream = doors.gossip.open_stream(node).await?;
    let asked = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        doors.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a stream to a member ended");
            }
        });
        let request = Request::get(path).header("host", "member").body(Empty::<Bytes>::new());
        let request = request.map_err(|_bad_path| PeerError::Unreadable)?;
        Ok::<_, PeerError>(sender.send_request(request).await?)
    };
    let late = |_elapsed| PeerError::Late;
    let response = tokio::time::timeout(ANSWER_FOR, asked).await.map_err(late)??;
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(PeerError::Status(status.as_u16())),
    }
}

/// What a member says to a job's open slots.
pub(super) async fn opinion(doors: &Doors, node: NodeId, job: JobId) -> Result<Opinion, PeerError> {
    let asked = async {
        let response = get(doors, node, &format!("/v1/local/opinion/{job}")).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|_too_large_or_broken| PeerError::Unreadable)?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|_not_json| PeerError::Unreadable)
    };
    tokio::time::timeout(ANSWER_FOR, asked).await.unwrap_or(Err(PeerError::Late))
}
