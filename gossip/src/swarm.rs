//! The swarm: transports with the gate in them, and what runs on connections.
//!
//! QUIC for speed and roaming, TCP with noise and yamux where UDP does not
//! pass; both lead through the same gate. Limits come first among the
//! behaviours, so that a connection over a limit is never counted elsewhere.

use std::io;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use gossip_core::advert::ADVERT_BYTES_MAX;
use gossip_core::id::{ClusterId, ContentHash};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::{self, NetworkBehaviour, Swarm};
use libp2p::{PeerId, StreamProtocol, noise, quic, tcp, yamux};

use crate::gate;
use crate::gatekeeper::Gatekeeper;
use crate::threshold::Threshold;

/// The persistent stream of frames between two members.
pub(crate) const PEER_PROTOCOL: StreamProtocol = StreamProtocol::new("/starling/1/peer");

/// HTTP between two members, one request a stream.
pub(crate) const HTTP_PROTOCOL: StreamProtocol = StreamProtocol::new("/starling/1/http");

/// Dials of both sides at once, and one of each to replace a dying one.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
const CONNECTIONS_MAX: u32 = 4096;
const PENDING_MAX: u32 = 256;

/// A silent QUIC connection is dead after this.
const QUIC_IDLE: Duration = Duration::from_secs(5);
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Until a key is proven; the gate has its own patience.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// Streams, not silence, tell whether a connection is in use; ours always are.
const IDLE: Duration = Duration::from_secs(24 * 3600);

/// Room for gossip's own fields around an advert.
const GOSSIP_BYTES_MAX: usize = ADVERT_BYTES_MAX + 1024;

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    threshold: Threshold,
    pub(crate) gossip: gossipsub::Behaviour,
    pub(crate) streams: libp2p_stream::Behaviour,
}

/// The topic that a cluster's adverts are published on.
pub(crate) fn topic(cluster: &ClusterId) -> IdentTopic {
    IdentTopic::new(format!("starling/1/adverts/{cluster}"))
}

/// Makes a swarm whose every connection passed the gate.
pub(crate) fn build(
    keypair: &Keypair,
    gatekeeper: Arc<Gatekeeper>,
) -> Result<Swarm<Behaviour>, io::Error> {
    let transport = plain(keypair)?
        .and_then(move |connection, point| gate::pass(Arc::clone(&gatekeeper), connection, point))
        .boxed();
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_dial_concurrency_factor(NonZeroU8::MIN.saturating_add(3));
    let behaviour = behaviour().map_err(io::Error::other)?;
    Ok(Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config))
}

/// Connections whose keys are proven, and nothing else: what lies before the gate.
pub(crate) fn plain(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, io::Error> {
    let mut quic_config = quic::Config::new(keypair);
    quic_config.max_idle_timeout = u32::try_from(QUIC_IDLE.as_millis()).unwrap_or(u32::MAX);
    quic_config.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic_config.handshake_timeout = HANDSHAKE;
    let quic = quic::tokio::Transport::new(quic_config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).map_err(io::Error::other)?)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let either = quic.or_transport(tcp).map(|either, _| match either {
        Either::Left(connection) | Either::Right(connection) => connection,
    });
    Ok(either.boxed())
}

fn behaviour() -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let limits = ConnectionLimits::default()
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX));
    // Signed inside and checked before it is passed on, so gossip itself need not sign.
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::new(ContentHash::of(&message.data).as_bytes()))
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .build()?;
    let gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)?;
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        threshold: Threshold::default(),
        gossip,
        streams: libp2p_stream::Behaviour::new(),
    })
}
