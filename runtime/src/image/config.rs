//! What an image says of how its program is called.

use std::collections::BTreeMap;

use super::{Digest, ImageError};

/// An image's config, as far as anything here needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Like `linux`.
    pub os: String,
    /// In Go's words, like `amd64`.
    pub architecture: String,
    /// Like `v7`; empty for most.
    pub variant: String,
    /// When it was made, in RFC 3339.
    pub created: Option<String>,
    /// `NAME=VALUE`, later ones win.
    pub env: Vec<(String, String)>,
    /// What comes before `cmd`.
    pub entrypoint: Vec<String>,
    /// What is replaced by whatever stands behind the image's name.
    pub cmd: Vec<String>,
    /// `USER[:GROUP]`; empty is root.
    pub user: String,
    /// Where it starts; empty is `/`.
    pub directory: String,
    /// Like `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Ports it says that it listens on, like `80/tcp`.
    pub ports: Vec<String>,
    /// Directories it wants kept out of its own layers.
    pub volumes: Vec<String>,
    /// What is said about it.
    pub labels: BTreeMap<String, String>,
    /// How to tell whether it is well.
    pub health: Option<HealthCheck>,
    /// The digests of its uncompressed layers, lowest first.
    pub layers: Vec<Digest>,
}

/// Docker's health check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// `NONE`, or `CMD` and an argv, or `CMD-SHELL` and a line.
    pub test: Vec<String>,
    /// Nanoseconds; 0 is the default.
    pub interval_ns: u64,
    /// Nanoseconds; 0 is the default.
    pub timeout_ns: u64,
    /// Nanoseconds; 0 is the default.
    pub start_period_ns: u64,
    /// 0 is the default.
    pub retries: u32,
}

impl ImageConfig {
    /// Reads one, of OCI or Docker.
    ///
    /// # Errors
    ///
    /// If it is none, or says what cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let _ = bytes;
        Err(ImageError::Document { what: "the config".to_owned(), why: "not yet".to_owned() })
    }
}
