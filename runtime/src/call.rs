//! The agent's end of the small processes' sockets: finds the keeper or starts one,
//! and carries messages without blocking.
//!
//! One connection per order. What answers is a supervisor, so a keeper that dies
//! meanwhile changes nothing.

use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::frame::{self, Inbox, READ_BYTES};
use crate::order::{self, KEEPER_LOG, OLDER, Order, SOCKET};
use crate::sys::Readable;
use crate::sys::mount::{MountAttributes, Reach, set_attributes};

/// Keepers started for one launch before it fails: the first may find one that
/// is just leaving.
const STARTS: usize = 3;

/// A keeper with a full backlog is asked again so often, so many times.
const BUSY_RETRY: Duration = Duration::from_millis(5);
const BUSY_RETRIES: usize = 2_000;

/// No keeper could be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The program could not be run.
    #[error("cannot run {} as the keeper", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ran, and failed.
    #[error("the keeper did not start ({status}); its reason is in {}", log.display())]
    Start {
        /// How it ended.
        status: ExitStatus,
        /// Where it wrote why.
        log: PathBuf,
    },
    /// It started, but does not listen.
    #[error("the keeper cannot be reached")]
    Connect {
        /// Why.
        source: io::Error,
    },
}

/// The way to the keeper.
#[derive(Debug)]
pub(crate) struct Caller {
    dir: OwnedFd,
    path: PathBuf,
    program: PathBuf,
    /// One start at a time.
    starting: Mutex<()>,
}

impl Caller {
    pub(crate) fn new(dir: OwnedFd, path: PathBuf, program: PathBuf) -> Self {
        Self { dir, path, program, starting: Mutex::new(()) }
    }

    /// A connection to whichever supervisor waits; a keeper is started if there is none.
    pub(crate) async fn connect(&self) -> Result<Line, KeeperError> {
        let failed = |source| KeeperError::Connect { source };
        let connection = match self.try_connect().await {
            Err(error) if is_absent(&error) => self.start_and_connect().await?,
            connected => connected.map_err(failed)?,
        };
        Line::new(connection).map_err(failed)
    }

    /// Gives an order if that needs no waiting at all, as it does as a rule.
    pub(crate) fn order_now(&self, order: &[u8]) -> Option<Line> {
        let line = Line::new(connect(&self.dir, SOCKET).ok()?).ok()?;
        let sent = rustix::net::send(line.socket.fd(), order, SendFlags::NOSIGNAL).ok()?;
        // Half an order is none: who reads it finds the connection closed.
        (sent == order.len()).then_some(line)
    }

    async fn start_and_connect(&self) -> Result<OwnedFd, KeeperError> {
        let _one = self.starting.lock().await;
        let mut starts = 0;
        loop {
            // Another launch may have started it meanwhile.
            match self.try_connect().await {
                Err(error) if is_absent(&error) && starts < STARTS => {}
                connected => return connected.map_err(|source| KeeperError::Connect { source }),
            }
            starts += 1;
            let (program, path) = (self.program.clone(), self.path.clone());
            let started = tokio::task::spawn_blocking(move || start(&program, &path));
            started
                .await
                .map_err(|source| KeeperError::Connect { source: io::Error::other(source) })??;
        }
    }

    async fn try_connect(&self) -> io::Result<OwnedFd> {
        let mut tries = 0;
        loop {
            match connect(&self.dir, SOCKET) {
                // The backlog is full: all supervisors are busy.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < BUSY_RETRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_RETRY).await;
                }
                connected => return connected,
            }
        }
    }

    /// The agent's own program.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The runtime's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks a keeper, if there is one, to leave when its work is done.
    pub(crate) fn dismiss(&self) -> io::Result<()> {
        self.ask_to_leave(SOCKET)
    }

    /// The same of keepers that an older program left: nobody launches with them any more.
    pub(crate) fn dismiss_older(&self) -> io::Result<()> {
        OLDER.into_iter().try_for_each(|socket| self.ask_to_leave(socket))
    }

    fn ask_to_leave(&self, socket: &str) -> io::Result<()> {
        match connect(&self.dir, socket) {
            Err(error) if is_absent(&error) => Ok(()),
            connection => order::say(connection?, &Order::Leave),
        }
    }
}

