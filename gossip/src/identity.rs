//! The node's key: made on the first start, kept in one file only its owner reads.
//!
//! Whoever holds this file is the node, so it is written whole or not at all,
//! is on the disk before it is used, and a file that others can read is
//! refused rather than repaired. A key that is there is never replaced.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use gossip_core::sign::Key;
use rand::RngExt as _;

/// The file's name within the data directory.
pub(crate) const FILE: &str = "identity.key";

/// What the file starts with; the digit is the format's version.
const PREFIX: &str = "starling-key-1:";

/// More than any key file has.
const FILE_BYTES_MAX: u64 = 4096;

/// Why there is no key. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The data directory or the file in it.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else may have read it.
    #[error(
        "{} can be read by others (mode {mode:o}); \
         make sure that nobody copied it, then run: chmod 600 {}", path.display(), path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Cut off, overwritten or of another format.
    #[error("{} holds no key; restore it from a backup", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

/// The node's key, made now if this is the first start.
pub fn load_identity(data: &Path) -> Result<Key, IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io_error(data))?;
    let path = data.join(FILE);
    match read(&path) {
        Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            // One data directory, one owner; an older, wider directory is narrowed once, now.
            fs::set_permissions(data, Permissions::from_mode(0o700)).map_err(io_error(data))?;
            make(data, &path)?;
            read(&path)
        }
        found => found,
    }
}

fn read(path: &Path) -> Result<Key, IdentityError> {
    let meta = fs::metadata(path).map_err(io_error(path))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    let damaged = || IdentityError::Damaged { path: path.to_owned() };
    if meta.len() > FILE_BYTES_MAX {
        return Err(damaged());
    }
    let bytes = fs::read(path).map_err(io_error(path))?;
    let text = String::from_utf8(bytes).map_err(|_not_text| damaged())?;
    let digits = text.trim_end().strip_prefix(PREFIX).ok_or_else(damaged)?;
    // Every 32-byte id reads and prints the same hex; the seed is none, but as long as one.
    let seed: gossip_core::id::ContentHash =
        digits.parse().map_err(|_not_hex: gossip_core::id::BadId| damaged())?;
    Ok(Key::from_seed(*seed.as_bytes()))
}

fn make(data: &Path, path: &Path) -> Result<(), IdentityError> {
    let seed: [u8; 32] = rand::rng().random();
    let draft = data.join(format!(".{FILE}.{}", std::process::id()));
    let _left_by_a_crash = fs::remove_file(&draft);
    let written = write(&draft, &seed).and_then(|()| match fs::hard_link(&draft, path) {
        // Another process was first: its key is the key.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let _draft_is_rubbish_now = fs::remove_file(&draft);
    written.map_err(io_error(path))?;
    File::open(data).and_then(|directory| directory.sync_all()).map_err(io_error(data))
}

fn write(draft: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    writeln!(file, "{PREFIX}{}", gossip_core::id::ContentHash::new(*seed))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_kept_private_and_never_replaced() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = dir.path().join("a/b");
        let key = load_identity(&data).expect("made");
        assert_eq!(load_identity(&data).expect("read").id(), key.id());
        let path = data.join(FILE);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&path)), (0o700, 0o600));

        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(load_identity(&data), Err(IdentityError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        fs::write(&path, "starling-key-1:beef").expect("write");
        assert!(matches!(load_identity(&data), Err(IdentityError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&path).expect("read"), "starling-key-1:beef");
    }
}
