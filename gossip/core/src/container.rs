//! What a job says of a container, and what of it only a trusting node runs.
//!
//! The words are Docker's. A field that is not said has Docker's default, or a
//! stricter one: there is always a user namespace and never a new privilege,
//! unless the job says so and the node allows it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::ContentHash;
use crate::names::{BadNames, HostSpec, NamesSpec};

/// The most mounts, ports, devices or sysctls of one container: far more than anybody has,
/// few enough to be set up in a moment.
pub const PARTS_MAX: usize = 128;

/// Longest name of an image: host and path, tag and digest at their longest.
const IMAGE_NAME_MAX: usize = 512;

/// A task with files, ids, processes and (mostly) a network of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContainerSpec {
    /// Where its files come from.
    pub root: RootSpec,
    /// The program and its arguments; looked up in the container's `PATH`. Over an image, the
    /// arguments of its entrypoint, in place of its own; none are its own.
    #[serde(default)]
    pub argv: Vec<String>,
    /// What comes before `argv`, in place of the image's entrypoint; an empty one is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The working directory in the container; `/` where none is given.
    #[serde(default)]
    pub directory: Option<String>,
    /// `USER[:GROUP]`, by name or number; root of its own ids where none is given.
    #[serde(default)]
    pub user: Option<String>,
    /// What it calls itself.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Names and resolvers of its own.
    #[serde(default, skip_serializing_if = "NamesSpec::is_empty")]
    pub names: NamesSpec,
    /// Its network.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Ports of the node that lead into it.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Whether its root may not be changed.
    #[serde(default)]
    pub read_only: bool,
    /// What else it sees, in this order.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Devices of the node.
    #[serde(default)]
    pub devices: Vec<DeviceSpec>,
    /// Capabilities beyond the default set, within its own ids.
    #[serde(default)]
    pub cap_add: BTreeSet<String>,
    /// Capabilities of the default set it does without.
    #[serde(default)]
    pub cap_drop: BTreeSet<String>,
    /// Kernel parameters of its own namespaces.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Whether a small first process reaps what its program leaves behind.
    #[serde(default)]
    pub init: bool,
    /// Bytes of `/dev/shm`; 64 MiB where none are given.
    #[serde(default)]
    pub shm_bytes: Option<u64>,
    /// What only a node that allows it grants.
    #[serde(default)]
    pub trust: BTreeSet<Trust>,
}

/// Where a container's files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootSpec {
    /// A directory, or a tar archive, of whichever node runs it. It is not changed.
    Path(String),
    /// An image.
    Image(ImageSpec),
}

/// The image that a container runs from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// What whoever submitted it called it: `nginx:1.27`.
    pub name: String,
    /// The SHA-256 of its config, which names all of its content: every copy, wherever and
    /// whenever it starts, runs the same. Found by whoever takes the submission, where it is
    /// not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ContentHash>,
    /// Bytes of its uncompressed layers: what a node that lacks it may have to fetch. Found
    /// with the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it is asked for at its registry.
    #[serde(default, skip_serializing_if = "Pull::is_usual")]
    pub pull: Pull,
}

/// When an image is asked for at its registry, at submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// When nobody here has one of that name.
    #[default]
    Missing,
    /// Each time: the name may mean another image by now.
    Always,
    /// Never: it is here, or the job is refused.
    Never,
}

impl Pull {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Which network a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkSpec {
    /// One of its own on the node's bridge.
    #[default]
    Bridge,
    /// The node's.
    Host,
    /// One of its own with nothing but loopback.
    None,
}

/// A port of the node that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortSpec {
    /// At this address of the node; at all where none is given.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host: u16,
    /// The container's port.
    pub container: u16,
    /// UDP instead of TCP.
    #[serde(default)]
    pub udp: bool,
}

/// Something else a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSpec {
    /// A file or directory of the node.
    Bind {
        /// On the node.
        source: String,
        /// In the container.
        target: String,
        /// Whether it may not be changed.
        #[serde(default)]
        read_only: bool,
    },
    /// A directory that the node keeps under this name, for whichever task names it.
    Volume {
        /// Its name.
        name: String,
        /// In the container.
        target: String,
        /// Whether it may not be changed.
        #[serde(default)]
        read_only: bool,
    },
    /// Memory as files.
    Tmpfs {
        /// In the container.
        target: String,
        /// Most that fits; half of the node's memory where none is given.
        #[serde(default)]
        bytes: Option<u64>,
        /// Permissions of its root; 1777 (octal) where none are given.
        #[serde(default)]
        mode: Option<u32>,
    },
}

