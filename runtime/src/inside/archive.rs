//! Writes a directory tree as a tar archive: ustar headers, with pax records for
//! what does not fit them.
//!
//! Files may change while they are read: one that grows is cut at the size its header says;
//! a large one that shrinks is filled up with zeros, so that the archive stays sound, and
//! told of at the end. Files that the kernel makes up and does not let be read are left out
//! of a directory, and told of as well.
//! Links are written as links, never followed. Sockets and devices are left out, since they
//! mean nothing elsewhere, and told of at the end. A file with several names is written several times.
//!
//! Format: POSIX.1-2017, pax.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::content::{self, Content};
use crate::order::plain;

/// Deepest tree: as deep as one that is unpacked may be.
const DEPTH: usize = 255;

/// Most entries: as many as are unpacked.
const ENTRIES: u64 = 2_000_000;

/// How many names are told of those that could not be copied as they are.
const NAMES_TOLD: usize = 5;

const BLOCK: usize = 512;
const PIECE_BYTES: usize = 64 << 10;

/// What fits the fields of a ustar header: 8 and 12 octal digits with a zero behind.
const ID_MAX: u64 = 0o777_7777;
const SIZE_MAX: u64 = 0o7777_7777_7777 >> 3;

#[derive(Debug)]
pub(crate) struct Writer<W> {
    to: W,
    entries: u64,
    piece: Vec<u8>,
    shrunk: Names,
    left_out: Names,
    no_files: Names,
    dress: Dress,
}

/// What headers say of whose an entry is, and of when and how it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dress {
    /// What the disk says.
    Own,
    /// Nobody's, made at no time, for all to read and for those to execute that anybody
    /// could: the same content makes the same archive wherever it lies.
    Plain,
}

/// Some names, and how many there are in all.
#[derive(Debug, Default)]
struct Names {
    first: Vec<String>,
    count: u64,
}

impl Names {
    fn add(&mut self, entry: &Path) {
        self.count += 1;
        if self.first.len() < NAMES_TOLD {
            self.first.push(entry.display().to_string());
        }
    }

    fn told(&self, what: &str) -> Option<String> {
        let more = self.count - self.first.len() as u64;
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        (self.count > 0).then(|| format!("{what}: {}{more}", self.first.join(", ")))
    }
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(to: W) -> Self {
        Self::dressed(to, Dress::Own)
    }

    pub(crate) fn dressed(to: W, dress: Dress) -> Self {
        let (shrunk, left_out, no_files) = Default::default();
        Self { to, entries: 0, piece: vec![0; PIECE_BYTES], shrunk, left_out, no_files, dress }
    }

