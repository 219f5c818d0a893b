//! Tries from inside what a container must not be able to do, and says what came of it.
//!
//! Every subcommand prints facts, one a line: what was tried, and `ok` or the
//! error's name. It judges nothing: whoever reads knows what should have been.
//!
//! Must never do harm where it succeeds, but for what a row's own limits bound.

mod bombs;
mod facts;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::UnshareFlags;
use testnet::sys::raw::{self, Side};

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let rest = words.get(1..).unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("facts") => facts::print(),
        Some("reopen") => rest.iter().for_each(|path| reopen(path)),
        Some("write") => rest.iter().for_each(|path| write(path)),
        Some("read") => rest.iter().for_each(|path| read(path)),
        Some("make") => rest.iter().for_each(|path| told("make", path, fs::write(path, "x"))),
        Some("list") => rest.iter().for_each(|path| list(path)),
        Some("cgroup-mount") => cgroup_mount(),
        Some("cgroup-files") => writable_below(Path::new("/sys/fs/cgroup"), 0),
        Some("connect") => rest.iter().for_each(|name| {
            told("connect", name, raw::connect_abstract(name.as_bytes()));
        }),
        Some("keys") => keys(),
        Some("tty") => tty(),
        Some("others") => others(rest),
        Some("userns") => userns(),
        Some("sockets") => sockets(),
        Some("hunt") => hunt(),
        Some("chmod") => chmod(rest),
        Some("connect-to") => rest.iter().for_each(|path| {
            told("connect-to", path, UnixStream::connect(path));
        }),
        Some("swap") => swap(rest),
        Some("beat") => beat(),
        Some("bomb") => return bombs::run(rest),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

/// Prints what came of it.
fn told<T>(what: &str, on: impl std::fmt::Display, outcome: io::Result<T>) {
    let outcome = outcome.map_or_else(|error| facts::name(&error), |_| "ok".to_owned());
    println!("{what} {on} {outcome}");
}

/// As an attacker does with a program that may not be written while it runs.
fn reopen(path: &str) {
    let again = File::open(path).and_then(|file| {
        OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
    });
    told("reopen", path, again);
    told("truncate", path, OpenOptions::new().append(true).open(path));
}

/// Waits for programs of others to pass by, holds on to them, and tries to overwrite
/// them when they run no more.
fn hunt() {
    const CAUGHT_MAX: usize = 64;
    const ROUNDS_MAX: usize = 1_000_000;
    let mut caught: Vec<(File, String)> = Vec::new();
    println!("hunting");
    for _ in 0..ROUNDS_MAX {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        for entry in entries.flatten() {
            if caught.len() == CAUGHT_MAX {
                break;
            }
            let Ok(file) = File::open(entry.path().join("exe")) else { continue };
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            let link = link.unwrap_or_default().display().to_string();
            if link != "/probe" && !caught.iter().any(|(_, known)| *known == link) {
                println!("caught {link}");
                caught.push((file, link));
            }
        }
        for (file, link) in &caught {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            if OpenOptions::new().write(true).open(path).is_ok() {
                return println!("reopen {link} ok");
            }
        }
    }
}

/// Has a directory and a link to a place outside exchange their names, as fast as it can,
/// below the directory that it is given.
fn swap(words: &[String]) {
    const ROUNDS_MAX: u64 = 100_000_000;
    let [place, outside] = words else { return };
    let (dir, link) = (Path::new(place).join("d"), Path::new(place).join("l"));
    told("swap", "dir", fs::create_dir(&dir));
    told("swap", "link", std::os::unix::fs::symlink(outside, &link));
    let _ = io::stdout().flush();
    for _ in 0..ROUNDS_MAX {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        if rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, flags).is_err()
        {
            return println!("swap over");
        }
    }
}

