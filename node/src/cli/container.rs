//! The words of `run` that make a container: Docker's, with Docker's meaning.
//!
//! Pure. What a path or a device is, only the node that runs it knows; what
//! can be known here is refused here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::{Args, ValueEnum};
use gossip_core::container::{
    ContainerSpec, DeviceSpec, ImageSpec, MountSpec, NetworkSpec, PortSpec, Pull, RootSpec, Trust,
};
use gossip_core::resources::parse_bytes;

use crate::api::types::Complaint;
use crate::cli::mounts::{self, target};
use crate::cli::names::NamesArgs;
use crate::cli::security::{self, SecurityWord};

/// What a container is made of.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerArgs {
    /// Run a container over this directory or tar archive of whichever node
    #[arg(long, value_name = "DIR|TAR", value_parser = absolute, help_heading = "Container")]
    pub(crate) rootfs: Option<String>,
    /// What its image begins with, in place of the image's own entrypoint; "" for nothing
    #[arg(long, value_name = "PROGRAM", help_heading = "Container")]
    pub(crate) entrypoint: Option<String>,
    /// Its network: bridge, one of its own; host, the node's; none
    #[arg(long, alias = "net", value_parser = network, help_heading = "Container")]
    network: Option<NetworkSpec>,
    /// Lead a port of the node into it: [IP:]HOST:CONTAINER[/udp], or PORT for both
    #[arg(short, long, value_name = "PORTS", value_parser = ports,
        help_heading = "Container")]
    publish: Vec<PortSpec>,
    /// Show a directory of the node, or a volume by name: SOURCE:TARGET[:ro]
    #[arg(short, long, value_parser = mounts::volume, help_heading = "Container")]
    volume: Vec<MountSpec>,
    /// The same, and memory, in words: type=bind,source=/srv/data,target=/data,readonly
    #[arg(long, value_parser = mounts::mount, help_heading = "Container")]
    mount: Vec<MountSpec>,
    /// Memory as files: TARGET[:size=64m,mode=1777]
    #[arg(long, value_parser = mounts::tmpfs, help_heading = "Container")]
    tmpfs: Vec<MountSpec>,
    /// Let it use a device of the node: SOURCE[:TARGET[:r]]
    #[arg(long, value_parser = device, help_heading = "Container")]
    device: Vec<DeviceSpec>,
    /// What it calls itself
    #[arg(long, value_name = "NAME", help_heading = "Container")]
    hostname: Option<String>,
    #[command(flatten)]
    names: NamesArgs,
    /// Let nothing change its root
    #[arg(long, help_heading = "Container")]
    read_only: bool,
    /// Give it a capability, within its own ids, like NET_RAW or ALL
    #[arg(long, value_name = "CAP", help_heading = "Container")]
    cap_add: Vec<String>,
    /// Take a capability from it, like CHOWN or ALL
    #[arg(long, value_name = "CAP", help_heading = "Container")]
    cap_drop: Vec<String>,
    /// Set a kernel parameter of its own: net.ipv4.ip_forward=1
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair,
        help_heading = "Container")]
    sysctl: Vec<(String, String)>,
    /// Run a small first process that reaps what its program leaves behind
    #[arg(long, help_heading = "Container")]
    init: bool,
    /// Size of its /dev/shm, like 256m [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes,
        allow_hyphen_values = true, help_heading = "Container")]
    shm_size: Option<u64>,
    /// What only nodes with --trust-jobs grant
    #[arg(long, value_enum, help_heading = "Container")]
    trust: Vec<TrustWord>,
    /// Docker's words for that: seccomp=unconfined, systempaths=unconfined
    #[arg(long, value_name = "OPTION", value_parser = security::option,
        help_heading = "Container")]
    security_opt: Vec<SecurityWord>,
    /// When its image is asked for at its registry
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Container")]
    pull: Option<PullWord>,
    /// What its image must be made for: what nodes run anyway, like linux/amd64
    #[arg(long, value_parser = platform, help_heading = "Container")]
    platform: Option<String>,
}

/// When an image is pulled, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PullWord {
    /// When the cluster has none of that name
    Missing,
    /// Each time
    Always,
    /// Never
    Never,
}

/// What takes trust, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TrustWord {
    /// The node's own user ids: root is root
    HostIds,
    /// All system calls
    AllCalls,
    /// All of /proc and /sys
    SystemPaths,
}

impl ContainerArgs {
    /// Whether anything is said that only a container has.
    pub(crate) fn says_anything(&self) -> bool {
        *self != Self::default()
    }

    /// What is said of an image alone, where there is none.
    pub(crate) fn check_without_image(&self) -> Result<(), Complaint> {
        let flag = match (self.pull, &self.platform) {
            (Some(_), _) => "--pull",
            (None, Some(_)) => "--platform",
            (None, None) => return Ok(()),
        };
        Err(Complaint::new("bad_spec", "only an image has this")
            .because(format!("{flag}: --rootfs is a directory or a tar archive of the node"))
            .hint(format!("leave out {flag}, or name an image in place of --rootfs")))
    }

    /// The image of that name, asked for as is said.
    pub(crate) fn image(&self, name: String) -> ImageSpec {
        let pull = match self.pull {
            None | Some(PullWord::Missing) => Pull::Missing,
            Some(PullWord::Always) => Pull::Always,
            Some(PullWord::Never) => Pull::Never,
        };
        ImageSpec { pull, ..ImageSpec::named(name) }
    }

