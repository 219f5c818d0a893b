//! What will be done to the host, as a list that a person can read first.
//!
//! Pure: from what was asked and what the host has to steps in order. The executor
//! does one after the other and adds nothing; the undoing of a task is planned in
//! the same way, so both can be compared without touching a kernel.
//!
//! Everything of ours carries the tag in its name: bridge `star-TAG`, table
//! `starling-TAG`, cables `vTAG-N`, where N is the container's number in the
//! subnet. Agents with different tags on one host never touch each other's, but for the
//! networks of agents that are no more.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::container::{Protocol, Publish};

use super::addresses::{Mac, Prefix6, Subnet, choose};
use super::publish::{PublishError, limited_to, speaks};
use super::route::{Host, Link};

/// Interface names have 15 bytes: `v`, tag, dash, a number of up to five hex digits.
const TAG_BYTES: usize = 8;
/// How the names of our bridges begin.
const BRIDGE: &str = "star-";
/// What the interface is called inside a container.
pub(super) const INSIDE: &str = "eth0";
/// What Ethernet carries when nobody says otherwise.
const MTU: u32 = 1500;
/// Below this IPv4 itself does not work everywhere.
const MTU_MIN: u32 = 576;

/// The names of one agent's network on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    tag: String,
    pub(super) bridge: String,
    pub(super) table: String,
}

/// A tag that cannot be part of an interface's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no network tag: 1 to {TAG_BYTES} of a-z and 0-9")]
pub struct BadTag {
    /// What was given.
    pub given: String,
}

impl Names {
    pub(super) fn new(tag: &str) -> Result<Self, BadTag> {
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(1..=TAG_BYTES).contains(&tag.len()) || !tag.bytes().all(fine) {
            return Err(BadTag { given: tag.to_owned() });
        }
        Ok(Self {
            tag: tag.to_owned(),
            bridge: format!("{BRIDGE}{tag}"),
            table: format!("starling-{tag}"),
        })
    }

    /// The host's end of the cable to a container.
    pub(super) fn cable(&self, subnet: Subnet, address: Ipv4Addr) -> String {
        format!("v{}-{:x}", self.tag, subnet.number(address))
    }

    /// The number of a cable of ours.
    pub(super) fn cable_number(&self, name: &str) -> Option<u32> {
        let hex = name.strip_prefix('v')?.strip_prefix(&self.tag)?.strip_prefix('-')?;
        u32::from_str_radix(hex, 16).ok()
    }
}

/// A kind of IP. The kernel keeps its rules apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// A published port as the rules know it. Its kind of IP is that of `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) protocol: Protocol,
    /// The host's address it is limited to.
    pub(super) at: Option<IpAddr>,
    pub(super) host_port: u16,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

impl Redirect {
    pub(super) fn family(&self) -> Family {
        if self.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// A container's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) four: Ipv4Addr,
    pub(super) six: Option<Ipv6Addr>,
}

/// One thing done to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forward,
    Forward6,
    Bridge { name: String, mtu: u32 },
    Address { link: String, address: Ipv4Addr, subnet: Subnet },
    Raise { link: String, mac: Mac, alias: String },
    Localnet { bridge: String },
    Table { name: String, bridge: String, subnet: Subnet },
    Address6 { link: String, prefix: Prefix6 },
    Table6 { name: String, bridge: String, prefix: Prefix6 },
    Cable { near: String, task: String, mac: Mac, mtu: u32 },
    Inside { addresses: Addresses, subnet: Subnet, prefix: Option<Prefix6> },
    Publish { task: String, redirect: Redirect },
    ForgetPorts { ports: BTreeSet<u16> },
    Withdraw { task: String },
    Unplug { near: String },
    ForgetAddress { address: IpAddr },
    RemoveTable { name: String },
    RemoveBridge { name: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward => f.write_str("switch on net.ipv4.ip_forward"),
            Self::Bridge { name, mtu } => write!(f, "make bridge {name} mtu {mtu}"),
            Self::Address { link, address, subnet } => {
                write!(f, "give {link} {address}/{}", subnet.prefix())
            }
            Self::Raise { link, mac, .. } => write!(f, "start {link} as {mac}"),
            Self::Localnet { bridge } => {
                write!(f, "switch on net.ipv4.conf.{bridge}.route_localnet")
            }
            Self::Table { name, subnet, .. } => {
                write!(f, "make table {name}, which masquerades {subnet}")
            }
            Self::Forward6 => f.write_str("switch on net.ipv6.conf.all.forwarding"),
            Self::Address6 { link, prefix } => {
                write!(f, "give {link} {}/{}", prefix.gateway(), Prefix6::BITS)
            }
            Self::Table6 { name, prefix, .. } => {
                write!(f, "make table {name} of IPv6, which masquerades {prefix}")
            }
            Self::Cable { near, task, mac, .. } => {
                write!(f, "lay cable {near} to {INSIDE} {mac} of {task}")
            }
            Self::Inside { addresses: Addresses { four, six }, subnet, .. } => {
                let (bits, gateway) = (subnet.prefix(), subnet.gateway());
                write!(f, "inside, give {INSIDE} {four}/{bits} and a route by {gateway}")?;
                six.map_or(Ok(()), |six| write!(f, "; and {six}"))
            }
            Self::Publish {
                redirect: Redirect { protocol, at, host_port, address, port }, ..
            } => {
                let at = at.map(|at| format!("{}:", Shown(at))).unwrap_or_default();
                write!(f, "send {protocol} {at}{host_port} to {}:{port}", Shown(*address))
            }
            Self::ForgetPorts { ports } => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(f, "forget conversations with udp {}", ports.join(", "))
            }
            Self::Withdraw { task } => write!(f, "close the ports of {task}"),
            Self::Unplug { near } => write!(f, "remove cable {near}"),
            Self::ForgetAddress { address } => write!(f, "forget conversations with {address}"),
            Self::RemoveTable { name } => write!(f, "remove table {name}"),
            Self::RemoveBridge { name } => write!(f, "remove bridge {name}"),
        }
    }
}