/// A device of the node that a container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceSpec {
    /// On the node.
    pub source: String,
    /// In the container; the same where none is given.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether it may not be written.
    #[serde(default)]
    pub read_only: bool,
}

/// What a container gets only from a node that trusts its jobs with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// The node's own user ids: root is root.
    HostIds,
    /// All system calls.
    AllCalls,
    /// All of `/proc` and `/sys`.
    SystemPaths,
}

/// Why a container cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadContainer {
    /// A path that does not begin at a root.
    #[error("{field}: {path:?} is not an absolute path")]
    Path {
        /// Which field.
        field: &'static str,
        /// What it says.
        path: String,
    },
    /// A C string ends there.
    #[error("{field}: a NUL byte")]
    Nul {
        /// Which field.
        field: &'static str,
    },
    /// Nothing there.
    #[error("{field}: empty")]
    Empty {
        /// Which field.
        field: &'static str,
    },
    /// More than can be set up.
    #[error("{field}: {count}, and at most {PARTS_MAX} are possible")]
    Many {
        /// Which field.
        field: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Zero leads nowhere.
    #[error("ports: {host}:{container} has a port 0")]
    Port {
        /// The node's.
        host: u16,
        /// The container's.
        container: u16,
    },
    /// Ports of the node lead through the bridge only.
    #[error("ports: they need the network `bridge`")]
    Unreachable,
    /// Names that lead nowhere.
    #[error(transparent)]
    Names(#[from] BadNames),
    /// Not what images are called.
    #[error("image: {name:?} is no name of an image")]
    Image {
        /// The name.
        name: String,
    },
    /// A volume's name is a file name.
    #[error(
        "mounts: {name:?} is no name for a volume: 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot"
    )]
    Volume {
        /// The name.
        name: String,
    },
}

/// What may be done with a path of a node without the node's trust.
///
/// The node itself lies in these: who writes there is its root, and who reads there may learn
/// its keys.
const GUARDED: [&str; 15] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "proc", "root", "run", "sbin",
    "sys", "usr", "var",
];

/// What of those holds no secrets and is often wanted: programs, certificates, the time zone.
const READABLE: [&str; 12] = [
    "/bin",
    "/etc/ca-certificates",
    "/etc/localtime",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/timezone",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/usr",
    "/var/www",
];

/// What of those belongs to applications.
const OPEN: [&str; 4] = ["/var/opt", "/var/tmp", "/var/www", "/var/lib/machines"];

impl ContainerSpec {
    /// A container with the defaults of everything.
    pub fn new(root: RootSpec, argv: Vec<String>) -> Self {
        Self {
            root,
            argv,
            entrypoint: None,
            directory: None,
            user: None,
            hostname: None,
            names: NamesSpec::default(),
            network: NetworkSpec::default(),
            ports: Vec::new(),
            read_only: false,
            mounts: Vec::new(),
            devices: Vec::new(),
            cap_add: BTreeSet::new(),
            cap_drop: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            init: false,
            shm_bytes: None,
            trust: BTreeSet::new(),
        }
    }

    /// Whether it says an entrypoint that is one: Docker's `--entrypoint ""` takes the image's
    /// away and puts none in its place.
    pub fn has_entrypoint(&self) -> bool {
        self.entrypoint.as_ref().is_some_and(|words| words.first().is_some_and(|w| !w.is_empty()))
    }

