//! A small registry on loopback: it keeps what is pushed, wants credentials if it is told to,
//! and holds layers back until it is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};

use gossip_core::id::ContentHash;

#[path = "../../../runtime/tests/registry/stub.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it serves other tests, too")]
mod stub;

pub(crate) use stub::{Reply, Request, Stub};

/// What it holds, and how it is.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    inner: Mutex<Inner>,
    let_go: Condvar,
    /// What `Authorization` must say.
    wants: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// Longer ones are held back.
    held_over: Option<usize>,
    /// Blobs that somebody waits for.
    waited_for: BTreeSet<String>,
}

/// A registry, until it is dropped.
pub(crate) struct Registry {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) stub: Stub,
}

impl Registry {
    /// One that lets everybody in.
    pub(crate) fn open() -> Self {
        Self::of(Shelf::default())
    }

    /// One that lets in who shows this.
    pub(crate) fn closed(pass: &str) -> Self {
        Self::of(Shelf { wants: Some(format!("Basic {pass}")), ..Shelf::default() })
    }

    fn of(shelf: Shelf) -> Self {
        let shelf = Arc::new(shelf);
        let answering = Arc::clone(&shelf);
        Self { shelf, stub: Stub::start(move |request| answering.answer(request)) }
    }

    /// As it stands in an image's name.
    pub(crate) fn host(&self) -> String {
        self.stub.host()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Its threads are waited for.
        self.shelf.let_go();
    }
}

impl Shelf {
    /// Holds back blobs with more bytes than this.
    pub(crate) fn hold_over(&self, bytes: usize) {
        self.inner.lock().expect("sound").held_over = Some(bytes);
    }

    pub(crate) fn let_go(&self) {
        self.inner.lock().expect("sound").held_over = None;
        self.let_go.notify_all();
    }

    /// Whether somebody waits for a blob that is held back.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.inner.lock().expect("sound").waited_for.is_empty()
    }

    fn answer(&self, request: &Request) -> Reply {
        if let Some(wanted) = &self.wants
            && request.header("authorization") != Some(wanted)
        {
            return refusal(401, "UNAUTHORIZED", "who are you?")
                .with("WWW-Authenticate", "Basic realm=\"here\"");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path == "/v2/" {
            return Reply::new(200, "{}");
        }
        if path.contains("/blobs/uploads/") {
            return self.upload(request, path, query);
        }
        match path.rsplit_once('/') {
            Some((rest, name)) if rest.ends_with("/manifests") => self.manifest(request, name),
            Some((rest, name)) if rest.ends_with("/blobs") => self.blob(request, name),
            _ => refusal(404, "NAME_UNKNOWN", "nothing here"),
        }
    }

    fn blob(&self, request: &Request, digest: &str) -> Reply {
        let mut inner = self.inner.lock().expect("sound");
        let Some(blob) = inner.blobs.get(digest).cloned() else {
            return refusal(404, "BLOB_UNKNOWN", "not here");
        };
        while request.method == "GET" && inner.held_over.is_some_and(|over| blob.len() > over) {
            inner.waited_for.insert(digest.to_owned());
            inner = self.let_go.wait(inner).expect("sound");
        }
        Reply::new(200, blob)
    }

    fn manifest(&self, request: &Request, name: &str) -> Reply {
        let mut inner = self.inner.lock().expect("sound");
        if request.method == "PUT" {
            let kind = request.header("content-type").unwrap_or_default().to_owned();
            let digest = format!("sha256:{}", ContentHash::of(&request.body));
            for name in [name.to_owned(), digest] {
                inner.manifests.insert(name, (kind.clone(), request.body.clone()));
            }
            return Reply::new(201, "");
        }
        match inner.manifests.get(name) {
            Some((kind, bytes)) => Reply::new(200, bytes.clone()).with("Content-Type", kind),
            None => refusal(404, "MANIFEST_UNKNOWN", "not here"),
        }
    }

    fn upload(&self, request: &Request, path: &str, query: &str) -> Reply {
        let mut inner = self.inner.lock().expect("sound");
        let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest="));
        match (request.method.as_str(), digest) {
            ("POST", None) => {
                let place = format!("{path}{}", inner.uploads.len());
                inner.uploads.insert(place.clone(), Vec::new());
                Reply::new(202, "").with("Location", place)
            }
            ("PATCH", None) => {
                inner.uploads.entry(path.to_owned()).or_default().extend(&request.body);
                Reply::new(202, "").with("Location", path)
            }
            ("PUT", Some(digest)) => {
                let digest = digest.replace("%3A", ":");
                let mut blob = inner.uploads.remove(path).unwrap_or_default();
                blob.extend(&request.body);
                assert_eq!(digest, format!("sha256:{}", ContentHash::of(&blob)), "what it sends");
                inner.blobs.insert(digest, blob);
                Reply::new(201, "")
            }
            _ => Reply::new(405, ""),
        }
    }
}

fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    Reply::new(status, body.to_string()).with("Content-Type", "application/json")
}
