//! Opening the sockets: QUIC and TCP on each address, and at least one of the two.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{Swarm, SwarmEvent};

use crate::address;
use crate::api::Transport;
use crate::start::StartError;
use crate::swarm::{Behaviour, BehaviourEvent};

/// How long sockets may take to say where they listen.
const LISTENING_BY: Duration = Duration::from_secs(2);

/// Sockets bound to all interfaces name one address after another, this close together.
const LISTENING_QUIET: Duration = Duration::from_millis(20);

/// Opens the sockets, and answers where they listen.
pub(crate) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    sockets: &[SocketAddr],
    early: &mut Vec<SwarmEvent<BehaviourEvent>>,
) -> Result<Vec<Multiaddr>, StartError> {
    let mut silent: Vec<ListenerId> = Vec::new();
    for &socket in sockets {
        let mut failures = Vec::new();
        let addresses = address::listen_addresses(socket);
        for address in &addresses {
            let free = match address::transport_of(address) {
                Some(Transport::Tcp) => is_free(socket),
                _ => Ok(()),
            };
            let listens = match free {
                Ok(()) => swarm.listen_on(address.clone()).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match listens {
                Ok(listener) => silent.push(listener),
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        let reason = failures.join("; ");
        if failures.len() == addresses.len() {
            return Err(StartError::Listen { socket, reason });
        }
        if !reason.is_empty() {
            tracing::warn!(reason, "listening on one transport only");
        }
    }
    let mut found = Vec::new();
    let late = tokio::time::Instant::now() + LISTENING_BY;
    loop {
        let until =
            if silent.is_empty() { tokio::time::Instant::now() + LISTENING_QUIET } else { late };
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            () = tokio::time::sleep_until(until) => return Ok(found),
        };
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                silent.retain(|listener| *listener != listener_id);
                found.push(address);
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                silent.retain(|listener| *listener != listener_id);
            }
            other => early.push(other),
        }
    }
}

/// libp2p shares a TCP port with whoever else would; two agents must not.
fn is_free(socket: SocketAddr) -> std::io::Result<()> {
    std::net::TcpListener::bind(socket).map(drop)
}
