//! What there is of a runtime outside and inside of its directory.
//!
//! A namespace needs no line of its own: it lives by a process, a mount or a link that
//! is counted here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::hosts;
use crate::stage::{lives, trees};

/// All that may be left of a runtime.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// Agents, keepers, supervisors, and what has the mark in its environment.
    processes: Vec<String>,
    /// In whichever hierarchy.
    groups: Vec<PathBuf>,
    mounts: Vec<String>,
    /// Links, addresses, routes and packet rules of this test's host.
    network: Option<[String; 4]>,
}

impl Census {
    /// Of the runtime of a directory, whose tasks have the directory's path as `MARK`.
    pub(crate) fn of(dir: &Path, has_network: bool) -> Self {
        let network = has_network.then(hosts::seen);
        Self { processes: processes(dir), groups: trees(dir), mounts: mounts(dir), network }
    }

    /// What is in this one and was not there before: others may have left something that
    /// our directory, whose number was theirs, has been taken for.
    pub(crate) fn beyond(mut self, before: &Self) -> Self {
        self.processes.retain(|found| !before.processes.contains(found));
        self.groups.retain(|found| !before.groups.contains(found));
        self.mounts.retain(|found| !before.mounts.contains(found));
        self.network = self.network.filter(|found| Some(found) != before.network.as_ref());
        self
    }

    /// Nothing at all.
    pub(crate) fn nothing() -> Self {
        Self { processes: Vec::new(), groups: Vec::new(), mounts: Vec::new(), network: None }
    }

    pub(crate) fn has_processes(&self) -> bool {
        !self.processes.is_empty()
    }
}

/// All below a directory.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).expect("listed").flatten() {
            let path = entry.path();
            found.push(path.strip_prefix(dir).expect("below").display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

fn processes(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let mark = format!("MARK={dir}");
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: i32, file: &str, wanted: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())
    };
    let ours = pids.filter(|pid| {
        *pid != i32::try_from(std::process::id()).expect("a pid")
            && lives(*pid)
            && (has(*pid, "cmdline", &dir) || has(*pid, "environ", &mark))
    });
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ours.map(|pid| format!("{pid} {}", name(pid).trim())).collect()
}

fn mounts(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let dir = dir.display().to_string();
    text.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}
