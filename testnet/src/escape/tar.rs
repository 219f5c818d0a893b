//! Archives that no tool would make: entries written byte by byte, as an attacker does.

use std::fs;
use std::io;
use std::path::Path;

const BLOCK: usize = 512;

/// Kinds of entries, by their letter in the archive.
pub(super) const FILE: u8 = b'0';
pub(super) const HARD_LINK: u8 = b'1';
pub(super) const LINK: u8 = b'2';
pub(super) const CHAR: u8 = b'3';
pub(super) const BLOCK_DEVICE: u8 = b'4';
pub(super) const DIRECTORY: u8 = b'5';
pub(super) const FIFO: u8 = b'6';
const EXTENDED: u8 = b'x';

/// An archive that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    /// Adds an entry; `to` is where a link leads.
    pub(super) fn entry(mut self, kind: u8, name: &str, mode: u32, to: &str, body: &[u8]) -> Self {
        self.0.extend(header(kind, name, mode, to, body.len(), (0, 0)));
        self.body(body)
    }

    /// Adds a file.
    pub(super) fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(FILE, name, 0o644, "", body)
    }

    /// Adds a device.
    pub(super) fn device(mut self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        self.0.extend(header(kind, name, 0o666, "", 0, (major, minor)));
        self
    }

    /// Says something of the entry that comes next.
    pub(super) fn extended(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            text.push_str(&format!("{length} {key}={value}\n"));
        }
        self.entry(EXTENDED, "pax", 0o644, "", text.as_bytes())
    }

    fn body(mut self, body: &[u8]) -> Self {
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds everything below a directory of the host, but for mount points' content.
    pub(super) fn tree(mut self, dir: &Path, below: &str) -> io::Result<Self> {
        let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            self = if entry.file_type()?.is_dir() {
                let made = self.entry(DIRECTORY, &format!("{name}/"), 0o755, "", b"");
                made.tree(&entry.path(), &format!("{name}/"))?
            } else {
                self.entry(FILE, &name, 0o755, "", &fs::read(entry.path())?)
            };
        }
        Ok(self)
    }

    /// These entries, and then those.
    pub(super) fn followed_by(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Its bytes, without an end.
    pub(super) fn raw(self) -> Vec<u8> {
        self.0
    }

    /// Its bytes, with an end.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    /// Writes it out, with its end.
    pub(super) fn write(self, path: &Path) -> io::Result<()> {
        fs::write(path, self.end())
    }
}

fn header(kind: u8, name: &str, mode: u32, to: &str, size: usize, device: (u32, u32)) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, text: &[u8], most: usize| {
        let text = text.get(..text.len().min(most)).unwrap_or_default();
        if let Some(field) = block.get_mut(at..at + text.len()) {
            field.copy_from_slice(text);
        }
    };
    put(0, name.as_bytes(), 100);
    put(100, format!("{mode:07o}\0").as_bytes(), 8);
    put(108, b"0000000\0", 8);
    put(116, b"0000000\0", 8);
    put(124, format!("{size:011o}\0").as_bytes(), 12);
    put(136, b"00000000000\0", 12);
    put(148, b"        ", 8);
    put(156, &[kind], 1);
    put(157, to.as_bytes(), 100);
    put(257, b"ustar\x0000", 8);
    put(329, format!("{:07o}\0", device.0).as_bytes(), 8);
    put(337, format!("{:07o}\0", device.1).as_bytes(), 8);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_record_counts_its_own_length() {
        let Archive(bytes) = Archive::default().extended(&[("path", "x"), ("k", &"y".repeat(95))]);
        let text = String::from_utf8_lossy(&bytes[BLOCK..]).into_owned();
        assert!(text.starts_with("9 path=x\n102 k=y"), "{text}");
    }

    #[test]
    fn headers_sum_up() {
        let block = header(FILE, "a", 0o644, "", 5, (0, 0));
        let told = String::from_utf8_lossy(&block[148..154]).into_owned();
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        assert_eq!(u32::from_str_radix(&told, 8), Ok(sum));
    }
}
