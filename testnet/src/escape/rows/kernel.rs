//! Ways out by what the kernel offers: cgroups, capabilities, keys, sockets, calls.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::{Ask, Told};

/// Capabilities that a default container has, as Docker's: no bit beyond these.
const CAPABILITIES: u64 = 0xa804_25fb;

/// Calls that are allowed in a default container, as Docker's, because the kernel
/// itself bounds them to the container: or harmless as they are made here.
const HARMLESS: [&str; 9] = [
    "chroot",
    "clock_adjtime",
    "landlock_create_ruleset",
    "memfd_secret",
    "name_to_handle_at",
    "pidfd_getfd",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
];

pub(super) fn release_agent(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["cgroup-mount"])?;
    let mut broken = ran(&told);
    for what in ["mount", "open", "mkdir"] {
        broken.extend(told.succeeded(what));
    }
    Ok(broken)
}

pub(super) fn capabilities(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["facts"])?;
    let mut broken = too_able(&told);
    let root = ground.root()?;
    match ground.start(&Ask::probe(root, &["bomb", "deaf"]))? {
        Ok(other) => {
            let told = ground.exec(&other, &["/probe", "facts"], None)?;
            broken.extend(too_able(&told).into_iter().map(|it| format!("exec: {it}")));
            ground.isolator().stop(&other)?;
        }
        Err(reason) => broken.push(format!("the payload did not run: {reason}")),
    }
    let told = ground.probe(&["cgroup-files"])?;
    broken.extend(ran(&told));
    broken.extend(told.all("writable").map(|path| format!("{path} can be written")));
    Ok(broken)
}

fn too_able(told: &Told) -> Vec<String> {
    let mut broken = ran(told);
    for name in ["CapInh", "CapAmb"] {
        let set = bits(told, name);
        if set != Some(0) {
            broken.push(format!("{name} is {set:x?}"));
        }
    }
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        match bits(told, name) {
            Some(set) if set & !CAPABILITIES == 0 => {}
            set => broken.push(format!("{name} is {set:x?}")),
        }
    }
    broken
}

fn bits(told: &Told, name: &str) -> Option<u64> {
    u64::from_str_radix(told.value(&format!("status {name}"))?, 16).ok()
}

pub(super) fn abstract_socket(ground: &mut Ground) -> io::Result<Vec<String>> {
    let name = format!("starling-escape-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let told = ground.probe(&["connect", &name])?;
    let mut broken = ran(&told);
    broken.extend(told.succeeded("connect"));
    // With the host's network it is there to be met, which is why none of ours may be.
    let root = ground.root()?;
    let ask = Ask { host_network: true, ..Ask::probe(root, &["connect", &name]) };
    let told = ground.run(&ask)?;
    if told.succeeded("connect").is_empty() {
        broken.push(format!("the socket could not be met even on the host's network: {told:?}"));
    }
    if ground.is_ours() {
        let sockets = fs::read_to_string("/proc/net/unix")?;
        let ours = sockets.lines().filter(|line| line.contains(" @") && line.contains("keeper"));
        broken.extend(ours.map(|line| format!("an abstract socket of ours: {line}")));
    }
    Ok(broken)
}

pub(super) fn keyring(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["keys"])?;
    let mut broken = ran(&told);
    broken.extend(told.succeeded("add_key"));
    for call in ["add_key", "keyctl", "request_key"] {
        broken.extend(answered(&told, call));
    }
    let read =
        told.all("read").filter(|line| line.contains("starling") || line.contains("keyring"));
    broken.extend(read.map(|line| format!("keys of the host: {line}")));
    Ok(broken)
}

/// A call that the kernel itself answered, and no filter before it.
fn answered(told: &Told, call: &str) -> Option<String> {
    let errno = told.value(&format!("call {call}")).unwrap_or("nothing");
    (!matches!(errno, "EPERM" | "ENOSYS")).then(|| format!("{call} is let through: {errno}"))
}

pub(super) fn terminal(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["tty"])?;
    let mut broken = ran(&told);
    broken.extend(told.succeeded("ioctl"));
    broken.extend(told.succeeded("open"));
    if told.value("sid") == Some("0") {
        broken.push("it is in a session of the host's".to_owned());
    }
    Ok(broken)
}

pub(super) fn neighbour(ground: &mut Ground) -> io::Result<Vec<String>> {
    let root = ground.root()?;
    let other = ground.start(&Ask::probe(&root, &["bomb", "deaf"]))?;
    let other = match other {
        Ok(other) => other,
        Err(reason) => return Ok(vec![format!("the neighbour did not run: {reason}")]),
    };
    let map = |pid: u32| fs::read_to_string(format!("/proc/{pid}/uid_map"));
    let pid = other.pid.to_string();
    let told = ground.run(&Ask::probe(&root, &["others", &pid]));
    let third = ground.start(&Ask::probe(&root, &["bomb", "deaf"]))?;
    let maps = map(other.pid)?;
    let mut broken = Vec::new();
    match third {
        Ok(third) => {
            if ground.is_ours() && map(third.pid)? == maps {
                broken.push(format!("two containers have the same users: {}", maps.trim()));
            }
            ground.isolator().stop(&third)?;
        }
        Err(reason) => broken.push(format!("the third did not run: {reason}")),
    }
    ground.isolator().stop(&other)?;
    let told = told?;
    broken.extend(ran(&told));
    for what in ["signal", "memory", "trace", "root", "environ"] {
        broken.extend(told.succeeded(what));
    }
    Ok(broken)
}

pub(super) fn namespaces(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["userns"])?;
    let mut broken = ran(&told);
    for what in ["clone", "clone3", "unshare", "mount"] {
        broken.extend(told.succeeded(what));
    }
    if told.value("clone3 user") != Some("ENOSYS") {
        broken.push("clone3, whose flags no filter sees, is there".to_owned());
    }
    Ok(broken)
}

pub(super) fn forbidden_calls(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["facts"])?;
    let mut broken = ran(&told);
    for (name, must) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        let is = told.value(&format!("status {name}")).unwrap_or("nothing");
        if is != must {
            broken.push(format!("{name} is {is}"));
        }
    }
    let calls = crate::sys::raw::FORBIDDEN.iter().map(|call| call.name);
    broken.extend(
        calls.filter(|name| !HARMLESS.contains(name)).filter_map(|name| answered(&told, name)),
    );
    Ok(broken)
}

pub(super) fn sockets(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["sockets"])?;
    let mut broken = ran(&told);
    broken.extend(told.succeeded("socket").into_iter().filter(|line| line.contains("vsock")));
    let foreign = told.all("interface").filter(|name| *name != "lo");
    // Devices that the kernel makes in every namespace lead nowhere.
    let foreign = foreign.filter(|name| !name.ends_with('0') || name.starts_with("eth"));
    broken.extend(foreign.map(|name| format!("an interface of the host: {name}")));
    Ok(broken)
}
