//! The files that a recipe speaks of.
//!
//! The tree is as good as any container's files: it is walked as the applier walked it, its
//! files are opened without following a link and without waiting for a fifo, and one that
//! has not the length it had is damage.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::read::damaged;
use crate::unpack::error::printable;
use crate::unpack::walk::{Walk, open_dir};

/// The files of a layer.
#[derive(Debug)]
pub(super) struct Files {
    root: OwnedFd,
    aside: Option<OwnedFd>,
    walk: Walk,
    /// The directory of the last file: the next lies there too, mostly.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Files {
    pub(super) fn new(root: OwnedFd, aside: Option<OwnedFd>) -> Self {
        Self { root, aside, walk: Walk::Kernel, last: None }
    }

    /// The content of a file, if it is as long as it was.
    pub(super) fn open(&mut self, path: &[u8], inode: u64, size: u64) -> io::Result<File> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => path.split_at(slash),
            None => (&b"."[..], path),
        };
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let bad = |why: &dyn fmt::Display| damaged(format_args!("{}: {why}", printable(path)));
        let unopened = |error: Errno| match error {
            // Not for the file's sake.
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO => io::Error::from(error),
            error => bad(&io::Error::from(error)),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(bad(&"no name of a file"));
        }
        let aside = match &self.aside {
            Some(aside) => open_file(aside.as_fd(), inode.to_string().as_bytes()),
            None => Err(Errno::NOENT),
        };
        let file = match aside {
            Err(Errno::NOENT) => {
                let dir = self.dir(parent).map_err(unopened)?;
                open_file(dir, name)
            }
            opened => opened,
        };
        let file = file.map_err(unopened)?;
        let stat = rustix::fs::fstat(&file)?;
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || length != size {
            return Err(bad(&format_args!("was a file of {size} bytes")));
        }
        Ok(file)
    }

    fn dir(&mut self, path: &[u8]) -> rustix::io::Result<BorrowedFd<'_>> {
        let known = self.last.take_if(|(last, _)| last == path);
        let last = match known {
            Some(last) => last,
            None => (path.to_vec(), open_dir(&mut self.walk, self.root.as_fd(), path)?),
        };
        Ok(self.last.insert(last).1.as_fd())
    }
}

fn open_file(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from)
}
