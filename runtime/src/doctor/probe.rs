//! Looks at this machine. Reads files and asks the kernel; changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, StatVfsMountFlags, access, statfs, statvfs};
use rustix::process::geteuid;

use super::service::read_unit;
use super::{Bridging, Ground, Host, Room, Storage, Switches, Trials, Unit};
use crate::cgroup::{Controller, Layout};
use crate::net::Bridge;
use crate::plan::Facts;

/// The agent's unit where nobody says which it is.
const UNIT: &str = "starling.service";

/// Other engines' sockets.
const ENGINES: [(&str, &str); 5] = [
    ("docker", "/run/docker.sock"),
    ("podman", "/run/podman/podman.sock"),
    ("containerd", "/run/containerd/containerd.sock"),
    ("cri-o", "/run/crio/crio.sock"),
    ("k3s", "/run/k3s/containerd/containerd.sock"),
];

/// What stands for any bridge of ours in other people's rules: iptables' and
/// firewalld's "all that begins so".
const ANY_BRIDGE: &str = "star-+";

impl Ground {
    /// Looks.
    pub fn probe() -> Self {
        let uid = geteuid().as_raw();
        let named = text("/etc/passwd").lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        let manager = format!("/run/user/{uid}/systemd/private");
        Self {
            uid,
            user: named.unwrap_or_else(|| format!("user {uid}")),
            systemd: Path::new("/run/systemd/system").exists(),
            user_manager: Path::new(&manager).exists(),
            inside: inside(),
        }
    }
}

/// Which container this is in, by the marks that engines leave. A machine that was made
/// of an image bears them too, but has the kernel's first process namespace.
fn inside() -> Option<String> {
    /// `PROC_PID_INIT_INO` of the kernel.
    const FIRST: &str = "pid:[4026531836]";
    if fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(FIRST)) {
        return None;
    }
    if Path::new("/.dockerenv").exists() {
        return Some("docker".to_owned());
    }
    if Path::new("/run/.containerenv").exists() {
        return Some("podman".to_owned());
    }
    let kind = text("/run/systemd/container");
    let kind = kind.trim();
    (!kind.is_empty()).then(|| kind.to_owned())
}

impl Host {
    /// Looks at everything else than what was tried. `dir` is the data directory, which
    /// need not exist; `agent` is the agent's process, if one runs here.
    pub fn probe(dir: &Path, agent: Option<u32>, trials: Trials) -> Self {
        let process = agent.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let layout = Layout::probe().unwrap_or_default();
        let ground = Ground::probe();
        Self {
            // Behind the trials, which may have had the kernel load what it has.
            facts: Facts::probe(),
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            switches: Switches {
                most: number("/proc/sys/user/max_user_namespaces"),
                unprivileged: number("/proc/sys/kernel/unprivileged_userns_clone"),
                apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
                selinux: number("/sys/fs/selinux/enforce") == Some(1),
            },
            modules: text("/sys/kernel/security/lsm").trim().to_owned(),
            next_grant: next_grant(&text("/etc/subuid"), &text("/etc/subgid")),
            bridging: bridging(),
            room: room(&process, &layout, &ground),
            storage: storage(dir),
            clock: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            unit: unit(&process, &ground),
            lingers: Path::new("/var/lib/systemd/linger").join(&ground.user).exists(),
            engines: engines(&ground),
            layout,
            trials,
            ground,
        }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// Behind every range that is granted, and never among the host's own users.
pub(super) fn next_grant(subuid: &str, subgid: &str) -> u32 {
    /// Where `useradd` begins: `SUB_UID_MIN` of login.defs.
    const FIRST: u32 = 100_000;
    let end = |line: &str| {
        let mut fields = line.trim().split(':').skip(1);
        let first: u32 = fields.next()?.parse().ok()?;
        first.checked_add(fields.next()?.parse().ok()?)
    };
    subuid.lines().chain(subgid.lines()).filter_map(end).fold(FIRST, u32::max)
}

fn bridging() -> Bridging {
    // The bridge's own name matters only to rules that already name it.
    let tag = fs::read_dir("/sys/class/net").into_iter().flatten().flatten().find_map(|link| {
        let name = link.file_name().into_string().ok()?;
        name.strip_prefix("star-").map(str::to_owned)
    });
    match Bridge::facts(tag.as_deref().unwrap_or("0")) {
        Ok(facts) => Bridging {
            refused: facts.bridge().err().map(|no| no.reason),
            forwards: facts.forwards(),
            warnings: facts.warnings(ANY_BRIDGE),
        },
        Err(error) => Bridging { refused: Some(error.to_string()), ..Bridging::default() },
    }
}

fn room(process: &str, layout: &Layout, ground: &Ground) -> Room {
    let limits = text(&format!("/proc/{process}/limits"));
    let limit = |name: &str| read_limit(&limits, name);
    let mut processes: Vec<(u64, String)> = Vec::new();
    for (file, name) in [("pid_max", "kernel.pid_max"), ("threads-max", "kernel.threads-max")] {
        let most = number(&format!("/proc/sys/kernel/{file}"));
        processes.extend(most.map(|most| (most, name.to_owned())));
    }
    if !ground.is_root() {
        processes.extend(limit("Max processes").map(|(soft, _)| (soft, "ulimit -u".to_owned())));
    }
    processes.extend(counted(process, layout));
    Room {
        open_files: limit("Max open files"),
        processes: processes.into_iter().min(),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
    }
}

/// `Max open files            1024                 524288               files`
pub(super) fn read_limit(limits: &str, name: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace();
    let mut value = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    };
    Some((value()?, value()?))
}

/// What the groups that the process is in say of processes.
fn counted(process: &str, layout: &Layout) -> Vec<(u64, String)> {
    let groups = text(&format!("/proc/{process}/cgroup"));
    let own = |of: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let names = fields.next()?;
            let group = fields.next()?;
            of(names).then(|| group.trim_start_matches('/').to_owned())
        })
    };
    let v1 = layout.legacy.iter().find(|v1| v1.controllers.contains(&Controller::Pids));
    let place = match (v1, &layout.unified) {
        (Some(v1), _) => own(&|names| names.split(',').any(|name| name == "pids"))
            .map(|group| (&v1.mount, group)),
        (None, Some(v2)) => own(&str::is_empty).map(|group| (&v2.mount, group)),
        (None, None) => None,
    };
    let Some((mount, group)) = place else { return Vec::new() };
    let base = mount.join(group);
    let above = base.ancestors().take_while(|dir| dir.starts_with(mount));
    let limit = |dir: &Path| {
        let file = dir.join("pids.max");
        let most = number(file.to_str()?)?;
        Some((most, file.display().to_string()))
    };
    above.filter_map(limit).collect()
}

