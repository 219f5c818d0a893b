//! One look at every process of the machine, as /proc shows it.
//!
//! Taken once per question and then only read, so that a host's processes are
//! judged on one picture. A process that ends or hides while being looked at
//! is simply missing what could not be read. Must never signal anything.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One process.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// The letter of `stat`: R, S, D, T, Z ...
    pub(super) state: char,
    /// Has a terminal: somebody's shell, not a daemon.
    pub(super) terminal: bool,
    /// Clock ticks after boot; with the pid, a process's identity.
    pub(super) started: u64,
    pub(super) netns: Option<(u64, u64)>,
    pub(super) arguments: Vec<Vec<u8>>,
    /// `STARLING_DATA` in its environment.
    pub(super) data: Option<PathBuf>,
    pub(super) directory: Option<PathBuf>,
    /// What it has mounted, if it has a mount namespace of its own.
    pub(super) mounts: String,
}

impl Entry {
    /// Ended, and only waiting for its parent to notice.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether it was started with, lives in, or has mounted this directory.
    pub(super) fn uses(&self, data: &Path) -> bool {
        let as_argument =
            |pair: &[Vec<u8>]| pair[0] == b"--data" && pair[1] == data.as_os_str().as_bytes();
        let in_directory = |path: &Path| !self.terminal && path.starts_with(data);
        self.data.as_deref() == Some(data)
            || self.arguments.windows(2).any(as_argument)
            || self.directory.as_deref().is_some_and(in_directory)
            || mentions(&self.mounts, data)
    }
}

/// Every process there is.
pub(super) fn everyone() -> Vec<Entry> {
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| look(pid, ours.as_deref()))
        .collect()
}

/// When a process began, if it still runs.
pub(super) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat).filter(|entry| !entry.is_dead()).map(|entry| entry.started)
}

/// Whether every thread of a process is stopped.
pub(super) fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let mut states = stats.filter_map(|stat| parse_stat(&stat)).map(|entry| entry.state).peekable();
    states.peek().is_some() && states.all(|state| state == 'T')
}

fn look(pid: i32, our_mounts: Option<&Path>) -> Option<Entry> {
    let at = PathBuf::from(format!("/proc/{pid}"));
    let mut entry = parse_stat(&fs::read_to_string(at.join("stat")).ok()?)?;
    let split = |bytes: Vec<u8>| bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    entry.arguments = fs::read(at.join("cmdline")).map(split).unwrap_or_default();
    let environment: Vec<Vec<u8>> = fs::read(at.join("environ")).map(split).unwrap_or_default();
    entry.data = environment
        .iter()
        .find_map(|one| one.strip_prefix(b"STARLING_DATA="))
        .map(|path| std::ffi::OsString::from_vec(path.to_vec()).into());
    entry.netns = fs::metadata(at.join("ns/net")).map(|facts| (facts.dev(), facts.ino())).ok();
    entry.directory = fs::read_link(at.join("cwd")).ok();
    let mounts = fs::read_link(at.join("ns/mnt")).ok();
    if mounts.is_some() && mounts.as_deref() != our_mounts {
        entry.mounts = fs::read_to_string(at.join("mountinfo")).unwrap_or_default();
    }
    Some(entry)
}

/// Reads `pid (name) state ppid pgrp session tty ...`; a name may hold anything.
fn parse_stat(stat: &str) -> Option<Entry> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Entry {
        pid: pid.parse().ok()?,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        terminal: *fields.get(4)? != "0",
        started: fields.get(19)?.parse().ok()?,
        ..Entry::default()
    })
}

/// Whether a text names this path or something below it, and not merely a
/// path that begins alike.
fn mentions(text: &str, path: &Path) -> bool {
    let Some(path) = path.to_str() else {
        return false;
    };
    text.match_indices(path).any(|(at, _)| {
        let next = text[at + path.len()..].chars().next();
        next.is_none_or(|next| !next.is_alphanumeric() && !"-_.".contains(next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_any_name() {
        let stat = "42 (a) S (b) T 7 42 42 34816 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 991 0 0";
        let entry = parse_stat(stat).expect("well formed");
        assert_eq!((entry.pid, entry.state, entry.parent, entry.started), (42, 'T', 7, 991));
        assert!(entry.terminal);
        assert!(parse_stat("42 (short) S").is_none());
        assert!(started(std::process::id().cast_signed()).is_some());
    }

    #[test]
    fn one_host_is_not_mistaken_for_the_tenth() {
        let path = Path::new("/d/host1");
        for (text, expected) in [
            ("upperdir=/d/host1/tasks,", true),
            ("/d/host1", true),
            ("/d/host1 rw", true),
            ("/d/host10/tasks", false),
            ("/d/host10 /d/host1/x", true),
            ("", false),
        ] {
            assert_eq!(mentions(text, path), expected, "{text}");
        }
    }
}
