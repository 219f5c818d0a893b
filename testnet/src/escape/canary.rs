//! What of the host must be the same after a payload as before it.
//!
//! The judge of every row, beside the row's own: it looks at the host alone, and
//! believes nothing that a payload or an isolator says.
//!
//! Other programs use this host too, so of its mounts, processes and cgroups only
//! those count that carry a name of ours.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long what ended may take to be gone, on a slow machine.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(30);
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Parameters of the kernel that an escape would change.
const PARAMETERS: [&str; 5] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/hostname",
];

/// A file as it must stay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    modified_ns: i128,
    /// In full: to hash it takes longer than to compare it.
    content: Vec<u8>,
}

/// The host, as far as it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    files: Vec<(PathBuf, Option<Standing>)>,
    parameters: Vec<Option<String>>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    keys: bool,
}

/// What is watched.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Directories and files; directories with all that is in them.
    pub files: Vec<PathBuf>,
    /// Part of the path of every mount that could be ours.
    pub mounts: String,
    /// Part of the name of every cgroup and the environment of every process of ours.
    pub name: String,
}

impl Watch {
    /// Looks.
    pub fn look(&self) -> Host {
        let mut files = Vec::new();
        self.files.iter().for_each(|path| walk(path, &mut files));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = |line: &&str| line.contains(&self.mounts) || line.contains(&self.name);
        let mut cgroups = BTreeSet::new();
        groups(Path::new("/sys/fs/cgroup"), &self.name, &mut cgroups);
        let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
        Host {
            files,
            parameters: PARAMETERS.iter().map(|path| fs::read_to_string(path).ok()).collect(),
            mounts: mounts.lines().filter(ours).map(str::to_owned).collect(),
            cgroups,
            keys: keys.contains("starling-escape"),
        }
    }

    /// What is not as it was; nothing is what must be said.
    pub fn changes(&self, before: &Host) -> Vec<String> {
        let until = Instant::now() + GONE_WITHIN;
        loop {
            let mut changes = differences(before, &self.look());
            let left = self.processes();
            if !left.is_empty() {
                changes.push(format!("processes are left: {left:?}"));
            }
            if changes.is_empty() || Instant::now() > until {
                return changes;
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// Processes with our mark in their environment.
    fn processes(&self) -> Vec<u32> {
        mentioning("environ", &self.name)
    }
}

/// Processes whose environment or command line has this in it.
pub(super) fn mentioning(file: &str, name: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let mentions = |pid: &u32| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.windows(name.len()).any(|part| part == name.as_bytes())
    };
    pids.filter(mentions).collect()
}

fn walk(path: &Path, found: &mut Vec<(PathBuf, Option<Standing>)>) {
    let about = fs::symlink_metadata(path).ok();
    let standing = about.as_ref().map(|about| {
        let content = if about.is_file() { fs::read(path).unwrap_or_default() } else { Vec::new() };
        Standing {
            inode: about.ino(),
            mode: about.mode(),
            owner: (about.uid(), about.gid()),
            modified_ns: i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec()),
            content,
        }
    });
    found.push((path.to_owned(), standing));
    if about.is_some_and(|about| about.is_dir()) {
        let mut entries: Vec<_> = fs::read_dir(path)
            .map(|it| it.flatten().map(|it| it.path()).collect())
            .unwrap_or_default();
        entries.sort();
        entries.iter().for_each(|entry| walk(entry, found));
    }
}

pub(super) fn groups(dir: &Path, name: &str, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.file_name().to_string_lossy().contains(name) {
            found.insert(entry.path());
        }
        groups(&entry.path(), name, found);
    }
}

fn differences(before: &Host, now: &Host) -> Vec<String> {
    let mut told = Vec::new();
    for (path, standing) in &before.files {
        match now.files.iter().find(|(other, _)| other == path) {
            None => told.push(format!("{} is gone", path.display())),
            Some((_, other)) if other != standing => {
                told.push(format!("{} is changed", path.display()));
            }
            Some(_) => {}
        }
    }
    let new = now.files.iter().filter(|(path, _)| !before.files.iter().any(|(old, _)| old == path));
    told.extend(new.map(|(path, _)| format!("{} is new", path.display())));
    for ((name, old), new) in PARAMETERS.iter().zip(&before.parameters).zip(&now.parameters) {
        if old != new {
            told.push(format!("{name} was {old:?} and is {new:?}"));
        }
    }
    let mounts = now.mounts.difference(&before.mounts);
    told.extend(mounts.map(|line| format!("mounted on the host: {line}")));
    let cgroups = now.cgroups.difference(&before.cgroups);
    told.extend(cgroups.map(|path| format!("a cgroup is left: {}", path.display())));
    if now.keys != before.keys {
        told.push("a key of the payload is in the host's keyring".to_owned());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_file_a_new_one_and_a_lost_one_are_seen() {
        let dir = std::env::temp_dir().join(format!("testnet-canary-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("a"), "a").expect("written");
        fs::write(dir.join("b"), "b").expect("written");
        let mounts = dir.display().to_string();
        let watch = Watch { files: vec![dir.clone()], mounts, name: "no-such-name".to_owned() };
        let before = watch.look();
        assert_eq!(differences(&before, &watch.look()), [""; 0]);
        fs::write(dir.join("a"), "A").expect("written");
        fs::remove_file(dir.join("b")).expect("removed");
        fs::write(dir.join("c"), "c").expect("written");
        let told = differences(&before, &watch.look()).join("\n");
        assert!(told.contains("a is changed") && told.contains("b is gone"), "{told}");
        assert!(told.contains("c is new"), "{told}");
        fs::remove_dir_all(&dir).expect("removed");
    }
}
