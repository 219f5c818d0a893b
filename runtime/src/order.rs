//! What is said between the agent and the small processes: the values, and the
//! sockets that carry them.
//!
//! ```text
//! keeper-3.sock            agent ──Order──▶ a waiting supervisor ──Report──▶ agent
//!                                  Reply ─▶                       … until the end
//! tasks/ID/control.sock    agent ──Command──▶ the task's supervisor ──Done──▶ agent
//!                                  Typed ───▶
//! ```
//!
//! An order travels whole, so the agent does no disk work before it asks. The
//! connection of a launch stays open for the task's life: its end without an
//! `Ended` says that the supervisor died.
//!
//! The names carry the version of the protocol (see `frame`): an agent never
//! speaks to a keeper that it does not understand, it starts its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::frame::{self, Inbox, READ_BYTES};
use crate::inside::Errand;
use crate::launch::{End, Launch, StartFault, TaskId};

/// Longest reason in a report or a record.
pub(crate) const REASON_BYTES: usize = 1 << 10;

/// A new number goes with every order that an older supervisor would refuse, and an order
/// has all of a launch in it.
pub(crate) const SOCKET: &str = "keeper-3.sock";
/// In a runtime's directory: locked as long as a keeper takes orders there.
pub const LOCK: &str = "keeper-3.lock";
/// In the same place: locked as long as an agent has the directory.
pub(crate) const AGENT_LOCK: &str = "agent.lock";
/// Where keepers of older programs take theirs. Of these the agent asks one thing only.
pub(crate) const OLDER: [&str; 1] = ["keeper-2.sock"];
pub(crate) const KEEPER_LOG: &str = "keeper.log";
pub(crate) const TASKS: &str = "tasks";
/// In a task's directory.
pub(crate) const CONTROL: &str = "control.sock";

/// What an agent asks of whichever supervisor waits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Start this. The nonce tells it from an earlier launch of the same id.
    ///
    /// Its text goes into the task's record as it came (see `record`), so the two
    /// have one form.
    Launch { nonce: String, launch: Box<Launch> },
    /// Do something inside a running task; see `inside`.
    Enter(Box<Errand>),
    /// The keeper shall leave as soon as no task runs.
    Leave,
}

/// What a supervisor says of a launch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// There is a task of that id; this launch never was.
    Exists,
    /// The program runs, or is held before it begins.
    Started { pid: u32 },
    /// It ran, and ended before it was told to run: as an `Ended` behind a `Started`.
    Ran { pid: u32, end: End },
    /// It does not, and will not.
    NotStarted { fault: StartFault, reason: String },
    /// A network namespace comes with this message: make it a network, and reply.
    NetworkWanted { id: TaskId },
    /// It ended, nothing of it is left, and this is on record.
    Ended { end: End },
}

/// What the agent replies to a supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    NetworkReady,
    NetworkFailed { reason: String },
}

/// What an agent tells the supervisor of a running task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Its stop signal now, SIGKILL after the grace.
    Stop {
        grace_ms: u64,
    },
    Signal {
        signal: i32,
        to: Recipient,
    },
    /// When to kill it, in nanoseconds of `CLOCK_BOOTTIME`; never, if none.
    Deadline {
        boot_ns: Option<u64>,
    },
    Pause,
    Resume,
    /// Lets a held task go on, to its program or where it is held next.
    Start,
    /// Whether it is held.
    AskHeld,
    /// From here on this connection carries [`Typed`].
    Attach,
}

/// Which processes of a task get a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// Its main process.
    Main,
    /// All of them.
    All,
}

/// What came of a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Done {
    #[serde(rename = "done")]
    Obeyed,
    /// That, and the task is held.
    Held,
    Refused {
        reason: String,
    },
}

/// What an attached connection carries: a kind, and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Input(Vec<u8>),
    InputEnd,
    Resize {
        rows: u16,
        columns: u16,
    },
    /// Only to what runs beside a task; the task itself is told by a command.
    Signal(i32),
}

