//! Streams for requests: one byte of greeting says that the other side took it.
//!
//! The stream library drops inbound streams silently when many come at once,
//! so an opener counts a stream as open only when it was greeted, and tries
//! again where it was not. A node that cannot take more greets nobody.

use std::io;
use std::time::Duration;

use futures::StreamExt as _;
use gossip_core::id::NodeId;
use libp2p::PeerId;
use libp2p_stream::{Control, IncomingStreams};
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::names;
use crate::stream::PeerStream;
use crate::swarm::HTTP_PROTOCOL;

/// Streams greeted that the agent has not taken yet.
pub(crate) const STREAMS_MAX: usize = 64;

const GREETING: u8 = b'+';
const PATIENCE: Duration = Duration::from_secs(5);

/// Between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Accepts and greets; does nothing else in its own task, so that none is missed.
pub(crate) async fn accept(
    mut incoming: IncomingStreams,
    streams: mpsc::Sender<(NodeId, PeerStream)>,
) {
    let mut greeters = JoinSet::new();
    loop {
        tokio::select! {
            next = incoming.next() => {
                let Some((peer, stream)) = next else { return };
                let Some(node) = names::node_of(&peer) else { continue };
                let Ok(place) = streams.clone().try_reserve_owned() else { continue };
                greeters.spawn(async move {
                    let mut stream = PeerStream::new(stream);
                    if let Ok(Ok(())) = timeout(PATIENCE, greet(&mut stream)).await {
                        place.send((node, stream));
                    }
                });
            }
            Some(_ended) = greeters.join_next() => {}
        }
    }
}

async fn greet(stream: &mut PeerStream) -> io::Result<()> {
    stream.write_all(&[GREETING]).await?;
    stream.flush().await
}

/// Opens a stream that the other side greeted.
pub(crate) async fn open(control: &mut Control, peer: PeerId) -> io::Result<PeerStream> {
    let attempts = async {
        let mut pause = PAUSE_MIN;
        loop {
            let opened = control.open_stream(peer, HTTP_PROTOCOL).await;
            let mut stream = PeerStream::new(opened.map_err(io::Error::other)?);
            match stream.read_u8().await {
                Ok(GREETING) => return Ok(stream),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                // Too many came at once: again, and not all at once again.
                Err(_not_taken) => {
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    };
    timeout(PATIENCE, attempts).await.map_err(|_elapsed| io::ErrorKind::TimedOut)?
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}
