//! Why a container cannot be, by the field that is wrong.

use super::PARTS_MAX;
use crate::names::BadNames;

/// Why a container cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadContainer {
    /// A path that does not begin at a root.
    #[error("{field}: {path:?} is not an absolute path")]
    Path {
        /// Which field.
        field: &'static str,
        /// What it says.
        path: String,
    },
    /// A C string ends there.
    #[error("{field}: a NUL byte")]
    Nul {
        /// Which field.
        field: &'static str,
    },
    /// Nothing there.
    #[error("{field}: empty")]
    Empty {
        /// Which field.
        field: &'static str,
    },
    /// More than can be set up.
    #[error("{field}: {count}, and at most {PARTS_MAX} are possible")]
    Many {
        /// Which field.
        field: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Zero leads nowhere.
    #[error("ports: {host}:{container} has a port 0")]
    Port {
        /// The node's.
        host: u16,
        /// The container's.
        container: u16,
    },
    /// Ports of the node lead through the bridge only.
    #[error("ports: they need the network `bridge`")]
    Unreachable,
    /// Names that lead nowhere.
    #[error(transparent)]
    Names(#[from] BadNames),
    /// Not what images are called.
    #[error("image: {name:?} is no name of an image")]
    Image {
        /// The name.
        name: String,
    },
    /// A volume's name is a file name.
    #[error(
        "mounts: {name:?} is no name for a volume: 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot"
    )]
    Volume {
        /// The name.
        name: String,
    },
}

pub(super) fn plain(field: &'static str, text: &str) -> Result<(), BadContainer> {
    if text.is_empty() {
        return Err(BadContainer::Empty { field });
    }
    if text.contains('\0') { Err(BadContainer::Nul { field }) } else { Ok(()) }
}

pub(super) fn absolute(field: &'static str, path: &str) -> Result<(), BadContainer> {
    plain(field, path)?;
    if path.starts_with('/') {
        return Ok(());
    }
    Err(BadContainer::Path { field, path: path.to_owned() })
}
