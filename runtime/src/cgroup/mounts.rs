//! What `/proc/self/mountinfo` and `/proc/self/cgroup` say of control groups, as
//! values. Formats: proc(5) and cgroups(7).
//!
//! Pure: it parses texts. Lines it does not understand are passed over, because a
//! kernel may say more than we know.

use std::path::{Path, PathBuf};

use super::layout::{Controller, Version};

/// One mounted hierarchy that has something for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    /// For v1: the controllers we know that it owns, at least one.
    pub(super) controllers: Vec<Controller>,
    /// Which directory of the hierarchy is mounted, as our cgroup namespace sees it.
    pub(super) root: String,
    pub(super) point: PathBuf,
}

/// All usable hierarchies in the order of mounting. One whose mount point is
/// covered by a later mount is left out.
pub(super) fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((point, mount)) = mount(line) else { continue };
        // Whatever is mounted over a place, or over a place above it, hides it.
        found.retain(|other| !other.point.starts_with(&point));
        found.extend(mount);
    }
    found
}

/// Where a line mounts, and the hierarchy if it is one of ours.
fn mount(line: &str) -> Option<(PathBuf, Option<Mount>)> {
    // 31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup cgroup rw,cpu
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let root = unescape(place.next()?);
    let point = PathBuf::from(unescape(place.next()?));
    let mut kind = kind.split(' ');
    let (fstype, _source) = (kind.next()?, kind.next()?);
    let options: Vec<&str> = kind.next().unwrap_or_default().split(',').collect();
    let hierarchy =
        |version, controllers| Mount { version, controllers, root, point: point.clone() };
    let mount = match fstype {
        "cgroup2" => Some(hierarchy(Version::V2, Vec::new())),
        // `noprefix` (the old cpuset mounts) changes the names of all files.
        "cgroup" if !options.contains(&"noprefix") => {
            let controllers: Vec<_> =
                options.iter().filter_map(|name| Controller::from_legacy(name)).collect();
            (!controllers.is_empty()).then(|| hierarchy(Version::V1, controllers))
        }
        _ => None,
    };
    Some((point, mount))
}

/// Spaces, tabs, newlines and backslashes come as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'\\').then(|| after.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The group of this process in the v2 hierarchy.
pub(super) fn own_unified(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The group of this process in the v1 hierarchy of one controller.
pub(super) fn own_legacy(cgroup: &str, controller: Controller) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        names
            .split(',')
            .any(|name| Controller::from_legacy(name) == Some(controller))
            .then_some(path)
    })
}

impl Mount {
    /// The directory of a group; none if the mount does not show it.
    pub(super) fn directory(&self, group: &str) -> Option<PathBuf> {
        // The kernel says so of a removed one that still has members.
        let group = group.strip_suffix(" (deleted)").unwrap_or(group);
        let below = if self.root == "/" {
            group.strip_prefix('/')?
        } else {
            let rest = group.strip_prefix(self.root.as_str())?;
            if rest.is_empty() { rest } else { rest.strip_prefix('/')? }
        };
        // A group or a mount of another cgroup namespace shows with steps up.
        let plain = |text: &str| !Path::new(text).components().any(|part| part.as_os_str() == "..");
        if !plain(below) || !plain(&self.root) {
            return None;
        }
        Some(if below.is_empty() { self.point.clone() } else { self.point.join(below) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(line: &str) -> Option<Mount> {
        mounts(line).into_iter().next()
    }

    #[test]
    fn mount_lines_are_read_with_their_oddities() {
        let line = r"40 32 0:35 /a\040b /mnt/x\134y rw shared:9 master:2 - cgroup none rw,xattr,cpuacct,cpu";
        let mount = only(line).expect("a v1 mount");
        assert_eq!(mount.root, "/a b");
        assert_eq!(mount.point, Path::new(r"/mnt/x\y"));
        assert_eq!(mount.controllers, [Controller::Cpuacct, Controller::Cpu]);
        for odd in [
            "40 32 0:35 / /dev/cpuset rw - cgroup cpuset rw,cpuset,noprefix,release_agent=/sbin/x",
            "40 32 0:35 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
            "40 32 0:35 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls,net_prio",
            "40 32 0:35 / / rw - ext4 /dev/root rw",
            "40 32 0:35 /",
            "",
            "- - -",
        ] {
            assert_eq!(only(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_mount_over_another_hides_it_and_all_below() {
        let text = "\
            31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 23 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = mounts(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, Version::V2);
    }

    #[test]
    fn own_groups_are_found_by_controller() {
        let text = "12:pids:/a\n4:cpu,cpuacct:/b:c\n3:blkio:/d\n1:name=systemd:/e\n0::/f\n";
        assert_eq!(own_unified(text), Some("/f"));
        assert_eq!(own_legacy(text, Controller::Cpuacct), Some("/b:c"));
        assert_eq!(own_legacy(text, Controller::Io), Some("/d"));
        assert_eq!(own_legacy(text, Controller::Memory), None);
        assert_eq!(own_unified("garbage\n"), None);
    }

    #[test]
    fn a_group_is_a_directory_only_where_the_mount_shows_it() {
        let shown = |root: &str, group: &str| {
            let mount = Mount {
                version: Version::V2,
                controllers: Vec::new(),
                root: root.into(),
                point: "/cg".into(),
            };
            mount.directory(group).map(|path| path.display().to_string())
        };
        assert_eq!(shown("/", "/").as_deref(), Some("/cg"));
        assert_eq!(shown("/", "/a/b").as_deref(), Some("/cg/a/b"));
        assert_eq!(shown("/", "/a/b (deleted)").as_deref(), Some("/cg/a/b"));
        // Docker without a cgroup namespace binds the container's own group.
        assert_eq!(shown("/docker/1", "/docker/1").as_deref(), Some("/cg"));
        assert_eq!(shown("/docker/1", "/docker/1/x").as_deref(), Some("/cg/x"));
        assert_eq!(shown("/docker/1", "/docker/12"), None);
        assert_eq!(shown("/docker/1", "/"), None);
        // Groups of other cgroup namespaces.
        assert_eq!(shown("/", "/../x"), None);
        assert_eq!(shown("/../..", "/../../x"), None);
    }
}
