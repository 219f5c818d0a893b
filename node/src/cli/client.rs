//! The API's client: one request at a time, over one door.
//!
//! A connection is kept for the next request, so that `run` submits and
//! follows on one; a streamed answer takes its connection with it. An answer
//! is handed on as bytes, because `--json` prints it as it came, and is parsed
//! where somebody looks inside.
//!
//! Nothing here retries: a caller that may ask twice knows that it may.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::api::types::{Complaint, Failure};
use crate::cli::door::Door;
use crate::cli::errors::Failed;
use crate::cli::lines::Lines;
use crate::session::PROTOCOL;

/// How long an agent may think about an ordinary request: far beyond the two seconds that
/// it waits for another member's disk, and the time that all members take to be asked.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// The largest answer that is read whole: every task of many arrays of the greatest size.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How much of an answer that is no JSON is shown.
const EXCERPT_CHARS_MAX: usize = 200;

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as an agent in order needs.
    Ordinary,
    /// For as long as what was asked for takes.
    Unlimited,
}

/// Asks one agent.
#[derive(Debug)]
pub(crate) struct Client {
    door: Door,
    idle: Option<Connection>,
}

/// One HTTP connection; ends when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Sent>,
    _driver: AbortOnDropHandle<()>,
}

/// The body of a request: a few words, or a stream of any length.
type Sent = UnsyncBoxBody<Bytes, io::Error>;

fn words(body: Bytes) -> Sent {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// The body of an answer as bytes that come and come.
#[derive(Debug)]
pub(crate) struct Download {
    body: Incoming,
    _connection: Connection,
}

impl Download {
    /// The next of them; `None` at the end, which a connection that breaks is not.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// The body of a successful answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer(Bytes);

impl Answer {
    /// As it came.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it says.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failed> {
        parse(&self.0)
    }
}

/// Reads one JSON document of an agent.
pub(crate) fn parse<T: DeserializeOwned>(document: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(document).map_err(|error| {
        Complaint::new("bad_answer", "the agent's answer cannot be read")
            .because(error)
            .hint("starling version, starling status   whether client and agent differ")
            .into()
    })
}

impl Client {
    /// Will ask the agent behind this door; connects with the first request.
    pub(crate) fn new(door: Door) -> Self {
        Self { door, idle: None }
    }

    /// Where it asks.
    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// Reads something.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask(Method::GET, path, Bytes::new(), Patience::Ordinary).await
    }

    /// Reads something that may take its time to be true.
    pub(crate) async fn wait_for(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask(Method::GET, path, Bytes::new(), Patience::Unlimited).await
    }

    /// Does something.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        body: &impl Serialize,
        patience: Patience,
    ) -> Result<Answer, Failed> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Failed::from(Complaint::new("bad_request", "this cannot be asked").because(error))
        })?;
        self.ask(Method::POST, path, body.into(), patience).await
    }

    /// Does something that needs no words.
    pub(crate) async fn post_empty(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask(Method::POST, path, Bytes::new(), Patience::Ordinary).await
    }

    /// Does something that needs no words and may take its time.
    pub(crate) async fn post_slowly(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask(Method::POST, path, Bytes::new(), Patience::Unlimited).await
    }

    /// Removes something whose removal may take its time.
    pub(crate) async fn delete_slowly(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask(Method::DELETE, path, Bytes::new(), Patience::Unlimited).await
    }

    /// Removes something.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<Answer, Failed> {
        self.ask(Method::DELETE, path, Bytes::new(), Patience::Ordinary).await
    }

    /// Reads something line by line, for as long as it goes on.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Lines, Failed> {
        self.lines(Method::GET, path, words(Bytes::new()), Patience::Ordinary).await
    }

    /// Does something that takes its time, and reads line by line how far it is.
    pub(crate) async fn watch(&mut self, path: &str) -> Result<Lines, Failed> {
        self.lines(Method::POST, path, words(Bytes::new()), Patience::Unlimited).await
    }

    /// Sends bytes for as long as they come, and reads line by line what becomes of them.
    pub(crate) async fn upload(
        &mut self,
        path: &str,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Lines, Failed> {
        let body = StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync();
        self.lines(Method::POST, path, body, Patience::Ordinary).await
    }

    async fn lines(
        &mut self,
        method: Method,
        path: &str,
        body: Sent,
        patience: Patience,
    ) -> Result<Lines, Failed> {
        let (answer, connection) = in_time(patience, self.exchange(method, path, body)).await?;
        if answer.status().is_success() {
            return Ok(Lines::new(answer.into_body(), connection));
        }
        Err(refused(answer).await)
    }

    /// Reads something as bytes, for as long as it goes on.
    pub(crate) async fn download(&mut self, path: &str) -> Result<Download, Failed> {
        let (answer, connection) = self.exchange(Method::GET, path, words(Bytes::new())).await?;
        if answer.status().is_success() {
            return Ok(Download { body: answer.into_body(), _connection: connection });
        }
        Err(refused(answer).await)
    }

    /// Opens a connection that begins as a request and becomes a session.
    pub(crate) async fn upgrade(&self, path: &str) -> Result<Upgraded, Failed> {
        let asked = async {
            let mut connection = connect(&self.door).await?;
            let request = Request::builder()
                .uri(path)
                .header(header::HOST, "starling")
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, PROTOCOL)
                .body(words(Bytes::new()));
            let request = request.map_err(|error| {
                Failed::from(Complaint::new("bad_request", "this cannot be asked").because(error))
            })?;
            let answer = connection.sender.send_request(request).await.map_err(broken)?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(refused(answer).await);
            }
            let stream = hyper::upgrade::on(answer).await.map_err(broken)?;
            Ok(stream)
        };
        in_time(Patience::Ordinary, asked).await
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Patience,
    ) -> Result<Answer, Failed> {
        let exchange = async {
            let (answer, connection) = self.exchange(method, path, words(body)).await?;
            if !answer.status().is_success() {
                return Err(refused(answer).await);
            }
            let whole = whole(answer).await?;
            Ok((whole, connection))
        };
        let (whole, connection) = in_time(patience, exchange).await?;
        self.idle = Some(connection);
        Ok(Answer(whole))
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Sent,
    ) -> Result<(Response<Incoming>, Connection), Failed> {
        let mut connection = match self.idle.take() {
            Some(idle) => match ready(idle).await {
                Some(ready) => ready,
                None => connect(&self.door).await?,
            },
            None => connect(&self.door).await?,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "starling")
            .header(header::USER_AGENT, concat!("starling/", env!("CARGO_PKG_VERSION")));
        let is_words = body.size_hint().exact().is_some_and(|length| length > 0);
        if is_words {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(body).map_err(|error| {
            Failed::from(Complaint::new("bad_request", "this cannot be asked").because(error))
        })?;
        let answer = connection.sender.send_request(request).await.map_err(broken)?;
        Ok((answer, connection))
    }
}