/// A connection to a socket below a directory.
fn connect(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let socket = order::socket(SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &order::address(dir, name)?)?;
    Ok(socket)
}

/// Whether a failure to connect means that nobody is there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Runs the program as a keeper; returns when it takes orders. Blocks.
fn start(program: &Path, dir: &Path) -> Result<(), KeeperError> {
    let failed = |source| KeeperError::Run { program: program.to_owned(), source };
    let path = dir.join(KEEPER_LOG);
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    // Open until the keeper runs it.
    let safe = read_only(program);
    let handle = safe.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
    let status = Command::new(handle.as_ref().map_or(program, Path::new))
        .arg0(program)
        .arg("keeper")
        .arg(dir)
        // It lives longer than the agent, and secrets may be in there.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .map_err(failed)?;
    if status.success() { Ok(()) } else { Err(KeeperError::Start { status, log: path }) }
}

/// The program through a mount of its own that is read-only: a task that the host's root
/// runs in, and that gets hold of what runs its supervisor, cannot write into that then.
/// None for an ordinary user, whose tasks cannot anyway.
fn read_only(program: &Path) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = open_tree(CWD, program, flags).ok()?;
    set_attributes(file.as_fd(), MountAttributes::READ_ONLY, None, Reach::This).ok()?;
    Some(file)
}

/// A connection to a supervisor.
#[derive(Debug)]
pub(crate) struct Line {
    /// Watched for reading alone: a supervisor that takes the connection makes it writable
    /// anew, and would wake the agent for nothing.
    socket: Readable,
    inbox: Inbox,
    /// A descriptor that came with the last message.
    passed: Option<OwnedFd>,
}

impl Line {
    /// Over a socket that does not block.
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: Readable::new(socket)?, inbox: Inbox::default(), passed: None })
    }

    /// To a socket below a directory.
    pub(crate) fn connect(dir: impl AsFd, name: &str) -> io::Result<Self> {
        Self::new(connect(dir, name)?)
    }

    /// Sends a frame. Dropping the future may leave half of it sent.
    pub(crate) async fn send(&self, frame: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while let Some(rest) = frame.get(sent..).filter(|rest| !rest.is_empty()) {
            let send = |socket: &OwnedFd| -> io::Result<usize> {
                Ok(rustix::net::send(socket, rest, SendFlags::NOSIGNAL)?)
            };
            // Tried first: an empty socket takes any usual message.
            match send(self.socket.fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sent += self.socket.write_with(send).await?;
                }
                done => sent += done?,
            }
        }
        Ok(())
    }

    /// The next message; none at the end of the connection. Dropping the future
    /// loses nothing.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(body) = self.inbox.take()? {
                return frame::decode(&body).map(Some);
            }
            let Self { socket, inbox, passed } = self;
            let mut chunk = [0; READ_BYTES];
            match socket.read_with(|socket| read(socket, &mut chunk, passed)).await {
                Ok(0) => return Ok(None),
                Ok(length) => inbox.push(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The connection, and what came of it and was not taken.
    pub(crate) fn into_parts(self) -> io::Result<(UnixStream, Inbox)> {
        Ok((UnixStream::from_std(self.socket.into_fd().into())?, self.inbox))
    }

    /// The descriptor that came with what was heard.
    pub(crate) fn passed(&mut self) -> Option<OwnedFd> {
        self.passed.take()
    }
}

fn read(stream: impl AsFd, chunk: &mut [u8], passed: &mut Option<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(chunk)];
    let message = loop {
        match rustix::net::recvmsg(&stream, &mut into, &mut extra, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            read => break read?,
        }
    };
    for message in extra.drain() {
        if let RecvAncillaryMessage::ScmRights(handles) = message {
            *passed = handles.last().or(passed.take());
        }
    }
    Ok(message.bytes)
}
