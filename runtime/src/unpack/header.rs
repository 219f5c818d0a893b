//! One header block of a tar archive, as bytes and nothing more.
//!
//! Read here and not by the `tar` crate, for three reasons. That crate reads
//! extended headers whole, however long they claim to be. It lets an extended
//! header's size win in silence over a plain one that differs, which is how two
//! readers come to see two archives in one file. And its iterator hides what we
//! must count. What is left is 512 bytes with fields at fixed places, described
//! in POSIX `pax` under "ustar Interchange Format" and in tar(5).

use super::error::Flaw;

/// Bytes of a header, and the unit in which content is padded.
pub(super) const BLOCK: usize = 512;

/// Where the sum lies: it counts as spaces while summing.
const SUM: std::ops::Range<usize> = 148..156;

/// A block that was read as a header.
#[derive(Debug)]
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Takes the block if its sum matches.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, Flaw> {
        let told = number(&block[SUM]).ok_or(Flaw::Checksum)?;
        let bytes = || block.iter().enumerate().filter(|(at, _)| !SUM.contains(at));
        let spaces = i64::from(b' ') * SUM.len() as i64;
        let unsigned = spaces + bytes().map(|(_, byte)| i64::from(*byte)).sum::<i64>();
        // Some old archivers summed signed bytes; both are accepted everywhere.
        let signed = || spaces + bytes().map(|(_, byte)| i64::from(*byte as i8)).sum::<i64>();
        if told == unsigned || told == signed() { Ok(Self(block)) } else { Err(Flaw::Checksum) }
    }

    /// The name, with the prefix that only POSIX headers have.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[0..100]);
        let prefix = text(&self.0[345..500]);
        // GNU headers ("ustar  ") keep times where the prefix would be.
        if &self.0[257..263] != b"ustar\0" || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Permission bits, with setuid, setgid and sticky; no others.
    pub(super) fn mode(&self) -> Result<u32, Flaw> {
        let mode = number(&self.0[100..108]).ok_or(Flaw::Number { field: "mode" })?;
        Ok((mode & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, Flaw> {
        let size = number(&self.0[124..136]).and_then(|size| u64::try_from(size).ok());
        size.ok_or(Flaw::Number { field: "size" })
    }

    /// Seconds since 1970.
    pub(super) fn mtime(&self) -> Result<i64, Flaw> {
        number(&self.0[136..148]).ok_or(Flaw::Number { field: "time of change" })
    }
}

/// A field up to its first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits or, if the first bit is set, in base 256 with a sign.
fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // Seven bits with the sign in the highest of them.
            let head = i128::from(((first << 1) as i8) >> 1);
            // Twelve bytes at most: 95 bits, so this cannot overflow.
            let value = rest.iter().fold(head, |sum, byte| (sum << 8) | i128::from(*byte));
            i64::try_from(value).ok()
        }
        _ => {
            let blank = |byte: &u8| matches!(byte, b' ' | 0);
            let begin = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
            let end = field.iter().rposition(|byte| !blank(byte)).map_or(begin, |last| last + 1);
            field.get(begin..end)?.iter().try_fold(0_i64, |sum, digit| match digit {
                b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_nothing_else() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\x02\0\0\0\0\0\0\0"), Some(0x0002_0000_0000_0000_00));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        for bad in [&b"-000001\0"[..], b"0000648\0", b"64 4", b"0x1f\0", b"6\x004"] {
            assert_eq!(number(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_block_that_does_not_sum_up_is_no_header() {
        assert!(matches!(Header::parse(&[7; BLOCK]), Err(Flaw::Checksum)));
        let mut block = [0; BLOCK];
        block[0] = b'x';
        let sum = format!("{:06o}\0 ", u64::from(b'x') + 8 * 32);
        block[SUM].copy_from_slice(sum.as_bytes());
        assert_eq!(Header::parse(&block).map(|header| header.name()).ok(), Some(b"x".to_vec()));
    }
}
