//! The user's end of a session: keys and pipes in, output and an exit code out.
//!
//! ```text
//! stdin ──▶ Input, InputEnd     SIGWINCH ──▶ Resize     SIGINT… ──▶ Signal
//! Stdout, Stderr ──▶ stdout, stderr      Exit ──▶ the exit code
//! ```
//!
//! Invariant: the end is told by `Exit` or `Failed` alone; a connection that
//! closes without one is a failure, never a success.

use std::io::{self, Write as _};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, ReadHalf, WriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::types::Complaint;
use crate::cli::client::{Client, segment};
use crate::cli::errors::Failed;
use crate::cli::terminal;
use crate::session::{Frame, Opening, PIECE_BYTES, receive, send};

/// Frames that wait for a slow network; then standard input waits.
const FRAMES_WAITING: usize = 16;

/// Ctrl-P Ctrl-Q: Docker's keys to leave a terminal without ending what is in it.
const LEAVE: [u8; 2] = [16, 17];

/// What standard input is to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Nothing of it is sent.
    Closed,
    /// All of it is sent.
    Sent,
    /// All of it, until the keys to leave.
    Left,
}

/// Whose this command's signals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signals {
    /// The other end's.
    Passed,
    /// This command's own.
    Kept,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this code.
    Exit(i32),
    /// The user pressed the keys to leave.
    Left,
}

/// A session with something inside a task.
pub(crate) struct Session {
    from: ReadHalf<TokioIo<Upgraded>>,
    to: WriteHalf<TokioIo<Upgraded>>,
    /// Whether the other end reads what is typed.
    pub(crate) is_read: bool,
}

impl Session {
    /// Opens one, and waits until the other end is ready.
    pub(crate) async fn open(
        client: &Client,
        task: &str,
        opening: Opening,
    ) -> Result<Self, Failed> {
        let stream = client.upgrade(&format!("/v1/tasks/{}/session", segment(task))).await?;
        let (from, to) = tokio::io::split(TokioIo::new(stream));
        let mut session = Self { from, to, is_read: true };
        send(&mut session.to, Frame::Open(opening)).await.map_err(broken)?;
        let mut word = receive(&mut session.from).await.map_err(broken)?;
        if word == Some(Frame::Unread) {
            session.is_read = false;
            word = receive(&mut session.from).await.map_err(broken)?;
        }
        match word {
            Some(Frame::Opened) => Ok(session),
            Some(Frame::Failed(complaint)) => Err((*complaint).into()),
            _ => Err(broken(io::Error::other("it did not say that it is ready"))),
        }
    }

    /// Connects it with this command's streams until it ends.
    pub(crate) async fn connect(self, keys: Keys, signals: Signals) -> Result<Ended, Failed> {
        let (frames, queue) = mpsc::channel(FRAMES_WAITING);
        let sending = tokio::spawn(write(self.to, queue));
        let typing = match keys {
            Keys::Closed => None,
            keys => Some(tokio::spawn(type_in(frames.clone(), keys))),
        };
        let watching = tokio::spawn(watch(frames, signals));
        let mut from = self.from;
        let ended = tokio::select! {
            ended = show(&mut from) => ended,
            Some(()) = left(typing) => Ok(Ended::Left),
        };
        watching.abort();
        sending.abort();
        ended
    }

    /// Its two halves, for whoever sends and shows something else.
    pub(crate) fn halves(self) -> (ReadHalf<TokioIo<Upgraded>>, WriteHalf<TokioIo<Upgraded>>) {
        (self.from, self.to)
    }
}

/// Whether the user left by keys; never returns otherwise.
async fn left(typing: Option<tokio::task::JoinHandle<bool>>) -> Option<()> {
    let left = match typing {
        Some(typing) => typing.await.unwrap_or(false),
        None => false,
    };
    if left { Some(()) } else { std::future::pending().await }
}

async fn write(mut to: WriteHalf<TokioIo<Upgraded>>, mut queue: mpsc::Receiver<Frame>) {
    while let Some(frame) = queue.recv().await {
        if send(&mut to, frame).await.is_err() {
            return;
        }
    }
}

