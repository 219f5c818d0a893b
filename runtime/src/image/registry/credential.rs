//! Who we are to a registry, and where people keep that: Docker's `config.json`.
//!
//! Never shown: not in an error, not in a log, not by `Debug`. Helpers that a config names are
//! programs of strangers and are not run.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use data_encoding::BASE64;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::RegistryError;
use crate::image::reference::HUB;

/// A config with more is not one; with every registry of the world it has less.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Docker Hub's key in everybody's config.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Who we are to one registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and what proves it.
    Password {
        /// The user.
        user: String,
        /// The password, or what a registry gives out in place of one.
        password: String,
    },
    /// What a registry gave out at a login, to be turned into tokens.
    Identity(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(to, "Password({user:?}, …)"),
            Self::Identity(_) => write!(to, "Identity(…)"),
        }
    }
}

impl Credential {
    /// What HTTP's Basic scheme makes of it, where it can.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                let pair = format!("{user}:{password}");
                Some(format!("Basic {}", BASE64.encode(pair.as_bytes())))
            }
            Self::Identity(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity: String,
}

/// The credentials in a file like `~/.docker/config.json`, by host. Blocks. One that is not
/// there has none; entries without credentials are passed over, for a helper keeps those.
///
/// # Errors
///
/// If it cannot be read, is too long, or is not what it should be.
pub fn read_docker_config(path: &Path) -> Result<BTreeMap<String, Credential>, RegistryError> {
    let bad = |source| RegistryError::Credentials { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(bad)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(bad(error)),
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(bad(io::Error::other("it is too long for a file of credentials")));
    }
    parse(&bytes).map_err(bad)
}

fn parse(bytes: &[u8]) -> io::Result<BTreeMap<String, Credential>> {
    // Its error would quote the file, whose lines are secrets.
    let bad = |error: serde_json::Error| {
        io::Error::other(format!("line {} is not as it should be", error.line()))
    };
    let file: File = serde_json::from_slice(bytes).map_err(bad)?;
    let mut found = BTreeMap::new();
    for (key, entry) in file.auths {
        let host = host_of(&key).to_owned();
        if let Some(credential) = entry.credential(&host)? {
            // A key that is a bare host comes before one with a path, which is older.
            if !found.contains_key(&host) || host == key {
                found.insert(host, credential);
            }
        }
    }
    Ok(found)
}

fn host_of(key: &str) -> &str {
    if key == HUB_KEY {
        return HUB;
    }
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

impl Entry {
    fn credential(self, host: &str) -> io::Result<Option<Credential>> {
        if !self.identity.is_empty() {
            return Ok(Some(Credential::Identity(self.identity)));
        }
        if self.auth.is_empty() {
            let Self { username: user, password, .. } = self;
            return Ok((!user.is_empty()).then_some(Credential::Password { user, password }));
        }
        let pair = BASE64.decode(self.auth.trim().as_bytes()).ok();
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        let split = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (user, password) = split
            .ok_or_else(|| io::Error::other(format!("what it has for {host} cannot be read")))?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credential::Password { user: user.to_owned(), password }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_of_docker_says_who_we_are_by_host() {
        let config = br#"{
            "auths": {
                "https://index.docker.io/v1/": { "auth": "YW46bWU6eA==" },
                "ghcr.io": { "identitytoken": "abc" },
                "http://old:5000/v2/": { "username": "u", "password": "p" },
                "kept.by.a.helper": {}
            },
            "credsStore": "desktop"
        }"#;
        let found = parse(config).expect("a config");
        let password = |user: &str, password: &str| Credential::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        let wanted = BTreeMap::from([
            ("docker.io".to_owned(), password("an", "me:x")),
            ("ghcr.io".to_owned(), Credential::Identity("abc".to_owned())),
            ("old:5000".to_owned(), password("u", "p")),
        ]);
        assert_eq!(found, wanted);
        assert_eq!(wanted["docker.io"].basic().as_deref(), Some("Basic YW46bWU6eA=="));
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = Credential::Password { user: "u".to_owned(), password: "tops".to_owned() };
        assert!(!format!("{secret:?}").contains("tops"));
        assert!(!format!("{:?}", Credential::Identity("tops".to_owned())).contains("tops"));
        for bad in [r#"{"auths": {"h": {"auth": 1, "x": "tops"}}}"#, r#"{"auths":"tops"}"#, ""] {
            let error = parse(bad.as_bytes()).expect_err(bad);
            assert!(!error.to_string().contains("tops"), "{error}");
        }
        let odd = parse(br#"{"auths": {"h": {"auth": "!tops"}}}"#).expect_err("no base64");
        assert_eq!(odd.to_string(), "what it has for h cannot be read");
    }

    #[test]
    fn a_config_that_is_not_there_has_no_credentials() {
        let none = read_docker_config(Path::new("/nonexistent/config.json"));
        assert!(none.is_ok_and(|found| found.is_empty()));
    }
}
