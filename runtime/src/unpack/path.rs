//! An entry's name, taken apart: plain components below the root, no others.

use super::error::Flaw;

/// Where an entry goes, relative to the root: no leading slash, no empty
/// component, no `.`, no `..`. Empty for the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Leading slashes and `.` are dropped, as every archiver does; `..` is refused,
    /// as it has no honest use and archivers differ in what it means.
    pub(super) fn parse(name: &[u8], depth_max: usize) -> Result<Self, Flaw> {
        let mut path = Vec::with_capacity(name.len());
        let mut depth = 0;
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Flaw::DotDot),
                _ => {
                    depth += 1;
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(part);
                }
            }
        }
        if depth > depth_max { Err(Flaw::Depth { limit: depth_max }) } else { Ok(Self(path)) }
    }

    /// The directory part and the last component; none for the root.
    pub(super) fn split(&self) -> Option<(&[u8], &[u8])> {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => Some((self.0.get(..slash)?, self.0.get(slash + 1..)?)),
            None if self.0.is_empty() => None,
            None => Some((b"", &self.0)),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_plain_or_not_at_all() {
        let parsed = |name: &[u8]| EntryPath::parse(name, 4).map(|path| path.0);
        for (name, plain) in [
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("///", ""),
            ("./", ""),
            ("...", "..."),
            ("a/..b", "a/..b"),
        ] {
            assert_eq!(parsed(name.as_bytes()).ok(), Some(plain.as_bytes().to_vec()), "{name}");
        }
        for name in ["..", "../a", "a/../b", "/..", "a/.."] {
            assert!(matches!(parsed(name.as_bytes()), Err(Flaw::DotDot)), "{name}");
        }
        assert!(matches!(parsed(b"a/b/c/d/e"), Err(Flaw::Depth { limit: 4 })));
    }
}
