//! The process table, read from outside: what really runs, and whose it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// One process, as far as it may be read.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    parent: i32,
    argv: Vec<String>,
    environment: Vec<String>,
}

impl Process {
    /// Its command line.
    pub(super) fn argv(&self) -> &[String] {
        &self.argv
    }

    /// A variable of its environment at its start.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    fn mentions(&self, text: &str) -> bool {
        self.argv.iter().chain(&self.environment).any(|word| word.contains(text))
    }
}

/// All living processes.
pub(super) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            read(&entry.path(), pid)
        })
        .collect()
}

fn read(dir: &Path, pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name may hold spaces and brackets; what follows its last bracket does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        argv: words(&dir.join("cmdline")),
        environment: words(&dir.join("environ")),
    })
}

fn words(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// All processes that mention `text`, and all their descendants; never this one.
pub(super) fn of(text: &str) -> BTreeSet<i32> {
    let all = all();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut pids: BTreeSet<i32> = all.iter().filter(|p| p.mentions(text)).map(|p| p.pid).collect();
    pids.remove(&own);
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|p| pids.contains(&p.parent) && !pids.contains(&p.pid) && p.pid != own)
            .map(|p| p.pid)
            .collect();
        if more.is_empty() {
            return pids;
        }
        pids.extend(more);
    }
}

/// Sends a signal; a process that is gone already is fine.
pub(super) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Gone already: that is what was wanted, or it is told by what follows.
        let _ = kill_process(pid, signal);
    }
}
