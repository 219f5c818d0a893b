//! Turns a tar archive into the directory tree of a container: a whole root, or
//! one layer of an image.
//!
//! ```text
//! bytes ─▶ stream ─▶ archive ─▶ apply ─▶ tree ─▶ walk
//!          gunzip,   headers,   one       the     openat2
//!          count     checks     entry     last    in root
//!            │                  each      dir
//!            └▶ recipe: what no file has, to write the archive again (layers only)
//! ```
//!
//! The archive comes from a stranger, and we may be root. Every path is resolved
//! inside the root, the last component is never followed, each bound in
//! [`Bounds`] holds whatever the archive says, and the disk keeps some room for
//! the agent (`room`). Devices are not made, since a container gets its own, and
//! attributes by which overlay is told things are not taken from an archive.
//! Setuid bits and file capabilities are: so a tree must lie where no other user
//! of the machine can reach it (see [`Store`]).
//!
//! Invariant: nothing outside of the directory handed in is created, changed,
//! read or removed, whatever the archive holds. On an error the tree is left in
//! part, for the caller to remove with [`remove_tree`].

mod apply;
mod archive;
mod entries;
mod error;
mod extended;
mod header;
mod layer;
mod marks;
mod path;
mod recipe;
mod remove;
mod room;
mod store;
mod stream;
mod tree;
mod walk;

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::time::Instant;

pub(crate) use entries::{Entries, Found, What, begins_archive};
pub(crate) use error::printable;
pub use error::{Flaw, UnpackError};
pub(crate) use layer::{again, unpack_layer};
pub(crate) use recipe::Replay;
pub use remove::remove_tree;
pub use room::{KEPT_BYTES, NoRoom};
pub(crate) use room::{Room, look as look_for_room};
pub(crate) use store::part;
pub use store::{BadContentId, ContentId, Kept, Store, StoreError, Way};
pub(crate) use walk::DIRECTORY;

use apply::Applier;
use archive::Archive;
use stream::Stream;
use tree::Tree;

/// Components of a path, at most: removing, listing and backing up trees is
/// written by others too, and some of them recurse.
const DEPTH_MAX: usize = 255;

/// Bytes of a path, at most: `PATH_MAX` of Linux, with its zero byte.
const PATH_BYTES_MAX: usize = 4095;

/// Entries of a root or layer: four times the largest images in common use.
const ENTRIES: u64 = 2_000_000;

/// Bytes of a root or layer, uncompressed.
const BYTES: u64 = 64 << 30;

/// Uncompressed bytes for each compressed one. Text packs 5 to 20 times; only
/// zeros reach the thousand that gzip can do.
const RATIO: u64 = 400;

/// How much an archive may ask of this machine.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Headers, extended ones included.
    pub entries: u64,
    /// Components of one path; more than 255 are never allowed.
    pub depth: usize,
    /// Bytes of one path or link target; more than 4095 are never allowed.
    pub path_bytes: usize,
    /// Uncompressed bytes of the whole archive, headers and padding included.
    pub bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Uncompressed bytes for each compressed one, beyond the first 64 MiB.
    pub ratio: u64,
    /// When the work must be done; looked at for each entry and piece.
    pub until: Option<Instant>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: ENTRIES,
            depth: DEPTH_MAX,
            path_bytes: PATH_BYTES_MAX,
            bytes: BYTES,
            file_bytes: BYTES,
            ratio: RATIO,
            until: None,
        }
    }
}

/// What the tree is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A whole root. A mark of a layer (`.wh.`) in it is an error, for then the
    /// wrong file was named; so is a missing end of the archive.
    Rootfs,
    /// A layer to stack with overlay, mounted with `userxattr`. Its marks become
    /// those of overlay. Its digest tells whether its end is missing.
    Layer,
}

/// Whom the tree belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// As the archive says; only root can.
    Keep,
    /// All the caller's. Directories are then always open to their owner.
    Mine,
    /// All somebody's, who gets no rights by them: no setuid bits and no attributes, and
    /// so no capabilities. Only root can give to others than itself.
    Given {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// Whether to sum the archive up on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// No.
    Skip,
    /// SHA-256 of the uncompressed archive to its last byte: an image's diff id.
    Sha256,
}

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much at most.
    pub bounds: Bounds,
    /// What for.
    pub form: Form,
    /// Whose.
    pub owners: Owners,
    /// Whether to sum up.
    pub digest: Digest,
}

/// What was made, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Regular files.
    pub files: u64,
    /// Directories named by the archive.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Bytes in all files.
    pub bytes: u64,
    /// Names and directories of lower layers that are hidden.
    pub hidden: u64,
    /// Whether the layer hides all layers below it: leave those out of the mount.
    pub hides_all: bool,
    /// Device nodes that were not made.
    pub skipped_devices: u64,
    /// Notes of aufs that mean nothing here.
    pub skipped_notes: u64,
    /// Attributes that were refused or could not be set.
    pub dropped_attributes: u64,
    /// The sum, if one was asked for.
    pub sha256: Option<[u8; 32]>,
}

/// Unpacks an archive, plain, gzip or zstd, into an empty directory, open for reading
/// (not `O_PATH`) and out of everybody else's reach.
///
/// The source is read to its end. A source that fails ends the work, so a caller
/// can cancel it there.
///
/// # Errors
///
/// The first thing wrong with the archive or the machine; the tree is then to be
/// removed.
pub fn unpack(
    from: impl Read,
    into: BorrowedFd,
    options: &Options,
) -> Result<Unpacked, UnpackError> {
    let options = options.within_limits();
    let tree = Tree::new(into)
        .map_err(|error| UnpackError::Into { action: "open it", source: error.into() })?;
    let room = Room::of(into)
        .map_err(|source| UnpackError::Into { action: "look how full its disk is", source })?;
    room.look(None)?;
    let mut stream = Stream::open(from, &options.bounds, options.digest)?;
    stream.keep_room(room);
    let mut archive = Archive::new(stream, &options.bounds);
    let (done, _) = apply_all(&mut archive, tree, &options)?;
    Ok(done)
}

impl Options {
    /// The same, but for bounds that the kernel or others could not bear.
    fn within_limits(&self) -> Self {
        let mut options = self.clone();
        options.bounds.depth = options.bounds.depth.min(DEPTH_MAX);
        options.bounds.path_bytes = options.bounds.path_bytes.min(PATH_BYTES_MAX);
        options
    }
}

/// Makes every entry; says as well whether any replaced another.
fn apply_all<R: Read>(
    archive: &mut Archive<R>,
    tree: Tree,
    options: &Options,
) -> Result<(Unpacked, bool), UnpackError> {
    let mut applier = Applier::new(tree, options);
    while let Some(entry) = archive.next()? {
        applier.apply(&entry, archive)?;
    }
    if options.form == Form::Rootfs && !archive.has_end() {
        return Err(UnpackError::CutOff { at: archive.at() });
    }
    let sha256 = archive.finish()?;
    let (done, replaced) = applier.finish().map_err(|flaw| UnpackError::Into {
        action: "finish its last directory",
        source: match flaw {
            Flaw::System { source, .. } => source.into(),
            other => io::Error::other(other.to_string()),
        },
    })?;
    Ok((Unpacked { sha256, ..done }, replaced))
}
