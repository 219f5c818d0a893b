//! Files that list NAME=VALUE line by line: `--env-file` and `--label-file`.
//!
//! Docker's format: blank lines and lines that begin with `#` are skipped, what stands
//! before a name is not part of it, and everything behind the first `=` is the value as it
//! is, quotes and blanks included. Pure; somebody else reads the file.

use std::io;
use std::path::Path;

use crate::api::types::Complaint;

/// The largest such file: more than a whole job may take.
pub(crate) const FILE_BYTES_MAX: u64 = 256 * 1024;

/// How much of a bad name is shown.
const SHOWN_MAX: usize = 40;

/// A name, and its value where the line has one.
pub(crate) type Pair = (String, Option<String>);

/// The pairs of a file, in its order.
pub(crate) fn pairs(
    flag: &str,
    path: &Path,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Vec<Pair>, Complaint> {
    let refused = |why: String| {
        Complaint::new("bad_file", format!("{flag} {} cannot be used", path.display()))
            .because(why)
            .hint("a line of it is NAME=VALUE, NAME alone, or a # and a remark")
    };
    let bytes = read(path).map_err(|error| refused(error.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(refused(format!("it has more than {} KiB", FILE_BYTES_MAX / 1024)));
    }
    let text = str::from_utf8(&bytes).map_err(|bad| refused(bad.to_string()))?;
    parse(text).map_err(|(line, why)| refused(format!("line {line}: {why}")))
}

fn parse(text: &str) -> Result<Vec<Pair>, (usize, String)> {
    // Editors of Windows begin a file with a mark of its encoding.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        if name.is_empty() {
            return Err((number, "there is no name before the =".to_owned()));
        }
        if name.contains(char::is_whitespace) {
            let shown: String = name.chars().take(SHOWN_MAX).collect();
            return Err((number, format!("{shown:?} has a blank in its name")));
        }
        pairs.push((name.to_owned(), value));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        let text = "\u{feff}# remark\n\n  A=b\nB=c=d \nC=\"quoted\"\nHOME\n\tD=\r\nE=x # y\n";
        let read = parse(text).expect("reads");
        let shown: Vec<_> = read.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        let expected = [
            ("A", Some("b")),
            ("B", Some("c=d ")),
            ("C", Some("\"quoted\"")),
            ("HOME", None),
            ("D", Some("")),
            ("E", Some("x # y")),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (bytes, why) in [
            (b"A=b\n=c\n".to_vec(), "line 2: there is no name"),
            (b"A B=c".to_vec(), "line 1: \"A B\""),
            (vec![b'a', 0xff], "utf-8"),
            (vec![b'#'; 256 * 1024 + 1], "more than 256 KiB"),
        ] {
            let told = pairs("--env-file", Path::new("f"), |_| Ok(bytes.clone())).expect_err(why);
            assert!(told.why.concat().contains(why), "{told:?}");
            assert!(told.message.contains("--env-file f") && told.hint.is_some(), "{told:?}");
        }
        let gone = |_: &Path| Err(io::ErrorKind::NotFound.into());
        let told = pairs("--label-file", Path::new("f"), gone).expect_err("gone");
        assert!(told.why.concat().contains("not found"), "{told:?}");
    }
}
