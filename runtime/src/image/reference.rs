//! What people call an image: `nginx`, `ghcr.io/owner/app:2.1`, `host:5000/app@sha256:…`.
//!
//! Docker's rules, which everybody's fingers know: a first part with a dot or a colon in it,
//! or `localhost`, is a registry's host; without one it is Docker Hub's, and a single name
//! there lies in `library/`. Without a tag and a digest it is `latest`.
//!
//! The grammar is that of the distribution project's `reference` package: a first part with a
//! capital letter is a host as well, and 64 hexadecimal digits are an id and no name.
//!
//! Invariant: what is printed, whole or in its familiar form, reads back as the same name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Digest;

/// Where names without a host lie.
pub(crate) const HUB: &str = "docker.io";

/// Names of Docker Hub that have only one part lie in here.
const OFFICIAL: &str = "library/";

/// What digests begin with: no name of an image alone.
const ALGORITHM: &str = "sha256";

/// What is meant where neither tag nor digest is said.
const LATEST: &str = "latest";

/// Longest host and path together: the distribution project's bound.
const NAME_BYTES_MAX: usize = 255;

/// Longest tag: the distribution specification's bound.
const TAG_BYTES_MAX: usize = 128;

/// A digest without its algorithm: what people copy from lists.
const ID_DIGITS: usize = 64;

/// The name of an image, whole: host, path, and tag or digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is no name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no name of an image: {why}")]
pub struct BadReference {
    given: String,
    why: &'static str,
}

impl Reference {
    /// The registry's host, with its port where one is said.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the registry calls it, without tag and digest.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, where one is said or meant.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of its manifest, where that is said.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// As people write it: without what Docker leaves out.
    pub fn familiar(&self) -> String {
        let short = match (self.host.as_str(), self.path.split_once('/')) {
            (HUB, Some((_, name))) if is_official(&self.path) => Some(name),
            // Without its host, its first part would be taken for one.
            (HUB, Some((first, _))) if is_host_like(first) => None,
            (HUB, _) => Some(self.path.as_str()),
            _ => None,
        };
        let whole = || format!("{}/{}", self.host, self.path);
        short.map_or_else(whole, str::to_owned) + &self.suffix()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        tag + &self.digest.map(|digest| format!("@{digest}")).unwrap_or_default()
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        parse(text).map_err(|why| BadReference { given: text.chars().take(300).collect(), why })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.contains("://") {
        return Err("leave out what stands before its host, as https://");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let bad = |_| "what follows its @ is no digest like sha256:…";
            (name, Some(digest.parse().map_err(bad)?))
        }
        None => (text, None),
    };
    // A colon before the last slash is a port's.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        let empty = tag.is_empty();
        return Err(if empty { "its tag is empty" } else { "its tag has what no tag has" });
    }
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host_like(host) => (host, path),
        _ => (HUB, name),
    };
    let host = if host == "index.docker.io" { HUB } else { host };
    if !is_host(host) {
        return Err("its host is none");
    }
    if name.len() == ID_DIGITS && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("it is an image's id");
    }
    let official = host == HUB && !path.contains('/') && !path.is_empty();
    if official && path == ALGORITHM {
        return Err("it would be taken for a digest");
    }
    let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    if path.is_empty() || host.len() + path.len() > NAME_BYTES_MAX {
        return Err(if path.is_empty() { "it is empty" } else { "it is too long" });
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("it has capital letters, which no repository has");
    }
    if !path.split('/').all(is_part) {
        return Err("write it like nginx:1.27 or ghcr.io/owner/app:2.1");
    }
    let tag = tag.or_else(|| digest.is_none().then_some(LATEST)).map(str::to_owned);
    Ok(Reference { host: host.to_owned(), path, tag, digest })
}

fn is_host_like(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_official(path: &str) -> bool {
    path.strip_prefix(OFFICIAL).is_some_and(|name| !name.contains('/'))
}

/// A name or address, and perhaps a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_some_and(|port| !digits(port) || port.parse::<u16>().is_err()) {
        return false;
    }
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let sound = |label: &str| {
        let letters = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        letters && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(sound)
}

/// `[a-z0-9]+` with single dots, one or two underscores or any dashes between.
fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    let mut begun = false;
    for byte in text.bytes() {
        if plain(byte) {
            let sound = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !sound || (!begun && !separator.is_empty()) {
                return false;
            }
            separator.clear();
            begun = true;
        } else if b"._-".contains(&byte) {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    begun && separator.is_empty()
}

fn is_tag(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=TAG_BYTES_MAX).contains(&text.len())
        && text.bytes().all(sound)
        && !text.starts_with(['.', '-'])
}

impl fmt::Display for Reference {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{}/{}{}", self.host, self.path, self.suffix())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

impl TryFrom<String> for Reference {
    type Error = BadReference;

    fn try_from(text: String) -> Result<Self, BadReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_what_docker_means_by_them() {
        let sum = format!("sha256:{}", "a1".repeat(32));
        let long = format!("nginx@{sum}");
        let both = format!("docker.io/library/nginx@{sum}");
        for (text, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("host:5000/app:2", "host:5000/app:2"),
            ("ghcr.io/owner/app__x/a-b--c.d", "ghcr.io/owner/app__x/a-b--c.d:latest"),
            ("10.0.0.1:5000/x", "10.0.0.1:5000/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Host/x", "Host/x:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest"),
            ("docker.io/localhost/c", "docker.io/localhost/c:latest"),
            ("docker.io/library", "docker.io/library/library:latest"),
            ("localhost", "docker.io/library/localhost:latest"),
            (&long, &both),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), whole, "{text}");
            assert_eq!(whole.parse().as_ref(), Ok(&reference), "{text}");
            let again: Reference = reference.familiar().parse().expect("its familiar form");
            assert_eq!(again, reference, "{text}");
        }
        let familiar = |text: &str| text.parse::<Reference>().map(|name| name.familiar());
        assert_eq!(familiar("docker.io/library/nginx").as_deref(), Ok("nginx:latest"));
    }

    #[test]
    fn the_longest_name_reads_back() {
        let longest = (200..260).rev().find_map(|length| "a".repeat(length).parse().ok());
        let longest: Reference = longest.expect("some are short enough");
        assert_eq!(longest.to_string().parse(), Ok(longest.clone()));
        assert_eq!(longest.host().len() + longest.path().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn what_no_registry_could_hold_is_no_name() {
        let long = "a/".repeat(150) + "a";
        let tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            "sha256:10b71ca98ace",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "a.b/C",
            "https://ghcr.io/a/b",
            "host:+5/a",
            "host:/a",
            "a@sha256:12@sha256:12",
            &"a1".repeat(32),
            "nginx:",
            "nginx:-x",
            "nginx:a b",
            "a@sha256:12",
            "a..b",
            "-a",
            "a-",
            "a_",
            "a___b",
            "host:99999/a",
            "ho_st.x/a",
            "../a",
            "a\0b",
            &long,
            &tag,
            "ä",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