/// Sends what is typed; true once the keys to leave were.
async fn type_in(frames: mpsc::Sender<Frame>, keys: Keys) -> bool {
    let mut input = tokio::io::stdin();
    let mut piece = vec![0; PIECE_BYTES];
    let mut held = false;
    loop {
        let length = match input.read(&mut piece).await {
            Ok(0) | Err(_) => {
                let _ended = frames.send(Frame::InputEnd).await;
                return false;
            }
            Ok(length) => length,
        };
        let mut bytes = piece.get(..length).unwrap_or_default().to_vec();
        if keys == Keys::Left {
            if leaving(&mut bytes, &mut held) {
                return true;
            }
            if bytes.is_empty() {
                continue;
            }
        }
        if frames.send(Frame::Input(bytes)).await.is_err() {
            return false;
        }
    }
}

/// Whether the two keys were typed one after the other; the first is held back until the
/// next one tells.
fn leaving(bytes: &mut Vec<u8>, held: &mut bool) -> bool {
    let mut passed = Vec::with_capacity(bytes.len() + 1);
    for byte in bytes.drain(..) {
        if *held && byte == LEAVE[1] {
            return true;
        }
        if std::mem::take(held) {
            passed.push(LEAVE[0]);
        }
        if byte == LEAVE[0] {
            *held = true;
        } else {
            passed.push(byte);
        }
    }
    *bytes = passed;
    false
}

/// Passes the terminal's size on, and signals if they are the other end's. They are caught
/// from the call on, before the future is polled.
fn watch(frames: mpsc::Sender<Frame>, signals: Signals) -> impl Future<Output = ()> {
    let mut size = signal(SignalKind::window_change()).ok();
    let caught = |kind| signal(kind).ok().filter(|_| signals == Signals::Passed);
    let mut interrupt = caught(SignalKind::interrupt());
    let mut terminate = caught(SignalKind::terminate());
    let mut quit = caught(SignalKind::quit());
    async move {
        loop {
            let frame = tokio::select! {
                () = next(&mut size) => match terminal::size() {
                    Some(size) => Frame::Resize(size),
                    None => continue,
                },
                () = next(&mut interrupt) => Frame::Signal(SignalKind::interrupt().as_raw_value()),
                () = next(&mut terminate) => Frame::Signal(SignalKind::terminate().as_raw_value()),
                () = next(&mut quit) => Frame::Signal(SignalKind::quit().as_raw_value()),
            };
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    let caught = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if caught.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Shows what comes until the end is told.
async fn show(from: &mut ReadHalf<TokioIo<Upgraded>>) -> Result<Ended, Failed> {
    loop {
        match receive(from).await.map_err(broken)? {
            Some(Frame::Stdout(bytes)) => put(&mut io::stdout(), &bytes)?,
            Some(Frame::Stderr(bytes)) => put(&mut io::stderr(), &bytes)?,
            Some(Frame::Exit(code)) => return Ok(Ended::Exit(code)),
            Some(Frame::Failed(complaint)) => return Err((*complaint).into()),
            Some(_) => {}
            None => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn put(to: &mut impl io::Write, bytes: &[u8]) -> Result<(), Failed> {
    Ok(to.write_all(bytes).and_then(|()| to.flush())?)
}

/// A session that ended without saying how.
pub(crate) fn broken(error: io::Error) -> Failed {
    Complaint::new("broken", "the connection into the task broke off")
        .because(error)
        .hint("starling ps   whether it still runs, and where")
        .into()
}

/// The exit code of a program as a command's.
pub(crate) fn exit(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(crate::cli::errors::FAILED)
}

/// Leaves the shell's prompt on a line of its own after a terminal was left.
pub(crate) fn say_left() {
    // Nobody is left to be told that stderr is closed.
    let _closed = writeln!(io::stderr(), "\r");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_leave_and_all_others_are_passed_on() {
        let mut held = false;
        let mut typed = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            (leaving(&mut bytes, &mut held), bytes)
        };
        assert_eq!(typed(b"ab"), (false, b"ab".to_vec()));
        assert_eq!(typed(&[16]), (false, vec![]));
        assert_eq!(typed(b"x"), (false, vec![16, b'x']));
        assert_eq!(typed(&[16, 16, b'y']), (false, vec![16, 16, b'y']));
        assert!(typed(&[b'z', 16]).1 == b"z");
        assert!(typed(&[17]).0);
    }
}
