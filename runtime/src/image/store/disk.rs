//! Where a store lies, and the few ways in which its files are read and written.
//!
//! ```text
//! DIR/version                      what wrote it
//! DIR/layers/HEX/{tree,recipe,info}    a layer; HEX is the digest of its archive
//! DIR/layers/HEX/damaged           that its files are not what they were
//! DIR/replaced/HEX-…               what was damaged and came again, while a task runs from it
//! DIR/images/HEX/{config,manifest,info}    an image; HEX is the digest of its config
//! DIR/names                        what people call them
//! DIR/used                         when each was used last
//! DIR/parts/part-PID-N             being made or removed; its maker holds a lock on it
//! DIR/damaged/…                    what could not be read, until the next prune
//! ```
//!
//! Invariant: whatever has its own name in `layers` or `images` is whole and on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tracing::warn;

use super::super::{Digest, ImageError};
use crate::apart::move_apart;
use crate::unpack::part::Part;
use crate::unpack::{DIRECTORY, UnpackError, look_for_room, part, remove_tree};

/// What this program writes. A greater one is left alone.
pub(super) const VERSION: u32 = 1;

/// Longest small file of our own: an image's record with all its layers is a few KiB.
pub(super) const RECORD_BYTES_MAX: u64 = 1 << 20;

/// What lies in a layer's directory.
pub(super) const TREE: &str = "tree";
/// What is known of a layer or image.
pub(super) const INFO: &str = "info";

/// Where goes what cannot be read; and in a layer, that its files are not what they were.
const DAMAGED: &str = "damaged";

const REPLACED: &str = "replaced";

/// The directories of a store.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) root: OwnedFd,
    pub(super) layers: OwnedFd,
    pub(super) images: OwnedFd,
    pub(super) parts: OwnedFd,
}