fn storage(dir: &Path) -> Option<Storage> {
    let exists = existing(dir)?;
    let (space, kind) = (statvfs(&exists).ok()?, statfs(&exists).ok()?);
    // Without files there is no table of them to be full: btrfs says so.
    let files_free = (space.f_files > 0).then_some(space.f_favail);
    Some(Storage {
        dir: dir.to_owned(),
        mount: mount_point(&exists),
        kind: kind_of(u64::try_from(kind.f_type).unwrap_or(0)),
        free: space.f_bavail.saturating_mul(space.f_frsize),
        total: space.f_blocks.saturating_mul(space.f_frsize),
        files_free,
        executes: !space.f_flag.contains(StatVfsMountFlags::NOEXEC),
        writable: access(&exists, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
        exists,
    })
}

/// The directory, or the nearest that exists above it.
pub(super) fn existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned)
}

/// The uppermost directory of the file system that this one lies on.
fn mount_point(dir: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let device = |dir: &Path| fs::metadata(dir).ok().map(|found| found.dev());
    let whole = fs::canonicalize(dir).unwrap_or_else(|_unreadable| dir.to_owned());
    let own = device(&whole);
    let same = whole.ancestors().take_while(|above| device(above) == own).last();
    same.unwrap_or(&whole).to_owned()
}

/// Numbers of `linux/magic.h`, and of file systems from elsewhere.
fn kind_of(magic: u64) -> String {
    let name = match magic & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        0x4d44 => "vfat",
        0xf15f => "ecryptfs",
        other => return format!("a file system of kind {other:#x}"),
    };
    name.to_owned()
}

/// The unit that the agent is in, else the one that is installed.
fn unit(process: &str, ground: &Ground) -> Option<Unit> {
    let groups = text(&format!("/proc/{process}/cgroup"));
    // Without an agent the groups are those of whoever asks, who may be in any unit.
    let of_agent = groups.lines().filter(|_| process != "self").find_map(|line| {
        let group = line.splitn(3, ':').nth(2)?;
        let last = group.rsplit('/').find(|part| part.ends_with(".service"))?;
        (!last.starts_with("user@")).then(|| last.to_owned())
    });
    let named = of_agent.unwrap_or_else(|| UNIT.to_owned());
    let texts = unit_files(&named, &unit_dirs(ground));
    (!texts.is_empty()).then(|| read_unit(&named, &texts))
}

fn unit_dirs(ground: &Ground) -> Vec<PathBuf> {
    let dirs: &[&str] = if ground.is_root() {
        &[
            "/etc/systemd/system",
            "/run/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ]
    } else {
        &["/etc/systemd/user", "/run/systemd/user", "/usr/lib/systemd/user"]
    };
    let home = std::env::var_os("HOME").filter(|_| !ground.is_root());
    let own = home.map(|home| Path::new(&home).join(".config/systemd/user"));
    own.into_iter().chain(dirs.iter().map(PathBuf::from)).collect()
}

/// The first main file, and the drop-ins by their names, as systemd.unit(5) orders them.
fn unit_files(name: &str, dirs: &[PathBuf]) -> Vec<String> {
    let main = dirs.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok());
    let mut extra = std::collections::BTreeMap::new();
    for dir in dirs.iter().rev() {
        let entries = fs::read_dir(dir.join(format!("{name}.d"))).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "conf")) {
            if let Ok(text) = fs::read_to_string(entry.path()) {
                extra.insert(entry.file_name(), text);
            }
        }
    }
    main.into_iter()
        .flat_map(|main| std::iter::once(main).chain(extra.clone().into_values()))
        .collect()
}

fn engines(ground: &Ground) -> Vec<(String, PathBuf)> {
    let own = format!("/run/user/{}", ground.uid);
    let theirs = [
        ("docker, rootless,", format!("{own}/docker.sock")),
        ("podman, rootless,", format!("{own}/podman/podman.sock")),
    ];
    let all = ENGINES.iter().map(|(name, path)| (*name, (*path).to_owned())).chain(theirs);
    let here = all.filter(|(_, path)| Path::new(path).exists());
    here.map(|(name, path)| (name.to_owned(), PathBuf::from(path))).collect()
}
