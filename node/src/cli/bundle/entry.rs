//! One file of a tar archive, written and read: the one that a bundle begins with.
//!
//! The archive behind it is somebody else's, and passed on as it is. All that is needed of
//! the format is its header: POSIX.1-2017, ustar.
//!
//! Must never: read further than the entry, or more of it than whoever reads allows.

use std::io::{self, Read};

const BLOCK: usize = 512;

/// The largest size that a plain header can say.
const SIZE_MAX: u64 = 0o777_7777_7777;

/// Where a header says what, and how long that is.
const NAME: (usize, usize) = (0, 100);
const SIZE: (usize, usize) = (124, 12);
const SUM: (usize, usize) = (148, 8);
const KIND: usize = 156;

/// What an archive that ends here ends with.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Why an archive does not begin with the entry.
#[derive(Debug)]
pub(super) enum NoEntry {
    /// It cannot be read.
    Io(io::Error),
    /// It is over before the entry is.
    CutOff,
    /// What it begins with is no header of an archive. The first bytes are.
    Foreign(Vec<u8>),
    /// It begins with another file.
    Other(String),
    /// The entry is longer than anybody reads.
    Long(u64),
}

/// Header, content and padding of a file that is nobody's and was made at no time.
pub(super) fn written(name: &str, content: &[u8]) -> Vec<u8> {
    let size = u64::try_from(content.len()).unwrap_or(u64::MAX).min(SIZE_MAX);
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        block.iter_mut().skip(at).zip(bytes).for_each(|(slot, byte)| *slot = *byte);
    };
    put(NAME.0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\x00");
    put(SIZE.0, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\x00");
    put(KIND, b"0");
    put(257, b"ustar\x0000");
    let sum = sum(&block);
    let mut entry = block.to_vec();
    let text = format!("{sum:06o}\0 ");
    entry.iter_mut().skip(SUM.0).zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(BLOCK), 0);
    entry
}

/// Reads an archive's first entry, which must have this name: all bytes up to the next entry,
/// for whoever passes the archive on, and where in them the content ends.
pub(super) fn read(
    from: &mut impl Read,
    name: &str,
    most: u64,
) -> Result<(Vec<u8>, usize), NoEntry> {
    let mut bytes = vec![0; BLOCK];
    let had = fill(from, &mut bytes)?;
    if had < BLOCK {
        bytes.truncate(had);
        return Err(if had == 0 { NoEntry::CutOff } else { NoEntry::Foreign(bytes) });
    }
    let Some(size) = size_of(&bytes) else { return Err(NoEntry::Foreign(bytes)) };
    let found = text(&bytes, NAME);
    let is_file = matches!(bytes.get(KIND), Some(b'0' | 0));
    if found != name.as_bytes() || !is_file {
        return Err(NoEntry::Other(String::from_utf8_lossy(found).into_owned()));
    }
    if size > most {
        return Err(NoEntry::Long(size));
    }
    let size = usize::try_from(size).map_err(|_beyond| NoEntry::Long(size))?;
    bytes.resize((BLOCK + size).next_multiple_of(BLOCK), 0);
    let rest = bytes.get_mut(BLOCK..).unwrap_or_default();
    if fill(from, rest)? < rest.len() {
        return Err(NoEntry::CutOff);
    }
    Ok((bytes, BLOCK + size))
}

/// The content in what [`read`] read.
pub(super) fn content((bytes, end): &(Vec<u8>, usize)) -> &[u8] {
    bytes.get(BLOCK..*end).unwrap_or_default()
}

/// Reads as much as there is, up to all of it.
fn fill(from: &mut impl Read, into: &mut [u8]) -> Result<usize, NoEntry> {
    let mut had = 0;
    while let Some(rest) = into.get_mut(had..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => had += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(NoEntry::Io(error)),
        }
    }
    Ok(had)
}

/// The size in a header; none if it is no header.
fn size_of(block: &[u8]) -> Option<u64> {
    let said = octal(text(block, SUM))?;
    (said == sum(block)).then(|| octal(text(block, SIZE)))?
}

/// As every reader sums up: the sum's own place counts as spaces.
fn sum(block: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| {
        if (SUM.0..SUM.0 + SUM.1).contains(&at) { u64::from(b' ') } else { u64::from(*byte) }
    };
    block.iter().enumerate().map(byte).sum()
}

fn text(block: &[u8], (at, length): (usize, usize)) -> &[u8] {
    let field = block.get(at..at + length).unwrap_or_default();
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn octal(field: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(field).ok()?.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(bytes: &[u8]) -> Result<(Vec<u8>, usize), NoEntry> {
        read(&mut &bytes[..], "head", 1000)
    }

    #[test]
    fn what_is_written_is_read_and_not_a_byte_more() {
        for length in [0, 1, 511, 512, 513, 1000] {
            let content_in = vec![b'x'; length];
            let mut archive = written("head", &content_in);
            let entry = archive.len();
            archive.extend_from_slice(b"the rest");
            let mut from = &archive[..];
            let read = read(&mut from, "head", 1000).expect("an entry");
            assert_eq!(content(&read), content_in);
            assert_eq!((read.0.len(), from), (entry, &b"the rest"[..]));
        }
    }

    #[test]
    fn other_readers_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = [written("head", b"content"), END.to_vec()].concat();
        std::fs::write(dir.path().join("a.tar"), archive).expect("written");
        let tar = std::process::Command::new("tar")
            .args(["-xOf", "a.tar", "head"])
            .current_dir(dir.path())
            .output();
        let out = tar.expect("tar runs");
        assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), &b"content"[..]));
    }

    #[test]
    fn what_is_no_such_entry_is_told_apart() {
        let archive = written("head", &[b'x'; 600]);
        for cut in [0, 512, 700, archive.len() - 1] {
            assert!(matches!(read_from(&archive[..cut]), Err(NoEntry::CutOff)), "{cut}");
        }
        assert!(matches!(read_from(&archive[..511]), Err(NoEntry::Foreign(_))));
        assert!(matches!(read_from(&[0; 2048]), Err(NoEntry::Foreign(_))));
        assert!(matches!(read_from(&[b'7'; 2048]), Err(NoEntry::Foreign(_))));
        let mut bent = archive.clone();
        bent[3] ^= 1;
        assert!(matches!(read_from(&bent), Err(NoEntry::Foreign(_))));
        let other = written("manifest.json", b"[]");
        assert!(matches!(read_from(&other), Err(NoEntry::Other(name)) if name == "manifest.json"));
        assert!(matches!(read_from(&written("head", &[0; 1001])), Err(NoEntry::Long(1001))));
    }
}
