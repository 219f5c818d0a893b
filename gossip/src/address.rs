//! Where this node can be reached, as others should be told.
//!
//! A socket bound to all interfaces listens on many addresses, and some mean
//! nothing elsewhere: loopback, link-local, the inside of container bridges.
//! Those are told only where nothing better exists or they were asked for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::api::Transport;

/// Interfaces that lead into containers on this host.
const INNER_INTERFACES: [&str; 4] = ["docker", "veth", "br-", "virbr"];

/// The multiaddrs to listen on for one socket address.
pub(crate) fn listen_addresses(socket: SocketAddr) -> [Multiaddr; 2] {
    let ip = Multiaddr::from(socket.ip());
    [
        ip.clone().with(Protocol::Udp(socket.port())).with(Protocol::QuicV1),
        ip.with(Protocol::Tcp(socket.port())),
    ]
}

/// Over what an address leads; `None` if this node cannot dial it.
pub(crate) fn transport_of(address: &Multiaddr) -> Option<Transport> {
    let parts: Vec<_> = address.iter().collect();
    match parts.as_slice() {
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1, ..] => {
            Some(Transport::Quic)
        }
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_), ..] => Some(Transport::Tcp),
        _ => None,
    }
}

pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Of the addresses that sockets listen on, those to announce.
pub(crate) fn announceable(listening: &[Multiaddr], asked: &[SocketAddr]) -> Vec<Multiaddr> {
    let routes = Interfaces::read();
    let rank = |address: &Multiaddr| match ip_of(address) {
        Some(ip) if asked.iter().any(|socket| socket.ip() == ip) => 0,
        Some(ip) if ip.is_loopback() => 2,
        Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => 3,
        Some(ip) if routes.name_of(ip).is_some_and(|name| is_inner(&name)) => 2,
        Some(_) => 0,
        None => 3,
    };
    let best = listening.iter().map(rank).min().unwrap_or_default();
    listening.iter().filter(|address| rank(address) == best && best < 3).cloned().collect()
}

fn is_inner(name: &str) -> bool {
    INNER_INTERFACES.iter().any(|prefix| name.starts_with(prefix))
}

/// Which interface has which network, as far as the kernel tells in text.
#[derive(Debug, Default)]
struct Interfaces {
    v4: Vec<(String, u32, u32)>,
    v6: Vec<(String, u128)>,
}

impl Interfaces {
    fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/proc/net/route"), &text("/proc/net/if_inet6"))
    }

    fn parse(routes: &str, inet6: &str) -> Self {
        let v4 = routes.lines().skip(1).filter_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            // Little-endian hex, as the kernel keeps it.
            let number = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
            let (network, mask) = (number(1)?.swap_bytes(), number(7)?.swap_bytes());
            Some(((*columns.first()?).to_owned(), network, mask))
        });
        let v6 = inet6.lines().filter_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let ip = u128::from_str_radix(columns.first()?, 16).ok()?;
            Some(((*columns.get(5)?).to_owned(), ip))
        });
        Self { v4: v4.collect(), v6: v6.collect() }
    }

    fn name_of(&self, ip: IpAddr) -> Option<String> {
        match ip {
            IpAddr::V4(ip) => {
                let ip = Ipv4Addr::to_bits(ip);
                let on = self.v4.iter().filter(|(_, net, mask)| *mask != 0 && ip & mask == *net);
                on.max_by_key(|(_, _, mask)| *mask).map(|(name, ..)| name.clone())
            }
            IpAddr::V6(ip) => {
                let ip = ip.to_bits();
                self.v6.iter().find(|(_, own)| *own == ip).map(|(name, _)| name.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_of_this_host_is_not_announced_unless_asked() {
        let at = |text: &str| text.parse::<Multiaddr>().expect("multiaddr");
        let outside = at("/ip4/203.0.113.7/udp/1/quic-v1");
        let loopback = at("/ip4/127.0.0.1/udp/1/quic-v1");
        let any: SocketAddr = "0.0.0.0:1".parse().expect("socket");
        let local: SocketAddr = "127.0.0.1:1".parse().expect("socket");
        let both = [loopback.clone(), outside.clone()];
        assert_eq!(announceable(&both, &[any]), std::slice::from_ref(&outside));
        assert_eq!(announceable(&both, &[any, local]), both);
        let alone = std::slice::from_ref(&loopback);
        assert_eq!(announceable(alone, &[any]), alone);
    }

    #[test]
    fn interfaces_are_told_by_their_networks() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\n\
                      docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n";
        let inet6 = "fe800000000000000000000000000001 02 40 20 80 veth12\n";
        let found = Interfaces::parse(routes, inet6);
        let name = |text: &str| found.name_of(text.parse().expect("ip"));
        assert_eq!(name("172.17.0.1").as_deref(), Some("docker0"));
        assert_eq!(name("10.0.0.5"), None);
        assert_eq!(name("fe80::1").as_deref(), Some("veth12"));
        assert!(is_inner("docker0") && !is_inner("eth0"));
    }
}
