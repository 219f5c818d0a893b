//! Removing a tree that strangers have filled.
//!
//! Depth first, without recursion: a path of ten thousand directories costs ten
//! thousand small frames on the heap, one open handle and linear time. Each
//! directory is listed once (more often only if somebody still writes to it), and
//! the way back up is `..`, checked against where we came from: a directory that
//! was moved meanwhile ends the work rather than leading it elsewhere.
//!
//! Invariant: links are removed, never followed; nothing across a mount is
//! touched. A mount in the tree is an error, and the tree stays.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::walk::{DIRECTORY, is_dir};

/// Times one directory is listed again because it was not empty when it had to
/// be: somebody is writing to it.
const LISTINGS_MAX: usize = 4;

/// What tells one directory from all others, while it exists.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    /// Zero before Linux 5.8: then the device alone tells mounts apart.
    mount: u64,
}

#[derive(Debug)]
struct Frame {
    name: CString,
    identity: Identity,
    /// Directories in it that are still to be removed.
    inner: Vec<CString>,
    listings: usize,
}

/// Removes `name` in `dir`, whatever it is, with all below it. Nothing there is fine.
///
/// # Errors
///
/// `EBUSY` or `EXDEV` for a mount in the tree; `ESTALE` if directories were moved
/// while at work; `ENOTEMPTY` if somebody keeps writing; else what the kernel
/// says. What was removed until then is gone.
pub fn remove_tree(dir: BorrowedFd, name: &[u8]) -> io::Result<()> {
    let plain = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/');
    if !plain {
        return Err(Errno::INVAL.into());
    }
    let name = CString::new(name)?;
    match is_dir(dir, name.as_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        Ok(true) => {}
        Ok(false) => return Ok(rustix::fs::unlinkat(dir, &name, AtFlags::empty())?),
        Err(error) => return Err(error.into()),
    }
    let top = identity(dir)?;
    let mut here = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty())?;
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = Some(name);
    loop {
        if let Some(name) = next.take() {
            let inner = open_inner(here.as_fd(), &name)?;
            let identity = identity(inner.as_fd())?;
            if identity.mount != top.mount || identity.device != top.device {
                return Err(Errno::XDEV.into());
            }
            here = inner;
            frames.push(Frame { name, identity, inner: list(here.as_fd())?, listings: 1 });
        }
        let Some(frame) = frames.last_mut() else { return Ok(()) };
        match frame.inner.pop() {
            Some(inner) => match rustix::fs::unlinkat(&here, &inner, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => next = Some(inner),
                Err(error) => return Err(error.into()),
            },
            None => {
                let above = rustix::fs::openat(&here, "..", DIRECTORY, Mode::empty())?;
                let below = frames.len().checked_sub(2).and_then(|at| frames.get(at));
                let expected = below.map_or(&top, |frame| &frame.identity);
                if identity(above.as_fd())? != *expected {
                    return Err(Errno::STALE.into());
                }
                leave(&mut frames, &mut here, above)?;
            }
        }
    }
}

/// Removes the directory at hand, now empty, and goes up; or lists it again.
fn leave(frames: &mut Vec<Frame>, here: &mut OwnedFd, above: OwnedFd) -> io::Result<()> {
    let Some(frame) = frames.last_mut() else { return Ok(()) };
    match rustix::fs::unlinkat(&above, &frame.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {
            frames.pop();
            *here = above;
            Ok(())
        }
        Err(Errno::NOTEMPTY | Errno::EXIST) if frame.listings < LISTINGS_MAX => {
            frame.listings += 1;
            frame.inner = list(here.as_fd())?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory to empty it. One that its owner may not read or change is
/// made so first: any container can leave such behind.
fn open_inner(dir: BorrowedFd, name: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    let open = |flags| rustix::fs::openat(dir, name, flags, Mode::empty());
    let inner = match open(flags) {
        Err(Errno::ACCESS) => {
            let handle = open(OFlags::PATH | flags)?;
            // By its handle and not its name, which may be another's by now.
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            rustix::fs::chmod(path, Mode::RWXU)?;
            open(flags)?
        }
        opened => opened?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&inner)?.st_mode);
    if !mode.contains(Mode::RWXU) && !rustix::process::geteuid().is_root() {
        rustix::fs::fchmod(&inner, Mode::RWXU)?;
    }
    Ok(inner)
}

/// Removes all that are no directories; returns the directories.
fn list(dir: BorrowedFd) -> io::Result<Vec<CString>> {
    let mut inner = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            inner.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            // A filesystem that does not tell kinds, or a directory by now.
            Err(Errno::ISDIR) => inner.push(name.to_owned()),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(inner)
}

fn identity(dir: BorrowedFd) -> rustix::io::Result<Identity> {
    let flags = AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statx(dir, "", flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
    Ok(Identity {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        mount: stat.stx_mnt_id,
    })
}
