//! A former member's key and journal, put aside so that its host may begin anew.
//!
//! A removal is for ever, and about a key: a host that is to be a member again
//! needs another one. What it was stays on the disk, in a directory beside, for
//! whoever wants to look something up; nothing of it is ever read again here.
//! Whoever is still a member keeps its key.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use gossip_core::id::ClusterId;
use gossip_core::removal::Standing;

use crate::identity::{self, IdentityError, load_identity};
use crate::journal::{self, Journal};
use crate::journal_error::JournalError;
use crate::start::learn;

/// Why nothing was put aside. Unless it is [`SetAsideError::Io`], nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// It was not removed.
    #[error("this host is a member of cluster {}", .0.short())]
    Member(ClusterId),
    /// The key cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal cannot be read, or its agent runs.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It cannot be moved.
    #[error("cannot put {} aside", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Puts the key and the journal in `data` aside, if this host was removed from its cluster or
/// belongs to none. The next start is a new host's.
pub fn set_aside(data: &Path) -> Result<(), SetAsideError> {
    let (key_file, journal_file) = (data.join(identity::FILE), data.join(journal::FILE));
    if !key_file.exists() {
        return Ok(());
    }
    let node = load_identity(data)?.id();
    // The journal's lock is held until all is done.
    let mut held = None;
    if journal_file.exists() {
        let (journal, contents) = Journal::open(data, node)?;
        if let Some(ours) = &contents.membership {
            let learned = learn(&contents, ours.cluster, node);
            let removals = &learned.knowledge.members().ruling().removals;
            if removals.standing(&ours.chain) == Standing::Good {
                return Err(SetAsideError::Member(ours.cluster));
            }
        }
        held = Some(journal);
    }
    let aside = data.join(format!("former-{}", node.short()));
    let io = |path: &Path, source| SetAsideError::Io { path: path.to_owned(), source };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&aside);
    made.map_err(|source| io(&aside, source))?;
    // The key goes last: with a journal and without its key nothing would start.
    for file in [journal_file, key_file] {
        let Some(name) = file.file_name().filter(|_| file.exists()) else { continue };
        fs::rename(&file, aside.join(name)).map_err(|source| io(&file, source))?;
    }
    for directory in [&aside, data] {
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| io(directory, source))?;
    }
    drop(held);
    Ok(())
}
