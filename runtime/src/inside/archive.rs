//! Writes a directory tree as a tar archive: ustar headers, with pax records for
//! what does not fit them.
//!
//! Files may change while they are read: one that shrinks is filled up with zeros, one
//! that grows is cut at the size its header says, so that the archive stays sound.
//! Links are written as links, never followed. Sockets and devices are left out: they
//! mean nothing elsewhere. A file with several names is written several times.
//!
//! Format: POSIX.1-2017, pax.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Deepest tree: as deep as one that is unpacked may be.
const DEPTH: usize = 255;

/// Most entries: as many as are unpacked.
const ENTRIES: u64 = 2_000_000;

const BLOCK: usize = 512;
const PIECE_BYTES: usize = 64 << 10;

/// What fits the fields of a ustar header: 8 and 12 octal digits with a zero behind.
const ID_MAX: u64 = 0o777_7777;
const SIZE_MAX: u64 = 0o7777_7777_7777 >> 3;

#[derive(Debug)]
pub(super) struct Writer<W> {
    to: W,
    entries: u64,
    piece: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, entries: 0, piece: vec![0; PIECE_BYTES] }
    }

    /// Writes what a directory has at a name, with all below it, as this entry.
    pub(super) fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Path,
    ) -> io::Result<()> {
        self.below(dir, name, entry, 0)
    }

    /// Writes a directory with all below it as this entry.
    pub(super) fn directory(&mut self, dir: BorrowedFd<'_>, entry: &Path) -> io::Result<()> {
        self.all_of(open_directory(dir, OsStr::new("."))?, entry, 0)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()
    }

    fn below(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.all_of(open_directory(dir, name)?, entry, depth),
            FileType::RegularFile => self.file(dir, name, entry),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
                self.header(entry, &stat, b'2', 0, target.as_bytes())
            }
            FileType::Fifo => self.header(entry, &stat, b'6', 0, b""),
            _ => Ok(()),
        }
    }

    fn all_of(&mut self, dir: OwnedFd, entry: &Path, depth: usize) -> io::Result<()> {
        if depth >= DEPTH {
            return Err(io::Error::other(format!("{} is too deep", entry.display())));
        }
        let stat = rustix::fs::fstat(&dir)?;
        self.header(&entry.join(""), &stat, b'5', 0, b"")?;
        let mut names = Vec::new();
        for found in Dir::read_from(&dir)? {
            let found = found?;
            let name = found.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        for name in names {
            use std::os::unix::ffi::OsStrExt as _;
            let name = OsStr::from_bytes(&name);
            match self.below(dir.as_fd(), name, &entry.join(name), depth + 1) {
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &OsStr, entry: &Path) -> io::Result<()> {
        // It may have become a pipe, on which an open would wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|error| about(entry, error))?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.header(entry, &stat, b'0', size, b"")?;
        let mut file = std::fs::File::from(file);
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let Some(piece) = self.piece.get_mut(..most) else { break };
            let length = match file.read(piece)? {
                0 => {
                    piece.fill(0);
                    most
                }
                length => length,
            };
            self.to.write_all(piece.get(..length).unwrap_or_default())?;
            left -= length as u64;
        }
        self.pad(size)
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
        let seconds = i64::try_from(stat.st_mtime).unwrap_or(0);
        let (uid, gid) = (u64::from(stat.st_uid), u64::from(stat.st_gid));
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
        let mode = u64::from(stat.st_mode & 0o7777);
        let seconds = u64::try_from(seconds).unwrap_or(0);
        self.to.write_all(&block(name, mode, uid, gid, size, seconds, kind, link))
    }
}

fn about(entry: &Path, error: Errno) -> io::Error {
    let why = io::Error::from(error);
    io::Error::new(why.kind(), format!("{}: {why}", entry.display()))
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
        assert_eq!(record("path", b"xx"), b"11 path=xx\n");
        for (bytes, length) in [(90, 99), (91, 101)] {
            let record = record("path", &vec![b'x'; bytes]);
            assert_eq!(record.len(), length);
            assert!(record.starts_with(format!("{length} path=").as_bytes()));
        }
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
        let mut tar = std::process::Command::new("tar")
            .args(["-x", "-C"])
            .arg(&into)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("tar runs");
        tar.stdin.take().expect("a pipe").write_all(&text).expect("fed");
        assert!(tar.wait().expect("ended").success());
        let read = std::fs::read(into.join("tree").join(&long).join("f")).expect("read");
        assert_eq!(read, vec![7; 70_000]);
        let link = std::fs::read_link(into.join("tree/link")).expect("a link");
        assert_eq!(link, Path::new("/etc/shadow"));
    }
}