    /// Writes what a directory has at a name, with all below it, as this entry.
    pub(crate) fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Path,
    ) -> io::Result<()> {
        Ok(self.below(dir, name, entry, 0)?)
    }

    /// Writes a directory with all below it as this entry.
    pub(crate) fn directory(&mut self, dir: BorrowedFd<'_>, entry: &Path) -> io::Result<()> {
        Ok(self.all_of(open_directory(dir, OsStr::new("."))?, entry, 0)?)
    }

    /// Ends the archive. What is not in it because it cannot be read is told; a file that is
    /// in it with zeros for a part of it is an error, and so is what can be in none.
    pub(crate) fn finish(mut self) -> io::Result<Option<String>> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()?;
        let shrunk = "shrank while being copied, and ends in zeros in the copy";
        let no_files = "left out, since devices and sockets mean nothing elsewhere";
        let lacks = [self.no_files.told(no_files), self.shrunk.told(shrunk)];
        let lacks: Vec<String> = lacks.into_iter().flatten().collect();
        if lacks.is_empty() {
            return Ok(self.left_out.told("left out, since they cannot be read"));
        }
        Err(io::Error::other(lacks.join("; ")))
    }

    fn below(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Path,
        depth: usize,
    ) -> Result<(), Unwritten> {
        let failed = |error| of_source(entry, error);
        let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = found.map_err(|error| failed(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.all_of(open_directory(dir, name).map_err(failed)?, entry, depth)
            }
            FileType::RegularFile => self.file(dir, name, entry),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new());
                let target = target.map_err(|error| failed(error.into()))?;
                Ok(self.header(entry, &stat, b'2', 0, target.as_bytes())?)
            }
            FileType::Fifo if self.dress == Dress::Own => {
                Ok(self.header(entry, &stat, b'6', 0, b"")?)
            }
            _ => {
                self.no_files.add(entry);
                Ok(())
            }
        }
    }

    fn all_of(&mut self, dir: OwnedFd, entry: &Path, depth: usize) -> Result<(), Unwritten> {
        if depth >= DEPTH {
            return Err(io::Error::other(format!("{} is too deep", entry.display())).into());
        }
        let stat = rustix::fs::fstat(&dir)?;
        self.header(&entry.join(""), &stat, b'5', 0, b"")?;
        let mut names = Vec::new();
        let failed = |error: Errno| of_source(entry, error.into());
        for found in Dir::read_from(&dir).map_err(failed)? {
            let found = found.map_err(failed)?;
            let name = found.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        let made_up = content::is_made_up(&dir);
        for name in names {
            use std::os::unix::ffi::OsStrExt as _;
            let name = OsStr::from_bytes(&name);
            match self.below(dir.as_fd(), name, &entry.join(name), depth + 1) {
                // It was removed meanwhile.
                Err(Unwritten::Source(error)) if content::is_gone(&error) => {}
                Err(Unwritten::Source(_)) if made_up => self.left_out.add(&entry.join(name)),
                done => done?,
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, entry: &Path) -> Result<(), Unwritten> {
        // It may have become a pipe, on which an open would wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|error| of_source(entry, error.into()))?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let mut file = std::fs::File::from(file);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let content = Content::of(&mut file, size).map_err(|error| of_source(entry, error))?;
        let size = content.length();
        self.header(entry, &stat, b'0', size, b"")?;
        match content {
            Content::Read(bytes) => self.to.write_all(&bytes)?,
            Content::Awaited(size) => self.pass_on(&mut file, size, entry)?,
        }
        Ok(self.pad(size)?)
    }

    fn pass_on(&mut self, file: &mut std::fs::File, size: u64, entry: &Path) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let Some(piece) = self.piece.get_mut(..most) else { break };
            let length = file.read(piece)?;
            if length == 0 {
                break;
            }
            self.to.write_all(piece.get(..length).unwrap_or_default())?;
            left -= length as u64;
        }
        if left > 0 {
            self.shrunk.add(entry);
            io::copy(&mut io::repeat(0).take(left), &mut self.to)?;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        let zeros = [0; BLOCK];
        let missing = if over == 0 { 0 } else { BLOCK - over };
        self.to.write_all(zeros.get(..missing).unwrap_or_default())
    }

    fn header(
        &mut self,
        entry: &Path,
        stat: &Stat,
        kind: u8,
        size: u64,
        link: &[u8],
    ) -> io::Result<()> {
        self.entries += 1;
        if self.entries > ENTRIES {
            return Err(io::Error::other(format!("there are more than {ENTRIES} entries")));
        }
        let name = entry.as_os_str().as_encoded_bytes();
        let (mode, uid, gid, seconds) = self.dress.of(stat, kind);
        let mut pax = Vec::new();
        let mut long = |key: &str, value: &[u8], fits: bool| {
            if !fits {
                pax.extend(record(key, value));
            }
        };
        long("path", name, name.len() <= 100);
        long("linkpath", link, link.len() <= 100);
        long("size", size.to_string().as_bytes(), size <= SIZE_MAX);
        long("uid", uid.to_string().as_bytes(), uid <= ID_MAX);
        long("gid", gid.to_string().as_bytes(), gid <= ID_MAX);
        long("mtime", seconds.to_string().as_bytes(), (0..=SIZE_MAX as i64).contains(&seconds));
        if !pax.is_empty() {
            let length = pax.len() as u64;
            self.to.write_all(&block(b"pax", 0o644, 0, 0, length, 0, b'x', b""))?;
            self.to.write_all(&pax)?;
            self.pad(length)?;
        }
        let seconds = u64::try_from(seconds).unwrap_or(0);
        self.to.write_all(&block(name, mode, uid, gid, size, seconds, kind, link))
    }
}

impl Dress {
    /// Mode, user, group and time.
    fn of(self, stat: &Stat, kind: u8) -> (u64, u64, u64, i64) {
        let mode = stat.st_mode & 0o7777;
        match self {
            Self::Own => {
                (u64::from(mode), u64::from(stat.st_uid), u64::from(stat.st_gid), stat.st_mtime)
            }
            Self::Plain if kind == b'2' => (0o777, 0, 0, 0),
            Self::Plain if kind == b'5' || mode & 0o111 != 0 => (0o755, 0, 0, 0),
            Self::Plain => (0o644, 0, 0, 0),
        }
    }
}

/// Why an entry is not in the archive.
#[derive(Debug)]
enum Unwritten {
    /// What was to be read failed, before a byte of the entry was written: the archive can go
    /// on.
    Source(io::Error),
    /// The archive cannot go on.
    Archive(io::Error),
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Self {
        Self::Archive(error)
    }
}

impl From<Errno> for Unwritten {
    fn from(error: Errno) -> Self {
        Self::Archive(error.into())
    }
}

impl From<Unwritten> for io::Error {
    fn from(unwritten: Unwritten) -> Self {
        match unwritten {
            Unwritten::Source(error) | Unwritten::Archive(error) => error,
        }
    }
}

/// The error keeps its kind and number, by which others know what it means.
fn of_source(entry: &Path, error: io::Error) -> Unwritten {
    Unwritten::Source(match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::SRCH) => error,
        _ => io::Error::new(error.kind(), format!("{}: {}", entry.display(), plain(&error))),
    })
}