/// An address beside a port.
struct Shown(IpAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// Why no bridge can be planned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// What was asked for is used by the host.
    #[error(
        "the subnet {subnet} for containers overlaps the host's route to {route}; choose \
             another one"
    )]
    Collides {
        /// What was asked for.
        subnet: Subnet,
        /// What the host has.
        route: Subnet,
    },
    /// Every candidate is used by the host.
    #[error("the host has routes to every subnet that containers could have; choose one for them")]
    NoSubnet,
    /// The bridge is there, with another subnet.
    #[error(
        "the bridge {bridge} has the subnet {present}, not {wanted}; end all tasks on it first"
    )]
    Differs {
        /// Its name.
        bridge: String,
        /// What it has.
        present: Subnet,
        /// What was asked for.
        wanted: Subnet,
    },
}

/// The network of this host: what it will be, and the steps to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) subnet: Subnet,
    pub(super) mtu: u32,
    pub(super) steps: Vec<Step>,
}

/// Plans the bridge and its table. What is there already is put right, and a bridge
/// of ours keeps its subnet, which its containers know. `home` is written on it.
pub(super) fn base(
    names: &Names,
    home: &str,
    wanted: Option<Subnet>,
    host: &Host,
    forwards: bool,
) -> Result<Base, PlanError> {
    let bridge = host.link(&names.bridge);
    let present = bridge.and_then(|bridge| {
        let own = host.addresses.iter().find(|(index, ..)| *index == bridge.index);
        own.map(|(_, address, prefix)| Subnet::around(*address, *prefix))
    });
    let subnet = match (present, wanted) {
        (Some(present), Some(wanted)) if present != wanted => {
            let bridge = names.bridge.clone();
            return Err(PlanError::Differs { bridge, present, wanted });
        }
        (Some(present), _) => present,
        (None, wanted) => vacant(wanted, host)?,
    };
    let mtu = mtu(host);
    let name = names.bridge.clone();
    let mut steps = Vec::new();
    if !forwards {
        steps.push(Step::Forward);
    }
    let gateway = subnet.gateway();
    steps.extend([
        Step::Bridge { name: name.clone(), mtu },
        Step::Raise { link: name.clone(), mac: Mac::of(gateway), alias: home.to_owned() },
        Step::Address { link: name.clone(), address: gateway, subnet },
        Step::Localnet { bridge: name },
        table(names, subnet),
    ]);
    Ok(Base { subnet, mtu, steps })
}

/// Plans the bridge's IPv6, for a host that has it. Behind [`base`], and apart: where one
/// of these steps fails, containers have IPv4 only.
pub(super) fn base6(names: &Names, prefix: Prefix6, forwards: bool) -> Vec<Step> {
    let link = names.bridge.clone();
    let forward = (!forwards).then_some(Step::Forward6);
    forward.into_iter().chain([Step::Address6 { link, prefix }, table6(names, prefix)]).collect()
}

/// The same for IPv6.
pub(super) fn table6(names: &Names, prefix: Prefix6) -> Step {
    Step::Table6 { name: names.table.clone(), bridge: names.bridge.clone(), prefix }
}

/// The table with all that does not belong to a task.
pub(super) fn table(names: &Names, subnet: Subnet) -> Step {
    Step::Table { name: names.table.clone(), bridge: names.bridge.clone(), subnet }
}

