//! What flows between a user's terminal and something inside a task: `exec`,
//! `attach` and `cp`, over a connection that began as an HTTP request.
//!
//! ```text
//! user  ──Open, Input…, InputEnd, Resize, Signal──▶  the task's node
//!       ◀──[Unread] Opened, Output…, Exit | Failed──
//!
//! frame   u8 kind │ u32 length, big endian │ bytes
//! ```
//!
//! Unknown kinds are skipped, so that a newer end may say more. A frame longer
//! than [`FRAME_BYTES_MAX`] ends the connection: neither end ever holds more.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::api::types::Complaint;

/// What the connection is asked to become; its number is the version of the frames.
pub(crate) const PROTOCOL: &str = "starling-session/1";

/// The longest frame: a command with its environment, far above any piece of output.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;

/// The largest piece of input or output in one frame.
pub(crate) const PIECE_BYTES: usize = 32 << 10;

const OPEN: u8 = 1;
const INPUT: u8 = 2;
const INPUT_END: u8 = 3;
const RESIZE: u8 = 4;
const SIGNAL: u8 = 5;
const OPENED: u8 = 64;
const STDOUT: u8 = 65;
const STDERR: u8 = 66;
const EXIT: u8 = 67;
const FAILED: u8 = 68;
const UNREAD: u8 = 69;

/// What is wanted inside the task: always the first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Opening {
    /// Run another program there.
    Exec {
        /// It, and its arguments.
        argv: Vec<String>,
        /// Beside the task's own variables.
        env: BTreeMap<String, String>,
        /// Where it starts; where the task did if not said.
        directory: Option<String>,
        /// `USER[:GROUP]`; the task's own if not said.
        user: Option<String>,
        /// Whether it gets this input, or none.
        input: bool,
        /// A terminal of this size, or pipes.
        terminal: Option<Size>,
    },
    /// Type into its standard input.
    Attach {
        /// The size of the user's terminal.
        terminal: Option<Size>,
        /// Whether what it writes from now on is wanted too.
        output: bool,
    },
    /// Read a file or directory as a tar archive.
    CopyOut {
        /// In the task.
        path: String,
        /// What it is called in the archive; as its path ends if not said.
        #[serde(default)]
        name: Option<String>,
    },
    /// Read what is there, as a word: `directory`, `file` or `nothing`.
    Look {
        /// In the task.
        path: String,
    },
    /// Unpack a tar archive, which is the input.
    CopyIn {
        /// A directory in the task.
        path: String,
    },
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Lines.
    pub(crate) rows: u16,
    /// Columns.
    pub(crate) columns: u16,
}

/// Whatever one end says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The first word of the user's end.
    Open(Opening),
    /// Bytes for standard input.
    Input(Vec<u8>),
    /// There will be no more.
    InputEnd,
    /// The user's terminal has another size now.
    Resize(Size),
    /// Send this signal.
    Signal(i32),
    /// Before [`Opened`](Self::Opened): nothing reads what is typed, and so it has no terminal.
    Unread,
    /// It runs.
    Opened,
    /// Bytes of standard output.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The last word: it ended with this code.
    Exit(i32),
    /// The last word: it could not be done.
    Failed(Box<Complaint>),
}

impl Frame {
    fn encode(self) -> io::Result<(u8, Vec<u8>)> {
        let json = |kind, value: serde_json::Result<Vec<u8>>| Ok((kind, value?));
        match self {
            Self::Open(opening) => json(OPEN, serde_json::to_vec(&opening)),
            Self::Input(bytes) => Ok((INPUT, bytes)),
            Self::InputEnd => Ok((INPUT_END, Vec::new())),
            Self::Resize(size) => json(RESIZE, serde_json::to_vec(&size)),
            Self::Signal(number) => json(SIGNAL, serde_json::to_vec(&number)),
            Self::Unread => Ok((UNREAD, Vec::new())),
            Self::Opened => Ok((OPENED, Vec::new())),
            Self::Stdout(bytes) => Ok((STDOUT, bytes)),
            Self::Stderr(bytes) => Ok((STDERR, bytes)),
            Self::Exit(code) => json(EXIT, serde_json::to_vec(&code)),
            Self::Failed(complaint) => json(FAILED, serde_json::to_vec(&complaint)),
        }
    }

    /// None for a kind that this version does not know.
    fn decode(kind: u8, bytes: Vec<u8>) -> io::Result<Option<Self>> {
        Ok(Some(match kind {
            OPEN => Self::Open(serde_json::from_slice(&bytes)?),
            INPUT => Self::Input(bytes),
            INPUT_END => Self::InputEnd,
            RESIZE => Self::Resize(serde_json::from_slice(&bytes)?),
            SIGNAL => Self::Signal(serde_json::from_slice(&bytes)?),
            UNREAD => Self::Unread,
            OPENED => Self::Opened,
            STDOUT => Self::Stdout(bytes),
            STDERR => Self::Stderr(bytes),
            EXIT => Self::Exit(serde_json::from_slice(&bytes)?),
            FAILED => Self::Failed(serde_json::from_slice(&bytes)?),
            _ => return Ok(None),
        }))
    }
}

/// Sends one frame. Not to be cancelled: half a frame ends the session.
pub(crate) async fn send(to: &mut (impl AsyncWrite + Unpin), frame: Frame) -> io::Result<()> {
    let (kind, body) = frame.encode()?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a frame that is too long"))?;
    let mut bytes = Vec::with_capacity(5 + body.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    to.write_all(&bytes).await?;
    to.flush().await
}

/// Receives the next frame that this version knows; none at the end of the connection. Not
/// to be cancelled, unless nothing is read afterwards.
pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    loop {
        let mut head = [0; 5];
        match from.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        if let Some(frame) = Frame::decode(kind, body)? {
            return Ok(Some(frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_said_is_heard() {
        let exec = Opening::Exec {
            argv: vec!["sh".into()],
            env: BTreeMap::from([("A".into(), "b".into())]),
            directory: None,
            user: Some("web".into()),
            input: true,
            terminal: Some(Size { rows: 24, columns: 80 }),
        };
        let frames = [
            Frame::Open(exec),
            Frame::Input(vec![0, 255]),
            Frame::InputEnd,
            Frame::Resize(Size { rows: 1, columns: 2 }),
            Frame::Signal(15),
            Frame::Unread,
            Frame::Opened,
            Frame::Stdout(vec![1; PIECE_BYTES]),
            Frame::Stderr(Vec::new()),
            Frame::Failed(Box::new(Complaint::new("a", "b"))),
            Frame::Exit(137),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            send(&mut wire, frame.clone()).await.expect("sent");
        }
        // A newer end's word in between.
        wire.splice(0..0, [200, 0, 0, 0, 1, 9]);
        let mut from = wire.as_slice();
        for frame in frames {
            assert_eq!(receive(&mut from).await.expect("heard"), Some(frame));
        }
        assert_eq!(receive(&mut from).await.expect("the end"), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nonsense_ends_the_session_and_nothing_else() {
        for wire in [
            &[INPUT, 255, 255, 255, 255][..],
            &[OPEN, 0, 0, 0, 2, b'{', b'x'],
            &[INPUT, 0, 0, 0, 9, 1],
            &[EXIT, 0, 0, 0, 0],
        ] {
            let mut from = wire;
            assert!(receive(&mut from).await.is_err(), "{wire:?}");
        }
        let mut sink = Vec::new();
        assert!(send(&mut sink, Frame::Input(vec![0; FRAME_BYTES_MAX + 1])).await.is_err());
    }
}
