//! The bytes of one layer, from as many connections and registries as it takes.
//!
//! ```text
//! GET ──▶ ▓▓▓▓▓▓▓✕ broken ──▶ GET from that byte ──▶ ▓▓▓▓ ──▶ bounded channel ──▶ Read
//! ```
//!
//! What goes into the channel is the layer from its first byte to its last, each once. Whether
//! these bytes are right is seen by whoever reads them: digests are of the whole.
//!
//! Other places that a manifest may name for a layer are never asked (CVE-2020-15157).

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use hyper::header::{CONTENT_RANGE, RANGE};
use hyper::{Method, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::RegistryError;
use super::retry::{PROGRESS_BYTES, Tries};
use super::session::{Ask, Session};
use crate::image::Descriptor;

/// Pieces under way between the network and the disk; one has at most some 400 KiB.
const PIECES: usize = 16;

/// The end of a pipe that the network fills.
#[derive(Debug)]
pub(super) struct Inlet {
    wanted: oneshot::Receiver<()>,
    to: mpsc::Sender<Piece>,
}

/// The end that is read, by a thread of its own: it blocks. Nothing is fetched before its
/// first read.
#[derive(Debug)]
pub(super) struct Outlet {
    want: Option<oneshot::Sender<()>>,
    from: mpsc::Receiver<Piece>,
    now: Bytes,
    ended: bool,
}

#[derive(Debug)]
enum Piece {
    Some(Bytes),
    /// All of it came. A channel that ends without this was given up.
    End,
}

pub(super) fn pipe() -> (Inlet, Outlet) {
    let (want, wanted) = oneshot::channel();
    let (to, from) = mpsc::channel(PIECES);
    let outlet = Outlet { want: Some(want), from, now: Bytes::new(), ended: false };
    (Inlet { wanted, to }, outlet)
}

impl Read for Outlet {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(want) = self.want.take() {
            let _ = want.send(());
        }
        while self.now.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Piece::Some(bytes)) => self.now = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = self.now.len().min(into.len());
        self.now.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

impl Inlet {
    /// Fetches a layer once somebody reads it. The first registry that has it gives it; where
    /// that fails for good, the next one goes on.
    pub(super) async fn feed(
        self,
        sessions: &[impl AsRef<Session> + Sync],
        layer: &Descriptor,
    ) -> Result<(), RegistryError> {
        let Self { wanted, to } = self;
        if wanted.await.is_err() {
            return Ok(());
        }
        tokio::select! {
            fed = feed(sessions, layer, &to) => fed,
            // Whoever read it has had enough; no server is waited for.
            () = to.closed() => Ok(()),
        }
    }
}

async fn feed(
    sessions: &[impl AsRef<Session> + Sync],
    layer: &Descriptor,
    to: &mpsc::Sender<Piece>,
) -> Result<(), RegistryError> {
    let mut at = 0;
    let mut last = None;
    for session in sessions {
        match insist(session.as_ref(), layer, &mut at, to).await {
            Ok(()) => {
                let _ = to.send(Piece::End).await;
                return Ok(());
            }
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(()), Err)
}

/// Goes on at `at` until all is there or it is of no use.
async fn insist(
    session: &Session,
    layer: &Descriptor,
    at: &mut u64,
    to: &mpsc::Sender<Piece>,
) -> Result<(), RegistryError> {
    let mut tries = Tries::new();
    let mut mark = *at;
    while *at < layer.size {
        let Err(error) = stream(session, layer, at, to).await else { return Ok(()) };
        if *at - mark >= PROGRESS_BYTES {
            mark = *at;
            tries.forget();
        }
        session.pause(&mut tries, error).await?;
    }
    Ok(())
}

/// One request, and what comes of it.
async fn stream(
    session: &Session,
    layer: &Descriptor,
    at: &mut u64,
    to: &mpsc::Sender<Piece>,
) -> Result<(), RegistryError> {
    let mut ask = Ask::new(Method::GET, session.at(&format!("blobs/{}", layer.digest)));
    if *at > 0 {
        ask = ask.with(RANGE, format!("bytes={at}-"));
    }
    let mut answer = session.once(&ask, &layer.digest.to_string()).await?;
    let begins = match answer.status {
        StatusCode::PARTIAL_CONTENT => answer.header(&CONTENT_RANGE).and_then(first_byte),
        _ => Some(0),
    };
    // A server without ranges gives all of it again, and what is here of it is passed over.
    let begins = begins.filter(|begins| *begins <= *at);
    let mut pass = match begins {
        Some(begins) => *at - begins,
        None => return Err(session.nonsense("gives another part of a layer than was asked for")),
    };
    let rest = layer.size - *at + pass;
    if answer.body.length().is_some_and(|length| length != rest) {
        return Err(wrong_size(session, layer));
    }
    while let Some(mut bytes) = answer.body.next().await? {
        let known = usize::try_from(pass).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(known);
        pass -= known as u64;
        if bytes.len() as u64 > layer.size - *at {
            return Err(wrong_size(session, layer));
        }
        let length = bytes.len() as u64;
        if length > 0 && to.send(Piece::Some(bytes)).await.is_err() {
            return Ok(());
        }
        *at += length;
    }
    if *at < layer.size {
        let (host, source) = (session.host.clone(), io::ErrorKind::UnexpectedEof.into());
        return Err(RegistryError::Broke { host, source });
    }
    Ok(())
}

fn wrong_size(session: &Session, layer: &Descriptor) -> RegistryError {
    let Descriptor { size, digest, .. } = layer;
    session.nonsense(format!("says that layer {} has {size} bytes, and it has not", digest.short()))
}

/// The first number of `bytes 5-9/10`.
fn first_byte(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_where_it_says() {
        assert_eq!(first_byte("bytes 5-9/10"), Some(5));
        for odd in
            ["", "bytes", "bytes */10", "5-9/10", "bytes -9/10", "bytes 99999999999999999999-"]
        {
            assert_eq!(first_byte(odd), None, "{odd}");
        }
    }
}
