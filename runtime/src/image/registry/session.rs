//! What is said with one registry about one repository: who we are, where it sends us, and
//! what its refusals mean.
//!
//! ```text
//! ask ──401, challenge──▶ token from the realm ──▶ ask again ──307──▶ another host, without it
//! ```
//!
//! Invariant: credentials and tokens go to the very server that was named (scheme, host and
//! port), and credentials to the realm of its own challenge; once an answer has sent us to
//! another server, nothing is shown any more, whatever that one asks for and wherever it sends
//! us next. From TLS nothing leads to where there is none.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, LOCATION, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use tokio::sync::Mutex;

use super::line::{Body, Content, Lines, Pieces};
use super::refusal::{REFUSAL_BYTES_MAX, plain};
use super::retry::{Met, Tries};
use super::url::{Allowed, Reach, Server, Url, reach};
use super::{Credential, Patience, RegistryError, RegistryOptions, Speak};

/// As whom we ask.
const AGENT: &str = concat!("starling/", env!("CARGO_PKG_VERSION"));

/// How often one request may be sent elsewhere: as often as browsers go along.
const REDIRECTS_MAX: usize = 10;

/// What is to be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Pull,
    Push,
}

/// One registry and one repository of it.
pub(super) struct Session {
    pub(super) lines: Arc<Lines>,
    /// As people write it.
    pub(super) host: String,
    pub(super) server: Server,
    pub(super) repository: String,
    pub(super) wish: Wish,
    pub(super) credential: Option<Credential>,
    pub(super) patience: Patience,
    /// The header that shows who we are, once that was asked for.
    pub(super) pass: Mutex<Option<String>>,
    met: AtomicBool,
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) content: Option<Bytes>,
}

/// The answer to one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// Who gave it.
    pub(super) url: Url,
    /// Whether that is the registry itself.
    pub(super) ours: bool,
}

impl Ask {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: Vec::new(), content: None }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Answer {
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "Session({}/{})", self.host, self.repository)
    }
}

impl Session {
    pub(super) fn new(
        lines: &Arc<Lines>,
        host: &str,
        repository: &str,
        wish: Wish,
        options: &RegistryOptions,
    ) -> Result<Self, RegistryError> {
        let server = Server::named(host, options).ok_or_else(|| RegistryError::NoHost {
            host: host.to_owned(),
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        Ok(Self {
            lines: Arc::clone(lines),
            host: host.to_owned(),
            server,
            repository: repository.to_owned(),
            wish,
            credential: options.credentials.get(host).cloned(),
            patience: options.patience.clone(),
            pass: Mutex::default(),
            met: AtomicBool::new(false),
        })
    }

    /// Something of this repository: `manifests/latest`.
    pub(super) fn at(&self, what: &str) -> Url {
        self.server.at(format!("/v2/{}/{what}", self.repository))
    }

    /// Asks until there is an answer of success, or it is of no use.
    pub(super) async fn persist(&self, ask: &Ask, wanted: &str) -> Result<Answer, RegistryError> {
        let mut tries = Tries::new();
        loop {
            let error = match self.once(ask, wanted).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.pause(&mut tries, error).await?;
        }
    }

    /// Asks once. An answer that is none of success is an error.
    pub(super) async fn once(&self, ask: &Ask, wanted: &str) -> Result<Answer, RegistryError> {
        let answer = self.follow(ask).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.refusal(answer, wanted).await)
    }

    /// Waits before the next try, or gives the error back if there is to be none.
    pub(super) async fn pause(
        &self,
        tries: &mut Tries,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        let met = if self.met.load(Ordering::Relaxed) { Met::Before } else { Met::Never };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let chance = now.map_or(0, |now| u64::from(now.subsec_micros()));
        let Some(pause) = tries.next(&error, met, &self.patience, chance) else {
            return Err(error);
        };
        tracing::debug!(host = self.host, %error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Asks, shows who we are if that is wanted, and goes where the answer sends us.
    pub(super) async fn follow(&self, ask: &Ask) -> Result<Answer, RegistryError> {
        let mut url = ask.url.clone();
        let mut ours = url.server == self.server;
        let mut renewed = false;
        let mut left = REDIRECTS_MAX;
        loop {
            let pass = if ours { self.pass.lock().await.clone() } else { None };
            let make = || {
                let content = Content::Whole(ask.content.clone());
                self.request(&ask.method, &url, &ask.headers, pass.as_deref(), content)
            };
            let given = self.lines.ask(&url.server, self.allowed(&url.server), make).await?;
            let (head, body) = given.into_parts();
            let answer = Answer { status: head.status, headers: head.headers, body, url, ours };
            self.met.fetch_or(ours, Ordering::Relaxed);
            if answer.status == StatusCode::UNAUTHORIZED && ours && !renewed {
                renewed = true;
                url = answer.url.clone();
                self.renew(pass, answer).await?;
                continue;
            }
            if !redirects(answer.status, &ask.method) {
                return Ok(answer);
            }
            if left == 0 {
                return Err(RegistryError::Circles { host: self.host.clone() });
            }
            left -= 1;
            url = self.next(&answer)?;
            answer.body.little(REFUSAL_BYTES_MAX).await;
            ours &= url.server == self.server;
        }
    }

    /// Sends a stream to where an earlier answer of this registry said. It is sent once.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &[(HeaderName, String)],
        pieces: Pieces,
    ) -> Result<Answer, RegistryError> {
        let ours = url.server == self.server;
        let pass = if ours { self.pass.lock().await.clone() } else { None };
        let mut content = Some(Content::Stream(pieces));
        let make = || {
            let content = content.take().unwrap_or(Content::Whole(None));
            self.request(&method, &url, headers, pass.as_deref(), content)
        };
        let given = self.lines.ask(&url.server, self.allowed(&url.server), make).await?;
        let (head, body) = given.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, url, ours })
    }