/// Most input in one message: a supervisor holds it until the task reads.
pub(crate) const INPUT_BYTES: usize = 16 << 10;

impl Typed {
    pub(crate) fn frame(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Input(bytes) => frame::encode_bytes(&[&[1], bytes]),
            Self::InputEnd => frame::encode_bytes(&[&[2]]),
            Self::Resize { rows, columns } => {
                frame::encode_bytes(&[&[3], &rows.to_le_bytes(), &columns.to_le_bytes()])
            }
            Self::Signal(number) => frame::encode_bytes(&[&[4], &number.to_le_bytes()]),
        }
    }

    /// None if it is nothing this program knows.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        match *body {
            [1, ref bytes @ ..] if bytes.len() <= INPUT_BYTES => Some(Self::Input(bytes.to_vec())),
            [2] => Some(Self::InputEnd),
            [3, r0, r1, c0, c1] => Some(Self::Resize {
                rows: u16::from_le_bytes([r0, r1]),
                columns: u16::from_le_bytes([c0, c1]),
            }),
            [4, n0, n1, n2, n3] => Some(Self::Signal(i32::from_le_bytes([n0, n1, n2, n3]))),
            _ => None,
        }
    }
}

/// A new socket of the kind all ends use.
pub(crate) fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// The address of a socket below a directory. It leads through the handle, because a
/// path in an address ends at 108 bytes and data directories may lie deeper; so
/// `dir` must stay open while the address is used.
pub(crate) fn address(dir: impl AsFd, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd()))?)
}

/// A handle to a directory.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A handle to a directory directly below another.
pub(crate) fn open_below(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Says something to whoever is on the other side, without ever waiting for it: all
/// that is said here fits an empty socket buffer.
pub(crate) fn say<T: Serialize>(connection: impl AsFd, body: &T) -> io::Result<()> {
    let text = frame::encode(body)?;
    let sent = rustix::net::send(connection, &text, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads once into the inbox. False at the end of the stream.
pub(crate) fn hear(
    connection: impl AsFd,
    inbox: &mut Inbox,
    flags: RecvFlags,
) -> Result<bool, Errno> {
    let mut chunk = [0; READ_BYTES];
    let (length, _) = rustix::net::recv(connection, &mut chunk[..], flags)?;
    inbox.push(chunk.get(..length).unwrap_or_default());
    Ok(length > 0)
}

/// Waits until the other side closes the connection, or for so long.
///
/// The kernel takes whoever sends for about to sleep, and has the other one wait for the
/// same processor: who has much to do after a last word lets it be heard first.
pub(crate) fn await_close(connection: &OwnedFd, patience: Timespec) {
    let mut closed = [PollFd::new(connection, PollFlags::RDHUP)];
    let _ = poll(&mut closed, Some(&patience));
}

/// Whether the other side has closed a connection on which it has nothing to say.
pub(crate) fn is_closed(connection: impl AsFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(connection, &mut [0; 1], flags), Ok((_, 0)) | Err(Errno::CONNRESET))
}

/// An error with its causes, as a reason.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// An error as people read it, without the "(os error 22)" that the standard library adds.
pub(crate) fn plain(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Cuts a reason to what is told and kept.
pub(crate) fn shorten(mut reason: String) -> String {
    let end = (0..=REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_comes_back_and_nonsense_does_not() {
        let all = [
            Typed::Input(b"ls\n".to_vec()),
            Typed::InputEnd,
            Typed::Resize { rows: 24, columns: 300 },
            Typed::Signal(15),
        ];
        for typed in all {
            let mut inbox = Inbox::default();
            inbox.push(&typed.frame().expect("framed"));
            let body = inbox.take().expect("sound").expect("whole");
            assert_eq!(Typed::read(&body), Some(typed));
        }
        for bad in [&[][..], &[9], &[2, 2], &[3, 1]] {
            assert_eq!(Typed::read(bad), None);
        }
    }
}
