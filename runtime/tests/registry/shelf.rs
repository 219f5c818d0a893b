//! An honest registry: what it holds, and how it answers. Tests put themselves before it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use runtime::image::Digest;
use serde_json::json;

use super::image::{Image, OCI_MANIFEST};
use super::stub::{Reply, Request};

#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By tag and by digest: type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
    /// Blobs that are coming.
    uploads: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// With one image.
    pub(crate) fn of(tag: &str, image: &Image) -> Self {
        let shelf = Self::new();
        shelf.put(tag, image);
        shelf
    }

    pub(crate) fn put(&self, tag: &str, image: &Image) {
        for blob in image.layers.iter().map(|layer| &layer.packed).chain([&image.config]) {
            self.put_blob(blob);
        }
        self.put_manifest(tag, OCI_MANIFEST, &image.manifest);
    }

    pub(crate) fn put_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut inner = self.0.lock().unwrap();
        for name in [tag.to_owned(), Digest::of(bytes).to_string()] {
            inner.manifests.insert(name, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    pub(crate) fn put_blob(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes).to_string();
        self.0.lock().unwrap().blobs.insert(digest, bytes.to_vec());
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().blobs.get(digest).cloned()
    }

    pub(crate) fn manifest(&self, name: &str) -> Option<(String, Vec<u8>)> {
        self.0.lock().unwrap().manifests.get(name).cloned()
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path == "/v2/" {
            return Reply::new(200, "{}");
        }
        if path.contains("/blobs/uploads/") {
            return self.upload(request, path, query);
        }
        match path.rsplit_once('/') {
            Some((rest, name)) if rest.ends_with("/manifests") => self.manifest_of(request, name),
            Some((rest, name)) if rest.ends_with("/blobs") => {
                self.blob(name).map_or_else(|| unknown("BLOB_UNKNOWN"), |blob| part(request, &blob))
            }
            _ => Reply::new(404, "nothing here"),
        }
    }

    fn manifest_of(&self, request: &Request, name: &str) -> Reply {
        if request.method == "PUT" {
            let media_type = request.header("content-type").unwrap();
            self.put_manifest(name, media_type, &request.body);
            return Reply::new(201, "");
        }
        self.manifest(name).map_or_else(
            || unknown("MANIFEST_UNKNOWN"),
            |(media_type, bytes)| {
                let digest = Digest::of(&bytes).to_string();
                Reply::new(200, bytes)
                    .with("Content-Type", media_type)
                    .with("Docker-Content-Digest", digest)
            },
        )
    }

    fn upload(&self, request: &Request, path: &str, query: &str) -> Reply {
        let mut inner = self.0.lock().unwrap();
        let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest="));
        match (request.method.as_str(), digest) {
            ("POST", None) => {
                let place = format!("{path}{}", inner.uploads.len());
                inner.uploads.insert(place.clone(), Vec::new());
                Reply::new(202, "").with("Location", format!("{place}?state=a%20b"))
            }
            ("PATCH", None) => {
                inner.uploads.entry(path.to_owned()).or_default().extend(&request.body);
                Reply::new(202, "").with("Location", format!("{path}?state=c%20d"))
            }
            ("PUT", Some(digest)) => {
                let digest = digest.replace("%3A", ":");
                let mut blob = inner.uploads.remove(path).unwrap_or_default();
                blob.extend(&request.body);
                if Digest::of(&blob).to_string() != digest {
                    return refusal(400, "DIGEST_INVALID", "they differ");
                }
                inner.blobs.insert(digest, blob);
                Reply::new(201, "")
            }
            _ => Reply::new(405, ""),
        }
    }
}

/// All of it, or from where it is wanted on.
fn part(request: &Request, blob: &[u8]) -> Reply {
    let from = request.header("range").map(|range| {
        let from = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        from.parse::<usize>().unwrap()
    });
    let Some(from) = from else { return Reply::new(200, blob) };
    let (last, all) = (blob.len() - 1, blob.len());
    Reply::new(206, &blob[from..]).with("Content-Range", format!("bytes {from}-{last}/{all}"))
}

pub(crate) fn unknown(code: &str) -> Reply {
    refusal(404, code, "not here")
}

pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code, "message": message }] });
    Reply::new(status, body.to_string()).with("Content-Type", "application/json")
}