/// A connection kept from the last request, unless the agent closed it since.
async fn ready(mut idle: Connection) -> Option<Connection> {
    idle.sender.ready().await.ok().map(|()| idle)
}

async fn connect(door: &Door) -> Result<Connection, Failed> {
    let stream = TokioIo::new(door.open().await?);
    let (sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let driver = tokio::spawn(async move {
        // Its end is also the end of the request on it, which tells the error.
        let _told_there = connection.with_upgrades().await;
    });
    Ok(Connection { sender, _driver: AbortOnDropHandle::new(driver) })
}

async fn in_time<T>(
    patience: Patience,
    exchange: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    match patience {
        Patience::Unlimited => exchange.await,
        Patience::Ordinary => timeout(ANSWER_TIME_MAX, exchange).await.unwrap_or_else(|_late| {
            let silent = format!("it said nothing for {} seconds", ANSWER_TIME_MAX.as_secs());
            let complaint = Complaint::new("unreachable", "the agent does not answer");
            Err(complaint.because(silent).hint("see agent.log in its data directory").into())
        }),
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, Failed> {
    match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(broken(error)),
    }
}

async fn refused(answer: Response<Incoming>) -> Failed {
    let status = answer.status();
    let body = match whole(answer).await {
        Ok(body) => body,
        Err(failed) => return failed,
    };
    failure(status.as_str(), &body).into()
}

fn failure(status: &str, body: &[u8]) -> Complaint {
    if let Ok(failure) = serde_json::from_slice::<Failure>(body) {
        return failure.error;
    }
    let text = String::from_utf8_lossy(body);
    let excerpt: String = text.chars().take(EXCERPT_CHARS_MAX).collect();
    let complaint = Complaint::new("bad_answer", format!("the agent answered {status}"));
    if excerpt.trim().is_empty() { complaint } else { complaint.because(excerpt.trim()) }
}

fn broken(error: impl std::fmt::Display) -> Failed {
    Complaint::new("broken", "the agent left before it answered")
        .because(error)
        .hint("starling status   whether it is back")
        .into()
}

/// A job, task or id as one segment of a path.
pub(crate) fn segment(reference: &str) -> String {
    let mut encoded = String::with_capacity(reference.len());
    for byte in reference.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    // A segment of dots alone would be resolved as a path, not asked for.
    if encoded.bytes().all(|byte| byte == b'.') { encoded.replace('.', "%2E") } else { encoded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_stays_one_segment() {
        for (given, encoded) in
            [("web.2", "web.2"), ("a/b c", "a%2Fb%20c"), ("..", "%2E%2E"), ("ü?", "%C3%BC%3F")]
        {
            assert_eq!(segment(given), encoded);
        }
    }

    #[test]
    fn what_is_no_failure_is_shown_in_short() {
        let told = br#"{"error":{"code":"not_found","message":"there is no job `x`"}}"#;
        assert_eq!(failure("404", told).code, "not_found");
        let other = failure("502", "y".repeat(1000).as_bytes());
        assert_eq!(other.message, "the agent answered 502");
        assert_eq!(other.why, ["y".repeat(EXCERPT_CHARS_MAX)]);
        assert!(failure("500", b" \n").why.is_empty());
    }
}
