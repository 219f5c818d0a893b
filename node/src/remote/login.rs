//! What an operator keeps: a key, a grant, and where members were.
//!
//! One file, readable by its owner alone. The key is made here and never
//! leaves; what travels is its public half and the grant.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, ContentHash};
use gossip_core::sign::Key;
use serde::{Deserialize, Serialize};

use crate::api::types::Complaint;

/// The largest file that is looked at.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// An operator's way into one cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The format's version.
    version: u32,
    /// Which cluster.
    pub(crate) cluster: ClusterId,
    /// The secret half, as a hash-shaped hex text.
    seed: ContentHash,
    /// Why the key may.
    pub(crate) chain: Chain,
    /// Where operators were let in, as `host:port`.
    pub(crate) addresses: Vec<String>,
}

impl Login {
    /// What a successful redemption leaves.
    pub(crate) fn new(cluster: ClusterId, key: &Key, chain: Chain, addresses: Vec<String>) -> Self {
        let seed = ContentHash::new(key.seed());
        Self { version: 1, cluster, seed, chain, addresses }
    }

    /// The operator's key.
    pub(crate) fn key(&self) -> Key {
        Key::from_seed(*self.seed.as_bytes())
    }

    /// Where it is kept.
    pub(crate) fn path() -> Result<PathBuf, Complaint> {
        let set =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config =
            set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        config.map(|dir| dir.join("starling/operator.json")).ok_or_else(|| {
            Complaint::new("no_home", "there is no place for an operator's key")
                .hint("set HOME or XDG_CONFIG_HOME")
        })
    }

    /// Reads what an earlier login left.
    pub(crate) fn load() -> Result<Self, Complaint> {
        let path = Self::path()?;
        let failed = |why: String| {
            Complaint::new("not_logged_in", "this user has no way into a cluster from afar")
                .because(format!("{}: {why}", path.display()))
                .hint("`starling invite --operator` on a member, then `starling login TOKEN` here")
        };
        let length = fs::metadata(&path).map_err(|e| failed(e.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(failed(format!("{length} bytes are no login")));
        }
        let bytes = fs::read(&path).map_err(|e| failed(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))
    }

    /// Keeps it, whole or not at all.
    pub(crate) fn save(&self) -> Result<PathBuf, Complaint> {
        let path = Self::path()?;
        let failed = |why: std::io::Error| {
            Complaint::new("not_saved", format!("cannot keep the key in {}", path.display()))
                .because(why)
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(failed)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let fresh = path.with_extension("new");
        let _left_over = fs::remove_file(&fresh);
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&fresh).map_err(failed)?;
        let json = serde_json::to_vec_pretty(self).map_err(|e| failed(e.into()))?;
        file.write_all(&json).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        Ok(path)
    }
}