/// The header of a file of this many bytes, or of a directory, that is nobody's and was made
/// at no time: for archives that are the same whoever writes them. The name is a short one.
pub(crate) fn timeless(name: &str, size: Option<u64>) -> Vec<u8> {
    let (mode, kind) = if size.is_some() { (0o644, b'0') } else { (0o755, b'5') };
    let size = size.unwrap_or(0);
    let mut head = Vec::new();
    if size > SIZE_MAX {
        let text = record("size", size.to_string().as_bytes());
        head.extend(block(b"pax", mode, 0, 0, text.len() as u64, 0, b'x', b""));
        head.extend(text);
        head.resize(head.len().next_multiple_of(BLOCK), 0);
    }
    head.extend(block(name.as_bytes(), mode, 0, 0, size, 0, kind, b""));
    head
}

fn open_directory(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut text = format!("{length} {key}=").into_bytes();
    text.extend_from_slice(value);
    text.push(b'\n');
    text
}

#[allow(clippy::too_many_arguments, reason = "these are the fields of the header")]
fn block(
    name: &[u8],
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    seconds: u64,
    kind: u8,
    link: &[u8],
) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        let slots = block.iter_mut().skip(at);
        slots.zip(bytes).for_each(|(slot, byte)| *slot = *byte);
    };
    let cut = |bytes: &[u8]| bytes.get(..bytes.len().min(100)).unwrap_or_default().to_vec();
    let octal = |value: u64, most: u64, digits: usize| {
        // What does not fit is in a pax record.
        let value = if value <= most { value } else { 0 };
        format!("{value:0digits$o}\0").into_bytes()
    };
    put(0, &cut(name));
    put(100, &octal(mode, ID_MAX, 7));
    put(108, &octal(uid, ID_MAX, 7));
    put(116, &octal(gid, ID_MAX, 7));
    put(124, &octal(size, SIZE_MAX, 11));
    put(136, &octal(seconds, SIZE_MAX, 11));
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &cut(link));
    put(257, b"ustar\x0000");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block.iter_mut().skip(148).zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_length_counts_itself() {
        assert_eq!(record("path", b"x"), b"9 path=x\n");
        // One digit more makes it longer by two.
        for (bytes, length) in [(88, 97), (90, 99), (91, 101)] {
            let record = record("path", &vec![b'x'; bytes]);
            assert_eq!(record.len(), length);
            assert!(record.starts_with(format!("{length} path=").as_bytes()));
        }
    }

    /// Truncates a file once the content of some file begins to pass.
    struct Truncating<'a> {
        to: Vec<u8>,
        file: &'a std::fs::File,
        keep: u64,
    }

    impl Write for Truncating<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.to.len() > BLOCK {
                self.file.set_len(self.keep)?;
            }
            self.to.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_shrinks_meanwhile_is_told_of_and_the_rest_is_sound() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("a"), vec![7; 1 << 20]).expect("written");
        std::fs::write(dir.path().join("b"), "whole").expect("written");
        let file = std::fs::File::options().write(true).open(dir.path().join("a")).expect("opened");
        let mut to = Truncating { to: Vec::new(), file: &file, keep: 100_000 };
        let mut writer = Writer::new(&mut to);
        let handle = std::fs::File::open(dir.path()).expect("a handle");
        writer.directory(handle.as_fd(), Path::new("d")).expect("written");
        let told = writer.finish().expect_err("it shrank").to_string();
        assert!(told.contains("shrank") && told.contains("d/a") && !told.contains("d/b"), "{told}");
        let into = tempfile::tempdir().expect("a directory");
        unpack(&to.to, into.path());
        let copy = std::fs::read(into.path().join("d/a")).expect("read");
        assert_eq!(copy.len(), 1 << 20);
        let end = copy.iter().rposition(|byte| *byte != 0).expect("some of it");
        assert!(copy[..=end].iter().all(|byte| *byte == 7) && end >= 99_999, "{end}");
        assert_eq!(std::fs::read(into.path().join("d/b")).expect("read"), b"whole");
    }

    #[test]
    fn what_the_kernel_makes_up_is_copied_as_it_reads() {
        let mut text = Vec::new();
        let mut writer = Writer::new(&mut text);
        let handle = std::fs::File::open("/proc/self/net").expect("a handle");
        writer.directory(handle.as_fd(), Path::new("net")).expect("written");
        let proc = std::fs::File::open("/proc").expect("a handle");
        writer.entry(proc.as_fd(), OsStr::new("version"), Path::new("version")).expect("written");
        writer.finish().expect("ended");
        let into = tempfile::tempdir().expect("a directory");
        unpack(&text, into.path());
        let version = std::fs::read("/proc/version").expect("read");
        assert_eq!(std::fs::read(into.path().join("version")).expect("read"), version);
        let devices = std::fs::read_to_string(into.path().join("net/dev")).expect("read");
        assert!(devices.contains("lo:"), "{devices}");
    }

    #[test]
    fn what_is_no_file_is_left_out_and_told_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("bound");
        std::fs::write(dir.path().join("f"), "x").expect("written");
        let mut text = Vec::new();
        let mut writer = Writer::new(&mut text);
        let handle = std::fs::File::open(dir.path()).expect("a handle");
        writer.directory(handle.as_fd(), Path::new("d")).expect("written");
        let dev = std::fs::File::open("/dev").expect("a handle");
        writer.entry(dev.as_fd(), OsStr::new("null"), Path::new("null")).expect("passed over");
        let told = writer.finish().expect_err("not all is there").to_string();
        assert!(told.contains("devices and sockets") && told.contains(": d/s, null"), "{told}");
        let into = tempfile::tempdir().expect("a directory");
        unpack(&text, into.path());
        assert_eq!(std::fs::read_to_string(into.path().join("d/f")).expect("read"), "x");
    }

    fn unpack(text: &[u8], into: &Path) {
        let mut tar = std::process::Command::new("tar")
            .args(["-x", "-C"])
            .arg(into)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("tar runs");
        tar.stdin.take().expect("a pipe").write_all(text).expect("fed");
        assert!(tar.wait().expect("ended").success());
    }

    #[test]
    fn tar_reads_what_was_written_with_long_names_and_links() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        let long = "n".repeat(200);
        std::fs::create_dir_all(tree.join(&long)).expect("made");
        std::fs::write(tree.join(&long).join("f"), vec![7; 70_000]).expect("written");
        std::os::unix::fs::symlink("/etc/shadow", tree.join("link")).expect("linked");
        let handle = std::fs::File::open(dir.path()).expect("a handle");
        let mut text = Vec::new();
        let mut writer = Writer::new(&mut text);
        writer.entry(handle.as_fd(), OsStr::new("tree"), Path::new("tree")).expect("written");
        writer.finish().expect("ended");
        let into = dir.path().join("into");
        std::fs::create_dir(&into).expect("made");
        unpack(&text, &into);
        let read = std::fs::read(into.join("tree").join(&long).join("f")).expect("read");
        assert_eq!(read, vec![7; 70_000]);
        let link = std::fs::read_link(into.join("tree/link")).expect("a link");
        assert_eq!(link, Path::new("/etc/shadow"));
    }
}
