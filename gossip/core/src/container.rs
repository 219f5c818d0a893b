//! What a job says of a container.
//!
//! The words are Docker's. A field that is not said has Docker's default, or a
//! stricter one: there is always a user namespace and never a new privilege,
//! unless the job says so and the node allows it.

mod bad;
mod mount;
mod root;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::{BadNames, HostSpec, NamesSpec};

pub use bad::BadContainer;
use bad::{absolute, plain};
pub use mount::{DeviceSpec, MountSpec};
pub use root::{ImageSpec, Pull, RootSpec};
pub use trust::{Trust, Use, is_guarded};

/// The most mounts, ports, devices or sysctls of one container: far more than anybody has,
/// few enough to be set up in a moment.
pub const PARTS_MAX: usize = 128;

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
}
