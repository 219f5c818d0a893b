//! The records of a PAX extended header: what the plain header has no room for.
//!
//! ```text
//! "LENGTH KEY=VALUE\n"   LENGTH counts itself; the value may hold any byte
//! ```
//!
//! Attributes are sorted here, on the way in: `security.capability` and `user.*`
//! are kept, except `user.overlay.*`, with which a layer could forge the marks
//! that we make ourselves. Everything else, `trusted.*` above all, is dropped
//! and counted.

use super::error::Flaw;

/// What extended headers say about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: Option<(i64, u32)>,
    /// Attributes to set, in the order given; of equal names the last counts.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Attributes not to set.
    pub(super) dropped: u64,
    pub(super) sparse: bool,
}

impl Extended {
    /// Takes in the records of one header.
    pub(super) fn read(&mut self, mut text: &[u8]) -> Result<(), Flaw> {
        while !text.is_empty() {
            let (record, rest) = split_record(text).ok_or(Flaw::Extended)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(Flaw::Extended)?;
            let (key, value) = record.split_at(equals);
            self.take(key, value.get(1..).unwrap_or_default())?;
            text = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Flaw> {
        // An empty value means: as the plain header says.
        let given = (!value.is_empty()).then_some(value);
        let decimal = |field| {
            let parse = |value| decimal(value).ok_or(Flaw::Number { field });
            given.map(parse).transpose()
        };
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => {
                let size = decimal("size")?.map(u64::try_from).transpose();
                self.size = size.map_err(|_negative| Flaw::Number { field: "size" })?;
            }
            b"uid" => self.uid = decimal("owner")?,
            b"gid" => self.gid = decimal("group")?,
            b"mtime" => {
                let time = given.map(|value| time(value).ok_or(Flaw::Number { field: "mtime" }));
                self.mtime = time.transpose()?;
            }
            _ => match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) if name.contains(&0) => return Err(Flaw::Zero),
                Some(name) if is_kept(name) => {
                    self.attributes.push((name.to_vec(), value.to_vec()));
                }
                Some(_) => self.dropped += 1,
                None if key.starts_with(b"LIBARCHIVE.xattr.") => self.dropped += 1,
                None => self.sparse |= key.starts_with(b"GNU.sparse."),
            },
        }
        Ok(())
    }
}

fn is_kept(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    user || name == b"security.capability"
}

/// The first record without its length and newline, and what follows it.
fn split_record(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let (digits, _) = text.split_at(space);
    let length = usize::try_from(decimal(digits)?).ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    Some((record.get(space + 1..)?.strip_suffix(b"\n")?, rest))
}

fn decimal(text: &[u8]) -> Option<i64> {
    // Not `str::parse` alone: it takes a plus sign.
    let (sign, digits) = text.strip_prefix(b"-").map_or((1, text), |digits| (-1, digits));
    let digit = |byte: &u8| byte.is_ascii_digit();
    if digits.is_empty() || !digits.iter().all(digit) {
        return None;
    }
    digits.iter().try_fold(0_i64, |sum, byte| {
        sum.checked_mul(10)?.checked_add(sign * i64::from(byte - b'0'))
    })
}

/// A time as "-?digits(.digits)?"; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = text.split_at(point);
    let seconds = decimal(whole)?;
    let fraction = fraction.strip_prefix(b".").unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at| u32::from(fraction.get(at).map_or(0, |byte| byte - b'0'));
    let nanos = (0..9).fold(0, |sum, at| sum * 10 + digit(at));
    if nanos > 0 && whole.starts_with(b"-") {
        // -1.25 is 2 seconds before 1970 and 0.75 back.
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_to_their_length_whatever_they_hold() -> Result<(), Flaw> {
        let mut extended = Extended::default();
        extended.read(b"15 path=a\nb=c d\n"[..].strip_suffix(b"\n").unwrap_or_default()).ok();
        let mut extended = Extended::default();
        extended.read(b"16 path=a\nb=c d\n20 mtime=-1.2500000\n10 size=5\n")?;
        assert_eq!(extended.path.as_deref(), Some(&b"a\nb=c d"[..]));
        assert_eq!(extended.mtime, Some((-2, 750_000_000)));
        assert_eq!(extended.size, Some(5));
        Ok(())
    }

    #[test]
    fn records_that_do_not_add_up_are_refused() {
        for bad in [
            &b"9 path=a"[..], // No newline.
            b"99 path=a\n",   // Longer than the header.
            b"3 path=a\n",    // Shorter than itself.
            b"0 path=a\n",
            b"-9 path=a\n",
            b"18446744073709551616 path=a\n",
            b"7 path\n", // No equals sign.
            b"path=a\n",
            b"11 size=-5\n",
            b"28 size=9223372036854775808\n",
        ] {
            let mut extended = Extended::default();
            assert!(extended.read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn only_harmless_attributes_are_kept() {
        for kept in ["user.mime_type", "security.capability"] {
            assert!(is_kept(kept.as_bytes()), "{kept}");
        }
        for dropped in
            ["trusted.overlay.opaque", "user.overlay.redirect", "security.selinux", "user", ""]
        {
            assert!(!is_kept(dropped.as_bytes()), "{dropped}");
        }
    }
}
