//! What the agent does for each task: asks for its start, waits for its
//! supervisor to leave, tells how it ended.
//!
//! Each of these is one tokio task in the handle's `JoinSet`. Whoever asked for a
//! launch may stop listening; the launch goes on, and is watched.
//!
//! Invariant: a task is in `busy` from before its directory exists until its end
//! is known, so nobody can remove it or launch it again in between.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Mode, RenameFlags};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::adopt::{self, Standing};
use crate::call::{self, Caller};
use crate::control::LaunchError;
use crate::launch::{End, Event, Launch, StartFault, TaskId, User};
use crate::order::{self, Answer, Order};
use crate::proc;
use crate::record::{self, Existing, LAUNCH, LaunchRecord, RecordError, SCRATCH, Survives};
use crate::sys::Readable;

/// How long keeper and supervisor may be silent before a launch that nobody has
/// claimed is given up.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);

/// Others may pass through, nobody may look.
const PASSAGE: u32 = 0o711;

/// What all watchers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tasks: OwnedFd,
    pub(crate) tasks_path: PathBuf,
    pub(crate) boot: String,
    pub(crate) caller: Caller,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) busy: Mutex<BTreeSet<TaskId>>,
}

impl Shared {
    /// Marks a task as somebody's work. False if it is already.
    pub(crate) fn reserve(&self, id: &TaskId) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone())
    }

    pub(crate) fn release(&self, id: &TaskId) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Tells what happened. An agent that does not listen any more finds it on disk.
    async fn tell(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            debug!("nobody listens to events");
        }
    }
}

/// Runs blocking work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Watches a task to its end, and tells it.
pub(crate) async fn watch(shared: Arc<Shared>, id: TaskId, supervisor: OwnedFd) {
    let end = match Readable::new(supervisor) {
        Ok(supervisor) => match supervisor.ready().await {
            Ok(_) => end_of(&shared, &id).await,
            Err(error) => unknown_end(&id, &error),
        },
        Err(error) => unknown_end(&id, &error),
    };
    shared.release(&id);
    shared.tell(Event::Ended { id, end }).await;
}

async fn end_of(shared: &Arc<Shared>, id: &TaskId) -> End {
    let dir = order::open_below(&shared.tasks, id.as_str());
    if let Ok(Some(end)) = dir.map(|dir| record::read_end(dir.as_fd()).ok().flatten()) {
        return end;
    }
    // A lost task may take a while to kill.
    let (work, name) = (Arc::clone(shared), id.clone());
    let examined = blocking(move || {
        let dir = order::open_below(&work.tasks, name.as_str())
            .map_err(|source| RecordError::Io { name: name.to_string(), source })?;
        adopt::examine_end(dir.as_fd(), &work.boot)
    });
    match examined.await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => unknown_end(id, &error),
        Err(error) => unknown_end(id, &error),
    }
}

