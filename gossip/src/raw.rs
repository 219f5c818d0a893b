//! Connections without manners, for those who prove this crate.
//!
//! [`Raw`] passes the gate with a key and a chain like any member, and then says
//! whatever it is told to; [`Knock`] stands before the gate and says it there.
//! Nothing of the agent uses either.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, JobId, NodeId};
use gossip_core::log::LogId;
use gossip_core::sign::Key;
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport as _};
use libp2p::swarm::{SwarmEvent, dial_opts};
use libp2p_stream::{Control, IncomingStreams};
use tokio::task::JoinSet;

use crate::document;
use crate::gatekeeper::Gatekeeper;
use crate::names;
use crate::quarantine::{self, Verdict};
use crate::stream::PeerStream;
use crate::swarm::{self, PEER_PROTOCOL};

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to one member; ends when dropped.
pub struct Raw {
    peer: PeerId,
    control: Control,
    incoming: IncomingStreams,
    _running: JoinSet<()>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raw({})", self.peer)
    }
}

impl Raw {
    /// Dials `address` and shows `chain` at the gate.
    pub async fn connect(
        key: &Key,
        (cluster, chain): (ClusterId, Chain),
        address: &str,
    ) -> io::Result<Self> {
        let gatekeeper = Arc::new(Gatekeeper::new(key));
        gatekeeper.settle(cluster, chain);
        let keypair = names::keypair(key).map_err(io::Error::other)?;
        let mut swarm = swarm::build(&keypair, gatekeeper)?;
        let mut control = swarm.behaviour().streams.new_control();
        let incoming = control.accept(PEER_PROTOCOL).map_err(io::Error::other)?;
        let address = address.parse().map_err(io::Error::other)?;
        let dial =
            dial_opts::DialOpts::unknown_peer_id().address(address).allocate_new_port().build();
        swarm.dial(dial).map_err(io::Error::other)?;
        let connected = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error, .. } => {
                        return Err(io::Error::other(error));
                    }
                    _ => {}
                }
            }
        };
        let peer = tokio::time::timeout(PATIENCE, connected)
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut running = JoinSet::new();
        running.spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Ok(Self { peer, control, incoming, _running: running })
    }

    /// Who answered.
    pub fn node(&self) -> Option<NodeId> {
        names::node_of(&self.peer)
    }

    /// Opens a stream of frames.
    pub async fn open(&mut self) -> io::Result<PeerStream> {
        let opened = self.control.open_stream(self.peer, PEER_PROTOCOL).await;
        opened.map(PeerStream::new).map_err(io::Error::other)
    }

    /// The next stream of frames that the member opens to this side.
    pub async fn accept(&mut self) -> Option<PeerStream> {
        self.incoming.next().await.map(|(_, stream)| PeerStream::new(stream))
    }
}

/// A connection whose key is proven, with the first stream open: whoever holds it says at the
/// gate whatever it likes.
pub struct Knock {
    stream: SubstreamBox,
    muxer: StreamMuxerBox,
}

impl std::fmt::Debug for Knock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Knock")
    }
}

impl Knock {
    /// Connects to `address`, and opens the stream on which admission is spoken.
    pub async fn at(key: &Key, address: &str) -> io::Result<Self> {
        let keypair = names::keypair(key).map_err(io::Error::other)?;
        let mut transport = swarm::plain(&keypair)?;
        let address = address.parse().map_err(io::Error::other)?;
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dialing = transport.dial(address, options).map_err(io::Error::other)?;
        let opened = async {
            let (_, mut muxer) = dialing.await?;
            let stream = poll_fn(|cx| {
                drain(&mut muxer, cx)?;
                muxer.poll_outbound_unpin(cx)
            });
            let stream = stream.await?;
            Ok(Self { stream, muxer })
        };
        tokio::time::timeout(PATIENCE, opened).await.map_err(|_elapsed| io::ErrorKind::TimedOut)?
    }

    /// Says these bytes.
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { stream, muxer } = self;
        let mut saying = pin!(async {
            stream.write_all(bytes).await?;
            stream.flush().await
        });
        poll_fn(|cx| {
            if let Poll::Ready(said) = saying.as_mut().poll(cx) {
                return Poll::Ready(said);
            }
            drain(muxer, cx)?;
            saying.as_mut().poll(cx)
        })
        .await
    }

    /// Waits until the other side ends the stream or the connection; what it said until then.
    pub async fn until_ended(&mut self) -> io::Result<Vec<u8>> {
        let Self { stream, muxer } = self;
        let mut said = Vec::new();
        let mut hearing = pin!(stream.read_to_end(&mut said));
        let ended = poll_fn(|cx| {
            if let Poll::Ready(heard) = hearing.as_mut().poll(cx) {
                return Poll::Ready(heard);
            }
            drain(muxer, cx)?;
            hearing.as_mut().poll(cx)
        });
        let heard = tokio::time::timeout(PATIENCE, ended).await;
        let heard = heard.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?;
        // A connection that is broken off has ended as well.
        heard.map(drop).or(Ok(())).map(|()| said)
    }
}

/// Handles whatever the muxer reports: some move bytes only when polled.
fn drain(muxer: &mut StreamMuxerBox, cx: &mut Context<'_>) -> io::Result<()> {
    while let Poll::Ready(event) = muxer.poll_unpin(cx) {
        event?;
    }
    Ok(())
}

/// Takes `change` of `log`'s author to a fresh document of `job` through the quarantine.
pub fn quarantine(job: &JobId, log: &LogId, change: &[u8]) -> Result<(), String> {
    let genesis = document::genesis(job).map_err(|error| error.to_string())?;
    match quarantine::judge(job, &genesis, &document::actor_of(log), change) {
        Verdict::Accepted(_) | Verdict::Known | Verdict::Waits => Ok(()),
        Verdict::Refused(reason) => Err(reason),
    }
}