fn vacant(wanted: Option<Subnet>, host: &Host) -> Result<Subnet, PlanError> {
    // The default route goes everywhere, and hides nothing.
    let taken: Vec<Subnet> =
        host.routes.iter().map(|route| route.to).filter(|to| to.prefix() > 0).collect();
    let Some(subnet) = wanted else {
        return choose(&taken).ok_or(PlanError::NoSubnet);
    };
    match taken.into_iter().find(|route| route.overlaps(subnet)) {
        Some(route) => Err(PlanError::Collides { subnet, route }),
        None => Ok(subnet),
    }
}

/// Containers send no larger packets than the host's way out carries: routers on it
/// that keep silent about larger ones are the hardest fault to find.
fn mtu(host: &Host) -> u32 {
    let outward = host.routes.iter().filter(|route| route.to.prefix() == 0);
    let carried = outward.filter_map(|route| {
        host.links.iter().find(|link| Some(link.index) == route.by).map(|link| link.mtu)
    });
    carried.min().map_or(MTU, |mtu| mtu.clamp(MTU_MIN, MTU))
}

/// Plans a task's way onto the bridge. The cable comes before the rules: a port that
/// answers is a port that leads somewhere.
pub(super) fn attach(
    names: &Names,
    base: (Subnet, Option<Prefix6>, u32),
    task: &str,
    address: Ipv4Addr,
    publish: &[Publish],
) -> Result<Vec<Step>, PublishError> {
    let (subnet, prefix, mtu) = base;
    let near = names.cable(subnet, address);
    let addresses = addresses(subnet, prefix, address);
    let mut steps = vec![
        Step::Cable { near, task: task.to_owned(), mac: Mac::of(address), mtu },
        Step::Inside { addresses, subnet, prefix },
    ];
    let redirects = redirects(addresses, publish)?.into_iter();
    steps.extend(redirects.map(|redirect| Step::Publish { task: task.to_owned(), redirect }));
    let datagrams = publish.iter().filter(|one| one.protocol == Protocol::Udp);
    let ports: BTreeSet<u16> = datagrams.map(|one| one.host_port).collect();
    if !ports.is_empty() {
        steps.push(Step::ForgetPorts { ports });
    }
    Ok(steps)
}

/// Where published ports lead.
pub(super) fn redirects(
    Addresses { four, six }: Addresses,
    publish: &[Publish],
) -> Result<Vec<Redirect>, PublishError> {
    let mut redirects = Vec::new();
    for one in publish {
        let Publish { protocol, host_port, port, .. } = *one;
        let at = limited_to(one)?;
        if six.is_none() && at.is_some_and(|at| at.is_ipv6()) {
            return Err(PublishError::NoIpv6 { publish: one.clone() });
        }
        let four = speaks(one, Family::V4).then_some(IpAddr::V4(four));
        let six = six.filter(|_| speaks(one, Family::V6)).map(IpAddr::V6);
        let to = four.into_iter().chain(six);
        redirects.extend(to.map(|address| Redirect { protocol, at, host_port, address, port }));
    }
    Ok(redirects)
}

/// Both addresses of a container: they end in the same number.
pub(super) fn addresses(subnet: Subnet, prefix: Option<Prefix6>, four: Ipv4Addr) -> Addresses {
    Addresses { four, six: prefix.map(|prefix| prefix.nth(subnet.number(four))) }
}

/// Plans a task's way off the bridge, whose ports spoke these protocols: no new visitors, then no cable, then nobody
/// who still thinks it is there.
pub(super) fn detach(
    names: &Names,
    (subnet, prefix): (Subnet, Option<Prefix6>),
    task: &str,
    address: Ipv4Addr,
    spoken: &BTreeSet<Protocol>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if !spoken.is_empty() {
        steps.push(Step::Withdraw { task: task.to_owned() });
    }
    steps.push(Step::Unplug { near: names.cable(subnet, address) });
    if spoken.contains(&Protocol::Udp) {
        let Addresses { four, six } = addresses(subnet, prefix, address);
        let all = std::iter::once(IpAddr::V4(four)).chain(six.map(IpAddr::V6));
        steps.extend(all.map(|address| Step::ForgetAddress { address }));
    }
    steps
}

/// The networks of agents whose directory is gone, as one finds them when somebody killed
/// everything and deleted it; those with tasks on them stay.
pub(super) fn deserted(host: &Host, is_gone: impl Fn(&str) -> bool) -> Vec<Names> {
    let busy = |bridge: &Link| host.links.iter().any(|link| link.on == Some(bridge.index));
    let idle = host.links.iter().filter(|link| !busy(link) && is_gone(&link.alias));
    let names = idle.filter_map(|link| link.name.strip_prefix(BRIDGE));
    names.filter_map(|tag| Names::new(tag).ok()).collect()
}

/// Plans the end of the network.
pub(super) fn close(names: &Names) -> Vec<Step> {
    vec![
        Step::RemoveTable { name: names.table.clone() },
        Step::RemoveBridge { name: names.bridge.clone() },
    ]
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
