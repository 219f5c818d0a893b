//! Copying out of and into a task: what the process inside does.
//!
//! It runs in the task's mount namespace with nothing of the host's open, so a path
//! that is exchanged under it leads nowhere but inside. Paths are followed below
//! one handle, the container's root or a plain process's scratch directory, and never
//! through the magic links of `/proc`.
//!
//! A failure is a sentence on standard error and exit code 1.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::archive::Writer;
use crate::unpack::{self, Bounds, Digest, Form, Options, Owners};

/// A lookup that races with a rename is tried again this often.
const TRIES: usize = 64;

/// Longest sentence told.
const SENTENCE_BYTES: usize = 1 << 10;

/// A handle to what paths are followed below.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| said(path, "cannot open", error))
}

/// Tells what came of it; the exit code.
pub(super) fn tell(done: Result<(), String>) -> i32 {
    let Err(mut sentence) = done else { return 0 };
    let fits = (0..=SENTENCE_BYTES.min(sentence.len())).rev();
    sentence.truncate(fits.into_iter().find(|at| sentence.is_char_boundary(*at)).unwrap_or(0));
    // Nobody may be left to hear it.
    let _ = rustix::io::write(rustix::stdio::stderr(), sentence.as_bytes());
    1
}

fn said(path: &Path, what: &str, error: Errno) -> String {
    let error = io::Error::from(error).to_string();
    let error = error.split(" (os error").next().unwrap_or_default();
    format!("{what} {}: {error}", path.display())
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    for _ in 1..TRIES {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// Whether a path says that what it names is a directory, so that a link at its end is
/// followed.
fn names_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"." || bytes.is_empty()
}

/// Writes an archive of what is at a path to standard output. Its first entry is named
/// as the path ends, or `.` where that is no name.
pub(super) fn out(root: BorrowedFd<'_>, path: &Path) -> Result<(), String> {
    let given = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let follow = if names_directory(given) { OFlags::empty() } else { OFlags::NOFOLLOW };
    let found = open(root, given, OFlags::PATH | follow);
    let found = found.map_err(|error| said(path, "cannot find", error))?;
    let failed = |error: io::Error| match Errno::from_io_error(&error) {
        Some(errno) => said(path, "cannot copy", errno),
        None => format!("cannot copy {}: {error}", path.display()),
    };
    // The standard stream is only ours, and unbuffered: pieces are large.
    let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
    let mut writer = Writer::new(File::from(stdout.map_err(|error| failed(error.into()))?));
    let is_dot = given.as_os_str().as_encoded_bytes().ends_with(b"/.");
    match given.file_name().filter(|_| !is_dot) {
        Some(name) => {
            let parent = parent(given);
            // By its name in its directory, so that a link is archived as one.
            let above = open(root, &parent, OFlags::PATH | OFlags::DIRECTORY);
            let above = above.map_err(|error| said(&parent, "cannot open", error))?;
            if names_directory(given) {
                writer.directory(found.as_fd(), Path::new(name)).map_err(failed)?;
            } else {
                writer.entry(above.as_fd(), name, Path::new(name)).map_err(failed)?;
            }
        }
        None => {
            if !is_directory(&found) {
                return Err(said(path, "cannot copy", Errno::NOTDIR));
            }
            writer.directory(found.as_fd(), Path::new(".")).map_err(failed)?;
        }
    }
    writer.finish().map_err(failed)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn is_directory(handle: &OwnedFd) -> bool {
    rustix::fs::fstat(handle)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Unpacks the archive on standard input into the directory at a path.
pub(super) fn into(root: BorrowedFd<'_>, path: &Path) -> Result<(), String> {
    let given = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let dir = open(root, given, OFlags::RDONLY | OFlags::DIRECTORY);
    let dir = dir.map_err(|error| said(path, "cannot copy into", error))?;
    let options = Options {
        bounds: Bounds::default(),
        form: Form::Rootfs,
        // As Docker: what is copied belongs to who it is copied to.
        owners: Owners::Mine,
        digest: Digest::Skip,
    };
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let stdin = File::from(stdin.map_err(|error| said(path, "cannot read for", error))?);
    match unpack::unpack(stdin, dir.as_fd(), &options) {
        Ok(_) => Ok(()),
        Err(error) => {
            let mut text = format!("cannot copy into {}: {error}", path.display());
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            Err(text)
        }
    }
}
