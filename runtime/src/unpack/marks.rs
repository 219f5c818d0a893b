//! The marks of an image layer: what it hides of the layers below.
//!
//! ```text
//! DIR/.wh.NAME        hides NAME       -> character device 0/0 at DIR/NAME
//! DIR/.wh..wh..opq    hides all of DIR -> user.overlay.opaque=y on DIR
//! .wh..wh..opq        hides everything -> reported; overlay has no form for it
//! .wh..wh.ANYTHING    notes of aufs    -> passed over
//! ```
//!
//! By the image specification a mark hides only what lower layers have, whatever
//! the order of entries. So a mark never removes anything here: a directory that
//! is there already becomes opaque, and any other entry hides by being there.
//!
//! Since Linux 5.8 everybody may make the device, which opens nothing. The
//! attribute is the one that overlay reads when mounted with `userxattr`.

use rustix::fs::{FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::error::Flaw;
use super::path::EntryPath;
use super::tree::{Tree, look};
use super::walk::DIRECTORY;
use std::os::fd::{AsFd, BorrowedFd};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const NOTES: &[u8] = b".wh..wh.";

/// What overlay reads on a directory that hides all of its name below.
const OPAQUE_ATTRIBUTE: &str = "user.overlay.opaque";

/// What a name means in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// No mark: an entry like any other.
    None,
    /// Hides the one at this path in the layers below.
    Hides(EntryPath),
    /// Hides all that lower layers have in this directory.
    HidesAllIn(EntryPath),
    /// Means nothing here.
    Note,
}

impl Mark {
    pub(super) fn of(path: &EntryPath, depth_max: usize) -> Result<Self, Flaw> {
        let Some((parent, name)) = path.split() else { return Ok(Self::None) };
        let parts = || path.bytes().split(|byte| *byte == b'/');
        if name == OPAQUE && !parent.split(|byte| *byte == b'/').any(is_mark) {
            return Ok(Self::HidesAllIn(EntryPath::parse(parent, depth_max)?));
        }
        if parts().any(|part| part.starts_with(NOTES)) {
            return Ok(Self::Note);
        }
        if parent.split(|byte| *byte == b'/').any(is_mark) {
            return Err(Flaw::BadMark);
        }
        match name.strip_prefix(PREFIX) {
            None => Ok(Self::None),
            Some(b"" | b"." | b"..") => Err(Flaw::BadMark),
            Some(name) => {
                let hidden = [parent, b"/", name].concat();
                Ok(Self::Hides(EntryPath::parse(&hidden, depth_max)?))
            }
        }
    }
}

/// Whether a component could be a mark, in any form.
pub(super) fn is_mark(part: &[u8]) -> bool {
    part.starts_with(PREFIX)
}

/// Whether this is the device that hides a name.
pub(super) fn is_whiteout(kind: FileType, stat: &Stat) -> bool {
    kind == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Hides a name of the layers below; false if something does so already.
pub(super) fn hide(tree: &mut Tree, path: &EntryPath) -> Result<bool, Flaw> {
    let (parent, name) = path.split().ok_or(Flaw::BadMark)?;
    let here = tree.parent(parent)?;
    match look(here.dir.as_fd(), name)? {
        Some((FileType::Directory, _)) => {
            let flags = DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
            let dir = rustix::fs::openat(&here.dir, name, flags, Mode::empty());
            set_opaque(dir.map_err(Flaw::in_step("open what a mark hides"))?.as_fd())
        }
        Some(_) => Ok(false),
        None => {
            tree.place(path, "make a mark (before Linux 5.8 only root may)", |dir, name| {
                rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
            })?;
            Ok(true)
        }
    }
}

/// Makes a directory hide all of its name below; false if it does so already.
pub(super) fn set_opaque(dir: BorrowedFd) -> Result<bool, Flaw> {
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE_ATTRIBUTE, &mut value) {
        Ok(_) => return Ok(false),
        Err(Errno::NODATA) => {}
        Err(source) => return Err(Flaw::System { action: "read a layer's mark", source }),
    }
    rustix::fs::fsetxattr(dir, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
        .map_err(Flaw::in_step("set a layer's mark (user attributes are needed)"))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_hides_one_plain_name_or_is_refused() {
        let path = |name: &str| EntryPath::parse(name.as_bytes(), 8).unwrap();
        let mark = |name: &str| Mark::of(&path(name), 8);
        assert_eq!(mark("a/.wh.b").ok(), Some(Mark::Hides(path("a/b"))));
        assert_eq!(mark(".wh.b").ok(), Some(Mark::Hides(path("b"))));
        assert_eq!(mark("a/.wh..wh..opq").ok(), Some(Mark::HidesAllIn(path("a"))));
        assert_eq!(mark(".wh..wh..opq").ok(), Some(Mark::HidesAllIn(path(""))));
        assert_eq!(mark(".wh..wh.plnk/1.2").ok(), Some(Mark::Note));
        assert_eq!(mark("a/.whb").ok(), Some(Mark::None));
        for bad in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.a/b", ".wh.a/.wh..wh..opq"] {
            assert!(matches!(mark(bad), Err(Flaw::BadMark)), "{bad}");
        }
    }
}
