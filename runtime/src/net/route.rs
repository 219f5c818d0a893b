//! Links, addresses and routes: the requests we make, and what the host has.
//!
//! A cable is one request: both ends at once, the far one made where it belongs, so
//! no end is ever seen in the wrong place. The near end's alias says whose it is;
//! with that, what the kernel lists is the only record of who is attached.
//!
//! Interfaces of ours get no IPv6 link-local address by themselves: an address that nobody
//! gave them would be a way around the rules. The bridge is given one, as a router needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::addresses::{Mac, Prefix6, Subnet};
use super::wire::{Wire, WireError};

/// What of an interface matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) mtu: u32,
    /// The index of the bridge it is a port of.
    pub(super) on: Option<u32>,
}

/// A way of the host to somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Subnet,
    /// The index of the interface.
    pub(super) by: Option<u32>,
}

/// What the host has.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    pub(super) links: Vec<Link>,
    /// Interface and address with its subnet's prefix length.
    pub(super) addresses: Vec<(u32, Ipv4Addr, u8)>,
    /// Interface and address of IPv6.
    pub(super) addresses6: Vec<(u32, Ipv6Addr)>,
    pub(super) routes: Vec<Route>,
}

impl Host {
    /// Asks for everything. What the codec cannot read is nothing of ours.
    pub(super) fn look(wire: &mut Wire) -> Result<Self, WireError> {
        let mut host = Self { links: links(wire)?, ..Self::default() };
        let all = AddressMessage::default();
        for message in listed(wire, RouteNetlinkMessage::GetAddress(all))? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            let (index, prefix) = (message.header.index, message.header.prefix_len);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(IpAddr::V4(four)) => {
                        host.addresses.push((index, *four, prefix));
                    }
                    AddressAttribute::Address(IpAddr::V6(six)) => {
                        host.addresses6.push((index, *six));
                    }
                    _ => {}
                }
            }
        }
        let mut ask = RouteMessage::default();
        ask.header.address_family = AddressFamily::Inet;
        for message in listed(wire, RouteNetlinkMessage::GetRoute(ask))? {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                host.routes.extend(route(&message));
            }
        }
        Ok(host)
    }

    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// All interfaces of a namespace.
pub(super) fn links(wire: &mut Wire) -> Result<Vec<Link>, WireError> {
    let all = listed(wire, RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let link = |message| match message {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    };
    Ok(all.into_iter().filter_map(link).collect())
}

/// The index of an interface, if the namespace has one of this name.
pub(super) fn index(wire: &mut Wire, name: &str) -> Result<Option<u32>, WireError> {
    Ok(links(wire)?.into_iter().find(|link| link.name == name).map(|link| link.index))
}

/// Makes a bridge; it is fine if there is one.
pub(super) fn make_bridge(wire: &mut Wire, name: &str, mtu: u32) -> Result<(), WireError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    let made = wire.ask(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message));
    exists_already(made)
}

/// What an interface of ours is, beside its name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trait<'a> {
    /// Its hardware address.
    Mac(Mac),
    /// Whose it is.
    Alias(&'a str),
    /// As a port, it may send a packet back to where it came from. Where the host
    /// filters bridged packets (as Docker makes it), a container that asks for a
    /// published port of its own is answered only so.
    Hairpin,
}

/// Makes an interface what it shall be, with no IPv6 address of its own accord, and
/// starts it. Two requests, because within one the kernel starts it first.
pub(super) fn raise(wire: &mut Wire, name: &str, traits: &[Trait<'_>]) -> Result<(), WireError> {
    let mut dressed = LinkMessage::default();
    dressed.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    dressed.attributes.extend(traits.iter().map(|one| match one {
        Trait::Mac(mac) => LinkAttribute::Address(mac.0.to_vec()),
        Trait::Alias(alias) => LinkAttribute::IfAlias((*alias).to_owned()),
        Trait::Hairpin => LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    }));
    let mut quiet = dressed.clone();
    quiet.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
        AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
    ])]));
    match wire.ask(0, RouteNetlinkMessage::NewLink(quiet)) {
        // A kernel without IPv6, or with it switched off, gives no such address.
        Err(error) if error.is(&[libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL]) => {
            wire.ask(0, RouteNetlinkMessage::NewLink(dressed))?;
        }
        done => done?,
    }
    let mut start = LinkMessage::default();
    start.header.flags = LinkFlags::Up;
    start.header.change_mask = LinkFlags::Up;
    start.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    wire.ask(0, RouteNetlinkMessage::SetLink(start))
}

