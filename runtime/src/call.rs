//! The agent's end of the keeper's socket: finds the keeper or starts one, gives
//! an order, waits for the answer.
//!
//! One connection per order. The answer to a launch comes from the supervisor
//! itself, so a keeper that dies after it forked changes nothing.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use tokio::sync::Mutex;

use crate::order::{self, Answer, KEEPER_LOG, MESSAGE_BYTES, Order};
use crate::sys::Readable;

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

    /// A connection to the keeper, which is started if there is none.
    pub(crate) async fn connect(&self) -> Result<Readable, KeeperError> {
        let failed = |source| KeeperError::Connect { source };
        let connection = match self.try_connect().await {
            Err(error) if is_absent(&error) => self.start_and_connect().await?,
            connected => connected.map_err(failed)?,
        };
        Readable::new(connection).map_err(failed)
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
            match self.connect_once() {
                // The backlog is full: the keeper is busy forking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < BUSY_RETRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_RETRY).await;
                }
                connected => return connected,
            }
        }
    }

    fn connect_once(&self) -> io::Result<OwnedFd> {
        let socket = order::socket(SocketFlags::NONBLOCK)?;
        rustix::net::connect(&socket, &order::address(&self.dir)?)?;
        Ok(socket)
    }

    /// Asks a keeper, if there is one, to leave when its work is done.
    pub(crate) fn dismiss(&self) -> io::Result<()> {
        match self.connect_once() {
            Err(error) if is_absent(&error) => Ok(()),
            connection => order::send(&connection?, Order::Leave),
        }
    }
}

/// Whether a failure to connect means that no keeper lives.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Runs the program as a keeper; returns when it takes orders. Blocks.
fn start(program: &Path, dir: &Path) -> Result<(), KeeperError> {
    let failed = |source| KeeperError::Run { program: program.to_owned(), source };
    let path = dir.join(KEEPER_LOG);
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
    let status = Command::new(program)
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

/// Waits for the answer; none if the other side is gone.
pub(crate) async fn answer(connection: &Readable) -> io::Result<Option<Answer>> {
    loop {
        let mut ready = connection.ready().await?;
        let mut text = vec![0; MESSAGE_BYTES];
        match rustix::net::recv(connection.fd(), text.as_mut_slice(), RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(None),
            Ok((length, _)) => {
                return order::parse(text.get(..length).unwrap_or_default()).map(Some);
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