    /// Where an answer sends us, if we go there.
    pub(super) fn next(&self, answer: &Answer) -> Result<Url, RegistryError> {
        let host = || self.host.clone();
        let Some(location) = answer.header(&LOCATION) else {
            let why = "sends us elsewhere and does not say where".to_owned();
            return Err(RegistryError::Nonsense { host: host(), why });
        };
        let Some(url) = answer.url.join(location) else {
            let to = plain(location);
            return Err(RegistryError::Forbidden { host: host(), to, why: "which is no address" });
        };
        self.check(url)
    }

    /// Checks what can be seen of a place before its name is resolved.
    pub(super) fn check(&self, url: Url) -> Result<Url, RegistryError> {
        let forbidden = |why| {
            let (host, to) = (self.host.clone(), plain(&url.to_string()));
            Err(RegistryError::Forbidden { host, to, why })
        };
        if url.server.speak == Speak::Plain && self.server.speak == Speak::Tls {
            return forbidden("where everybody on the way can read and change what is said");
        }
        let allowed = self.allowed(&url.server);
        if url.server.host.parse().is_ok_and(|address| !allowed.has(address)) {
            return forbidden("which only this machine or its own link reaches");
        }
        Ok(url)
    }

    /// Which addresses a server may have.
    pub(super) fn allowed(&self, server: &Server) -> Allowed {
        let name = self.server.host.as_str();
        if *server == self.server {
            return Allowed::Any;
        }
        let here = name == "localhost" || name.ends_with(".localhost");
        let own = if here { Some(Reach::Machine) } else { name.parse().ok().map(reach) };
        Allowed::As(own.unwrap_or(Reach::Wide))
    }

    pub(super) fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, String)],
        pass: Option<&str>,
        content: Content,
    ) -> Result<Request<Content>, RegistryError> {
        let mut request = Request::builder()
            .method(method)
            .uri(url.path.as_str())
            .header(HOST, url.server.authority())
            .header(USER_AGENT, AGENT);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(pass) = pass {
            request = request.header(AUTHORIZATION, pass);
        }
        // Of all that goes in, only credentials and tokens can hold what no header may.
        request.body(content).map_err(|_unfit| match &self.credential {
            Some(_) => self.unauthorised(),
            None => self.nonsense("gives a token that cannot be shown"),
        })
    }

    pub(super) fn nonsense(&self, why: impl Into<String>) -> RegistryError {
        RegistryError::Nonsense { host: self.host.clone(), why: why.into() }
    }
}

/// Whether to go on elsewhere. What changes something there is not sent a second time.
fn redirects(status: StatusCode, method: &Method) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
        && (method == Method::GET || method == Method::HEAD)
}
