//! Making the kernel forget conversations of datagrams.
//!
//! Rules are asked once per conversation, and what they said is kept for as long as
//! datagrams flow. So a client that never pauses would go on talking to the address
//! of a container that is gone, or never reach one that came: its entries have to be
//! forgotten when a port opens and when it closes. TCP needs none of this, its
//! conversations begin and end in their own words.
//!
//! Listed and then deleted one by one, because kernels before 6.8 cannot delete by
//! such a description. The listing is narrowed by the kernel where it can (5.8), and
//! looked through again here in any case.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NlasIterator, Parseable};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::wire::{Heard, Wire, WireError};

/// Which parts of the tuples the kernel compares: `linux/netfilter/nfnetlink_conntrack.h`.
const CTA_FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const SOURCE_ADDRESS: u32 = 1 << 0;
const PROTOCOL: u32 = 1 << 3;
/// The generic header of netfilter messages: family, version, resource.
const HEADER_BYTES: usize = 4;

/// Forgets all datagrams that went to these ports of this host. One walk through all
/// the conversations there are, which is 20 ms where there is room for many.
pub(super) fn forget_ports(wire: &mut Wire, ports: &BTreeSet<u16>) -> Result<(), WireError> {
    let udp = ProtoTuple::Protocol(Protocol::Udp);
    let tuple = ConntrackAttribute::CtaTupleOrig(vec![Tuple::Proto(vec![udp.clone()])]);
    let ours =
        |one: &ProtoTuple| matches!(one, ProtoTuple::DestinationPort(port) if ports.contains(port));
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let narrowed = vec![tuple.clone(), compared(FILTER_ORIGINAL, PROTOCOL)];
        forget(wire, family, narrowed, |flow| {
            flow.original.iter().any(|part| {
            matches!(part, Tuple::Proto(found) if found.contains(&udp) && found.iter().any(ours))
        })
        })?;
    }
    Ok(())
}

/// Forgets everything that a container answered under this address.
pub(super) fn forget_address(wire: &mut Wire, address: IpAddr) -> Result<(), WireError> {
    let wanted = IPTuple::SourceAddress(address);
    let family = match address {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    let tuple = ConntrackAttribute::CtaTupleReply(vec![Tuple::Ip(vec![wanted.clone()])]);
    let filter = compared(FILTER_REPLY, SOURCE_ADDRESS);
    forget(wire, family, vec![tuple, filter], |flow| {
        flow.reply.iter().any(|part| matches!(part, Tuple::Ip(found) if found.contains(&wanted)))
    })
}

/// One conversation as it began, and as it is answered.
#[derive(Debug, Default)]
struct Flow {
    original: Vec<Tuple>,
    reply: Vec<Tuple>,
}

impl Flow {
    fn read(heard: &Heard) -> Self {
        let mut flow = Self::default();
        let body = heard.body.get(HEADER_BYTES..).unwrap_or_default();
        for one in NlasIterator::new(body).filter_map(Result::ok) {
            match ConntrackAttribute::parse(&one) {
                Ok(ConntrackAttribute::CtaTupleOrig(tuple)) => flow.original = tuple,
                Ok(ConntrackAttribute::CtaTupleReply(tuple)) => flow.reply = tuple,
                _ => {}
            }
        }
        flow
    }
}

fn compared(direction: u16, flags: u32) -> ConntrackAttribute {
    // Length, kind and value; the kernel wants both directions spoken of.
    let one = |kind: u16, flags: u32| {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat()
    };
    let of = |kind| one(kind, if kind == direction { flags } else { 0 });
    let value = [of(FILTER_ORIGINAL), of(FILTER_REPLY)].concat();
    ConntrackAttribute::Other(DefaultNla::new(CTA_FILTER | NLA_F_NESTED, value))
}

fn forget(
    wire: &mut Wire,
    family: NetfilterProtoFamily,
    narrowed: Vec<ConntrackAttribute>,
    concerns: impl Fn(&Flow) -> bool,
) -> Result<(), WireError> {
    let message = |inner| NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    let listed = match wire.dump(&message(ConntrackMessage::Get(narrowed))) {
        // This kernel cannot narrow.
        Err(error) if error.is(&[libc::EOPNOTSUPP, libc::EINVAL]) => {
            match wire.dump(&message(ConntrackMessage::Get(Vec::new()))) {
                // It has no such list, so nothing can be looked up or forgotten.
                Err(error) if error.is(&[libc::EOPNOTSUPP, libc::EINVAL]) => return Ok(()),
                listed => listed?,
            }
        }
        listed => listed?,
    };
    for flow in listed.iter().map(Flow::read).filter(concerns) {
        let which = vec![ConntrackAttribute::CtaTupleOrig(flow.original)];
        match wire.ask(0, message(ConntrackMessage::Delete(which))) {
            // It ended by itself.
            Err(error) if error.is(&[libc::ENOENT]) => {}
            done => done?,
        }
    }
    Ok(())
}
