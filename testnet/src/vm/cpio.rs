//! Writes a `newc` archive, which is what a kernel unpacks as its first root.
//!
//! Every entry belongs to root, whoever writes it; parents are made as they
//! are met. The format is in the kernel's `early-userspace/buffer-format.rst`.
//! Must never hold a file in memory: test binaries are large.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;
/// Names the end of an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive being written.
#[derive(Debug)]
pub(super) struct Archive<W: Write> {
    out: W,
    written: u64,
    entries: u32,
    made: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, written: 0, entries: 0, made: BTreeSet::new() }
    }

    /// A directory and those above it.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let mut above: Vec<_> =
            path.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
        above.reverse();
        for dir in above {
            if self.made.insert(dir.to_owned()) {
                self.entry(dir.as_os_str(), DIRECTORY, 0)?;
            }
        }
        Ok(())
    }

    /// A file of these bytes; `mode` is its permission bits.
    pub(super) fn bytes(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.content(path, REGULAR | mode, bytes.len() as u64, bytes)
    }

    /// What lies at `from`: a file or a whole tree, links kept as they are.
    pub(super) fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let meta = from.symlink_metadata()?;
        if meta.is_symlink() {
            let target = from.read_link()?;
            let bytes = target.as_os_str().as_bytes();
            return self.content(to, SYMLINK, bytes.len() as u64, bytes);
        }
        if meta.is_dir() {
            self.directory(to)?;
            let mut names: Vec<_> =
                from.read_dir()?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            return names.iter().try_for_each(|name| self.copy(&from.join(name), &to.join(name)));
        }
        if !meta.is_file() {
            // Sockets and the like mean nothing in another kernel.
            return Ok(());
        }
        let mode = REGULAR | (meta.permissions().mode() & 0o777);
        self.content(to, mode, meta.len(), File::open(from)?)
    }

    /// Ends the archive and gives back what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry(OsStr::new(TRAILER), 0, 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn content(&mut self, path: &Path, mode: u32, size: u64, from: impl Read) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        self.directory(path.parent().unwrap_or(Path::new("")))?;
        self.entry(path.as_os_str(), mode, size)?;
        let copied = io::copy(&mut from.take(size), &mut self.out)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank"));
        }
        self.written += copied;
        self.pad()
    }

    fn entry(&mut self, name: &OsStr, mode: u32, size: u64) -> io::Result<()> {
        let size = u32::try_from(size).map_err(io::Error::other)?;
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), its own number (2), name, check
        let name_size = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.written += header.len() as u64 + u64::from(name_size);
        self.pad()
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) -> io::Result<()> {
        let missing = (4 - self.written % 4) % 4;
        self.written += missing;
        self.out.write_all(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_once_and_before_their_files() {
        let mut archive = Archive::new(Vec::new());
        archive.bytes(Path::new("/a/b/c"), 0o644, b"hello").expect("written");
        archive.bytes(Path::new("/a/b/d"), 0o755, b"").expect("written");
        let bytes = archive.finish().expect("finished");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("text");
        let names: Vec<_> = text
            .split("070701")
            .skip(1)
            .map(|entry| entry[104..].split('\0').next().expect("a name"))
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", TRAILER]);
        assert!(text.contains("hello\x00\x00\x00070701"), "content is padded to four");
    }
}
