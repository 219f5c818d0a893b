//! How many of one source may stand before the gate at a time.
//!
//! A connection that has not proven anything takes a place among few. Whoever
//! opens many and says nothing would hold them all until their time is up, and
//! members who come back would find none. So no source has more than a part:
//! an address, or the half of an IPv6 address that one network has.
//!
//! Whoever passed the gate is not counted here any more.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address;

/// The most connections of one source that have not passed the gate: a quarter of all.
pub(crate) const PENDING_PER_SOURCE_MAX: usize = 64;

/// Its source has too many connections at the gate already.
#[derive(Debug, thiserror::Error)]
#[error("more than {PENDING_PER_SOURCE_MAX} connections at once that have not proven anything")]
pub(crate) struct Crowded;

/// Counts those who stand before the gate.
#[derive(Debug, Default)]
pub(crate) struct Threshold {
    waiting: BTreeMap<ConnectionId, IpAddr>,
    sources: BTreeMap<IpAddr, usize>,
}

/// What counts as one source.
fn source_of(address: &Multiaddr) -> Option<IpAddr> {
    Some(match address::ip_of(address)? {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        },
        ip => ip,
    })
}

impl Threshold {
    fn come(&mut self, id: ConnectionId, from: &Multiaddr) -> Result<(), Crowded> {
        let Some(source) = source_of(from) else { return Ok(()) };
        let count = self.sources.entry(source).or_default();
        if *count >= PENDING_PER_SOURCE_MAX {
            return Err(Crowded);
        }
        *count += 1;
        self.waiting.insert(id, source);
        Ok(())
    }

    fn leave(&mut self, id: &ConnectionId) {
        let Some(source) = self.waiting.remove(id) else { return };
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

impl NetworkBehaviour for Threshold {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.come(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.leave(&id);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _id: ConnectionId,
        _peer: PeerId,
        _address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ListenFailure(failure) = event {
            self.leave(&failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _peer: PeerId,
        _id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_room_for_others_and_gets_its_own_back() {
        let mut threshold = Threshold::default();
        let at = |text: &str| text.parse::<Multiaddr>().expect("a multiaddr");
        let (greedy, modest) = (at("/ip4/192.0.2.1/tcp/1"), at("/ip4/192.0.2.2/tcp/1"));
        let ids: Vec<_> = (0..PENDING_PER_SOURCE_MAX).map(ConnectionId::new_unchecked).collect();
        for id in &ids {
            assert!(threshold.come(*id, &greedy).is_ok());
        }
        let next = ConnectionId::new_unchecked(ids.len());
        assert!(threshold.come(next, &at("/ip4/192.0.2.1/udp/9/quic-v1")).is_err());
        assert!(threshold.come(next, &modest).is_ok());
        threshold.leave(&ids[0]);
        threshold.leave(&ids[0]);
        let next = ConnectionId::new_unchecked(ids.len() + 1);
        assert!(threshold.come(next, &greedy).is_ok());
        assert!(threshold.come(ids[0], &greedy).is_err());
        ids.iter().for_each(|id| threshold.leave(id));
        assert_eq!(threshold.sources.len(), 2);
        let network = |text: &str| source_of(&at(text));
        assert_eq!(network("/ip6/2001:db8::1/tcp/1"), network("/ip6/2001:db8::2/tcp/1"));
        assert_ne!(network("/ip6/2001:db8::1/tcp/1"), network("/ip6/2001:db8:0:1::1/tcp/1"));
    }
}