impl Disk {
    /// Opens the directories, making what is missing, and removes parts that a crash left.
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |action| {
            move |source: Errno| ImageError::Store {
                action,
                path: path.to_owned(),
                source: source.into(),
            }
        };
        let made = match rustix::fs::mkdir(path, Mode::RWXU) {
            Err(Errno::EXIST) => false,
            made => made.map(|()| true).map_err(failed("make the store"))?,
        };
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(failed("look"))?;
        let stat = rustix::fs::fstat(&root).map_err(failed("look"))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(ImageError::Foreign { path: path.to_owned(), owner: stat.st_uid });
        }
        rustix::fs::fchmod(&root, Mode::RWXU).map_err(failed("keep others out"))?;
        let below = |name| open_below(root.as_fd(), name).map_err(failed("open the store"));
        let (layers, images, parts) = (below("layers")?, below("images")?, below("parts")?);
        move_apart(parts.as_fd());
        let disk = Self { path: path.to_owned(), layers, images, parts, root };
        if let Err(error) = part::sweep(disk.parts.as_fd()) {
            // Takes room and nothing else: no reason to have no images.
            warn!(store = %path.display(), %error, "what a crash left stays");
        }
        disk.check_version()?;
        if made {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = File::open(parent.unwrap_or(Path::new(".")));
            let flushed = parent.and_then(|parent| parent.sync_all());
            flushed.map_err(disk.failed("flush the store"))?;
        }
        Ok(disk)
    }

    fn check_version(&self) -> Result<(), ImageError> {
        let file = self.root.as_fd();
        let text = match read(file, "version", RECORD_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let written = replace(file, "version", VERSION.to_string().as_bytes());
                return written.map_err(self.failed("write its version"));
            }
            text => text.map_err(self.failed("read its version"))?,
        };
        let version = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        match version {
            Some(version) if version > VERSION => Err(self.newer(version)),
            Some(_) => Ok(()),
            None => {
                warn!(store = %self.path.display(), "the store's version cannot be read");
                Ok(())
            }
        }
    }

    /// That a newer program wrote this store.
    pub(super) fn newer(&self, version: u32) -> ImageError {
        ImageError::Newer { path: self.path.clone(), version, known: VERSION }
    }

    /// For `map_err`: names what failed.
    pub(super) fn failed<E: Into<io::Error>>(
        &self,
        action: &'static str,
    ) -> impl Fn(E) -> ImageError + '_ {
        move |source| ImageError::Store { action, path: self.path.clone(), source: source.into() }
    }

    /// Where a layer's files are.
    pub(super) fn tree(&self, layer: &Digest) -> PathBuf {
        self.path.join("layers").join(layer.hex()).join(TREE)
    }

    /// The layer whose files are at this path of the store.
    pub(super) fn layer_at(&self, path: &Path) -> Option<Digest> {
        let below = path.strip_prefix(self.path.join("layers")).ok()?;
        let hex = below.parent().filter(|_| below.ends_with(TREE))?;
        digest_of(hex.to_str()?)
    }

    /// Moves what has a name out of sight; it is then to be [removed](Self::remove).
    pub(super) fn take_out(&self, dir: BorrowedFd, name: &str) -> Result<String, Errno> {
        let part = part::name();
        rustix::fs::renameat(dir, name, &self.parts, &part)?;
        Ok(part)
    }

    /// Removes what was taken out. What cannot be removed is swept by the next `open`.
    pub(super) fn remove(&self, part: &str) {
        if let Err(error) = remove_tree(self.parts.as_fd(), part.as_bytes()) {
            warn!(store = %self.path.display(), %error, "something removed stays until the next start");
        }
    }

    /// Moves what cannot be read to where nobody looks.
    pub(super) fn set_aside(&self, dir: BorrowedFd, name: &str, why: &str) {
        warn!(store = %self.path.display(), name, why, "set aside, as it is damaged");
        let moved = open_below(self.root.as_fd(), DAMAGED).and_then(|damaged| {
            let to = format!("{name}-{}", part::name());
            rustix::fs::renameat(dir, name, damaged, to)
        });
        if let Err(error) = moved {
            warn!(store = %self.path.display(), name, %error, "it cannot be set aside");
        }
    }

    /// Marks a layer as damaged. On the disk when this returns.
    pub(super) fn mark(&self, layer: &Digest, why: &str) -> io::Result<()> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let dir = rustix::fs::openat(&self.layers, layer.hex(), flags, Mode::empty())?;
        write(dir.as_fd(), DAMAGED, why.as_bytes())?.sync_all()?;
        Ok(rustix::fs::fsync(&dir)?)
    }

    /// Whether the layer of that name is marked.
    pub(super) fn is_marked(&self, name: &str) -> bool {
        let mark = format!("{name}/{DAMAGED}");
        rustix::fs::statat(&self.layers, mark, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Gives a part the place of a layer, in one moment; says where that lies from then on.
    pub(super) fn exchange(&self, part: &mut Part, layer: &Digest) -> io::Result<String> {
        let aside = open_below(self.root.as_fd(), REPLACED)?;
        let name = format!("{}-{}", layer.hex(), part::name());
        part.move_to(aside.as_fd(), &name)?;
        let swap = RenameFlags::EXCHANGE;
        let exchanged = rustix::fs::renameat_with(&aside, &name, &self.layers, layer.hex(), swap);
        if let Err(error) = exchanged {
            // It is the new one that lies there still.
            if let Ok(part) = self.take_out(aside.as_fd(), &name) {
                self.remove(&part);
            }
            return Err(error.into());
        }
        rustix::fs::fsync(&aside)?;
        Ok(name)
    }

    /// What lies aside of replaced layers.
    pub(super) fn replaced(&self) -> io::Result<BTreeMap<Digest, Vec<String>>> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let mut all: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let dir = match rustix::fs::openat(&self.root, REPLACED, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(all),
            opened => opened?,
        };
        for name in part::names(dir.as_fd())? {
            if let Some(layer) = name.split('-').next().and_then(digest_of) {
                all.entry(layer).or_default().push(name);
            }
        }
        Ok(all)
    }

    /// Moves what lies aside out of sight; it is then to be [removed](Self::remove).
    pub(super) fn take_out_replaced(&self, name: &str) -> io::Result<String> {
        let aside = open_below(self.root.as_fd(), REPLACED)?;
        Ok(self.take_out(aside.as_fd(), name)?)
    }

    /// Removes what was set aside.
    pub(super) fn forget_damaged(&self) {
        if let Ok(part) = self.take_out(self.root.as_fd(), DAMAGED) {
            self.remove(&part);
        }
    }

    /// Whether the disk has room, and for so much more where that is known.
    pub(super) fn check_room(&self, needed: Option<u64>) -> Result<(), ImageError> {
        look_for_room(self.root.as_fd(), needed)?;
        Ok(())
    }

    /// What could not be unpacked for this machine's sake, in the words of the store; what the
    /// archive is to blame for is given back.
    pub(super) fn of_machine(&self, error: UnpackError) -> Result<ImageError, UnpackError> {
        match error {
            UnpackError::NoRoom(no) => Ok(no.into()),
            other => other.of_machine().map(self.failed("unpack a layer")),
        }
    }

    /// Bytes that can still be written.
    pub(super) fn room(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn open_below(dir: BorrowedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        made => {
            made?;
            rustix::fs::fsync(dir)?;
        }
    }
    rustix::fs::openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// The digest whose digits a name is.
pub(super) fn digest_of(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

/// Reads a file of our own, whole.
pub(super) fn read(dir: BorrowedFd, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(bytes)
}

/// Writes a file that is not there yet.
pub(super) fn write(dir: BorrowedFd, name: &str, bytes: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut file = File::from(rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, mode)?);
    file.write_all(bytes)?;
    Ok(file)
}

/// Replaces a file whole: after a crash it is the old one or the new one. On the disk when
/// this returns.
pub(super) fn replace(dir: BorrowedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_at_leisure(dir, name, bytes, |file| file.sync_all())?;
    Ok(rustix::fs::fsync(dir)?)
}

/// The same without waiting for the disk.
pub(super) fn replace_lazily(dir: BorrowedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_at_leisure(dir, name, bytes, |_| Ok(()))
}

fn replace_at_leisure(
    dir: BorrowedFd,
    name: &str,
    bytes: &[u8],
    flush: impl Fn(&File) -> io::Result<()>,
) -> io::Result<()> {
    let new = format!("{name}.new");
    let written = write(dir, &new, bytes)
        .and_then(|file| flush(&file))
        .and_then(|()| Ok(rustix::fs::renameat(dir, &new, dir, name)?));
    if written.is_err() {
        // A full disk needs the room.
        let _ = rustix::fs::unlinkat(dir, &new, AtFlags::empty());
    }
    written
}

/// All names in a directory that are digests.
pub(super) fn digests(dir: BorrowedFd) -> io::Result<Vec<(String, Digest)>> {
    let names = part::names(dir)?.into_iter();
    Ok(names.filter_map(|name| digest_of(&name).map(|digest| (name, digest))).collect())
}
