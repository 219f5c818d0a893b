//! The words of `run` that make a container: Docker's, with Docker's meaning.
//!
//! Pure. What a path or a device is, only the node that runs it knows; what
//! can be known here is refused here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::{Args, ValueEnum};
use gossip_core::container::{
    ContainerSpec, DeviceSpec, MountSpec, NetworkSpec, PortSpec, RootSpec, Trust,
};
use gossip_core::resources::parse_bytes;

use crate::api::types::Complaint;

/// What a container is made of.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerArgs {
    /// Run a container over this directory or tar archive of whichever node
    #[arg(long, value_name = "DIR|TAR", value_parser = absolute, help_heading = "Container")]
    pub(crate) rootfs: Option<String>,
    /// Its network
    #[arg(long, alias = "net", value_enum, help_heading = "Container")]
    network: Option<NetworkWord>,
    /// Lead a port of the node into it: [IP:]HOST:CONTAINER[/udp], or PORT for both
    #[arg(short, long, value_name = "PORTS", value_parser = ports,
        help_heading = "Container")]
    publish: Vec<PortSpec>,
    /// Show a directory of the node, or a volume by name: SOURCE:TARGET[:ro]
    #[arg(short, long, value_parser = volume, help_heading = "Container")]
    volume: Vec<MountSpec>,
    /// Memory as files: TARGET[:size=64m,mode=1777]
    #[arg(long, value_parser = tmpfs, help_heading = "Container")]
    tmpfs: Vec<MountSpec>,
    /// Let it use a device of the node: SOURCE[:TARGET[:r]]
    #[arg(long, value_parser = device, help_heading = "Container")]
    device: Vec<DeviceSpec>,
    /// What it calls itself
    #[arg(long, value_name = "NAME", help_heading = "Container")]
    hostname: Option<String>,
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
}

/// A network by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkWord {
    /// One of its own on the node's bridge
    Bridge,
    /// The node's
    Host,
    /// One of its own with nothing but loopback
    None,
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
    /// Whether anything is said that only a container has, and no container.
    pub(crate) fn lacks_rootfs(&self) -> bool {
        self.rootfs.is_none() && *self != Self::default()
    }

    /// Refuses ports beside a network through which none is led: Docker lets them go with a
    /// warning, and somebody waits at a port that is not there.
    pub(crate) fn check_ports(&self) -> Result<(), Complaint> {
        let why = match self.network {
            Some(NetworkWord::Host) if !self.publish.is_empty() => {
                "--publish: with --network host its ports are the node's already"
            }
            Some(NetworkWord::None) if !self.publish.is_empty() => {
                "--publish: with --network none nothing leads there"
            }
            _ => return Ok(()),
        };
        let refused = Complaint::new("bad_spec", "this cannot be a job").because(why);
        Err(refused.hint("leave out -p, or --network: bridge is usual, and leads ports"))
    }

    /// The container that runs this; `None` if the words are of a plain process.
    pub(crate) fn spec(
        self,
        argv: Vec<String>,
        directory: Option<String>,
        user: Option<String>,
    ) -> Option<ContainerSpec> {
        let root = RootSpec::Path(self.rootfs?);
        let network = self.network.map_or(NetworkSpec::default(), |word| match word {
            NetworkWord::Bridge => NetworkSpec::Bridge,
            NetworkWord::Host => NetworkSpec::Host,
            NetworkWord::None => NetworkSpec::None,
        });
        let trust = self.trust.into_iter().map(|word| match word {
            TrustWord::HostIds => Trust::HostIds,
            TrustWord::AllCalls => Trust::AllCalls,
            TrustWord::SystemPaths => Trust::SystemPaths,
        });
        Some(ContainerSpec {
            directory,
            user,
            hostname: self.hostname,
            network,
            ports: self.publish,
            read_only: self.read_only,
            mounts: self.volume.into_iter().chain(self.tmpfs).collect(),
            devices: self.device,
            cap_add: self.cap_add.into_iter().collect(),
            cap_drop: self.cap_drop.into_iter().collect(),
            sysctls: self.sysctl.into_iter().collect::<BTreeMap<_, _>>(),
            init: self.init,
            shm_bytes: self.shm_size,
            trust: trust.collect(),
            ..ContainerSpec::new(root, argv)
        })
    }
}

/// A path of the node.
fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} must begin with /: it is a path of whichever node runs it"))
}

/// A path of the container.
fn target(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} must begin with /: it is a path in the container"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it like NAME=VALUE".to_owned()),
    }
}

/// `/srv/data:/data:ro` is a directory of the node, `data:/data` a volume.
fn volume(text: &str) -> Result<MountSpec, String> {
    let mut parts = text.split(':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() => {
            (source.to_owned(), self::target(target)?)
        }
        _ => return Err("write it like /srv/data:/data, or data:/data for a volume".to_owned()),
    };
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err("behind the target only :ro or :rw may stand".to_owned()),
    };
    if source.starts_with('/') {
        return Ok(MountSpec::Bind { source, target, read_only });
    }
    if source.contains('/') {
        return Err(format!("{source:?} is neither an absolute path nor a volume's name"));
    }
    Ok(MountSpec::Volume { name: source, target, read_only })
}

fn tmpfs(text: &str) -> Result<MountSpec, String> {
    let (at, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut bytes, mut mode) = (None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => bytes = Some(parse_bytes(size).map_err(|bad| bad.to_string())?),
            Some(("mode", octal)) => {
                let read = u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o7777);
                mode = Some(read.ok_or_else(|| format!("{octal:?} is no mode like 1777"))?);
            }
            // A container's tmpfs has these anyway.
            _ if matches!(option, "rw" | "nosuid" | "nodev" | "noexec" | "exec") => {}
            _ => return Err(format!("{option:?} is not known; write size=64m or mode=1777")),
        }
    }
    Ok(MountSpec::Tmpfs { target: target(at)?, bytes, mode })
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
    fn volumes_are_read_as_docker_reads_them() {
        let bind = |source: &str, read_only| MountSpec::Bind {
            source: source.into(),
            target: "/data".into(),
            read_only,
        };
        assert_eq!(volume("/srv:/data"), Ok(bind("/srv", false)));
        assert_eq!(volume("/srv:/data:ro"), Ok(bind("/srv", true)));
        let named =
            MountSpec::Volume { name: "db".into(), target: "/data".into(), read_only: false };
        assert_eq!(volume("db:/data:rw"), Ok(named));
        for bad in ["", "/data", ":/data", "/srv:data", "a/b:/data", "/srv:/data:x", "/a:/b:ro:z"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

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
    fn memory_and_devices_are_read_as_docker_reads_them() {
        let memory = tmpfs("/tmp:rw,size=64m,mode=1777");
        let wanted =
            MountSpec::Tmpfs { target: "/tmp".into(), bytes: Some(64 << 20), mode: Some(0o1777) };
        assert_eq!(memory, Ok(wanted));
        assert!(tmpfs("tmp").is_err() && tmpfs("/tmp:uid=0").is_err());
        let serial = device("/dev/ttyUSB0:/dev/modem:r").expect("a device");
        assert!(serial.read_only && serial.target.as_deref() == Some("/dev/modem"));
        assert!(device("ttyUSB0").is_err() && device("/dev/a:/dev/b:x").is_err());
    }
}
