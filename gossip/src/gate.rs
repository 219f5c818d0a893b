//! The gate on every connection, between the handshake and the swarm.
//!
//!     dialer   ── first substream, Hello ──▶ listener
//!              ◀── Reply ──
//!
//! The handshake proved the key; this proves the membership. It is part of
//! the transport, so a peer that does not pass never becomes a connection:
//! the swarm, gossip and streams do not see it. One message each way, bounded
//! in bytes and time; anything else ends the connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use gossip_core::codec;
use gossip_core::grant::Role;
use gossip_core::id::NodeId;
use gossip_core::wire::gate::{Hello, MESSAGE_BYTES_MAX, Reply};
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::gatekeeper::{GateError, Gatekeeper};
use crate::names;

/// How long admission may take, redemption with its write to the disk included.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a dialer that was turned away may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Lets a connection through, or ends it.
pub(crate) async fn pass(
    gatekeeper: Arc<Gatekeeper>,
    (peer, muxer): (PeerId, StreamMuxerBox),
    point: ConnectedPoint,
) -> Result<(PeerId, StreamMuxerBox), GateError> {
    let node = names::node_of(&peer).ok_or(GateError::KeyKind)?;
    let passed = async {
        if point.is_dialer() {
            knock(&gatekeeper, node, muxer).await
        } else {
            open(&gatekeeper, node, muxer).await
        }
    };
    let muxer = tokio::time::timeout(PATIENCE, passed)
        .await
        .map_err(|_elapsed| GateError::Slow)
        .flatten()
        .inspect_err(|error| tracing::debug!(node = %node.short(), %error, "gate closed"))?;
    Ok((peer, muxer))
}

async fn knock(
    gatekeeper: &Gatekeeper,
    asked: NodeId,
    mut muxer: StreamMuxerBox,
) -> Result<StreamMuxerBox, GateError> {
    let hello = gatekeeper.hello(&asked)?;
    let mut stream = poll_fn(|cx| {
        poll_muxer(&mut muxer, cx)?;
        muxer.poll_outbound_unpin(cx)
    })
    .await?;
    let said = drive(&mut muxer, async {
        say(&mut stream, &hello).await?;
        let reply: Reply = hear(&mut stream).await?;
        let _reply_is_here = stream.close().await;
        Ok(reply)
    });
    let reply = said.await?;
    gatekeeper.conclude(&asked, &hello, reply)?;
    Ok(muxer)
}

async fn open(
    gatekeeper: &Gatekeeper,
    dialer: NodeId,
    mut muxer: StreamMuxerBox,
) -> Result<StreamMuxerBox, GateError> {
    let mut stream = poll_fn(|cx| {
        // Inbound first: polling the muxer may put streams aside, but never drops the first.
        if let Poll::Ready(stream) = muxer.poll_inbound_unpin(cx) {
            return Poll::Ready(stream);
        }
        poll_muxer(&mut muxer, cx)?;
        muxer.poll_inbound_unpin(cx)
    })
    .await?;
    let mut refused = None;
    let answered = drive(&mut muxer, async {
        let hello: Hello = hear(&mut stream).await?;
        let reply = gatekeeper.answer(dialer, hello, Role::Member).await;
        refused = reason(&reply);
        say(&mut stream, &reply).await?;
        stream.close().await?;
        if refused.is_some() {
            // Closing the connection now could overtake the answer.
            let mut rest = [0; 1];
            let _left = tokio::time::timeout(FAREWELL, stream.read(&mut rest)).await;
        }
        Ok(())
    });
    let answered = answered.await;
    // Who heard the answer hangs up; that is not why it does not pass.
    match refused {
        Some(why) => Err(why),
        None => answered.map(|()| muxer),
    }
}

/// Why whoever gets this answer does not pass, if it does not.
fn reason(reply: &Reply) -> Option<GateError> {
    match reply {
        Reply::Welcome { .. } | Reply::Granted { .. } => None,
        Reply::Refused(refusal) => Some(GateError::TurnedAway(*refusal)),
        Reply::Removed { proof } => {
            let by = proof.issuer().unwrap_or(proof.subject);
            Some(GateError::Removed(proof.subject, by))
        }
    }
}

/// Handles whatever the muxer reports; none of it matters here.
fn poll_muxer(muxer: &mut StreamMuxerBox, cx: &mut Context<'_>) -> io::Result<()> {
    while let Poll::Ready(event) = muxer.poll_unpin(cx) {
        event?;
    }
    Ok(())
}

/// Runs `talk`, which uses one of the muxer's substreams; some muxers move bytes only when polled.
async fn drive<T>(
    muxer: &mut StreamMuxerBox,
    talk: impl Future<Output = Result<T, GateError>>,
) -> Result<T, GateError> {
    let mut talk = pin!(talk);
    poll_fn(|cx| {
        if let Poll::Ready(result) = talk.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if let Err(error) = poll_muxer(muxer, cx) {
            return Poll::Ready(Err(error.into()));
        }
        talk.as_mut().poll(cx)
    })
    .await
}

async fn say<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), GateError> {
    let bytes = codec::to_cbor(message)?;
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= MESSAGE_BYTES_MAX)
        .ok_or(GateError::Large(bytes.len()))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn hear<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, GateError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(GateError::Large(length));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(codec::from_cbor(&bytes)?)
}
