//! Bytes from where one waits to where one blocks: a body of the network as a `Read`.
//!
//! ```text
//! body ──push──▶ inlet ══ a few pieces ══▶ outlet ──read──▶ a thread that unpacks
//! ```
//!
//! Must never: take a source that broke off for one that ended. Only [`Inlet::end`] is an
//! end; an inlet that is dropped before is an error to whoever reads.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Pieces that wait between the network and the disk: a few of what one read of a stream
/// gives, so that neither waits for the other's every step.
const PIECES: usize = 16;

/// Where bytes go in.
#[derive(Debug)]
pub(crate) struct Inlet(mpsc::Sender<Piece>);

/// Where they come out. Blocks.
#[derive(Debug)]
pub(crate) struct Outlet {
    queue: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// Nobody reads any more: whoever did has failed or has enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Both ends.
pub(crate) fn pipe() -> (Inlet, Outlet) {
    let (sender, queue) = mpsc::channel(PIECES);
    (Inlet(sender), Outlet { queue, piece: Bytes::new(), ended: false })
}

impl Inlet {
    /// Waits for room.
    pub(crate) async fn push(&self, bytes: Bytes) -> Result<(), Closed> {
        self.0.send(Piece::Bytes(bytes)).await.map_err(|_closed| Closed)
    }

    /// There is no more to come.
    pub(crate) async fn end(self) {
        // Whoever reads may have seen enough.
        let _ = self.0.send(Piece::End).await;
    }
}

impl Read for Outlet {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.queue.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = self.piece.len().min(into.len());
        if let Some(into) = into.get_mut(..length) {
            self.piece.copy_to_slice(into);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_from_a_break() {
        for whole in [true, false] {
            let (inlet, mut outlet) = pipe();
            let reading = tokio::task::spawn_blocking(move || {
                let mut all = Vec::new();
                outlet.read_to_end(&mut all).map(|_| all)
            });
            inlet.push(Bytes::from_static(b"ab")).await.expect("it is read");
            inlet.push(Bytes::new()).await.expect("it is read");
            inlet.push(Bytes::from_static(b"c")).await.expect("it is read");
            if whole {
                inlet.end().await;
            } else {
                drop(inlet);
            }
            let read = reading.await.expect("no panic");
            match read {
                Ok(all) => assert!(whole && all == b"abc"),
                Err(error) => assert!(!whole && error.kind() == io::ErrorKind::UnexpectedEof),
            }
        }
        let (inlet, outlet) = pipe();
        drop(outlet);
        assert_eq!(inlet.push(Bytes::new()).await, Err(Closed));
    }
}
