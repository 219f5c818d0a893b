//! Network namespaces and the cables between them, made with `ip` of iproute2.
//!
//!     PREFIX-h1: eth0 ──┐
//!     PREFIX-h2: eth0 ──┼── h1 h2 h3 :PREFIX-fabric (the switch)
//!     PREFIX-h3: eth0 ──┘
//!
//! Cables are made directly between two namespaces, so the root namespace
//! never sees an interface or an address. Neighbours are written down rather
//! than asked for, because a question needs both directions and a one-way cut
//! would then cut both. Unless told otherwise each host sends single segments,
//! so that a lost frame is one packet and not 64 KiB of them.
//!
//! Threads enter a namespace themselves and start programs from there; `ip
//! netns exec` must never be used: it remounts /sys, which hides cgroups.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::mesh::Mac;
use super::{Fabric, Host, Segments};

/// Where iproute2 keeps the names.
const NAMES: &str = "/run/netns";
/// Bits of `CapEff`: CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN.
const NEEDED: [(&str, u32); 3] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21)];

/// Why namespaces or cables could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("network namespaces need root; this is uid {uid}")]
    NotRoot { uid: u32 },
    #[error("this root lacks {capability}")]
    Incapable { capability: &'static str },
    #[error("`ip` of iproute2 is not installed")]
    NoIproute { source: io::Error },
    #[error("`ip` failed: {said}")]
    Ip { said: String },
    #[error("cannot enter the network namespace {name}")]
    Enter { name: String, source: io::Error },
    #[error("namespaces called {prefix}-* are left over from an earlier fabric")]
    LeftOver { prefix: String },
}

/// Whether this process may build namespaces at all.
pub fn available() -> Result<(), NetnsError> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        let uid = uid.as_raw();
        return Err(NetnsError::NotRoot { uid });
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    for (capability, bit) in NEEDED {
        if effective & (1 << bit) == 0 {
            return Err(NetnsError::Incapable { capability });
        }
    }
    ip(None, "").map(drop)
}

/// Makes the namespaces of a fabric, and a cable from each to the switch's.
pub fn build(fabric: &Fabric) -> Result<(), NetnsError> {
    let hub = fabric.switch_namespace();
    if !existing(&fabric.prefix).is_empty() {
        let prefix = fabric.prefix.clone();
        return Err(NetnsError::LeftOver { prefix });
    }
    let mut make = format!("netns add {hub}\n");
    let mut cables = String::new();
    let mut lift = "link set lo up\n".to_owned();
    for (number, host) in (1..).zip(&fabric.hosts) {
        let (Some(namespace), name, mac) = (&host.namespace, &host.name, written(mac(number)))
        else {
            continue;
        };
        let _ = writeln!(make, "netns add {namespace}");
        let _ = writeln!(
            cables,
            "link add {name} netns {hub} type veth peer name eth0 address {mac} netns {namespace}"
        );
        let _ = writeln!(lift, "link set {name} addrgenmode none up");
    }
    ip(None, &make)?;
    ip(None, &cables)?;
    ip(Some(&hub), &lift)?;
    for host in &fabric.hosts {
        ip(host.namespace.as_deref(), &host_setup(fabric, host))?;
    }
    Ok(())
}

/// Removes every namespace and cable of a prefix. Their processes must be gone.
pub fn remove(prefix: &str) -> Result<(), NetnsError> {
    let names = existing(prefix);
    // A namespace goes some time after its name; a cable goes at once.
    let hub = format!("{prefix}-fabric");
    if names.contains(&hub) {
        let listed = ip(Some(&hub), "link show type veth\n")?;
        let cable = |line: &str| {
            let name = line.split(": ").nth(1)?.split('@').next()?;
            (!line.starts_with(' ')).then(|| format!("link del {name}\n"))
        };
        ip(Some(&hub), &listed.lines().filter_map(cable).collect::<String>())?;
    }
    let gone: String = names.iter().map(|name| format!("netns del {name}\n")).collect();
    ip(None, &gone).map(drop)
}

/// The names of a prefix's namespaces that exist.
pub fn existing(prefix: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')))
        .collect()
}

/// Moves the calling thread into a namespace, for good.
pub fn enter(name: &str) -> Result<(), NetnsError> {
    let kind = Some(LinkNameSpaceType::Network);
    File::open(path(name))
        .and_then(|file| Ok(move_into_link_name_space(file.as_fd(), kind)?))
        .map_err(|source| NetnsError::Enter { name: name.to_owned(), source })
}

/// Does some work on a thread inside a namespace: sockets opened and programs
/// started there belong to it.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let inside = || enter(name).map(|()| work());
    match thread::scope(|scope| scope.spawn(inside).join()) {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// What `/proc/PID/ns/net` of its processes points to: device and inode.
pub fn identity(name: &str) -> Option<(u64, u64)> {
    let facts = fs::metadata(path(name)).ok()?;
    Some((facts.dev(), facts.ino()))
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// The address of the host of this number (from 1): locally administered.
pub fn mac(number: usize) -> Mac {
    let [.., high, low] = number.to_be_bytes();
    [0x02, 0x83, 0, 0, high, low]
}

fn written(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn host_setup(fabric: &Fabric, host: &Host) -> String {
    let mut setup = format!(
        "link set lo up\n\
         link set eth0 addrgenmode none\n\
         addr add {}/24 dev eth0\n\
         link set eth0 up\n\
         route add 224.0.0.0/4 dev eth0\n",
        host.address
    );
    if fabric.segments == Segments::One {
        setup.push_str("link set eth0 gso_max_segs 1\n");
    }
    for (number, peer) in (1..).zip(&fabric.hosts) {
        if peer.name != host.name {
            let (address, mac) = (peer.address, written(mac(number)));
            let _ = writeln!(setup, "neigh replace {address} lladdr {mac} dev eth0 nud permanent");
        }
    }
    setup
}

/// Runs a batch of `ip` commands, in a namespace if one is given.
fn ip(namespace: Option<&str>, batch: &str) -> Result<String, NetnsError> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| NetnsError::NoIproute { source })?;
    let failed = |error: io::Error| NetnsError::Ip { said: error.to_string() };
    // It stops reading at the first failure, which it explains itself.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(batch.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(NetnsError::Ip { said })
}