    /// Refuses ports beside a network through which none is led: Docker lets them go with a
    /// warning, and somebody waits at a port that is not there.
    pub(crate) fn check_ports(&self) -> Result<(), Complaint> {
        let why = match self.network {
            Some(NetworkSpec::Host) if !self.publish.is_empty() => {
                "--publish: with --network host its ports are the node's already"
            }
            Some(NetworkSpec::None) if !self.publish.is_empty() => {
                "--publish: with --network none nothing leads there"
            }
            _ => return Ok(()),
        };
        let refused = Complaint::new("bad_spec", "this cannot be a job").because(why);
        Err(refused.hint("leave out -p, or --network: bridge is usual, and leads ports"))
    }

    /// The container over these files that runs this.
    pub(crate) fn spec(
        self,
        root: RootSpec,
        argv: Vec<String>,
        directory: Option<String>,
        user: Option<String>,
    ) -> ContainerSpec {
        let trust = self.trust.into_iter().map(|word| match word {
            TrustWord::HostIds => Trust::HostIds,
            TrustWord::AllCalls => Trust::AllCalls,
            TrustWord::SystemPaths => Trust::SystemPaths,
        });
        let asked = self.security_opt.into_iter().filter_map(|word| match word {
            SecurityWord::Usual => None,
            SecurityWord::Trusted(trust) => Some(trust),
        });
        // An empty one is Docker's way to say that the image's is not wanted.
        let words =
            self.entrypoint.map(|word| if word.is_empty() { Vec::new() } else { vec![word] });
        let (entrypoint, argv) = match root {
            RootSpec::Image(_) => (words, argv),
            RootSpec::Path(_) => (None, words.into_iter().flatten().chain(argv).collect()),
        };
        ContainerSpec {
            entrypoint,
            directory,
            user,
            hostname: self.hostname,
            names: self.names.spec(),
            network: self.network.unwrap_or_default(),
            ports: self.publish,
            read_only: self.read_only,
            mounts: self.volume.into_iter().chain(self.mount).chain(self.tmpfs).collect(),
            devices: self.device,
            cap_add: self.cap_add.into_iter().collect(),
            cap_drop: self.cap_drop.into_iter().collect(),
            sysctls: self.sysctl.into_iter().collect::<BTreeMap<_, _>>(),
            init: self.init,
            shm_bytes: self.shm_size,
            trust: trust.chain(asked).collect(),
            ..ContainerSpec::new(root, argv)
        }
    }
}

/// A path of the node.
fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} must begin with /: it is a path of whichever node runs it"))
}

/// A network by name. Docker has more kinds, and people's own.
fn network(text: &str) -> Result<NetworkSpec, String> {
    match text {
        "bridge" | "default" => Ok(NetworkSpec::Bridge),
        "host" => Ok(NetworkSpec::Host),
        "none" => Ok(NetworkSpec::None),
        _ if text.starts_with("container:") => {
            Err("a network is not shared between two tasks; there are bridge, host and none"
                .to_owned())
        }
        _ => {
            Err("networks of one's own are not there yet; there are bridge, host and none"
                .to_owned())
        }
    }
}

/// What this program runs on, in Go's words, which are Docker's.
fn platform(text: &str) -> Result<String, String> {
    let here = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let said = text.strip_prefix("linux/").unwrap_or(text);
    if said == here || (here == "arm64" && said == "arm64/v8") {
        return Ok(text.to_owned());
    }
    Err(format!("nodes run what they are made for, like linux/{here}; nothing is emulated"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it like NAME=VALUE".to_owned()),
    }
}

fn device(text: &str) -> Result<DeviceSpec, String> {
    let mut parts = text.split(':');
    let source = absolute(parts.next().unwrap_or_default())?;
    let target = parts.next().map(target).transpose()?;
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw" | "rwm"), None) => false,
        (Some("r"), None) => true,
        _ => return Err("behind the target only :r or :rw may stand".to_owned()),
    };
    Ok(DeviceSpec { source, target, read_only })
}

/// `8080:80`, `127.0.0.1:8080:80/udp`, `[::1]:8080:80`, `80`.
fn ports(text: &str) -> Result<PortSpec, String> {
    let bad = || format!("{text:?} is no port; write it like 8080:80, 127.0.0.1:8080:80/udp or 80");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        _ => return Err(bad()),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (rest, container) = match ports.rsplit_once(':') {
        None => {
            let both = number(ports)?;
            return Ok(PortSpec { host_ip: None, host: both, container: both, udp });
        }
        Some((rest, container)) => (rest, number(container)?),
    };
    let (host_ip, host) = match rest.rsplit_once(':') {
        None => (None, number(rest)?),
        Some((ip, host)) => {
            let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
            (Some(ip.parse::<IpAddr>().map_err(|_not_an_address| bad())?), number(host)?)
        }
    };
    Ok(PortSpec { host_ip, host, container, udp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let port = |ip: Option<&str>, host, container, udp| PortSpec {
            host_ip: ip.map(|ip| ip.parse().expect("an address")),
            host,
            container,
            udp,
        };
        assert_eq!(ports("80"), Ok(port(None, 80, 80, false)));
        assert_eq!(ports("8080:80"), Ok(port(None, 8080, 80, false)));
        assert_eq!(ports("127.0.0.1:53:53/udp"), Ok(port(Some("127.0.0.1"), 53, 53, true)));
        assert_eq!(ports("[::1]:53:53"), Ok(port(Some("::1"), 53, 53, false)));
        for bad in ["", "0:80", "80:0", "a:80", "1:2:3", "80/sctp", "65536:80", "1.2.3.4:80"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_read_as_docker_reads_them() {
        let serial = device("/dev/ttyUSB0:/dev/modem:r").expect("a device");
        assert!(serial.read_only && serial.target.as_deref() == Some("/dev/modem"));
        assert!(device("ttyUSB0").is_err() && device("/dev/a:/dev/b:x").is_err());
    }
}
