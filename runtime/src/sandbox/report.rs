//! What a new process says to its supervisor before its program runs: why it does
//! not, or here is the terminal. Silence and the end of the socket mean it runs.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use rustix::process::Pid;

use super::NotStarted;
use crate::launch::StartFault;
use crate::order;
use crate::plan::{Plan, Step};

/// No step of the plan's, where something failed before the first.
pub(super) const NO_STEP: usize = u32::MAX as usize;

/// Longest message: a step, an error and a sentence.
const MESSAGE_BYTES: usize = 1024;

const FAILED: u8 = b'F';
const TERMINAL: u8 = b'T';
const PROCESS: u8 = b'P';
const HELD: u8 = b'H';
const MOUNTS: u8 = b'M';

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The kernel's word; zero if it said none.
    pub(super) errno: i32,
    /// Ours, if there is more to say than the step and the errno do.
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn because(detail: impl Into<String>) -> Self {
        Self { errno: 0, detail: detail.into() }
    }

    /// An error with the thing it is about.
    pub(super) fn at(thing: impl std::fmt::Display) -> impl FnOnce(Errno) -> Self {
        move |error| Self { errno: error.raw_os_error(), detail: thing.to_string() }
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self { errno: error.raw_os_error(), detail: String::new() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self { errno, detail: String::new() },
            None => Self::because(error.to_string()),
        }
    }
}

/// The failure of a plan's step, counted from 0, in words.
pub(super) fn in_words(plan: &Plan, at: usize, failure: &Failure) -> NotStarted {
    let Failure { errno, detail } = failure;
    let step = plan.steps().get(at);
    let error = order::plain(&std::io::Error::from_raw_os_error(*errno));
    let because = match (*errno, detail.as_str()) {
        (0, detail) => detail.to_owned(),
        (libc::EACCES, "") if matches!(step, Some(Step::Score(_) | Step::ScoreIt(_))) => {
            format!("{error}: only root may lower it")
        }
        (_, "") => error,
        (_, detail) => format!("{detail}: {error}"),
    };
    match step {
        None => NotStarted::system("cannot begin", because),
        Some(step) => {
            let (fault, number) = (fault(step, *errno), at + 1);
            NotStarted { fault, reason: format!("cannot {step}: {because} (step {number})") }
        }
    }
}

fn fault(step: &Step, errno: i32) -> StartFault {
    match step {
        Step::Execute(_) => match Errno::from_raw_os_error(errno) {
            Errno::NOENT | Errno::NOTDIR => StartFault::NotFound,
            Errno::NOMEM | Errno::TOOBIG | Errno::AGAIN | Errno::MFILE | Errno::NFILE => {
                StartFault::System
            }
            Errno::NOEXEC => StartFault::UnknownFormat,
            _ => StartFault::NotExecutable,
        },
        Step::Scratch | Step::Directory(_) => StartFault::Directory,
        Step::FindUser(_) | Step::BecomeFound(_) | Step::Become(_) => StartFault::User,
        _ => StartFault::System,
    }
}

/// What a supervisor and the process it makes talk over: the supervisor's end, the other's.
pub(super) fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Tells the supervisor which step failed. It may be gone, and then nobody asks.
pub(super) fn send_failure(socket: BorrowedFd<'_>, at: usize, failure: &Failure) {
    let mut message = vec![FAILED];
    message.extend(u32::try_from(at).unwrap_or(u32::MAX).to_le_bytes());
    message.extend(failure.errno.to_le_bytes());
    message.extend(failure.detail.as_bytes());
    message.truncate(MESSAGE_BYTES);
    let _ = rustix::net::send(socket, &message, SendFlags::NOSIGNAL);
}

/// Hands the supervisor its end of the terminal.
pub(super) fn send_terminal(socket: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    hand_over(socket, TERMINAL, terminal)
}

/// Hands the supervisor the namespace of its mounts.
pub(super) fn send_mounts(socket: BorrowedFd<'_>, mounts: BorrowedFd<'_>) -> Result<(), Errno> {
    hand_over(socket, MOUNTS, mounts)
}

fn hand_over(socket: BorrowedFd<'_>, what: u8, handle: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [handle];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let what = [what];
    let message = [IoSlice::new(&what)];
    rustix::net::sendmsg(socket, &message, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Tells the supervisor which process goes on.
pub(super) fn send_process(socket: BorrowedFd<'_>, process: Pid) -> Result<(), Errno> {
    let [a, b, c, d] = process.as_raw_nonzero().get().to_le_bytes();
    rustix::net::send(socket, &[PROCESS, a, b, c, d], SendFlags::NOSIGNAL).map(drop)
}

/// Tells the supervisor that all is made, and waits until it may go on. False if nobody
/// is there any more to say so.
pub(super) fn hold(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    rustix::net::send(socket, &[HELD], SendFlags::NOSIGNAL)?;
    await_go(socket)
}

/// Waits until the supervisor lets go. False if it is gone, or has given up.
pub(super) fn await_go(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut go = [0];
    let flags = RecvFlags::empty();
    let (received, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut go[..], flags))?;
    Ok(received == 1)
}

/// Lets a waiting process go on.
pub(super) fn send_go(socket: impl AsFd) -> Result<(), Errno> {
    rustix::net::send(socket, &[0], SendFlags::NOSIGNAL).map(drop)
}

/// What came of a new process.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its program runs, unless it was killed on the way.
    Runs,
    /// It waits before its program.
    Held,
    /// This step failed.
    Failed(usize, Failure),
}

/// All that was said.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) outcome: Outcome,
    pub(super) terminal: Option<OwnedFd>,
    /// The namespace of its mounts, if it was not born in that.
    pub(super) mounts: Option<OwnedFd>,
    /// Another process than the one first made.
    pub(super) process: Option<Pid>,
}

/// Waits for it.
pub(super) fn receive(socket: impl AsFd) -> Result<Heard, Errno> {
    let (mut terminal, mut mounts, mut process) = (None, None, None);
    loop {
        let mut text = [0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut message = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match rustix::net::recvmsg(&socket, &mut message, &mut control, flags) {
            Ok(received) => received.bytes,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let handle = control.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let text = text.get(..received).unwrap_or_default();
        match text {
            [] => return Ok(Heard { outcome: Outcome::Runs, terminal, mounts, process }),
            [FAILED, a, b, c, d, e, f, g, h, detail @ ..] => {
                let at = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                let errno = i32::from_le_bytes([*e, *f, *g, *h]);
                let detail = String::from_utf8_lossy(detail).into_owned();
                let outcome = Outcome::Failed(at, Failure { errno, detail });
                return Ok(Heard { outcome, terminal, mounts, process });
            }
            [HELD] => return Ok(Heard { outcome: Outcome::Held, terminal, mounts, process }),
            [TERMINAL] => terminal = handle,
            [MOUNTS] => mounts = handle,
            [PROCESS, a, b, c, d] => {
                process = Pid::from_raw(i32::from_le_bytes([*a, *b, *c, *d]));
            }
            _ => {}
        }
    }
}
