//! Copying out of and into a task: what the process inside does.
//!
//! It runs in the task's mount namespace with nothing of the host's open, so a path
//! that is exchanged under it leads nowhere but inside. Paths are followed below
//! one handle, the container's root or a plain process's scratch directory, and never
//! through the magic links of `/proc`.
//!
//! A failure is a sentence on standard error and exit code 1, or [`COPIED_IN_PART`] if the
//! archive is sound but lacks something.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::archive::{Dress, Writer};
use super::content;
use crate::order::plain;
use crate::unpack::{self, Bounds, Digest, Form, Options, Owners};

/// A lookup that races with a rename is tried again this often.
const TRIES: usize = 64;

/// Longest sentence told.
const SENTENCE_BYTES: usize = 1 << 10;

/// The exit code of a copy that is sound, and not all of what was asked for.
pub const COPIED_IN_PART: i32 = 2;

/// Why something is not copied, or not all of it.
#[derive(Debug)]
pub(super) struct Failed {
    sentence: String,
    exit: i32,
}

impl From<String> for Failed {
    fn from(sentence: String) -> Self {
        Self { sentence, exit: 1 }
    }
}

/// A handle to what paths are followed below.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| said(path, "cannot open", error))
}

/// Tells what came of it; the exit code.
pub(super) fn tell(done: Result<(), Failed>) -> i32 {
    let Err(Failed { mut sentence, exit }) = done else { return 0 };
    let fits = (0..=SENTENCE_BYTES.min(sentence.len())).rev();
    sentence.truncate(fits.into_iter().find(|at| sentence.is_char_boundary(*at)).unwrap_or(0));
    // Nobody may be left to hear it.
    let _ = rustix::io::write(rustix::stdio::stderr(), sentence.as_bytes());
    exit
}

fn said(path: &Path, what: &str, error: Errno) -> String {
    let error = match error {
        Errno::LOOP => {
            "a link there leads in circles, or is one of /proc that is no path".to_owned()
        }
        error => plain(&io::Error::from(error)),
    };
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

/// Says on standard output what is at a path: `directory`, `file`, or `nothing`.
pub(super) fn look(root: BorrowedFd<'_>, path: &Path) -> Result<(), String> {
    let given = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let kind = match open(root, given, OFlags::PATH) {
        Ok(found) if is_directory(&found) => "directory",
        Ok(_) => "file",
        Err(Errno::NOENT | Errno::NOTDIR) => "nothing",
        Err(error) => return Err(said(path, "cannot look at", error)),
    };
    let written = rustix::io::write(rustix::stdio::stdout(), kind.as_bytes());
    written.map(drop).map_err(|error| said(path, "cannot tell of", error))
}

/// Writes an archive of what is at a path to standard output. Its first entry is named
/// as is said, or as the path ends, or `.` where that is no name.
pub(super) fn out(root: BorrowedFd<'_>, path: &Path, name: Option<&str>) -> Result<(), Failed> {
    let given = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let follow = if names_directory(given) { OFlags::empty() } else { OFlags::NOFOLLOW };
    let found = open(root, given, OFlags::PATH | follow);
    let found = found.map_err(|error| said(path, "cannot find", error))?;
    let failed = |error: io::Error| match Errno::from_io_error(&error) {
        Some(errno) => said(path, "cannot copy", errno),
        None => {
            // The entry's own name says no more than the path does.
            let text = error.to_string();
            let own = name.or(path.file_name().and_then(|own| own.to_str())).unwrap_or_default();
            let why = text.strip_prefix(&format!("{own}: ")).unwrap_or(&text);
            format!("cannot copy {}: {why}", path.display())
        }
    };
    let in_part = |error: io::Error| match Errno::from_io_error(&error) {
        Some(_) => failed(error).into(),
        None => Failed { sentence: error.to_string(), exit: COPIED_IN_PART },
    };
    // The standard stream is only ours, and unbuffered: pieces are large.
    let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
    let mut writer = Writer::new(File::from(stdout.map_err(|error| failed(error.into()))?));
    archive(root, found.as_fd(), given, name.map(Path::new), &mut writer).map_err(failed)?;
    if let Some(note) = writer.finish().map_err(in_part)? {
        // Beside an exit code of zero it is no failure.
        let _unheard = rustix::io::write(rustix::stdio::stderr(), note.as_bytes());
    }
    Ok(())
}

/// Archives what was found at a path below a root.
fn archive<W: io::Write>(
    root: BorrowedFd<'_>,
    found: BorrowedFd<'_>,
    path: &Path,
    name: Option<&Path>,
    writer: &mut Writer<W>,
) -> io::Result<()> {
    let is_dot = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    match path.file_name().filter(|_| !is_dot) {
        // By its name in its directory, so that a link is archived as one.
        Some(own) if !names_directory(path) => {
            let above = open(root, &parent(path), OFlags::PATH | OFlags::DIRECTORY)?;
            writer.entry(above.as_fd(), own, name.unwrap_or(Path::new(own)))
        }
        own if is_directory(found) => {
            writer.directory(found, name.or(own.map(Path::new)).unwrap_or(Path::new(".")))
        }
        _ => Err(Errno::NOTDIR.into()),
    }
}

/// Archives a file or directory of this machine under a name: what [`Runtime::copy_in`]
/// takes. A link is archived as one, unless the path ends with a slash. Answers a sentence
/// about what is left out because it cannot be read, if anything is.
///
/// [`Runtime::copy_in`]: crate::Runtime::copy_in
pub fn pack(path: &Path, name: &Path, to: impl io::Write) -> io::Result<Option<String>> {
    let mut writer = Writer::new(to);
    add(&mut writer, path, name)?;
    writer.finish()
}

/// Archives files and directories of this machine, each under a name, so that the same
/// content makes the same archive whoever packs it, when and from where: nobody's, made at no
/// time. What a path links to is archived, and links below it as links. Blocks.
///
/// # Errors
///
/// If one of them, or anything below, cannot be read or is neither file, directory nor link.
pub fn pack_plain(all: &[(PathBuf, PathBuf)], to: impl io::Write) -> io::Result<()> {
    let mut writer = Writer::dressed(to, Dress::Plain);
    for (path, name) in all {
        let path = path.canonicalize().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {}", path.display(), plain(&error)))
        })?;
        // A directory under the name `.` is its contents.
        add(&mut writer, &path, name)?;
    }
    writer.finish()?.map_or(Ok(()), |left_out| Err(io::Error::other(left_out)))
}

