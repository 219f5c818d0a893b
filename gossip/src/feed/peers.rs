//! The loop's half that is about peers: who is connected, who is alive, who has what free.
//!
//! Connections come and go by themselves; a peer is up while one of them is.
//! Silence ends a connection, and nothing else follows from it here.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

use gossip_core::advert::Advert;
use gossip_core::id::NodeId;
use gossip_core::wire::Frame;
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use rand::RngExt as _;

use crate::address;
use crate::api::{Event, Peer, Say, Transport};
use crate::link::{self, Link};
use crate::names;
use crate::nuisance::Line;
use crate::swarm::{self, Behaviour, BehaviourEvent};

use super::{
    ADVERTS_MAX, Connection, Feed, HEARTBEAT, Inlets, LATE, OUTBOX_MAX, SILENCE_MAX, SIMULTANEOUS,
    Way,
};

/// What an error is about in the end: what wraps it says only that something failed.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl Feed {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>, inlets: &mut Inlets) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint, inlets);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.on_closed(&peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, %error, "cannot connect");
                if let Some(node) = names::node_of(&peer) {
                    self.book.failed(&node, Instant::now(), &mut rand::rng());
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                let Some(from) = address::ip_of(&send_back_addr) else { return };
                if let Some(line) = self.nuisance.note(from, || deepest(&error), Instant::now()) {
                    let Line { from, times, reason } = line;
                    tracing::warn!(%from, times, reason, "a connection was turned away");
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => {
                self.on_gossip(event, &mut inlets.swarm);
            }
            _ => {}
        }
    }

    fn on_connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        inlets: &mut Inlets,
    ) {
        let Some(node) = names::node_of(&peer) else { return };
        if !self.gatekeeper.still_admits(&node) {
            // Removed while it was at the gate.
            inlets.swarm.close_connection(id);
            return;
        }
        let now = Instant::now();
        let remote = endpoint.get_remote_address().clone();
        let transport = address::transport_of(&remote).unwrap_or(Transport::Tcp);
        let is_new = !self.connections.contains_key(&node);
        let connection = self.connections.entry(node).or_insert_with(|| {
            let (link, outbound) = Link::new();
            let writer = link::drain(inlets.control.clone(), peer, outbound);
            let writer = inlets.writers.spawn(writer);
            let ways = BTreeMap::new();
            Connection { link, writer, ways, heard: now, told: None, is_reading: false }
        });
        // A member dials only when it has no connection: older ones lead to an earlier life of
        // it, and would swallow frames until they time out.
        if endpoint.is_listener() {
            let is_old = |way: &&Way| now.duration_since(way.since) > SIMULTANEOUS;
            for (&old, _) in connection.ways.iter().filter(|(_, way)| is_old(way)) {
                inlets.swarm.close_connection(old);
            }
        }
        connection.ways.insert(id, Way { address: remote, transport, since: now });
        self.note(&node);
        if is_new {
            self.book.reset(&node, now, &mut rand::rng());
            self.sync.peer_up(node);
            self.outbox.push_back(Event::PeerUp(node));
            for frame in self.sync.vector() {
                self.send(&node, &frame);
            }
        }
    }

    fn on_closed(&mut self, peer: &PeerId, id: ConnectionId, left: u32) {
        let Some(node) = names::node_of(peer) else { return };
        let Some(connection) = self.connections.get_mut(&node) else { return };
        connection.ways.remove(&id);
        if left == 0 {
            connection.writer.abort();
            self.connections.remove(&node);
            self.gatekeeper.left(&node);
            self.sync.peer_down(&node);
            self.book.reset(&node, Instant::now(), &mut rand::rng());
            self.outbox.push_back(Event::PeerDown(node));
        }
        self.note(&node);
    }

    /// Disconnects whoever is kept out since the last look, and dials those again who are back.
    pub(super) fn part(&mut self, swarm: &mut Swarm<Behaviour>) {
        if !std::mem::take(&mut self.ruled) {
            return;
        }
        let ruling = self.notice.read();
        self.book.keep_out(&ruling.out);
        for node in self.connections.keys().filter(|node| !self.gatekeeper.still_admits(node)) {
            tracing::info!(node = %node.short(), "removed from the cluster, disconnected");
            if let Some(peer) = names::peer_of(node) {
                let _is_gone_already = swarm.disconnect_peer_id(peer);
            }
        }
    }

    /// Keeps the roster true.
    fn note(&self, node: &NodeId) {
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let way = self.connections.get(node).and_then(|connection| connection.ways.values().next());
        match way {
            Some(way) => {
                let (address, transport) = (way.address.to_string(), way.transport);
                roster.insert(*node, Peer { node: *node, address, transport });
            }
            None => {
                roster.remove(node);
            }
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event, swarm: &mut Swarm<Behaviour>) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let acceptance = self.judge(&message.data);
                let gossip = &mut swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    acceptance,
                );
            }
            // Whoever comes learns at once what this node has free.
            gossipsub::Event::Subscribed { .. } => self.publish(swarm),
            _ => {}
        }
    }

    fn judge(&mut self, bytes: &[u8]) -> MessageAcceptance {
        let Some(advert) = Advert::open(bytes, &self.cluster) else {
            return MessageAcceptance::Reject;
        };
        let node = advert.log.node;
        let is_known = self.connections.contains_key(&node) || self.book.knows(&node);
        let is_member = is_known && !self.notice.read().out.contains(&node);
        let last = self.adverts.get(&node);
        let is_news = last.is_none_or(|last| advert.is_newer_than(last));
        if node == self.key.id() || !is_member || !is_news {
            return MessageAcceptance::Ignore;
        }
        if last.is_some() || self.adverts.len() < ADVERTS_MAX {
            self.adverts.insert(node, advert.clone());
        }
        // The author holds its own log, so an advert is as good as its vector.
        self.sync.told(node, [(advert.log, advert.next)]);
        self.pull(node, Instant::now());
        self.tell_softly(Event::Advert(advert));
        MessageAcceptance::Accept
    }

    pub(super) fn on_tick(&mut self, swarm: &mut Swarm<Behaviour>) {
        let now = Instant::now();
        for (peer, frame) in self.sync.changes() {
            self.send(&peer, &frame);
        }
        // Neither a host that slept nor an agent that takes no events says anything about peers.
        if now.duration_since(self.ticked) > LATE || self.outbox.len() >= OUTBOX_MAX {
            self.connections.values_mut().for_each(|connection| connection.heard = now);
        }
        self.ticked = now;
        if now.duration_since(self.beat) >= HEARTBEAT {
            self.beat = now;
            self.on_beat(now, swarm);
        }
        let (connections, gatekeeper) = (&self.connections, &self.gatekeeper);
        // Who was removed is dialed until it knows it: nobody else would tell it.
        let is_done = |node: &_| connections.contains_key(node) || gatekeeper.is_told(node);
        let dials = self.book.due(now, is_done, &mut rand::rng());
        for dial in dials {
            let options = match dial.node.and_then(|node| names::peer_of(&node)) {
                Some(peer) => {
                    DialOpts::peer_id(peer).addresses(dial.addresses).allocate_new_port().build()
                }
                None => match dial.addresses.into_iter().next() {
                    Some(at) => DialOpts::unknown_peer_id().address(at).allocate_new_port().build(),
                    None => continue,
                },
            };
            if let (Err(error), Some(node)) = (swarm.dial(options), dial.node) {
                tracing::debug!(node = %node.short(), %error, "cannot dial");
                self.book.failed(&node, now, &mut rand::rng());
            }
        }
    }

    /// Once a second: a sign of life to all, everything to one, and who is silent goes.
    fn on_beat(&mut self, now: Instant, swarm: &mut Swarm<Behaviour>) {
        let count = self.connections.len();
        let chosen = if count == 0 { 0 } else { rand::rng().random_range(0..count) };
        let all = self.sync.vector();
        let alive = [Frame::Vector(Vec::new())];
        let nodes: Vec<_> = self.connections.keys().copied().collect();
        for (at, node) in nodes.into_iter().enumerate() {
            let frames = if at == chosen { all.as_slice() } else { &alive };
            frames.iter().for_each(|frame| self.send(&node, frame));
            self.pull(node, now);
            let is_silent = self
                .connections
                .get(&node)
                .is_some_and(|connection| now.duration_since(connection.heard) > SILENCE_MAX);
            if let Some(peer) = names::peer_of(&node).filter(|_| is_silent) {
                tracing::info!(node = %node.short(), "silent for too long, disconnected");
                let _is_gone_already = swarm.disconnect_peer_id(peer);
            }
        }
    }

    /// Publishes what was said last, with where the log stands now.
    pub(super) fn publish(&mut self, swarm: &mut Swarm<Behaviour>) {
        let Some(say) = self.said else { return };
        self.adverts_made += 1;
        let Say { free, capacity, running, bidding } = say;
        let (log, next, number) = (self.log, self.sync.held(&self.log), self.adverts_made);
        let advert = Advert { log, next, number, free, capacity, running, bidding };
        let bytes = match advert.seal(&self.key, &self.cluster) {
            Ok(bytes) => bytes,
            Err(error) => return tracing::warn!(%error, "an advert cannot be sealed"),
        };
        let gossip = &mut swarm.behaviour_mut().gossip;
        if let Err(error) = gossip.publish(swarm::topic(&self.cluster), bytes) {
            // Alone, or overloaded: the next advert says it all again.
            tracing::trace!(%error, "an advert was not published");
        }
    }
}
