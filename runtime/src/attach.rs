//! The agent's side of a task's standard input, and of its other commands.
//!
//! What the task writes is read from its log: that is complete whoever is attached,
//! and nobody who reads slowly holds the task up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use tracing::warn;

use crate::call::{self, Line};
use crate::frame;
use crate::launch::{Hold, TaskId};
use crate::order::{CONTROL, Command, Done, INPUT_BYTES, Typed};
use crate::record;
use crate::refusal::ControlError;
use crate::spare;
use crate::supervisor::{ADOPTION, KNOCK};
use crate::watch::Shared;

/// How long a supervisor may take to open its door.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Tells a task's supervisor something, and waits until it is done. The connection
/// is what an attached one goes on with.
pub(crate) async fn tell(
    shared: &Shared,
    id: &TaskId,
    command: &Command,
) -> Result<Line, ControlError> {
    ask(shared, id, command).await.map(|(line, _)| line)
}

/// As [`tell`]; says also whether the task is held then.
pub(crate) async fn ask(
    shared: &Shared,
    id: &TaskId,
    command: &Command,
) -> Result<(Line, Hold), ControlError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let over = || ControlError::NotRunning { id: id.clone() };
    let dir = match spare::hold(&shared.tasks, id) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ControlError::Unknown { id: id.clone() });
        }
        dir => dir.map_err(failed)?,
    };
    let mut line = reach(shared, id, &dir).await?;
    let command = frame::encode(command).map_err(failed)?;
    if line.send(&command).await.is_err() {
        return Err(over());
    }
    match line.hear().await.map_err(failed)? {
        Some(Done::Obeyed) => Ok((line, Hold::Released)),
        Some(Done::Held) => Ok((line, Hold::Held)),
        Some(Done::Refused { reason }) => Err(ControlError::Refused { id: id.clone(), reason }),
        // It ended while it was told.
        None => Err(over()),
    }
}

/// A connection to a task's supervisor, which listens when somebody knocks.
async fn reach(shared: &Shared, id: &TaskId, dir: &OwnedFd) -> Result<Line, ControlError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let until = Instant::now() + PATIENCE;
    let mut knocked = false;
    loop {
        match Line::connect(dir, CONTROL) {
            Err(error) if call::is_absent(&error) => {}
            line => return line.map_err(failed),
        }
        if Instant::now() > until {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        if record::is_over(dir.as_fd()) {
            return Err(ControlError::NotRunning { id: id.clone() });
        }
        if !knocked {
            knock(shared, id, dir)?;
            knocked = true;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Asks a task's supervisor to take commands.
fn knock(shared: &Shared, id: &TaskId, dir: &OwnedFd) -> Result<(), ControlError> {
    signal(shared, id, dir, KNOCK)
}

/// Orders a task that runs to stop.
pub(crate) async fn stop(
    shared: &Shared,
    id: &TaskId,
    grace: Duration,
) -> Result<(), ControlError> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    match tell(shared, id, &Command::Stop { grace_ms }).await {
        // A task must be stoppable when the disk is full, for it may be what fills it.
        Err(ControlError::Io { source, .. }) => {
            warn!(%id, error = %source, "a supervisor takes no commands; it is told to stop");
            terminate(shared, id)
        }
        told => told.map(drop),
    }
}

/// Stops a task whose supervisor cannot take commands, on a full disk perhaps: it
/// gives the task ten seconds.
fn terminate(shared: &Shared, id: &TaskId) -> Result<(), ControlError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let dir = spare::hold(&shared.tasks, id).map_err(failed)?;
    signal(shared, id, &dir, Signal::TERM)
}

fn signal(shared: &Shared, id: &TaskId, dir: &OwnedFd, signal: Signal) -> Result<(), ControlError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let over = || ControlError::NotRunning { id: id.clone() };
    let state = || match record::read(dir.as_fd()) {
        Ok(state) if state.claim.boot == shared.host.boot && state.end.is_none() => Ok(state),
        Ok(_) => Err(over()),
        Err(error) => Err(failed(io::Error::other(error))),
    };
    let first = state()?;
    let (Some(supervisor), Some(_)) = (first.claim.supervisor, first.task) else {
        return Err(over());
    };
    let supervisor = supervisor.open().map_err(failed)?.ok_or_else(over)?;
    if signal == Signal::TERM {
        // It takes no other task from then on.
        let _ = pidfd_send_signal(&supervisor, ADOPTION);
    }
    // It may have another task by now.
    state()?;
    match pidfd_send_signal(&supervisor, signal) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(over()),
        Err(error) => Err(failed(error.into())),
    }
}

/// A hold on a task's standard input. Dropping it ends nothing.
#[derive(Debug)]
pub struct Attached {
    line: Line,
}

impl Attached {
    pub(crate) fn new(line: Line) -> Self {
        Self { line }
    }

    /// Types something. Waits for as long as the task does not read.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for bytes in bytes.chunks(INPUT_BYTES) {
            self.say(&Typed::Input(bytes.to_vec())).await?;
        }
        Ok(())
    }

    /// Tells a terminal its size. Nothing to a task that has none.
    pub async fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        self.say(&Typed::Resize { rows, columns }).await
    }

    /// Ends the task's standard input, for everybody; in a terminal, types what ends
    /// it there.
    pub async fn close(mut self) -> io::Result<()> {
        self.say(&Typed::InputEnd).await
    }

    async fn say(&mut self, typed: &Typed) -> io::Result<()> {
        match self.line.send(&typed.frame()?).await {
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the task has ended"))
            }
            sent => sent,
        }
    }
}
