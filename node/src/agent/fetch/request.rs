//! One request for chunks: asked, unpacked, verified and spooled as they come.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gossip_core::id::NodeId;
use http_body_util::BodyExt as _;
use runtime::image::Digest;
use runtime::image::chunks::{Put, Spool};
use starling_core::fetch::{Came, Ended, Part, RequestId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::run::Event;
use super::wire::Unpacker;
use crate::agent::Doors;
use crate::agent::images::{Giver, Meter};
use crate::api::peer::{self, PeerError};

/// How long a source may take to begin: the link may be full.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// A chunk that is asked for.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) part: Part,
    /// Where it stands in the layer.
    pub(super) start: u64,
    pub(super) bytes: u32,
    /// What came of it before.
    pub(super) begun: Vec<u8>,
}

/// What is asked of whom.
pub(super) struct Request {
    pub(super) doors: Doors,
    pub(super) layer: Digest,
    pub(super) spool: Arc<Spool>,
    pub(super) meter: Meter,
    pub(super) id: RequestId,
    pub(super) to: NodeId,
    pub(super) level: i32,
    pub(super) pieces: Vec<Piece>,
    pub(super) events: mpsc::Sender<Event>,
    /// It is called off.
    pub(super) off: CancellationToken,
}

/// How it ended, and what is here of the chunk that was coming.
struct Over {
    how: Ended,
    rest: Option<(Part, Vec<u8>)>,
}

impl Request {
    /// Runs it to its end, and tells of every step.
    pub(super) async fn run(mut self) {
        // Backwards, so that the next is the last.
        self.pieces.reverse();
        let over = self.exchange().await;
        let (id, node) = (self.id, self.to);
        let ended = Event::Ended { id, node, how: over.how, rest: over.rest };
        // Whoever fetched has left.
        let _ = self.events.send(ended).await;
    }

    async fn exchange(&mut self) -> Over {
        let path = self.path();
        let expected = self.pieces.iter().map(|p| u64::from(p.bytes) - p.begun.len() as u64).sum();
        let asked = peer::get_within(&self.doors, self.to, &path, BEGIN_WITHIN);
        let off = self.off.clone();
        let response = tokio::select! {
            response = asked => response,
            () = off.cancelled() => return self.broke(),
        };
        let mut body = match response {
            Ok(response) => response.into_body(),
            Err(PeerError::Status(404)) => return Over { how: Ended::Refused, rest: None },
            // Its layer ends before: it and the list do not agree.
            Err(PeerError::Status(400)) => {
                self.disagree().await;
                return Over { how: Ended::Refused, rest: None };
            }
            Err(error) => {
                tracing::debug!(layer = %self.layer, peer = %self.to.short(), %error, "no chunks");
                return self.broke();
            }
        };
        self.meter.from(Giver::Member(self.to));
        let Ok(mut unpacker) = Unpacker::new(self.level, expected) else { return self.broke() };
        while !self.pieces.is_empty() {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = off.cancelled() => return self.broke(),
            };
            let Some(Ok(frame)) = frame else { return self.broke() };
            let Ok(data) = frame.into_data() else { continue };
            let Some((unpacked, whole)) = self.unpack(&mut unpacker, &data) else {
                // What cannot be unpacked is as wrong as a wrong chunk.
                self.disagree().await;
                return self.broke();
            };
            self.doors.shares.came(data.len() as u64, unpacked);
            let bytes = Event::Bytes { id: self.id, bytes: unpacked };
            if self.events.send(bytes).await.is_err() || !self.put(whole).await {
                return self.broke();
            }
        }
        Over { how: Ended::Done, rest: None }
    }

    /// Tells that what comes next is not what it should be.
    async fn disagree(&mut self) {
        if let Some(piece) = self.pieces.pop() {
            let came = Event::Came { id: self.id, chunk: piece.part.chunk, came: Came::Bad };
            // Whoever fetched has left.
            let _ = self.events.send(came).await;
        }
    }

    /// `FIRST-LENGTH` of every stretch, neighbours as one.
    fn path(&self) -> String {
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for piece in self.pieces.iter().rev() {
            let begun = piece.begun.len() as u64;
            let (from, bytes) = (piece.start + begun, u64::from(piece.bytes) - begun);
            match stretches.last_mut() {
                Some((first, length)) if *first + *length == from => *length += bytes,
                _ => stretches.push((from, bytes)),
            }
        }
        let parts: Vec<_> =
            stretches.iter().map(|(from, bytes)| format!("{from}-{bytes}")).collect();
        let (layer, level) = (&self.layer, self.level);
        format!("/v1/local/layers/{layer}/bytes?level={level}&parts={}", parts.join(","))
    }

    /// Takes what came; how much it is in the layer, and the chunks that are whole with it.
    fn unpack(&mut self, unpacker: &mut Unpacker, data: &[u8]) -> Option<(u64, Vec<Piece>)> {
        let mut wire = data;
        let (mut unpacked, mut whole) = (0, Vec::new());
        loop {
            let before = wire.len();
            let mut made = unpacker.next(&mut wire).ok()?;
            if made.is_empty() && wire.len() == before {
                return Some((unpacked, whole));
            }
            unpacked += made.len() as u64;
            while !made.is_empty() {
                let piece = self.pieces.last_mut()?;
                let missing = piece.bytes as usize - piece.begun.len();
                let (now, later) = made.split_at(missing.min(made.len()));
                piece.begun.extend_from_slice(now);
                made = later;
                if piece.begun.len() == piece.bytes as usize {
                    whole.extend(self.pieces.pop());
                }
            }
        }
    }

    /// Verifies and spools; whether to go on.
    async fn put(&self, whole: Vec<Piece>) -> bool {
        if whole.is_empty() {
            return true;
        }
        let spool = Arc::clone(&self.spool);
        let put = self.doors.tasks.spawn_blocking(move || {
            let put = |piece: Piece| {
                let bytes = piece.begun.len() as u64;
                spool.put(piece.part.chunk, &piece.begun).map(|put| (piece.part.chunk, bytes, put))
            };
            whole.into_iter().map(put).collect::<Vec<_>>()
        });
        for put in put.await.unwrap_or_default() {
            let event = match put {
                Ok((chunk, _, Put::Here)) => Event::Came { id: self.id, chunk, came: Came::Good },
                Ok((chunk, bytes, Put::Bad)) => {
                    self.doors.shares.counts().bad.fetch_add(bytes, Ordering::Relaxed);
                    Event::Came { id: self.id, chunk, came: Came::Bad }
                }
                Err(error) => Event::Disk(error),
            };
            if self.events.send(event).await.is_err() {
                return false;
            }
        }
        true
    }

    fn broke(&mut self) -> Over {
        let piece = self.pieces.pop();
        let prefix = piece.as_ref().map_or(0, |piece| piece.begun.len());
        let how = Ended::Broke { prefix: u32::try_from(prefix).unwrap_or(u32::MAX) };
        Over { how, rest: piece.map(|piece| (piece.part, piece.begun)) }
    }
}
