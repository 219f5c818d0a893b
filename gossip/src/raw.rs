//! A member's connection without its manners, for those who prove this crate.
//!
//! It passes the gate with a key and a chain like any member, and then says
//! whatever it is told to. Nothing of the agent uses it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, JobId, NodeId};
use gossip_core::log::LogId;
use gossip_core::sign::Key;
use libp2p::PeerId;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
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
        let dial = DialOpts::unknown_peer_id().address(address).allocate_new_port().build();
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

/// Takes `change` of `log`'s author to a fresh document of `job` through the quarantine.
pub fn quarantine(job: &JobId, log: &LogId, change: &[u8]) -> Result<(), String> {
    let genesis = document::genesis(job).map_err(|error| error.to_string())?;
    match quarantine::judge(job, &genesis, &document::actor_of(log), change) {
        Verdict::Accepted(_) | Verdict::Known | Verdict::Waits => Ok(()),
        Verdict::Refused(reason) => Err(reason),
    }
}
