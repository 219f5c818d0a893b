//! Ports of the host that lead into containers, and the proof that they are free.
//!
//! Packet rules would quietly take a port from whatever listens there. So each
//! published port is also bound by a socket of ours that never listens: the kernel
//! then refuses us what another program has, and another program what we have. Two
//! publications of one port meet the same refusal. The supervisor of the task holds
//! these sockets, whatever becomes of the agent.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, listen, shutdown, socket_with, sockopt,
};

use crate::container::{Protocol, Publish};

use super::plan::Family;

/// A protocol's number in an IPv4 header.
pub(super) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(address) => write!(f, "{address}:")?,
            None => {}
        }
        write!(f, "{}/{}", self.host_port, self.protocol)
    }
}

/// Why a port cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Somebody has it.
    #[error(
        "port {publish} of this host is already in use; publish another one, or stop what \
             listens there (`ss -lnp` names it)"
    )]
    Taken {
        /// What was wanted.
        publish: Publish,
    },
    /// The address is not one of this host.
    #[error("cannot publish {publish}: this host does not have that address")]
    NotOurs {
        /// What was wanted.
        publish: Publish,
    },
    /// This host has no IPv6 to give to containers.
    #[error(
        "cannot publish {publish}: this host has no IPv6; name an IPv4 address, or none for \
             all of them"
    )]
    NoIpv6 {
        /// What was wanted.
        publish: Publish,
    },
    /// The kernel takes no packet for ::1 from elsewhere, so no answer would come back.
    #[error(
        "cannot publish {publish}: IPv6 has no way from its loopback to a container; name \
             127.0.0.1, which `localhost` is too, or none for all addresses"
    )]
    Loopback6 {
        /// What was wanted.
        publish: Publish,
    },
    /// Port 0 means "any" to the kernel.
    #[error("cannot publish {publish} to port {}: ports are 1 to 65535", publish.port)]
    NoPort {
        /// What was wanted.
        publish: Publish,
    },
    /// The kernel refused for another reason.
    #[error("cannot bind port {publish} of this host")]
    Bind {
        /// What was wanted.
        publish: Publish,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The address a publication is limited to; `::` is all of both kinds, as 0.0.0.0 is all
/// of IPv4.
pub(super) fn limited_to(publish: &Publish) -> Result<Option<IpAddr>, PublishError> {
    match publish.host_ip {
        Some(IpAddr::V6(address)) if address.is_loopback() => {
            Err(PublishError::Loopback6 { publish: publish.clone() })
        }
        address => Ok(address.filter(|address| !address.is_unspecified())),
    }
}

/// Whether it is published on addresses of this kind.
pub(super) fn speaks(publish: &Publish, family: Family) -> bool {
    match publish.host_ip {
        None => true,
        Some(address) if family == Family::V6 => address.is_ipv6(),
        // `::` as Docker and every dual-stack listener take it.
        Some(address) => address.is_ipv4() || address.is_unspecified(),
    }
}

/// Bound ports: nobody else gets them as long as this lives.
#[derive(Debug, Default)]
pub struct Ports(#[expect(dead_code, reason = "held for what it does")] Vec<OwnedFd>);

impl Ports {
    /// Takes ports of the host, in the calling thread's network namespace; all or none.
    ///
    /// To be held by whoever lives as long as the task does: the rules that lead there
    /// stay when an agent dies, so the ports must too.
    ///
    /// # Errors
    /// If one is taken or cannot be published.
    pub fn hold(publish: &[Publish]) -> Result<Self, PublishError> {
        publish.iter().map(reserve).collect::<Result<_, _>>().map(Self)
    }
}

/// Whether a publication makes sense, whatever else is on this host.
pub(super) fn check(publish: &Publish) -> Result<(), PublishError> {
    if publish.host_port == 0 || publish.port == 0 {
        return Err(PublishError::NoPort { publish: publish.clone() });
    }
    limited_to(publish).map(drop)
}

fn reserve(publish: &Publish) -> Result<OwnedFd, PublishError> {
    check(publish)?;
    let kind = match publish.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let take = |family: AddressFamily, address: IpAddr| -> rustix::io::Result<OwnedFd> {
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if family == AddressFamily::INET6 {
            sockopt::set_ipv6_v6only(&socket, !address.is_unspecified())?;
        }
        let place = SocketAddr::new(address, publish.host_port);
        match publish.protocol {
            Protocol::Tcp => match bind(&socket, &place) {
                Err(Errno::ADDRINUSE) => bind_over_the_dead(&socket, &place)?,
                bound => bound?,
            },
            Protocol::Udp => {
                // A datagram that our rules miss shall not be kept for anybody.
                let _ = sockopt::set_socket_recv_buffer_size(&socket, 0);
                bind(&socket, &place)?;
            }
        }
        Ok(socket)
    };
    let four = || take(AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into());
    let taken = match (publish.host_ip, limited_to(publish)?) {
        (_, Some(address @ IpAddr::V4(_))) => take(AddressFamily::INET, address),
        (_, Some(address @ IpAddr::V6(_))) => take(AddressFamily::INET6, address),
        (Some(IpAddr::V4(_)), None) => four(),
        // One socket that has both.
        (_, None) => match take(AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into()) {
            // A kernel without IPv6, or with it switched off.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => four(),
            taken => taken,
        },
    };
    taken.map_err(|errno| match errno {
        Errno::ADDRINUSE => PublishError::Taken { publish: publish.clone() },
        Errno::ADDRNOTAVAIL => PublishError::NotOurs { publish: publish.clone() },
        Errno::AFNOSUPPORT => PublishError::NoIpv6 { publish: publish.clone() },
        other => PublishError::Bind { publish: publish.clone(), source: other.into() },
    })
}

/// Binds a port that has connections in TIME_WAIT, but no listener and no other holder.
///
/// With the option to do so, Linux before 6.2 or so lets any number bind who have it,
/// though their holders dropped it since; who listens is looked at again.
fn bind_over_the_dead(socket: &OwnedFd, place: &SocketAddr) -> rustix::io::Result<()> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    bind(socket, place)?;
    listen(socket, 0)?;
    sockopt::set_socket_reuseaddr(socket, false)?;
    // Listens no more, and stays bound.
    shutdown(socket, Shutdown::Both)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn publish(protocol: Protocol, host_port: u16) -> Publish {
        Publish { host_ip: Some(Ipv4Addr::LOCALHOST.into()), host_port, port: 80, protocol }
    }

    #[test]
    fn a_port_somebody_listens_on_is_refused_until_he_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("done");
        let wanted = publish(Protocol::Tcp, listener.local_addr().expect("done").port());
        assert!(matches!(reserve(&wanted), Err(PublishError::Taken { .. })));
        let everywhere = Publish { host_ip: None, ..wanted.clone() };
        assert!(matches!(reserve(&everywhere), Err(PublishError::Taken { .. })));
        drop(listener);
        let held = reserve(&wanted).expect("done");
        let port = wanted.host_port;
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "ours is nobody else's");
        assert!(matches!(reserve(&wanted), Err(PublishError::Taken { .. })));
        drop(held);
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn connections_that_are_dying_hold_nobody_up_and_let_nobody_else_in() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("done");
        let address = listener.local_addr().expect("done");
        let theirs = TcpStream::connect(address).expect("done");
        // Who closes first has the connection in TIME_WAIT.
        drop(listener.accept().expect("done"));
        drop((theirs, listener));
        let wanted = publish(Protocol::Tcp, address.port());
        let held = reserve(&wanted).expect("done");
        assert!(matches!(reserve(&wanted), Err(PublishError::Taken { .. })));
        assert!(TcpListener::bind(address).is_err(), "ours is nobody else's");
        assert!(TcpStream::connect(address).is_err(), "we do not listen");
        drop(held);
    }

    #[test]
    fn datagram_ports_are_kept_apart_from_connection_ports() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("done");
        let port = socket.local_addr().expect("done").port();
        assert!(matches!(reserve(&publish(Protocol::Udp, port)), Err(PublishError::Taken { .. })));
        drop(socket);
        let _held = reserve(&publish(Protocol::Udp, port)).expect("done");
        assert!(UdpSocket::bind(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_a_sentence() {
        let fine = publish(Protocol::Tcp, 1);
        let six = Publish { host_ip: Some(Ipv6Addr::LOCALHOST.into()), ..fine.clone() };
        let said = reserve(&six).expect_err("refused").to_string();
        assert!(said.starts_with("cannot publish [::1]:1/tcp: IPv6 has no way"), "{said}");
        let nothing = Publish { host_port: 0, ..fine.clone() };
        assert!(matches!(reserve(&nothing), Err(PublishError::NoPort { .. })));
        let foreign = Publish { host_ip: Some("192.0.2.1".parse().expect("it parses")), ..fine };
        assert!(matches!(reserve(&foreign), Err(PublishError::NotOurs { .. })));
    }
}
