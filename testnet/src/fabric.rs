//! The record of one fabric: which hosts it has and where everything is.
//!
//!     DIR/fabric.json   this record: written first, removed last
//!     DIR/switch.sock   where the switch takes its orders
//!     DIR/log/          what was started, and what it said
//!     DIR/host1/ ...    each agent's own data and socket
//!
//! Later commands find everything through the record, and whatever was built
//! can be taken down from it, however far `up` came. The prefix of namespace
//! names is derived from the directory, so even a lost directory names what it
//! left behind. Must never be created over an existing record.

pub mod agent;
pub mod amount;
pub mod control;
pub mod hosts;
pub mod link;
pub mod mesh;
pub mod netns;
mod procfs;
pub mod sweep;
pub mod switch;

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::link::Faults;

/// Hosts on one fabric at most: what one subnet of a /24 addresses.
pub const HOSTS_MAX: usize = 200;
/// The port between members, on every host.
pub const MEMBER_PORT: u16 = 7827;
/// A Unix socket's path, its terminator included, must fit into 108 bytes.
const SOCKET_PATH_MAX: usize = 107;
const RECORD: &str = "fabric.json";
const VERSION: u32 = 1;

/// Why there is no record to work with.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    #[error("no fabric is up in {}", dir.display())]
    NothingUp { dir: PathBuf },
    #[error("a fabric of {hosts} hosts is already up in {}", dir.display())]
    AlreadyUp { dir: PathBuf, hosts: usize },
    #[error("{} exists and is not an empty directory of this user", dir.display())]
    NotOurs { dir: PathBuf },
    #[error("the record in {} was made elsewhere or by another user", dir.display())]
    Foreign { dir: PathBuf },
    #[error("{} is too long for a socket path of at most {SOCKET_PATH_MAX} bytes", path.display())]
    PathTooLong { path: PathBuf },
    #[error("{hosts} hosts are not between 1 and {HOSTS_MAX}")]
    HostCount { hosts: usize },
    #[error("no host is called {given:?} (there are {first} to {last})")]
    NoSuchHost { given: String, first: String, last: String },
    #[error("{} is not a fabric's record", path.display())]
    BadRecord { path: PathBuf, source: serde_json::Error },
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What the hosts stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// A network namespace per host and a switch between them; needs root.
    Netns,
    /// Addresses of the loopback interface: processes can be tormented, links cannot.
    Loopback,
}

/// How much a host's kernel hands over as one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segments {
    /// A packet, so that a lost frame is one packet, as on a wire.
    One,
    /// Up to 64 KiB still to be cut into packets: some twenty times the
    /// throughput, but a fault then befalls all of it.
    Many,
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub address: Ipv4Addr,
    pub data: PathBuf,
    pub socket: PathBuf,
    /// Its network namespace, as `ip netns` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What a fabric is to be.
#[derive(Debug)]
pub struct Plan {
    pub dir: PathBuf,
    pub hosts: usize,
    pub ground: Ground,
    pub segments: Segments,
    pub seed: u64,
    /// The faults every link starts with and heals back to.
    pub baseline: Faults,
    /// The agent's binary; `None` for a fabric without agents.
    pub starling: Option<PathBuf>,
}

/// A fabric that is up, or on its way up or down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fabric {
    version: u32,
    pub ground: Ground,
    pub segments: Segments,
    pub dir: PathBuf,
    pub prefix: String,
    pub seed: u64,
    pub baseline: Faults,
    pub starling: Option<PathBuf>,
    pub hosts: Vec<Host>,
}

impl Fabric {
    /// Claims the directory and writes the record. Nothing runs yet.
    pub fn create(plan: Plan) -> Result<Self, FabricError> {
        if !(1..=HOSTS_MAX).contains(&plan.hosts) {
            return Err(FabricError::HostCount { hosts: plan.hosts });
        }
        let dir = claim(&plan.dir)?;
        let prefix = prefix_of(&dir);
        let host = |number| host(&dir, plan.ground, &prefix, number);
        let hosts: Vec<Host> = (1..=plan.hosts).map(host).collect();
        if let Some(long) = hosts.last().map(|host| &host.socket)
            && long.as_os_str().len() > SOCKET_PATH_MAX
        {
            let path = long.clone();
            return Err(FabricError::PathTooLong { path });
        }
        let fabric = Self {
            version: VERSION,
            ground: plan.ground,
            segments: plan.segments,
            prefix,
            seed: plan.seed,
            baseline: plan.baseline,
            starling: plan.starling,
            hosts,
            dir,
        };
        fabric.write()?;
        Ok(fabric)
    }