    /// Checks what can be known anywhere; the node that runs it checks the rest.
    pub(crate) fn check(&self) -> Result<(), BadContainer> {
        match &self.root {
            RootSpec::Path(root) => absolute("root", root)?,
            RootSpec::Image(image) => image.check()?,
        }
        for (field, text) in [("user", &self.user), ("hostname", &self.hostname)] {
            text.as_ref().map_or(Ok(()), |text| plain(field, text))?;
        }
        if self.entrypoint.iter().flatten().any(|word| word.contains('\0')) {
            return Err(BadContainer::Nul { field: "entrypoint" });
        }
        self.directory.as_ref().map_or(Ok(()), |path| absolute("directory", path))?;
        for (field, count) in [
            ("ports", self.ports.len()),
            ("mounts", self.mounts.len()),
            ("devices", self.devices.len()),
            ("sysctls", self.sysctls.len()),
            ("cap-add", self.cap_add.len()),
            ("cap-drop", self.cap_drop.len()),
        ] {
            if count > PARTS_MAX {
                return Err(BadContainer::Many { field, count });
            }
        }
        if let Some(port) = self.ports.iter().find(|port| port.host == 0 || port.container == 0) {
            return Err(BadContainer::Port { host: port.host, container: port.container });
        }
        self.names.check()?;
        let is_node = |host: &HostSpec| host.address.is_none();
        if self.network == NetworkSpec::None && self.names.hosts.iter().any(is_node) {
            return Err(BadNames::NoNode.into());
        }
        if !self.ports.is_empty() && self.network != NetworkSpec::Bridge {
            return Err(BadContainer::Unreachable);
        }
        self.mounts.iter().try_for_each(MountSpec::check)?;
        for device in &self.devices {
            absolute("devices", &device.source)?;
            device.target.as_ref().map_or(Ok(()), |path| absolute("devices", path))?;
        }
        let sysctls = self.sysctls.iter().flat_map(|(name, value)| [name, value]);
        sysctls.into_iter().try_for_each(|text| plain("sysctls", text))?;
        self.cap_add.iter().try_for_each(|name| plain("cap-add", name))?;
        self.cap_drop.iter().try_for_each(|name| plain("cap-drop", name))
    }

    /// The image that it runs from, if it does.
    pub fn image(&self) -> Option<&ImageSpec> {
        match &self.root {
            RootSpec::Image(image) => Some(image),
            RootSpec::Path(_) => None,
        }
    }

    /// Why only a node that trusts its jobs with itself runs this; `None` if any does.
    pub fn needs_trust(&self) -> Option<String> {
        if let Some(trust) = self.trust.first() {
            return Some(match trust {
                Trust::HostIds => "it asks for the node's own user ids".to_owned(),
                Trust::AllCalls => "it asks for all system calls".to_owned(),
                Trust::SystemPaths => "it asks for all of /proc and /sys".to_owned(),
            });
        }
        if let RootSpec::Path(root) = &self.root
            && is_guarded(root, Use::Read)
        {
            return Some(format!("it asks to read all of {root}"));
        }
        self.mounts.iter().find_map(|mount| match mount {
            MountSpec::Bind { source, read_only, .. } => {
                let how = if *read_only { Use::Read } else { Use::Write };
                let word = if *read_only { "read" } else { "write" };
                is_guarded(source, how).then(|| format!("it asks to {word} in {source}"))
            }
            _ => None,
        })
    }
}

impl ImageSpec {
    /// The image that is called so, whichever that is when somebody takes the job.
    pub fn named(name: String) -> Self {
        Self { name, id: None, bytes: None, pull: Pull::Missing }
    }

    /// What any name must be; its grammar is the isolator's to know.
    pub(crate) fn check(&self) -> Result<(), BadContainer> {
        plain("image", &self.name)?;
        let printable = self.name.bytes().all(|byte| byte.is_ascii_graphic());
        if self.name.len() <= IMAGE_NAME_MAX && printable {
            return Ok(());
        }
        Err(BadContainer::Image { name: self.name.chars().take(IMAGE_NAME_MAX).collect() })
    }
}

impl MountSpec {
    fn check(&self) -> Result<(), BadContainer> {
        match self {
            Self::Bind { source, target, .. } => {
                absolute("mounts", source).and_then(|()| absolute("mounts", target))
            }
            Self::Volume { name, target, .. } => {
                let sound = (1..=64).contains(&name.len())
                    && !name.starts_with('.')
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
                if !sound {
                    return Err(BadContainer::Volume { name: name.clone() });
                }
                absolute("mounts", target)
            }
            Self::Tmpfs { target, .. } => absolute("mounts", target),
        }
    }
}

fn plain(field: &'static str, text: &str) -> Result<(), BadContainer> {
    if text.is_empty() {
        return Err(BadContainer::Empty { field });
    }
    if text.contains('\0') { Err(BadContainer::Nul { field }) } else { Ok(()) }
}

fn absolute(field: &'static str, path: &str) -> Result<(), BadContainer> {
    plain(field, path)?;
    if path.starts_with('/') {
        return Ok(());
    }
    Err(BadContainer::Path { field, path: path.to_owned() })
}