/// How late it is woken who sleeps for short whiles: microseconds, the median, the worst
/// but a hundredth, and the worst.
fn beat() {
    const BEATS: usize = 500;
    const SLEEP: std::time::Duration = std::time::Duration::from_millis(2);
    let mut late: Vec<u128> = (0..BEATS)
        .map(|_| {
            let began = std::time::Instant::now();
            std::thread::sleep(SLEEP);
            began.elapsed().saturating_sub(SLEEP).as_micros()
        })
        .collect();
    late.sort_unstable();
    let at = |hundredth: usize| late.get(BEATS * hundredth / 100).copied().unwrap_or_default();
    let worst = late.last().copied().unwrap_or_default();
    println!("late {} {} {worst}", at(50), at(99));
}

/// Sets the sticky bit, which does no harm to a device.
fn chmod(paths: &[String]) {
    let mode =
        |about: fs::Metadata| fs::Permissions::from_mode(about.permissions().mode() | 0o1000);
    for path in paths {
        let set = fs::metadata(path).and_then(|about| fs::set_permissions(path, mode(about)));
        told("chmod", path, set);
    }
    for fd in 0..3 {
        let file = File::open(format!("/proc/self/fd/{fd}"));
        told("chmod", fd, file.and_then(|file| file.set_permissions(mode(file.metadata()?))));
    }
    let stdin = rustix::fs::fchmod(rustix::stdio::stdin(), rustix::fs::Mode::from_raw_mode(0o1666));
    told("fchmod", 0, stdin.map_err(io::Error::from));
}

fn write(path: &str) {
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write(b"1"));
    told("write", path, written);
}

fn read(path: &str) {
    let mut text = Vec::new();
    let got = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut text));
    match got {
        Ok(count) => println!("read {path} {count} {:?}", String::from_utf8_lossy(&text)),
        Err(error) => println!("read {path} {}", facts::name(&error)),
    }
}

fn list(path: &str) {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .for_each(|entry| println!("list {path} {}", entry.file_name().to_string_lossy())),
        Err(error) => println!("list {path} - {}", facts::name(&error)),
    }
}

/// The way of CVE-2022-0492: a namespace of one's own, in which to mount cgroups.
fn cgroup_mount() {
    let dir = PathBuf::from("/tmp");
    let all = UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP;
    let parted = raw::unshare(all);
    let is_parted = parted.is_ok();
    told("unshare", "user,mount,cgroup", parted);
    if is_parted {
        let map = |file: &str, text: &str| fs::write(format!("/proc/self/{file}"), text);
        let mapped =
            map("setgroups", "deny").and(map("uid_map", "0 0 1")).and(map("gid_map", "0 0 1"));
        told("map", "0", mapped);
    }
    let kinds = ["memory", "rdma", "pids", "cpu", "devices", "freezer", "blkio", "cpuset"];
    for kind in kinds {
        let options = CString::new(kind).unwrap_or_default();
        let mounted = mount("cgroup", &dir, "cgroup", MountFlags::empty(), options.as_c_str());
        let is_mounted = mounted.is_ok();
        told("mount", kind, mounted.map_err(io::Error::from));
        if is_mounted {
            for name in ["release_agent", "cgroup.procs", "tasks", "notify_on_release"] {
                let opened = OpenOptions::new().write(true).open(dir.join(name));
                told("open", format!("{kind}/{name}"), opened);
            }
            told("mkdir", kind, fs::create_dir(dir.join("starling-escape")));
            let _ = fs::remove_dir(dir.join("starling-escape"));
            let _ = rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let mounted = mount("cgroup2", &dir, "cgroup2", MountFlags::empty(), None);
    told("mount", "cgroup2", mounted.map_err(io::Error::from));
}

fn writable_below(dir: &Path, depth: usize) {
    // Enough for a controller, our parent group and the task's own.
    const DEPTH_MAX: usize = 6;
    if depth == 0 {
        let files = fs::read_dir(dir).map_or(0, Iterator::count);
        println!("entries {} {files}", dir.display());
    }
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => writable_below(&path, depth + 1),
            Ok(kind) if kind.is_file() && OpenOptions::new().write(true).open(&path).is_ok() => {
                println!("writable {}", path.display());
            }
            _ => {}
        }
    }
    if fs::create_dir(dir.join("starling-escape")).is_ok() {
        println!("writable {}", dir.display());
        let _ = fs::remove_dir(dir.join("starling-escape"));
    }
}

