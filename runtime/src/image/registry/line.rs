//! One connection and what is said over it: HTTP/1.1, one request at a time.
//!
//! hyper wants somebody to drive a connection. Here that is whoever waits for something from
//! it, so no task runs beside and nothing outlives its owner: a line that is dropped is closed.
//!
//! Idle lines are kept for the next request. Nobody watches them meanwhile, so one of them may
//! have been closed by the other side; whoever takes one must be ready to ask again.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connect::{Connector, Wire};
use super::url::{Allowed, Server};
use super::{RegistryError, RegistryOptions};

/// Idle lines that are kept: as many as one pull has in use at a time, and one.
const IDLE_MAX: usize = 4;

/// The longest that a document may take to come, whole: it has a few MiB at most.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// What is sent with a request.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it, or nothing.
    Whole(Option<Bytes>),
    /// As it is made. Ends with the channel.
    Stream(Pieces),
}

/// What is sent while it is made.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Each piece, or the reason why there is no more.
    pub(super) from: mpsc::Receiver<io::Result<Bytes>>,
    /// How many were sent.
    pub(super) sent: Arc<AtomicU64>,
}

impl hyper::body::Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(Pieces { from, sent }) => {
                let piece = from.poll_recv(context);
                if piece.is_ready() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A connection over which requests can be made.
struct Line {
    server: Server,
    sender: SendRequest<Content>,
    driver: Driver,
    /// How often it was used before.
    used: bool,
}

type Http = Connection<TokioIo<Box<dyn Wire>>, Content>;

/// What moves a connection's bytes; nothing once it ended.
struct Driver(Option<Pin<Box<Http>>>);

impl Driver {
    /// Waits for `work`, and moves the connection's bytes meanwhile.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            if let Some(connection) = &mut self.0
                && connection.as_mut().poll(context).is_ready()
            {
                // What went wrong with it is told to `work`.
                self.0 = None;
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

/// All lines of one pull or push.
#[derive(Debug)]
pub(super) struct Lines {
    connector: Connector,
    head: Duration,
    silence: Duration,
    idle: Mutex<Vec<Line>>,
}

/// An answer's bytes, as they come.
#[derive(Debug)]
pub(super) struct Body {
    incoming: Incoming,
    line: Option<Line>,
    lines: Arc<Lines>,
}

impl Lines {
    pub(super) fn new(options: &RegistryOptions) -> Self {
        Self {
            connector: Connector::new(options),
            head: options.patience.head,
            silence: options.patience.silence,
            idle: Mutex::default(),
        }
    }

    /// Asks `server` and waits for the head of its answer. `make` makes the request; a second
    /// one, if a line that was idle turns out to be closed.
    pub(super) async fn ask(
        self: &Arc<Self>,
        server: &Server,
        allowed: Allowed,
        mut make: impl FnMut() -> Result<Request<Content>, RegistryError>,
    ) -> Result<Response<Body>, RegistryError> {
        loop {
            let request = make()?;
            let sent = match request.body() {
                Content::Whole(_) => None,
                Content::Stream(pieces) => Some(Arc::clone(&pieces.sent)),
            };
            // A stream can be sent only once.
            let idle = if sent.is_some() { None } else { self.take(server) };
            let mut line = match idle {
                Some(line) => line,
                None => self.open(server, allowed).await?,
            };
            match patiently(self.head, sent.as_deref(), line.ask(request)).await {
                None => {
                    let (host, after) = (server.authority(), self.head);
                    return Err(RegistryError::TimedOut { host, what: "answer", after });
                }
                Some(Err(_closed)) if line.used => {}
                Some(Err(error)) => return Err(broke(server, error)),
                Some(Ok(answer)) => {
                    let lines = Arc::clone(self);
                    return Ok(answer.map(|incoming| Body { incoming, line: Some(line), lines }));
                }
            }
        }
    }

    async fn open(&self, server: &Server, allowed: Allowed) -> Result<Line, RegistryError> {
        let wire = TokioIo::new(self.connector.connect(server, allowed).await?);
        let shaken = Builder::new().handshake(wire).await;
        let (sender, connection) = shaken.map_err(|error| broke(server, error))?;
        let driver = Driver(Some(Box::pin(connection)));
        Ok(Line { server: server.clone(), sender, driver, used: false })
    }

    fn take(&self, server: &Server) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().rposition(|line| line.server == *server)?;
        Some(idle.remove(at))
    }

    fn give(&self, mut line: Line) {
        if line.driver.0.is_none() || line.sender.is_closed() {
            return;
        }
        line.used = true;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push(line);
    }
}

impl Line {
    async fn ask(&mut self, request: Request<Content>) -> hyper::Result<Response<Incoming>> {
        let sender = &mut self.sender;
        let asking = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        self.driver.drive(asking).await
    }
}

impl Body {
    /// The next bytes, or none if that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(line) = &mut self.line else { return Ok(None) };
            let (incoming, silence) = (&mut self.incoming, self.lines.silence);
            let next = match timeout(silence, line.driver.drive(incoming.frame())).await {
                Ok(next) => next,
                Err(_late) => {
                    let host = line.server.authority();
                    let (what, after) = ("go on", silence);
                    self.line = None;
                    return Err(RegistryError::TimedOut { host, what, after });
                }
            };
            match next {
                None => {
                    if let Some(line) = self.line.take() {
                        self.lines.give(line);
                    }
                }
                Some(Err(error)) => {
                    let error = broke(&line.server, error);
                    self.line = None;
                    return Err(error);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                    // Trailers, and pieces of nothing.
                    _ => {}
                },
            }
        }
    }

    /// All of it, if it has no more than `max` bytes and does not drip: for documents.
    pub(super) async fn whole(
        self,
        what: &'static str,
        max: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let host = self.host();
        let late = || RegistryError::TimedOut { host, what: "send all of it", after: WHOLE_WITHIN };
        timeout(WHOLE_WITHIN, self.pieces(what, max)).await.unwrap_or_else(|_late| Err(late()))
    }

    async fn pieces(mut self, what: &'static str, max: usize) -> Result<Vec<u8>, RegistryError> {
        let host = self.host();
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if bytes.len() + piece.len() > max {
                return Err(RegistryError::TooLong { host, what, max: max as u64 });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn host(&self) -> String {
        self.line.as_ref().map(|line| line.server.authority()).unwrap_or_default()
    }

    /// All of it, if that is no more than `max` bytes and comes soon: for what nobody depends
    /// on. Read, so that the line can be used again.
    pub(super) async fn little(self, max: usize) -> Vec<u8> {
        let soon = self.lines.silence;
        match timeout(soon, self.whole("an answer", max)).await {
            Ok(Ok(bytes)) => bytes,
            _ => Vec::new(),
        }
    }

    /// How many bytes there will be, if that is said.
    pub(super) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }
}

/// Waits for `work`, but no longer than `limit` without a piece having been sent.
async fn patiently<T>(
    limit: Duration,
    sent: Option<&AtomicU64>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let count = || sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
    let mut before = count();
    loop {
        match timeout(limit, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_late) if count() == before => return None,
            Err(_late) => before = count(),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "Line({:?})", self.server)
    }
}

fn broke(server: &Server, error: hyper::Error) -> RegistryError {
    let host = server.authority();
    if error.is_parse() {
        let why = "it does not answer as HTTP does".to_owned();
        return RegistryError::NotARegistry { host, why };
    }
    RegistryError::Broke { host, source: io::Error::other(error) }
}