/// What a task does with a path of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Reads it.
    Read,
    /// Changes it.
    Write,
}

/// Whether only a node that trusts its jobs with itself lets a task do that with a path.
///
/// Judged by the path alone, so whoever asks has resolved it: with a link in it, or dots, or
/// a doubled slash, it counts as guarded.
pub fn is_guarded(path: &str, how: Use) -> bool {
    let odd = |part: &str| matches!(part, "" | "." | "..");
    let trimmed = path.trim_end_matches('/');
    let Some(inside) = trimmed.strip_prefix('/') else { return true };
    if inside.split('/').any(odd) {
        return true;
    }
    let below = |tops: &[&str]| {
        let rest = tops.iter().filter_map(|top| trimmed.strip_prefix(top));
        rest.into_iter().any(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if below(&OPEN) || (how == Use::Read && below(&READABLE)) {
        return false;
    }
    let first = inside.split('/').next().unwrap_or_default();
    GUARDED.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> ContainerSpec {
        ContainerSpec::new(RootSpec::Path("/srv/root".into()), vec!["true".into()])
    }

    fn bind(source: &str, read_only: bool) -> MountSpec {
        MountSpec::Bind { source: source.into(), target: "/data".into(), read_only }
    }

    #[test]
    fn a_flaw_is_named_by_its_field() {
        type Spoil = fn(&mut ContainerSpec);
        let cases: [(Spoil, &str); 11] = [
            (|c| c.root = RootSpec::Path("x".into()), "root"),
            (|c| c.directory = Some("x".into()), "directory"),
            (|c| c.user = Some(String::new()), "user"),
            (|c| c.hostname = Some("a\0".into()), "hostname"),
            (|c| c.mounts = vec![bind("data", false)], "mounts"),
            (|c| c.names.search = vec!["a b".into()], "names.search"),
            (
                |c| {
                    c.network = NetworkSpec::None;
                    c.names.hosts = vec![HostSpec { name: "node".into(), address: None }];
                },
                "names.hosts",
            ),
            (
                |c| c.ports = vec![PortSpec { host_ip: None, host: 0, container: 1, udp: false }],
                "ports",
            ),
            (
                |c| {
                    c.network = NetworkSpec::Host;
                    c.ports = vec![PortSpec { host_ip: None, host: 1, container: 1, udp: false }];
                },
                "ports",
            ),
            (
                |c| {
                    c.devices =
                        vec![DeviceSpec { source: "x".into(), target: None, read_only: false }]
                },
                "devices",
            ),
            (|c| c.mounts = vec![bind("/x", false); PARTS_MAX + 1], "mounts"),
        ];
        assert_eq!(container().check(), Ok(()));
        for (spoil, field) in cases {
            let mut spoilt = container();
            spoil(&mut spoilt);
            let flaw = spoilt.check().expect_err(field).to_string();
            assert!(flaw.starts_with(&format!("{field}:")), "{flaw}");
        }
    }

    #[test]
    fn who_could_write_the_node_itself_needs_trust() {
        let mut container = container();
        for (source, read_only, trusted) in [
            ("/srv/data", false, false),
            ("/data", false, false),
            ("/etc", true, true),
            ("/etc", false, true),
            ("/etc/cron.d", false, true),
            ("/etc/localtime", true, false),
            ("/etc/localtime", false, true),
            ("/etc/localtimes", true, true),
            ("/usr/share", true, false),
            ("/usr/share", false, true),
            ("/home/me", true, true),
            ("/run/docker.sock", true, true),
            ("/var/lib/starling", true, true),
            ("/var/tmp/x", false, false),
            ("/", true, true),
            ("//", false, true),
            ("/srv/../etc", false, true),
            ("/srv//x", false, true),
            ("/variety", false, false),
        ] {
            container.mounts = vec![bind(source, read_only)];
            assert_eq!(container.needs_trust().is_some(), trusted, "{source}");
        }
        container.root = RootSpec::Path("/".into());
        container.mounts.clear();
        assert!(container.needs_trust().is_some());
        container.root = RootSpec::Path("/var/lib/machines/debian".into());
        assert_eq!(container.needs_trust(), None);
        container.mounts.clear();
        container.trust.insert(Trust::HostIds);
        assert!(container.needs_trust().is_some());
    }
}