/// One cable: the near end plugged into a bridge, the far end made in another
/// network namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cable<'a> {
    pub(super) near: &'a str,
    pub(super) far: &'a str,
    pub(super) far_mac: Mac,
    pub(super) mtu: u32,
    /// The bridge's index.
    pub(super) bridge: u32,
    pub(super) netns: BorrowedFd<'a>,
}

/// Lays a cable; both ends are still down.
pub(super) fn make_cable(wire: &mut Wire, cable: &Cable<'_>) -> Result<(), WireError> {
    let mut far = LinkMessage::default();
    far.attributes = vec![
        LinkAttribute::IfName(cable.far.to_owned()),
        LinkAttribute::Address(cable.far_mac.0.to_vec()),
        LinkAttribute::Mtu(cable.mtu),
        LinkAttribute::NetNsFd(cable.netns.as_raw_fd()),
    ];
    let mut near = LinkMessage::default();
    near.attributes = vec![
        LinkAttribute::IfName(cable.near.to_owned()),
        LinkAttribute::Mtu(cable.mtu),
        LinkAttribute::Controller(cable.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]),
    ];
    wire.ask(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(near))
}

/// Plugs the near end of a cable into a bridge.
pub(super) fn plug(wire: &mut Wire, name: &str, bridge: u32) -> Result<(), WireError> {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Controller(bridge)];
    wire.ask(0, RouteNetlinkMessage::SetLink(message))
}

/// Removes an interface, and with it the other end of a cable; fine if it is gone.
pub(super) fn remove_link(wire: &mut Wire, name: &str) -> Result<(), WireError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match wire.ask(0, RouteNetlinkMessage::DelLink(message)) {
        Err(error) if error.is(&[libc::ENODEV]) => Ok(()),
        done => done,
    }
}

/// Gives an interface an address; fine if it has it.
pub(super) fn add_address(
    wire: &mut Wire,
    index: u32,
    address: Ipv4Addr,
    subnet: Subnet,
) -> Result<(), WireError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = subnet.prefix();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.into()),
        AddressAttribute::Address(address.into()),
        AddressAttribute::Broadcast(subnet.last()),
    ];
    let added = wire.ask(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message));
    exists_already(added)
}

/// The same for IPv6. Nobody else has the address, so it is used at once.
pub(super) fn add_address6(
    wire: &mut Wire,
    index: u32,
    address: Ipv6Addr,
) -> Result<(), WireError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = Prefix6::BITS;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Address(address.into()),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    let added = wire.ask(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message));
    exists_already(added)
}

/// Sends everything else by a gateway.
pub(super) fn add_default_route(
    wire: &mut Wire,
    index: u32,
    gateway: IpAddr,
) -> Result<(), WireError> {
    let (family, gateway) = match gateway {
        IpAddr::V4(four) => (AddressFamily::Inet, RouteAddress::Inet(four)),
        IpAddr::V6(six) => (AddressFamily::Inet6, RouteAddress::Inet6(six)),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    let added = wire.ask(NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(message));
    exists_already(added)
}

fn exists_already(done: Result<(), WireError>) -> Result<(), WireError> {
    match done {
        Err(error) if error.is(&[libc::EEXIST]) => Ok(()),
        done => done,
    }
}

fn listed(
    wire: &mut Wire,
    question: RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, WireError> {
    let heard = wire.dump(&question)?;
    let parsed = heard.iter().filter_map(|one| {
        let mut header = NetlinkHeader::default();
        header.message_type = one.kind;
        RouteNetlinkMessage::deserialize(&header, &one.body).ok()
    });
    Ok(parsed.collect())
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(bridge) => link.on = Some(bridge),
            _ => {}
        }
    }
    link
}

/// A route to somewhere, not to one of the host's own addresses. Without a
/// destination it is the default.
fn route(message: &RouteMessage) -> Option<Route> {
    let mut to = Ipv4Addr::UNSPECIFIED;
    let mut by = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Oif(index) => by = Some(*index),
            _ => {}
        }
    }
    let foreign = !matches!(
        message.header.kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Multicast
    );
    let to = Subnet::around(to, message.header.destination_prefix_length);
    foreign.then_some(Route { to, by })
}
