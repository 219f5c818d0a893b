//! Why an image cannot be had, in words for whoever asked for it.

use std::io;
use std::path::PathBuf;

use super::chunks::SpoolError;
use super::{BadReference, Digest, RegistryError};
use crate::unpack::{NoRoom, UnpackError};

/// Why something could not be done with an image. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store's own directory.
    #[error("cannot {action} in {}", path.display())]
    Store {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store's disk is to keep what room it has left.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Another user's directory was named as a store.
    #[error("{} belongs to user {owner}", path.display())]
    Foreign {
        /// The store's directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A store of a later version.
    #[error(
        "{} was written by a newer version of this program ({version}; this one knows {known})",
        path.display()
    )]
    Newer {
        /// The store's directory.
        path: PathBuf,
        /// What it says.
        version: u32,
        /// What we can read.
        known: u32,
    },
    /// No such image here.
    #[error("there is no image {wanted} here")]
    Unknown {
        /// As it was asked for.
        wanted: String,
    },
    /// Digits that begin several images' ids.
    #[error("{wanted} begins {count} images")]
    Ambiguous {
        /// As it was asked for.
        wanted: String,
        /// How many.
        count: usize,
    },
    /// Its files are not what they were when they came.
    #[error("the files of its layer {} are damaged on this node's disk", layer.short())]
    Damaged {
        /// The digest of the layer's archive.
        layer: Digest,
    },
    /// What all that is read at once may have of the memory is taken.
    #[error("other archives that are read just now hold all memory there is for documents")]
    Busy,
    /// A task runs from it.
    #[error("{wanted} is in use by a running task")]
    InUse {
        /// As it was asked for.
        wanted: String,
    },
    /// No name of an image.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// A document that is not what it claims to be, or too large.
    #[error("{what} cannot be used: {why}")]
    Document {
        /// Which document, as people know it.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes that are not those that were promised.
    #[error("{what} is not what was promised: it is {found}, and {wanted} was asked for")]
    Mismatch {
        /// Of what.
        what: String,
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// The image has nothing for this machine.
    #[error("the image has nothing for {wanted}; it has {}", list(has))]
    Platform {
        /// This machine.
        wanted: String,
        /// What there is.
        has: Vec<String>,
    },
    /// A layer that cannot or must not be unpacked.
    #[error("layer {layer} cannot be unpacked")]
    Layer {
        /// What people know it by.
        layer: String,
        /// Which entry, and why.
        source: UnpackError,
    },
    /// An archive of images that is damaged or too much.
    #[error("the archive cannot be read")]
    Archive {
        /// Where, and why.
        source: UnpackError,
    },
    /// The source broke off or cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// What was read.
        what: String,
        /// What the source said.
        source: io::Error,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The destination of a save.
    #[error("cannot write {what}")]
    Write {
        /// What was written.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// Whoever watched wants no more of it.
    #[error("it was called off")]
    CalledOff,
}

impl From<SpoolError> for ImageError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::NoRoom(no) => no.into(),
            SpoolError::Disk { path, source } => Self::spool(path, source),
            error @ SpoolError::InUse(_) => {
                let what = "a layer's spool".to_owned();
                Self::Read { what, source: io::Error::other(error) }
            }
        }
    }
}

impl ImageError {
    /// That a layer cannot be spooled, whatever stands in its way.
    pub(super) fn spool(path: PathBuf, source: io::Error) -> Self {
        match source.downcast::<NoRoom>() {
            Ok(no) => no.into(),
            Err(source) => Self::Store { action: "spool a layer", path, source },
        }
    }

    /// Whether it is for want of room on the store's disk: what is removed may help.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom(_) => true,
            Self::Store { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "nothing at all".to_owned() } else { items.join(", ") }
}
