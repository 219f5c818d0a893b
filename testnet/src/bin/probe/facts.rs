//! What a container sees of itself and of its host, line by line in a fixed order.
//!
//! Must never print what differs from run to run without a word before it by which
//! a reader can tell: the golden profile is made of these lines.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use testnet::sys::raw;

/// The status lines that say what the process may do.
const STATUS: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Umask",
];

/// Prints all of it.
pub(crate) fn print() {
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
        println!("ns {kind} {}", link.display());
    }
    let status = text("/proc/self/status");
    for name in STATUS {
        let line = status.lines().find(|line| line.split(':').next() == Some(name));
        let value =
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim());
        println!("status {name} {}", value.replace('\t', " "));
    }
    for map in ["uid_map", "gid_map"] {
        let words = text(&format!("/proc/self/{map}"));
        println!("{map} {}", words.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    println!("pid {}", std::process::id());
    let cwd = std::env::current_dir();
    println!("cwd {}", cwd.map_or_else(|error| name(&error), |cwd| cwd.display().to_string()));
    println!("hostname {}", text("/proc/sys/kernel/hostname").trim());
    text("/proc/self/cgroup").lines().for_each(|line| println!("cgroup {line}"));
    text("/proc/self/mountinfo").lines().for_each(|line| println!("mount {line}"));
    fds();
    devices(Path::new("/dev"));
    for line in text("/proc/self/limits").lines().skip(1) {
        println!("limit {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let mut env: Vec<_> = std::env::vars().collect();
    env.sort();
    env.iter().for_each(|(name, value)| println!("env {name}={value}"));
    for call in raw::FORBIDDEN {
        println!("call {} {}", call.name, errno(raw::try_forbidden(call)));
    }
}

fn fds() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        // The listing's own.
        .filter(|(_, link)| !link.to_string_lossy().ends_with("/fd"))
        .collect();
    found.sort();
    found.iter().for_each(|(number, link)| println!("fd {number} {}", link.display()));
}

fn devices(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        let kind = about.file_type();
        let (major, minor) = (about.rdev() >> 8 & 0xfff, about.rdev() & 0xff);
        let what = if kind.is_symlink() {
            format!("link {}", fs::read_link(&path).unwrap_or_default().display())
        } else if kind.is_char_device() {
            format!("char {major}:{minor} {:o}", about.mode() & 0o7777)
        } else if kind.is_block_device() {
            format!("block {major}:{minor} {:o}", about.mode() & 0o7777)
        } else if kind.is_dir() {
            format!("directory {:o}", about.mode() & 0o7777)
        } else {
            format!("file {:o}", about.mode() & 0o7777)
        };
        println!("dev {} {what}", path.display());
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// An error's name.
pub(crate) fn name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| format!("{:?}", error.kind()), errno)
}

/// A number's name; `ok` for none.
pub(crate) fn errno(number: i32) -> String {
    let name = match number {
        0 => "ok",
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::ETXTBSY => "ETXTBSY",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::ELOOP => "ELOOP",
        libc::EUSERS => "EUSERS",
        libc::ENXIO => "ENXIO",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::ECONNREFUSED => "ECONNREFUSED",
        other => return format!("errno-{other}"),
    };
    name.to_owned()
}
