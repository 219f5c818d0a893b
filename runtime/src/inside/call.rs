//! The agent's end of a session: the order goes out, pieces come and go.
//!
//! Two bounded queues, and nothing between them and the socket: whoever reads
//! slowly makes the supervisor wait, and with it the program inside.
//!
//! Invariant: dropping either half of the session closes the connection, which ends
//! what runs there.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::wire::{Deed, Errand, PIECE_BYTES, Word};
use crate::call::KeeperError;
use crate::control::Runtime;
use crate::frame::{self, Inbox};
use crate::launch::TaskId;
use crate::order::{self, INPUT_BYTES, Order};
use crate::refusal::ControlError;
use crate::session::{PIECES, Piece, Session, SessionInput, SessionOutput, Typed};
use crate::spare;

/// A session that did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The task cannot be entered: it is unknown, has ended, or is paused.
    #[error(transparent)]
    Task(#[from] ControlError),
    /// Nobody is there to enter it.
    #[error("there is no keeper to enter tasks")]
    Keeper {
        /// Why.
        source: KeeperError,
    },
    /// The handle was shut down.
    #[error("the runtime is shut down")]
    ShutDown,
}

/// Begins a session; returns when what was asked for runs, or did not start, which
/// its end then tells.
pub(crate) async fn open(runtime: &Runtime, id: &TaskId, deed: Deed) -> Result<Session, ExecError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let shared = runtime.shared();
    // Known here at once; all else the supervisor looks at.
    match spare::hold(&shared.tasks, id) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ControlError::Unknown { id: id.clone() }.into());
        }
        Err(error) => return Err(failed(error).into()),
    }
    let line = shared.caller.connect().await;
    let line = line.map_err(|source| ExecError::Keeper { source })?;
    let errand = Errand { id: id.clone(), deed };
    let text = frame::encode(&Order::Enter(Box::new(errand))).map_err(failed)?;
    line.send(&text).await.map_err(failed)?;
    let (stream, inbox) = line.into_parts().map_err(failed)?;
    let (from, to) = stream.into_split();
    let mut words = Words { from, inbox };
    let first = match words.next().await.map_err(failed)? {
        Some(Word::NotRunning) => return Err(ControlError::NotRunning { id: id.clone() }.into()),
        Some(Word::Refused(reason)) => {
            return Err(ControlError::Refused { id: id.clone(), reason }.into());
        }
        Some(word) => word,
        None => return Err(failed(io::ErrorKind::UnexpectedEof.into()).into()),
    };
    let (input, typed) = mpsc::channel(PIECES);
    let (pieces, output) = mpsc::channel(PIECES);
    let carry = async move {
        tokio::select! {
            () = tell(first, words, &pieces) => {}
            () = hear(typed, to) => {}
            () = pieces.closed() => {}
        }
    };
    if !runtime.go_on(carry) {
        return Err(ExecError::ShutDown);
    }
    Ok(Session { input: SessionInput(input), output: SessionOutput(output) })
}

struct Words {
    from: OwnedReadHalf,
    inbox: Inbox,
}

impl Words {
    /// The next word; none at the end of the connection.
    async fn next(&mut self) -> io::Result<Option<Word>> {
        let mut chunk = vec![0; PIECE_BYTES];
        loop {
            if let Some(body) = self.inbox.take()? {
                let word = Word::read(&body);
                return word.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            match self.from.read(&mut chunk).await {
                Ok(0) => return Ok(None),
                Ok(length) => self.inbox.push(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Hands out what comes until the end is told, the connection ends, or nobody wants it.
async fn tell(first: Word, mut words: Words, pieces: &mpsc::Sender<Piece>) {
    let mut next = Some(first);
    while let Some(word) = next {
        let piece = match word {
            Word::Stdout(bytes) => Some(Piece::Stdout(bytes)),
            Word::Stderr(bytes) => Some(Piece::Stderr(bytes)),
            Word::Ended(end) => {
                // Nobody may be left to be told.
                let _ = pieces.send(Piece::Ended(end)).await;
                return;
            }
            Word::Began | Word::NotRunning | Word::Refused(_) => None,
        };
        if let Some(piece) = piece
            && pieces.send(piece).await.is_err()
        {
            return;
        }
        next = words.next().await.ok().flatten();
    }
}

/// Passes on what is typed; returns when nobody can type any more.
async fn hear(mut typed: mpsc::Receiver<Typed>, mut to: OwnedWriteHalf) {
    while let Some(typed) = typed.recv().await {
        let frames: Vec<io::Result<Vec<u8>>> = match typed {
            Typed::Bytes(bytes) => bytes
                .chunks(INPUT_BYTES)
                .map(|bytes| order::Typed::Input(bytes.to_vec()).frame())
                .collect(),
            Typed::End => vec![order::Typed::InputEnd.frame()],
            Typed::Resize { rows, columns } => vec![order::Typed::Resize { rows, columns }.frame()],
            Typed::Signal(number) => vec![order::Typed::Signal(number).frame()],
        };
        for frame in frames {
            let Ok(frame) = frame else { continue };
            if to.write_all(&frame).await.is_err() {
                // Its last words may still wait to be read.
                return std::future::pending().await;
            }
        }
    }
}
