//! Why a journal cannot be used, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use gossip_core::codec::CodecError;
use gossip_core::id::NodeId;

use crate::journal::FORMAT;

/// Why the journal cannot be used. A journal that was there is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent runs on this data.
    #[error("{} is in use by another agent; stop it, or give this one a --data of its own",
            data.display())]
    InUse {
        /// The data directory.
        data: PathBuf,
    },
    /// Written by a newer Starling.
    #[error("{} is in format {format}, and this Starling reads up to {FORMAT}; \
             install the newer version again", path.display())]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Not what a Starling wrote.
    #[error("{} is damaged ({what}); it was left as it is. Restore it from a backup, or move it \
             away and join the cluster again", path.display())]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another node's data directory, or the key was replaced.
    #[error("{} belongs to node {}, and the key here is that of {}; \
             put the right identity.key back", path.display(), theirs.short(), ours.short())]
    OtherNode {
        /// The journal.
        path: PathBuf,
        /// Whose it is.
        theirs: NodeId,
        /// Whose key is here.
        ours: NodeId,
    },
    /// The disk.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk, as the store saw it.
    #[error("cannot use {}", path.display())]
    Store {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// What was to be stored has no encoding.
    #[error("cannot store this")]
    Codec(#[from] CodecError),
}

/// What went wrong, before it is said of which file.
#[derive(Debug)]
pub(crate) enum Failed {
    Store(Box<redb::Error>),
    Corrupt(String),
    Newer(u32),
    OtherNode { theirs: NodeId, ours: NodeId },
}

impl Failed {
    pub(crate) fn at(self, path: &Path) -> JournalError {
        let path = path.to_owned();
        match self {
            Failed::Store(source) => store_error(&path, *source),
            Failed::Corrupt(what) => JournalError::Corrupt { path, what },
            Failed::Newer(format) => JournalError::Newer { path, format },
            Failed::OtherNode { theirs, ours } => JournalError::OtherNode { path, theirs, ours },
        }
    }
}

fn store_error(path: &Path, source: redb::Error) -> JournalError {
    use redb::Error as E;
    let path = path.to_owned();
    let damage = match &source {
        E::Corrupted(_)
        | E::UpgradeRequired(_)
        | E::RepairAborted
        | E::TableDoesNotExist(_)
        | E::TableTypeMismatch { .. }
        | E::TypeDefinitionChanged { .. } => true,
        E::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    };
    match source {
        E::DatabaseAlreadyOpen => {
            JournalError::InUse { data: path.parent().unwrap_or(&path).to_owned() }
        }
        _ if damage => JournalError::Corrupt { path, what: source.to_string() },
        _ => JournalError::Store { path, source: Box::new(source) },
    }
}

impl From<CodecError> for Failed {
    fn from(error: CodecError) -> Self {
        Failed::Corrupt(error.to_string())
    }
}

macro_rules! from_store {
    ($($error:ty),*) => {$(
        impl From<$error> for Failed {
            fn from(error: $error) -> Self {
                Failed::Store(Box::new(error.into()))
            }
        }
    )*};
}
from_store!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);
