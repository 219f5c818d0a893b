//! What else of its node a container sees: directories, volumes, memory, devices.

use serde::{Deserialize, Serialize};

use super::bad::{BadContainer, absolute};

/// Something else a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSpec {
    /// A file or directory of the node.
    Bind {
        /// On the node.
        source: String,
        /// In the container.
        target: String,
        /// Whether it may not be changed.
        #[serde(default)]
        read_only: bool,
    },
    /// A directory that the node keeps under this name, for whichever task names it.
    Volume {
        /// Its name.
        name: String,
        /// In the container.
        target: String,
        /// Whether it may not be changed.
        #[serde(default)]
        read_only: bool,
    },
    /// Memory as files.
    Tmpfs {
        /// In the container.
        target: String,
        /// Most that fits; half of the node's memory where none is given.
        #[serde(default)]
        bytes: Option<u64>,
        /// Permissions of its root; 1777 (octal) where none are given.
        #[serde(default)]
        mode: Option<u32>,
    },
}

/// A device of the node that a container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceSpec {
    /// On the node.
    pub source: String,
    /// In the container; the same where none is given.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether it may not be written.
    #[serde(default)]
    pub read_only: bool,
}

impl MountSpec {
    pub(super) fn check(&self) -> Result<(), BadContainer> {
        match self {
            Self::Bind { source, target, .. } => {
                absolute("mounts", source).and_then(|()| absolute("mounts", target))
            }
            Self::Volume { name, target, .. } => {
                let sound = (1..=64).contains(&name.len())
                    && !name.starts_with('.')
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
                if !sound {
                    return Err(BadContainer::Volume { name: name.clone() });
                }
                absolute("mounts", target)
            }
            Self::Tmpfs { target, .. } => absolute("mounts", target),
        }
    }
}
