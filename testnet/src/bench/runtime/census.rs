//! What of a crowd is on the host: processes, memory, work, mounts, cgroups, namespaces.
//!
//! Counted from outside, by what the kernel lists, and never by asking the runtime.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The keeper and its supervisors of one directory: they all have its command line.
pub(crate) fn keepers(dir: &Path) -> Vec<u32> {
    let dir = dir.display().to_string();
    let of_ours = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let mut words = line.split(|byte| *byte == 0).skip(1);
            words.next() == Some(b"keeper") && words.next() == Some(dir.as_bytes())
        })
    };
    pids().into_iter().filter(of_ours).collect()
}

/// Those of them that have a task: a child that is none of them.
pub(crate) fn supervisors(dir: &Path) -> BTreeSet<u32> {
    let all = keepers(dir);
    let strangers = pids().into_iter().filter(|pid| !all.contains(pid));
    strangers.filter_map(parent).filter(|parent| all.contains(parent)).collect()
}

/// Memory that only this process has, in KiB.
pub(crate) fn private_kib(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let private = text.lines().filter(|line| line.starts_with("Private_"));
    Ok(private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}

/// How long these have run, in nanoseconds.
pub(crate) fn work_ns(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// What the host has of everything that a task could leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    processes: usize,
    cgroups: BTreeSet<PathBuf>,
    mounts: usize,
    networks: usize,
}

impl Census {
    /// Counts. Processes are those that run a file below `root`, and the keepers of `dir`.
    pub(crate) fn take(dir: &Path, root: &Path) -> Self {
        let inside = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
                exe.starts_with(root) || exe == Path::new("/sleeper") || exe == Path::new("/noop")
            })
        };
        let pids = pids();
        let network = |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let networks: BTreeSet<_> = pids.iter().filter_map(network).collect();
        let named = fs::read_dir("/run/netns").map_or(0, Iterator::count);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut cgroups = BTreeSet::new();
        directories(Path::new("/sys/fs/cgroup"), &mut cgroups);
        Self {
            processes: pids.iter().filter(|pid| inside(pid)).count() + keepers(dir).len(),
            cgroups,
            mounts: mounts.lines().count(),
            networks: networks.len() + named,
        }
    }

    /// What there is more of than there was: how much, and in words.
    pub(crate) fn beyond(&self, before: &Self) -> (usize, String) {
        let processes = self.processes.saturating_sub(before.processes);
        let cgroups = self.cgroups.difference(&before.cgroups).count();
        let mounts = self.mounts.saturating_sub(before.mounts);
        let networks = self.networks.saturating_sub(before.networks);
        let words = format!(
            "{processes} processes, {cgroups} cgroups, {mounts} mounts, {networks} networks more"
        );
        (processes + cgroups + mounts + networks, words)
    }
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Those of the runtime's: they lie below one of its name.
fn directories(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        if path.to_string_lossy().contains("starling") {
            found.insert(path.clone());
        }
        directories(&path, found);
    }
}