    /// Finds the fabric that is up in `dir`.
    pub fn open(dir: &Path) -> Result<Self, FabricError> {
        let path = dir.join(RECORD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let dir = dir.to_owned();
                return Err(FabricError::NothingUp { dir });
            }
            Err(source) => return Err(FabricError::Io { path, source }),
        };
        let fabric: Self = serde_json::from_slice(&text)
            .map_err(|source| FabricError::BadRecord { path, source })?;
        // The record says what to kill and what to delete, so it must be this
        // user's, and speak of the place where it lies.
        let owner = fs::metadata(dir).map(|facts| facts.uid()).ok();
        let ours = owner == Some(rustix::process::geteuid().as_raw());
        if !ours || dir.canonicalize().ok().as_ref() != Some(&fabric.dir) {
            return Err(FabricError::Foreign { dir: dir.to_owned() });
        }
        Ok(fabric)
    }

    /// A host by its name or number.
    pub fn host(&self, given: &str) -> Result<&Host, FabricError> {
        let named = |host: &&Host| host.name == given || host.name.strip_prefix('h') == Some(given);
        self.hosts.iter().find(named).ok_or_else(|| {
            let name =
                |host: Option<&Host>| host.map_or_else(String::new, |host| host.name.clone());
            FabricError::NoSuchHost {
                given: given.to_owned(),
                first: name(self.hosts.first()),
                last: name(self.hosts.last()),
            }
        })
    }

    /// The namespace that holds the switch and its ends of the cables.
    pub fn switch_namespace(&self) -> String {
        format!("{}-fabric", self.prefix)
    }

    /// Where the switch takes its orders.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("switch.sock")
    }

    /// Where the output of `what` goes.
    pub fn log(&self, what: &str) -> PathBuf {
        self.dir.join("log").join(format!("{what}.log"))
    }

    /// Whether the record is still there.
    pub fn stands(&self) -> bool {
        self.dir.join(RECORD).exists()
    }

    fn write(&self) -> Result<(), FabricError> {
        let path = self.dir.join(RECORD);
        let io = |source| FabricError::Io { path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|bad| io(bad.into()))?;
        text.push(b'\n');
        // A new file only: of two that claim the same directory, one wins.
        let mut file = match File::create_new(&path) {
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {
                return Err(FabricError::AlreadyUp {
                    dir: self.dir.clone(),
                    hosts: Self::open(&self.dir).map_or(0, |fabric| fabric.hosts.len()),
                });
            }
            file => file.map_err(io)?,
        };
        file.write_all(&text).map_err(io)?;
        private_dir(&self.dir.join("log")).map_err(io)
    }
}

/// `stn-` and a hash (FNV-1a) of the directory: the same for every command,
/// different for every fabric.
pub fn prefix_of(dir: &Path) -> String {
    let bytes = dir.as_os_str().as_bytes().iter();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("stn-{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

fn host(dir: &Path, ground: Ground, prefix: &str, number: usize) -> Host {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    let data = dir.join(format!("host{number}"));
    let name = format!("h{number}");
    Host {
        address: match ground {
            Ground::Netns => Ipv4Addr::new(10, 83, 0, last),
            Ground::Loopback => Ipv4Addr::new(127, 83, 0, last),
        },
        namespace: match ground {
            Ground::Netns => Some(format!("{prefix}-{name}")),
            Ground::Loopback => None,
        },
        socket: data.join("api.sock"),
        data,
        name,
    }
}

/// Makes the directory, or takes an empty one of this user's; gives its real path.
fn claim(dir: &Path) -> Result<PathBuf, FabricError> {
    let io = |source| FabricError::Io { path: dir.to_owned(), source };
    private_dir(dir).map_err(io)?;
    let real = dir.canonicalize().map_err(io)?;
    if let Ok(up) = Fabric::open(&real) {
        return Err(FabricError::AlreadyUp { dir: real, hosts: up.hosts.len() });
    }
    // Anyone may make names in /tmp: a link or another user's directory there is a trap.
    let facts = fs::symlink_metadata(dir).map_err(io)?;
    let mine = facts.is_dir() && facts.uid() == rustix::process::geteuid().as_raw();
    let empty = fs::read_dir(&real).map_err(io)?.next().is_none();
    if !mine || !empty {
        return Err(FabricError::NotOurs { dir: real });
    }
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&real, private).map_err(io)?;
    Ok(real)
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_differ_and_stay_short() {
        let (one, two) = (prefix_of(Path::new("/tmp/one")), prefix_of(Path::new("/tmp/two")));
        assert_ne!(one, two);
        assert_eq!(one, prefix_of(Path::new("/tmp/one")));
        assert_eq!(one.len(), "stn-01234567".len());
    }

    #[test]
    fn a_second_fabric_is_refused_and_hosts_are_found_by_name_or_number() {
        let dir = std::env::temp_dir().join(format!("testnet-record-{}", std::process::id()));
        let plan = || Plan {
            dir: dir.clone(),
            hosts: 3,
            ground: Ground::Loopback,
            segments: Segments::One,
            seed: 1,
            baseline: Faults::default(),
            starling: None,
        };
        let fabric = Fabric::create(plan()).expect("an empty directory can be claimed");
        let again = Fabric::create(plan());
        assert!(matches!(again, Err(FabricError::AlreadyUp { hosts: 3, .. })));
        let found = Fabric::open(&dir).expect("the record reads back");
        let moved = dir.with_extension("moved");
        fs::rename(&dir, &moved).expect("ours");
        assert!(matches!(Fabric::open(&moved), Err(FabricError::Foreign { .. })));
        fs::rename(&moved, &dir).expect("ours");
        for given in ["h3", "3"] {
            let host = found.host(given).expect("known");
            assert_eq!(host.address, Ipv4Addr::new(127, 83, 0, 3));
        }
        assert!(found.host("h4").is_err() && found.host("").is_err());
        fs::remove_file(dir.join(RECORD)).expect("the record can go");
        assert!(matches!(Fabric::create(plan()), Err(FabricError::NotOurs { .. })));
        fs::remove_dir_all(&fabric.dir).expect("the directory can go");
    }
}
