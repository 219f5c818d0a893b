//! Whom a container's program runs as, found in the container's own files.
//!
//! These files belong to an image, so they are read after the root was entered, with
//! its rights, and may be anything: links, pipes, endless. A number is a number: one
//! that is too large is refused, and never looked for among the names, where an image
//! could have given it to root.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::place;
use super::report::Failure;

/// Longest file read; a longer one counts as unreadable.
const FILE_BYTES: u64 = 1 << 20;

/// `NGROUPS_MAX` of the kernel.
const GROUPS: usize = 65_536;

/// The highest id: the one above means "leave as it is".
const LAST_ID: u32 = u32::MAX - 1;

/// A user, as its container knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Why there is no such user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoUser {
    #[error("{text} is not a number between 0 and {LAST_ID}")]
    Number { text: String },
    #[error("{file} does not name {name:?}; a number needs no name")]
    Unknown { file: &'static str, name: String },
    #[error("{groups} groups are more than {GROUPS}")]
    TooMany { groups: usize },
}

impl Found {
    /// Looks up `USER[:GROUP]` below a root.
    pub(super) fn look_up(user: &str, root: BorrowedFd<'_>) -> Result<Self, Failure> {
        let passwd = read(root, "/etc/passwd").map_err(Failure::at("/etc/passwd"))?;
        let group = read(root, "/etc/group").map_err(Failure::at("/etc/group"))?;
        resolve(user, &passwd, &group).map_err(|error| Failure::because(error.to_string()))
    }
}

/// A small text file of the container; one that is not there is empty.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match place::open(root, Path::new(path), flags) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::from(file).take(FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(Errno::FBIG);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An entry of `passwd`.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = digits(fields.nth(1)?)?;
    let gid = digits(fields.next()?)?;
    Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
}

/// Digits and nothing else, as an id.
fn digits(text: &str) -> Option<u32> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| all && *id <= LAST_ID)
}

/// A number, or none for a name.
fn number(text: &str) -> Result<Option<u32>, NoUser> {
    if text.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Ok(None);
    }
    digits(text).map(Some).ok_or_else(|| NoUser::Number { text: text.to_owned() })
}

/// As Docker: a group that is not given is the one of `passwd`, or root's; only then
/// come the groups that list the user.
fn resolve(user: &str, passwd: &str, group: &str) -> Result<Found, NoUser> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let uid = number(user)?;
    let mut entries = passwd.lines().filter_map(entry);
    let known = entries.find(|entry| match uid {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let unknown = || NoUser::Unknown { file: "/etc/passwd", name: user.to_owned() };
    let uid = uid.or(known.as_ref().map(|entry| entry.uid)).ok_or_else(unknown)?;
    let home = known.as_ref().map_or("", |entry| entry.home);
    let home = if home.starts_with('/') { home } else { "/" }.to_owned();
    let own_gid = known.as_ref().map_or(0, |entry| entry.gid);
    let (gid, groups) = match (wanted_group, &known) {
        (Some(wanted), _) => (find_group(wanted, group)?, Vec::new()),
        (None, Some(entry)) => (own_gid, groups_of(entry.name, group)),
        (None, None) => (own_gid, Vec::new()),
    };
    if groups.len() > GROUPS {
        return Err(NoUser::TooMany { groups: groups.len() });
    }
    Ok(Found { uid, gid, groups, home })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, NoUser> {
    if let Some(gid) = number(wanted)? {
        return Ok(gid);
    }
    let mut lines = group.lines().filter_map(group_line);
    let found = lines.find(|(name, ..)| *name == wanted);
    let unknown = || NoUser::Unknown { file: "/etc/group", name: wanted.to_owned() };
    found.map(|(_, gid, _)| gid).ok_or_else(unknown)
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let lines = group.lines().filter_map(group_line);
    lines
        .filter(|(.., members)| members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = digits(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        app:x:1000:1001::/home/app:/bin/sh\n\
        99999999999:x:0:0::/:/bin/sh\n\
        4294967296:x:0:0::/:/bin/sh\n\
        broken:x:-1:0::/:\nover:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\nbad:x:4294967295:app\n";

    fn found(uid: u32, gid: u32, groups: &[u32], home: &str) -> Found {
        Found { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let resolve = |user| resolve(user, PASSWD, GROUP);
        assert_eq!(resolve("app"), Ok(found(1000, 1001, &[10, 44], "/home/app")));
        assert_eq!(resolve("1000"), Ok(found(1000, 1001, &[10, 44], "/home/app")));
        assert_eq!(resolve("app:wheel"), Ok(found(1000, 10, &[], "/home/app")));
        assert_eq!(resolve("app:7"), Ok(found(1000, 7, &[], "/home/app")));
        assert_eq!(resolve("0"), Ok(found(0, 0, &[10], "/root")));
        assert_eq!(resolve("5000"), Ok(found(5000, 0, &[], "/")));
    }

    #[test]
    fn a_number_that_is_too_large_is_never_a_name() {
        for user in ["4294967296", "99999999999", "4294967295", "0:4294967296"] {
            let refused = resolve(user, PASSWD, GROUP);
            assert!(matches!(refused, Err(NoUser::Number { .. })), "{user}: {refused:?}");
        }
        for user in ["nobody", "broken", "over", "app:none", "app:bad"] {
            let refused = resolve(user, PASSWD, GROUP);
            assert!(matches!(refused, Err(NoUser::Unknown { .. })), "{user}: {refused:?}");
        }
    }
}