fn add<W: io::Write>(writer: &mut Writer<W>, path: &Path, name: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if names_directory(path) {
        let dir = rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty())?;
        writer.directory(dir.as_fd(), name)?;
    } else {
        let own = path.file_name().ok_or(Errno::INVAL)?;
        let above = rustix::fs::open(parent(path), flags | OFlags::DIRECTORY, Mode::empty())?;
        writer.entry(above.as_fd(), own, name)?;
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn is_directory(handle: impl AsFd) -> bool {
    rustix::fs::fstat(handle)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Unpacks the archive on standard input into the directory at a path.
pub(super) fn into(root: BorrowedFd<'_>, path: &Path) -> Result<(), String> {
    let given = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let dir = open(root, given, OFlags::RDONLY | OFlags::DIRECTORY);
    let dir = dir.map_err(|error| said(path, "cannot copy into", error))?;
    if content::is_made_up(&dir) {
        let why = "the kernel makes up what is there, and takes no files";
        return Err(format!("cannot copy into {}: {why}", path.display()));
    }
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
            let mut text = format!("cannot copy into {}: {}", path.display(), plain(&error));
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {}", plain(error));
                cause = error.source();
            }
            Err(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_same_content_packs_the_same_whoever_made_it_and_when() {
        let packed = |mode: u32, seconds: u64| {
            let dir = tempfile::tempdir().expect("a directory");
            for (name, mode) in [("b", mode), ("a", 0o600)] {
                let path = dir.path().join(name);
                std::fs::write(&path, name).expect("written");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
                let file = File::options().write(true).open(&path).expect("opened");
                file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
            }
            std::os::unix::fs::symlink("a", dir.path().join("c")).expect("linked");
            let mut text = Vec::new();
            pack_plain(&[(dir.path().to_owned(), "x".into())], &mut text).expect("packed");
            text
        };
        assert_eq!(packed(0o700, 1), packed(0o755, 2));
        assert_ne!(packed(0o600, 1), packed(0o755, 1), "what may be run is content");
    }
}
