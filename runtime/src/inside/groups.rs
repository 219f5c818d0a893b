//! The control groups that a running process is in, whichever supervisor made them:
//! so that what enters a task is counted, limited, frozen and killed with it.
//!
//! Read from the kernel and not from a record, because a task may have divided its
//! group, and then only where its first process is may others join.
//!
//! Formats: cgroups(7) for `/proc/PID/cgroup`, proc(5) for `mountinfo`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The groups of a process that are not this process's own.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    dirs: Vec<PathBuf>,
}

impl Groups {
    /// Those of a process that the caller keeps from being recycled.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let ours = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self { dirs: differing(&theirs, &ours, &mounts) })
    }

    /// Whether it is in no group but ours.
    pub(crate) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// The files by which a process joins: it writes `0`.
    pub(crate) fn procs(&self) -> Result<Vec<OwnedFd>, Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let open = |dir: &PathBuf| rustix::fs::open(dir.join("cgroup.procs"), flags, Mode::empty());
        self.dirs.iter().map(open).collect()
    }

    /// Whether all in them is held still: who joins then would be, too.
    pub(crate) fn is_frozen(&self) -> bool {
        self.dirs.iter().any(|dir| {
            let unified = read(dir, "cgroup.events");
            let legacy = read(dir, "freezer.state");
            unified.is_some_and(|text| text.lines().any(|line| line == "frozen 1"))
                || legacy.is_some_and(|text| text.trim() != "THAWED")
        })
    }

    /// Whether a process with this `/proc/PID/cgroup` is in one of them, or below.
    pub(crate) fn hold(&self, text: &str, mounts: &str) -> bool {
        let theirs =
            memberships(text).into_iter().filter_map(|(kind, path)| directory(mounts, &kind, path));
        theirs.into_iter().any(|dir| self.dirs.iter().any(|ours| dir.starts_with(ours)))
    }
}

fn read(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

/// Which hierarchy: its controllers, none for version 2.
type Kind = Vec<String>;

fn memberships(text: &str) -> Vec<(Kind, &str)> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?.split(',').filter(|name| !name.is_empty());
        Some((names.map(str::to_owned).collect(), fields.next()?))
    });
    lines.collect()
}

fn differing(theirs: &str, ours: &str, mounts: &str) -> Vec<PathBuf> {
    let ours = memberships(ours);
    let differ = memberships(theirs).into_iter().filter(|member| !ours.contains(member));
    differ.filter_map(|(kind, path)| directory(mounts, &kind, path)).collect()
}

/// Where a group of a hierarchy shows; none where it is not mounted.
fn directory(mounts: &str, kind: &Kind, path: &str) -> Option<PathBuf> {
    mounts.lines().rev().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let is_it = match (what.next()?, kind.as_slice()) {
            ("cgroup2", []) => true,
            ("cgroup", [_, ..]) => {
                let options: Vec<&str> = what.nth(1)?.split(',').collect();
                kind.iter().all(|name| options.contains(&name.as_str()))
            }
            _ => false,
        };
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let below = if root == "/" { Some(path) } else { path.strip_prefix(root) };
        let below = below.filter(|_| is_it)?.trim_start_matches('/');
        // Of another namespace's view, or a name that mountinfo would have escaped.
        let is_plain = !below.split('/').any(|part| part == "..") && !point.contains('\\');
        is_plain.then(|| if below.is_empty() { point.into() } else { Path::new(point).join(below) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn only_groups_that_are_not_ours_are_joined_where_they_are_mounted() {
        let theirs =
            "12:cpu,cpuacct:/s/1\n5:memory:/box/s/1\n4:pids:/s/1\n1:name=systemd:/a\n0::/\n";
        let ours = "12:cpu,cpuacct:/\n5:memory:/box\n4:pids:/\n1:name=systemd:/a\n0::/\n";
        let wanted: Vec<PathBuf> =
            vec!["/sys/fs/cgroup/cpu,cpuacct/s/1".into(), "/sys/fs/cgroup/memory/s/1".into()];
        assert_eq!(differing(theirs, ours, MOUNTS), wanted);
        let groups = Groups { dirs: wanted };
        assert!(groups.hold("12:cpu,cpuacct:/s/1/below\n", MOUNTS));
        assert!(!groups.hold("12:cpu,cpuacct:/s/10\n", MOUNTS));
        assert!(!groups.hold(ours, MOUNTS));
        assert_eq!(differing("0::/../x\n", ours, MOUNTS), Vec::<PathBuf>::new());
    }
}