fn unknown_end(id: &TaskId, error: &(dyn std::error::Error + 'static)) -> End {
    warn!(%id, error, "the end of a task cannot be read");
    End::Lost { reason: format!("its end cannot be read: {error}") }
}

/// Starts a task, reports to whoever asked, and watches it.
pub(crate) async fn launch(
    shared: Arc<Shared>,
    launch: Launch,
    asker: oneshot::Sender<Result<u32, LaunchError>>,
) {
    let id = launch.id.clone();
    match begin(&shared, launch).await {
        Ok((pid, supervisor)) => {
            // An asker that went away learns it from the events.
            let _ = asker.send(Ok(pid));
            shared.tell(Event::Started { id: id.clone(), pid }).await;
            match supervisor {
                Some(supervisor) => watch(shared, id, supervisor).await,
                None => {
                    let end = end_of(&shared, &id).await;
                    shared.release(&id);
                    shared.tell(Event::Ended { id, end }).await;
                }
            }
        }
        Err(error) => {
            shared.release(&id);
            if let Err(Err(LaunchError::NotStarted { fault, reason })) = asker.send(Err(error)) {
                let end = End::NotStarted { fault, reason };
                shared.tell(Event::Ended { id, end }).await;
            }
        }
    }
}

type Begun = (u32, Option<OwnedFd>);

async fn begin(shared: &Arc<Shared>, launch: Launch) -> Result<Begun, LaunchError> {
    let id = launch.id.clone();
    let io = |source| LaunchError::Io { id: id.clone(), source };
    let nonce = proc::nonce().map_err(io)?;
    let record = LaunchRecord { nonce: nonce.clone(), boot: shared.boot.clone(), launch };
    let work = Arc::clone(shared);
    blocking(move || prepare(&work, &record)).await.map_err(io)??;
    let connection = match shared.caller.connect().await {
        Ok(connection) => connection,
        Err(error) => {
            // Nobody was asked, so the id is free again.
            let path = shared.tasks_path.join(id.as_str());
            let removed =
                blocking(move || std::fs::remove_dir_all(path)).await.and_then(|done| done);
            if let Err(error) = removed {
                warn!(%id, %error, "the directory of a task that was not started stays");
            }
            return Err(LaunchError::Keeper { source: error });
        }
    };
    let order = Order::Launch { id: id.clone(), nonce };
    if let Err(error) = order::send(connection.fd(), order) {
        debug!(%id, %error, "the keeper left before it was asked");
        return settle(shared, &id).await;
    }
    let answer = match tokio::time::timeout(LAUNCH_PATIENCE, call::answer(&connection)).await {
        Ok(answer) => answer,
        Err(_) => match give_up(shared, &id).await? {
            Some(refusal) => return Err(refusal),
            // A slow start, but somebody is at it.
            None => call::answer(&connection).await,
        },
    };
    match answer {
        Ok(Some(Answer::Started { supervisor, pid })) => Ok((pid, supervisor.open().map_err(io)?)),
        Ok(Some(Answer::NotStarted { fault: StartFault::Interrupted, .. })) | Ok(None) => {
            settle(shared, &id).await
        }
        Ok(Some(Answer::NotStarted { fault, reason })) => {
            let dir = order::open_below(&shared.tasks, id.as_str()).map_err(io)?;
            // A supervisor that could not claim the launch could not end it either.
            if !record::has_end(dir.as_fd()) {
                give_up(shared, &id).await?;
            }
            Err(LaunchError::NotStarted { fault, reason })
        }
        Err(error) => {
            warn!(%id, %error, "the answer to a launch cannot be read");
            settle(shared, &id).await
        }
    }
}

/// Makes the task's directory, whole or not at all. Blocks.
fn prepare(shared: &Shared, record: &LaunchRecord) -> Result<(), LaunchError> {
    let id = &record.launch.id;
    let unfinished = shared.tasks_path.join(format!(".new-{id}"));
    let made = make(&unfinished, record).and_then(|()| {
        let path = shared.tasks_path.join(id.as_str());
        rustix::fs::renameat_with(CWD, &unfinished, CWD, &path, RenameFlags::NOREPLACE)
            .map_err(io::Error::from)
    });
    made.map_err(|source| {
        // The first failure is the one to report.
        let _ = std::fs::remove_dir_all(&unfinished);
        if source.kind() == io::ErrorKind::AlreadyExists {
            LaunchError::Exists { id: id.clone() }
        } else {
            LaunchError::Io { id: id.clone(), source }
        }
    })
}

fn make(path: &std::path::Path, record: &LaunchRecord) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(PASSAGE).create(path)?;
    let dir = order::open_directory(path)?;
    // The umask has no say here.
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(PASSAGE))?;
    rustix::fs::mkdirat(&dir, SCRATCH, Mode::RWXU)?;
    if let Some(User { uid, gid }) = record.launch.user()
        && rustix::process::geteuid().is_root()
    {
        let scratch = order::open_below(&dir, SCRATCH)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&scratch, Some(uid), Some(gid))?;
    }
    match record::write(dir.as_fd(), LAUNCH, record, Existing::Kept, Survives::Processes) {
        Ok(_) => Ok(()),
        Err(RecordError::Io { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Gives up a launch that nobody has claimed; none if somebody has.
async fn give_up(shared: &Arc<Shared>, id: &TaskId) -> Result<Option<LaunchError>, LaunchError> {
    match examine(shared, id).await? {
        Standing::Ended(end) => Ok(Some(refusal(end))),
        Standing::Starting { .. } | Standing::Running { .. } => Ok(None),
    }
}

/// Finds out what became of a launch whose answer will not come.
async fn settle(shared: &Arc<Shared>, id: &TaskId) -> Result<Begun, LaunchError> {
    loop {
        match examine(shared, id).await? {
            Standing::Running { pid, supervisor } => return Ok((pid, Some(supervisor))),
            Standing::Ended(end) => return Err(refusal(end)),
            Standing::Starting { supervisor } => {
                // It could not answer, so it is about to end.
                let io = |source| LaunchError::Io { id: id.clone(), source };
                let supervisor = Readable::new(supervisor).map_err(io)?;
                supervisor.ready().await.map_err(io)?.retain_ready();
            }
        }
    }
}

async fn examine(shared: &Arc<Shared>, id: &TaskId) -> Result<Standing, LaunchError> {
    let (work, name) = (Arc::clone(shared), id.clone());
    let io = |source| LaunchError::Io { id: id.clone(), source };
    blocking(move || {
        let dir = order::open_below(&work.tasks, name.as_str())
            .map_err(|source| LaunchError::Io { id: name.clone(), source })?;
        adopt::examine(dir.as_fd(), &work.boot)
            .map_err(|source| LaunchError::Record { id: name, source })
    })
    .await
    .map_err(io)?
}

fn refusal(end: End) -> LaunchError {
    match end {
        End::NotStarted { fault, reason } => LaunchError::NotStarted { fault, reason },
        end => LaunchError::Lost { end },
    }
}
