//! Asks another member over the cluster's own streams: HTTP, NAT or not.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use gossip::OpenStreamError;
use gossip_core::id::{JobId, NodeId};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::http::request;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use starling_core::view::Opinion;

use crate::agent::Doors;
use crate::session::PROTOCOL;

/// How long a member may take to begin its answer, once the stream to it is open.
const ANSWER_FOR: Duration = Duration::from_secs(3);

/// How often a stream is tried that the member does not take at once. A member that was just
/// restarted is reached by a new connection, which ends the one to its earlier life together
/// with what was being opened on that.
const OPEN_TRIES: u32 = 4;

/// Before the second try; it doubles.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// The largest answer that is read whole.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("cannot be reached from here: {0}")]
    Stream(#[from] OpenStreamError),
    #[error("broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("did not answer in time")]
    Late,
    #[error("is not heard any more")]
    Lost,
    #[error("answered with status {0}")]
    Status(u16),
    #[error("answered in words that this version does not know")]
    Unreadable,
}

/// Opens a stream, although it may be refused at first. Nothing was said on it yet, so nothing
/// is said twice.
async fn open<S, F>(mut attempt: impl FnMut() -> F) -> Result<S, OpenStreamError>
where
    F: Future<Output = Result<S, OpenStreamError>>,
{
    let mut pause = OPEN_PAUSE;
    for _ in 1..OPEN_TRIES {
        match attempt().await {
            // One that was waited for in vain would be again.
            Err(OpenStreamError::Refused { source, .. })
                if source.kind() != ErrorKind::TimedOut =>
            {
                tracing::debug!(error = %source, "a member does not take a stream; once more");
            }
            opened => return opened,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    attempt().await
}

/// Sends one request without a body over a stream of its own. The wait for a stream is no part
/// of the member's time, for many may be wanted at once.
async fn exchange(
    doors: &Doors,
    node: NodeId,
    request: request::Builder,
    limit: Duration,
) -> Result<Response<Incoming>, PeerError> {
    let stream = open(|| doors.gossip.open_stream(node)).await?;
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
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(PeerError::Late))
}

async fn whole(response: Response<Incoming>, most: usize) -> Result<Bytes, PeerError> {
    let body = Limited::new(response.into_body(), most).collect();
    let body = tokio::time::timeout(ANSWER_FOR, body).await.map_err(|_elapsed| PeerError::Late)?;
    Ok(body.map_err(|_too_large_or_broken| PeerError::Unreadable)?.to_bytes())
}

/// Reads something of a member; the body comes as it comes.
pub(crate) async fn get(
    doors: &Doors,
    node: NodeId,
    path: &str,
) -> Result<Response<Incoming>, PeerError> {
    get_within(doors, node, path, ANSWER_FOR).await
}

/// The same, of what comes over a link that is full.
pub(crate) async fn get_within(
    doors: &Doors,
    node: NodeId,
    path: &str,
    limit: Duration,
) -> Result<Response<Incoming>, PeerError> {
    let response = exchange(doors, node, Request::get(path), limit).await?;
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
    let response = exchange(doors, node, request, ANSWER_FOR).await?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(hyper::upgrade::on(response).await?),
        status => Err(PeerError::Status(status.as_u16())),
    }
}

/// Asks a member for one document, or to do something; its answer, whatever it is.
pub(crate) async fn ask(
    doors: &Doors,
    node: NodeId,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), PeerError> {
    ask_within(doors, node, method, path, ANSWER_FOR).await
}

/// The same, of what may take its time.
pub(super) async fn ask_within(
    doors: &Doors,
    node: NodeId,
    method: Method,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), PeerError> {
    let request = Request::builder().method(method).uri(path);
    let response = exchange(doors, node, request, limit).await?;
    Ok((response.status(), whole(response, ANSWER_BYTES_MAX).await?))
}

/// Reads one JSON document of a member, of so many bytes at most.
pub(crate) async fn document<T: DeserializeOwned>(
    doors: &Doors,
    node: NodeId,
    path: &str,
    most: usize,
) -> Result<T, PeerError> {
    let bytes = whole(get(doors, node, path).await?, most).await?;
    serde_json::from_slice(&bytes).map_err(|_not_json| PeerError::Unreadable)
}

/// What a member says to a job's open slots.
pub(super) async fn opinion(doors: &Doors, node: NodeId, job: JobId) -> Result<Opinion, PeerError> {
    document(doors, node, &format!("/v1/local/opinion/{job}"), ANSWER_BYTES_MAX).await
}

#[cfg(test)]
mod tests {
    use gossip_core::sign::Key;

    use super::*;

    /// What comes of these attempts, and how many were made.
    async fn tried(outcomes: &[Option<ErrorKind>]) -> (Result<(), OpenStreamError>, usize) {
        let node = Key::from_seed([1; 32]).id();
        let mut made = 0;
        let opened = open(|| {
            let outcome = outcomes.get(made).copied().flatten();
            made += 1;
            let refused = |kind: ErrorKind| OpenStreamError::Refused { node, source: kind.into() };
            std::future::ready(outcome.map_or(Ok(()), |kind| match kind {
                ErrorKind::NotConnected => Err(OpenStreamError::NotConnected(node)),
                kind => Err(refused(kind)),
            }))
        });
        (opened.await, made)
    }

    #[tokio::test]
    async fn a_stream_that_breaks_as_it_opens_is_opened_again_but_not_for_ever() {
        let broken = Some(ErrorKind::ConnectionReset);
        let (opened, made) = tried(&[broken, broken, None]).await;
        assert!(opened.is_ok() && made == 3, "{opened:?} after {made}");
        let (opened, made) = tried(&[broken; 20]).await;
        assert!(matches!(opened, Err(OpenStreamError::Refused { .. })) && made == 4, "{made}");
    }

    #[tokio::test]
    async fn who_is_not_there_or_takes_too_long_is_asked_once() {
        for kind in [ErrorKind::NotConnected, ErrorKind::TimedOut] {
            let (opened, made) = tried(&[Some(kind); 2]).await;
            assert!(opened.is_err() && made == 1, "{kind:?}: {made}");
        }
    }
}