fn keys() {
    told("add_key", "session", raw::add_key(c"starling-escape"));
    for call in raw::FORBIDDEN.iter().filter(|call| call.name.contains("key")) {
        println!("call {} {}", call.name, facts::errno(raw::try_forbidden(*call)));
    }
    read("/proc/keys");
}

fn tty() {
    // TIOCSTI, TIOCLINUX, and the first with what a careless filter does not compare.
    let requests = [(0x5412, "TIOCSTI"), (0x541c, "TIOCLINUX"), (0x1_0000_5412, "TIOCSTI+high")];
    for fd in 0..3 {
        for (request, name) in requests {
            told("ioctl", format!("{fd} {name}"), raw::ioctl_byte(fd, request, b'\n'));
        }
    }
    let device = File::open("/dev/tty")
        .map(|tty| fs::read_link(format!("/proc/self/fd/{}", tty.as_raw_fd())));
    told("open", "/dev/tty", device);
    println!("sid {}", rustix::process::getsid(None).map_or(-1, |sid| sid.as_raw_nonzero().get()));
}

/// Tries itself on processes that are none of its own: all it can name.
fn others(pids: &[String]) {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let seen = fs::read_dir("/proc").map(Iterator::flatten).into_iter().flatten();
    let seen = seen.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named = pids.iter().filter_map(|pid| pid.parse::<i32>().ok());
    for pid in seen.chain(named).filter(|pid| *pid != own) {
        let Some(handle) = Pid::from_raw(pid) else { continue };
        let signalled = rustix::process::test_kill_process(handle).map_err(io::Error::from);
        told("signal", pid, signalled);
        told("memory", pid, raw::read_memory(pid, 0x40_0000));
        told("trace", pid, raw::trace(pid));
        told("root", pid, fs::read_dir(format!("/proc/{pid}/root")));
        told("environ", pid, fs::read(format!("/proc/{pid}/environ")));
    }
}

fn userns() {
    let reap = |side: Side| match side {
        Side::Child => raw::exit_now(0),
        Side::Parent(pid) => drop(waitpid(Pid::from_raw(pid), WaitOptions::empty())),
    };
    told("clone", "user", raw::clone_plainly(libc::CLONE_NEWUSER).map(reap));
    told("clone3", "user", raw::clone_with(libc::CLONE_NEWUSER as u64).map(reap));
    told("clone3", "nothing", raw::clone_with(0).map(reap));
    told("unshare", "mount", raw::unshare(UnshareFlags::NEWNS));
    told("unshare", "net", raw::unshare(UnshareFlags::NEWNET));
    told("unshare", "user", raw::unshare(UnshareFlags::NEWUSER));
    let overlay = c"lowerdir=/proc,upperdir=/tmp,workdir=/tmp";
    let mounted = mount("overlay", "/tmp", "overlay", MountFlags::empty(), overlay);
    told("mount", "overlay", mounted.map_err(io::Error::from));
}

fn sockets() {
    let kinds = [
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0x300),
        ("netlink-audit", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ("inet", libc::AF_INET, libc::SOCK_STREAM, 0),
    ];
    for (name, domain, kind, protocol) in kinds {
        told("socket", name, raw::socket(domain, kind, protocol));
    }
    list("/sys/class/net");
    if let Ok(text) = fs::read_to_string("/proc/self/net/dev") {
        let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
        names.for_each(|name| println!("interface {}", name.trim()));
    }
}
