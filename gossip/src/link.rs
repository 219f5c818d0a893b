//! Frames to and from one member.
//!
//!     loop ─▶ bounded queue ─▶ one task ─▶ the peer's only stream from here
//!     the peer's streams ─▶ one task each ─▶ loop, or the scribe
//!
//! The loop never waits for a peer: what does not fit the queue is dropped.
//! Market messages may be lost, and records are pulled again. A reader that
//! meets nonsense ends its stream and nothing else. Signatures are checked
//! here, in the readers, so that neither the loop nor the scribe waits for it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::wire::{Frame, HEADER_BYTES, Header};
use libp2p::PeerId;
use libp2p_stream::{Control, IncomingStreams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::names;
use crate::scribe::Order;
use crate::stream::PeerStream;
use crate::swarm::PEER_PROTOCOL;

/// The most frames and bytes that wait for one peer.
const QUEUE_FRAMES_MAX: usize = 1024;
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most frame streams that one peer may have open to this node.
const STREAMS_PER_PEER_MAX: usize = 8;

/// Between attempts to open the stream.
const REOPEN: Duration = Duration::from_millis(100);

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    queue: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// The other end of a link's queue.
#[derive(Debug)]
pub(crate) struct Outbound {
    queue: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

impl Link {
    pub(crate) fn new() -> (Self, Outbound) {
        let (sender, receiver) = mpsc::channel(QUEUE_FRAMES_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        (
            Self { queue: sender, waiting: Arc::clone(&waiting) },
            Outbound { queue: receiver, waiting },
        )
    }

    /// Queues a frame, or drops it where the peer is too slow.
    pub(crate) fn send(&self, frame: Bytes) {
        let bytes = frame.len();
        if self.waiting.load(Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            return;
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        if self.queue.try_send(frame).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Drains a link into one stream after another, until the link is dropped and the peer has read
/// what was in it, or does not take it.
pub(crate) async fn drain(mut control: Control, peer: PeerId, mut outbound: Outbound) {
    let mut unsent = None;
    loop {
        match control.open_stream(peer, PEER_PROTOCOL).await {
            Ok(stream) => {
                let ended = write(PeerStream::new(stream), &mut outbound, &mut unsent).await;
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "the stream to a peer ended");
                }
            }
            Err(error) => tracing::debug!(%peer, %error, "cannot open the stream to a peer"),
        }
        if outbound.queue.is_closed() {
            return;
        }
        tokio::time::sleep(REOPEN).await;
    }
}

/// Writes frames until the stream breaks; `unsent` is the one that may not have gone out.
async fn write(
    stream: PeerStream,
    outbound: &mut Outbound,
    unsent: &mut Option<Bytes>,
) -> io::Result<()> {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut nothing = [0; 1];
    loop {
        let frame = match unsent.take() {
            Some(frame) => frame,
            None => tokio::select! {
                frame = outbound.queue.recv() => match frame {
                    Some(frame) => {
                        outbound.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
                        frame
                    }
                    None => {
                        writing.shutdown().await?;
                        // It hangs up when it has read everything. A connection that is closed
                        // before that takes along what was only sent.
                        return reading.read(&mut nothing).await.map(drop);
                    }
                },
                // The peer says nothing here; its end of the stream is all there is to hear.
                ended = reading.read(&mut nothing) => {
                    return ended.and(Err(io::ErrorKind::ConnectionReset.into()));
                }
            },
        };
        let written = match writing.write_all(&frame).await {
            Ok(()) if outbound.queue.is_empty() => writing.flush().await,
            other => other,
        };
        if let Err(error) = written {
            *unsent = Some(frame);
            return Err(error);
        }
    }
}

/// What a reader tells the loop.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Any frame that is not for the loop: a sign of life.
    Alive,
    Frame(Frame),
    /// Something was signed by nobody.
    Bad(String),
}

/// Where readers bring what they read.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    pub(crate) cluster: ClusterId,
    pub(crate) heard: mpsc::Sender<(NodeId, Heard)>,
    pub(crate) orders: mpsc::Sender<Order>,
    /// How many frames of records are on their way through the scribe.
    pub(crate) permits: Arc<Semaphore>,
}

/// Accepts frame streams; does nothing but hand them to readers of its own.
pub(crate) async fn accept(mut incoming: IncomingStreams, intake: Intake) {
    let open = Arc::new(Mutex::new(BTreeMap::<PeerId, usize>::new()));
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            next = incoming.next() => {
                let Some((peer, stream)) = next else { return };
                let Some(node) = names::node_of(&peer) else { continue };
                let Some(place) = Place::take(&open, peer) else { continue };
                let intake = intake.clone();
                readers.spawn(async move {
                    let _place = place;
                    if let Err(error) = read(node, PeerStream::new(stream), &intake).await {
                        tracing::debug!(node = %node.short(), %error, "the stream of a peer ended");
                    }
                });
            }
            Some(_ended) = readers.join_next() => {}
        }
    }
}

/// One of the streams that a peer may have open.
struct Place {
    open: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    peer: PeerId,
}

impl Place {
    fn take(open: &Arc<Mutex<BTreeMap<PeerId, usize>>>, peer: PeerId) -> Option<Self> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= STREAMS_PER_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Self { open: Arc::clone(open), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

async fn read(from: NodeId, mut stream: PeerStream, intake: &Intake) -> io::Result<()> {
    let ended = |_ended| io::Error::other("gossip has ended");
    let bad = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    loop {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let header = Header::read(header).map_err(|error| bad(error.to_string()))?;
        let mut payload = vec![0; header.length];
        stream.read_exact(&mut payload).await?;
        let frame = Frame::decode(header, &payload).map_err(|error| bad(error.to_string()))?;
        let heard = match frame {
            Some(Frame::Batches(batches)) => {
                for batch in &batches {
                    if let Err(error) = batch.verify(&intake.cluster) {
                        let _ended = intake.heard.send((from, Heard::Bad(error.to_string()))).await;
                        return Err(bad(error.to_string()));
                    }
                }
                let permit = Arc::clone(&intake.permits).acquire_owned().await;
                let permit = permit.map_err(|_ended| io::Error::other("gossip has ended"))?;
                let order = Order::Take { from, batches, permit };
                intake
                    .orders
                    .send(order)
                    .await
                    .map_err(|_ended| io::Error::other("gossip has ended"))?;
                Heard::Alive
            }
            Some(frame) => Heard::Frame(frame),
            None => Heard::Alive,
        };
        intake.heard.send((from, heard)).await.map_err(ended)?;
    }
}
