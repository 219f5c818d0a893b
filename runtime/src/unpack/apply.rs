//! Making the entries of an archive, one after the other.
//!
//! Every entry is made by its name in the handle of its directory, and never
//! opened if it was there before: what has the name goes first, then the new one
//! is created exclusively. So no entry is written through a link, and order and
//! repetition cannot turn one into another.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::error::{Flaw, Stop, UnpackError, printable};
use super::marks::{self, Mark};
use super::path::EntryPath;
use super::tree::{Tree, look};
use super::walk::DIRECTORY;
use super::{Form, Options, Owners, Unpacked};

/// Content is written in pieces of this many bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// Of a mode, what gives nobody the rights of its owner.
const PERMISSIONS: u32 = 0o777;

#[derive(Debug)]
pub(super) struct Applier<'a> {
    tree: Tree,
    options: &'a Options,
    pub(super) done: Unpacked,
    piece: Vec<u8>,
    uid: u32,
    gid: u32,
}

impl<'a> Applier<'a> {
    pub(super) fn new(tree: Tree, options: &'a Options) -> Self {
        Self {
            tree,
            options,
            done: Unpacked::default(),
            piece: vec![0; PIECE_BYTES],
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Makes one entry, reading its content if it has any.
    pub(super) fn apply<R: Read>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), UnpackError> {
        self.done.dropped_attributes += entry.dropped;
        self.make(entry, archive).map_err(|stop| match stop {
            Stop::Whole(error) => error,
            Stop::Flaw(flaw) => {
                UnpackError::Entry { name: printable(&entry.name), number: archive.headers(), flaw }
            }
        })
    }

    /// Ends the work: the last directory gets its time back. Says as well whether something
    /// was replaced that the archive itself had made.
    pub(super) fn finish(mut self) -> Result<(Unpacked, bool), Flaw> {
        self.tree.leave()?;
        Ok((self.done, self.tree.has_replaced()))
    }

    fn make<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Stop> {
        let path = EntryPath::parse(&entry.name, self.options.bounds.depth)?;
        match self.options.form {
            Form::Rootfs if path.bytes().split(|byte| *byte == b'/').any(marks::is_mark) => {
                return Err(Flaw::MarkInRoot.into());
            }
            Form::Rootfs => {}
            Form::Layer => match Mark::of(&path, self.options.bounds.depth)? {
                Mark::None => {}
                mark => return Ok(self.mark(mark)?),
            },
        }
        match entry.kind {
            Kind::File => self.file(&path, entry, archive)?,
            Kind::Directory => self.directory(&path, entry)?,
            Kind::Symlink => self.symlink(&path, entry)?,
            Kind::HardLink => self.hard_link(&path, entry)?,
            Kind::Fifo => self.fifo(&path, entry)?,
            // A container gets devices from us, and never those of an image.
            Kind::Device => self.done.skipped_devices += 1,
        }
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Flaw> {
        match mark {
            Mark::None => {}
            Mark::Note => self.done.skipped_notes += 1,
            Mark::Hides(path) => self.done.hidden += u64::from(marks::hide(&mut self.tree, &path)?),
            Mark::HidesAllIn(dir) if dir.bytes().is_empty() => self.done.hides_all = true,
            Mark::HidesAllIn(dir) => {
                let here = self.tree.parent(dir.bytes())?;
                self.done.hidden += u64::from(marks::set_opaque(here.dir.as_fd())?);
            }
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Stop> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.tree.place(path, "make the file", |dir, name| {
            rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        loop {
            let read = archive.read_content(&mut self.piece)?;
            if read == 0 {
                break;
            }
            let mut rest = self.piece.get(..read).unwrap_or_default();
            while !rest.is_empty() {
                match rustix::io::write(&file, rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(source) => return Err(Flaw::System { action: "write", source }.into()),
                }
            }
        }
        self.done.files += 1;
        self.done.bytes += entry.size;
        let mut mode = entry.mode;
        if let Some(recorder) = archive.recorder() {
            if entry.size > 0 {
                let stat = rustix::fs::fstat(&file).map_err(Flaw::in_step("look at it"))?;
                recorder
                    .content(path.bytes(), stat.st_ino, entry.size)
                    .map_err(|source| UnpackError::Recipe { source })?;
            }
            // Whoever writes the archive again must be able to read it.
            if self.options.owners == Owners::Mine {
                mode |= Mode::RUSR.as_raw_mode();
            }
        }
        if self.must_own(path, entry)? {
            self.own(&file, entry)?;
        }
        Ok(self.dress(file.as_fd(), entry, mode)?)
    }

    fn directory(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), Flaw> {
        let mut hides = false;
        let dir = match path.split() {
            None => rustix::fs::openat(self.tree.root(), ".", DIRECTORY, Mode::empty())
                .map_err(Flaw::in_step("open the root"))?,
            Some((parent, name)) => {
                let here = self.tree.parent(parent)?;
                match look(here.dir.as_fd(), name)? {
                    Some((FileType::Directory, _)) => {}
                    Some((kind, stat)) => {
                        // What was hidden by a mark stays hidden.
                        hides = self.options.form == Form::Layer && marks::is_whiteout(kind, &stat);
                        self.new_directory(path)?;
                    }
                    None => self.new_directory(path)?,
                }
                let here = self.tree.parent(parent)?;
                let flags = DIRECTORY | OFlags::NOFOLLOW;
                rustix::fs::openat(&here.dir, name, flags, Mode::empty())
                    .map_err(Flaw::in_step("open the directory"))?
            }
        };
        // Before its time is set, so that no older one is put back over it.
        self.tree.leave()?;
        self.done.directories += 1;
        self.own(&dir, entry)?;
        let mode = match self.options.owners {
            Owners::Keep => entry.mode,
            // Its owner must be able to fill and, one day, to remove it.
            Owners::Mine | Owners::Given { .. } => entry.mode | Mode::RWXU.as_raw_mode(),
        };
        self.dress(dir.as_fd(), entry, mode)?;
        if hides {
            marks::set_opaque(dir.as_fd())?;
        }
        self.tree.enter(path, dir)
    }

    fn new_directory(&mut self, path: &EntryPath) -> Result<(), Flaw> {
        self.tree.place(path, "make the directory", |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::RWXU)
        })
    }

    fn symlink(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), Flaw> {
        let target = entry.link.as_slice();
        self.tree
            .place(path, "make the link", |dir, name| rustix::fs::symlinkat(target, dir, name))?;
        self.done.symlinks += 1;
        self.dress_by_name(path, entry)
    }

    fn fifo(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), Flaw> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.tree.place(path, "make the fifo", |dir, name| {
            rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0)
        })?;
        self.done.fifos += 1;
        self.dress_by_name(path, entry)?;
        // The kernel took the umask off. It is a fifo that we made: no link to follow.
        let (parent, name) = path.split().ok_or(Flaw::NoName)?;
        let here = self.tree.parent(parent)?;
        rustix::fs::chmodat(&here.dir, name, mode, AtFlags::empty())
            .map_err(Flaw::in_step("set the mode"))
    }

    fn hard_link(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), Flaw> {
        let no_target = || Flaw::HardLink { target: printable(&entry.link) };
        let target = EntryPath::parse(&entry.link, self.options.bounds.depth)?;
        let (target_parent, target_name) = target.split().ok_or_else(no_target)?;
        let from = self.tree.existing(target_parent).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => no_target(),
            source => Flaw::System { action: "open the directory of its target", source },
        })?;
        let Some((kind, stat)) = look(from.as_fd(), target_name)? else {
            return Err(no_target());
        };
        if !matches!(kind, FileType::RegularFile | FileType::Symlink | FileType::Fifo) {
            return Err(no_target());
        }
        let (parent, name) = path.split().ok_or(Flaw::NoName)?;
        let here = self.tree.parent(parent)?;
        if let Some((_, there)) = look(here.dir.as_fd(), name)?
            && (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)
        {
            // Two names of one file already: to replace one could lose both.
            return Ok(());
        }
        self.tree.place(path, "make the hard link", |dir, name| {
            rustix::fs::linkat(&from, target_name, dir, name, AtFlags::empty())
        })?;
        self.done.hard_links += 1;
        Ok(())
    }

    /// Whether a fresh file has another owner than it must get.
    fn must_own(&mut self, path: &EntryPath, entry: &Entry) -> Result<bool, Flaw> {
        let (parent, _) = path.split().ok_or(Flaw::NoName)?;
        let given = self.tree.parent(parent)?.gives_group();
        let owner = match self.options.owners {
            Owners::Given { uid, gid } => (uid, gid),
            Owners::Keep | Owners::Mine => (entry.uid, entry.gid),
        };
        Ok(given || owner != (self.uid, self.gid))
    }

    fn own(&self, file: &OwnedFd, entry: &Entry) -> Result<(), Flaw> {
        match self.owner(entry) {
            None => Ok(()),
            Some((uid, gid)) => rustix::fs::fchown(file, Some(uid), Some(gid))
                .map_err(Flaw::in_step("set the owner (only root can)")),
        }
    }

    /// Whom an entry is given to, if not to the caller.
    fn owner(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        match self.options.owners {
            Owners::Mine => None,
            Owners::Keep => Some((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
            Owners::Given { uid, gid } => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
        }
    }

    /// Mode, attributes and time; after the owner, whose change clears some of them.
    fn dress(&mut self, file: BorrowedFd, entry: &Entry, mode: u32) -> Result<(), Flaw> {
        let given = matches!(self.options.owners, Owners::Given { .. });
        let mode = if given { mode & PERMISSIONS } else { mode };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            .map_err(Flaw::in_step("set the mode"))?;
        let attributes = if given { &[][..] } else { &entry.attributes };
        self.done.dropped_attributes += (entry.attributes.len() - attributes.len()) as u64;
        for (name, value) in attributes {
            match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(source @ (Errno::NOSPC | Errno::IO | Errno::DQUOT)) => {
                    return Err(Flaw::System { action: "set an attribute", source });
                }
                // Not allowed to us, or not known to this filesystem.
                Err(_) => self.done.dropped_attributes += 1,
            }
        }
        rustix::fs::futimens(file, &times(entry)).map_err(Flaw::in_step("set the time"))
    }

    /// The same for what cannot be opened without following or blocking.
    fn dress_by_name(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), Flaw> {
        self.done.dropped_attributes += entry.attributes.len() as u64;
        let (parent, name) = path.split().ok_or(Flaw::NoName)?;
        let owner = self.owner(entry);
        let here = self.tree.parent(parent)?;
        if let Some((uid, gid)) = owner {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&here.dir, name, Some(uid), Some(gid), flags)
                .map_err(Flaw::in_step("set the owner (only root can)"))?;
        }
        rustix::fs::utimensat(&here.dir, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Flaw::in_step("set the time"))
    }
}

fn times(entry: &Entry) -> Timestamps {
    let (seconds, nanos) = entry.mtime;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
