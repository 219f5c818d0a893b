//! The handle through which an agent starts, stops and reads tasks.
//!
//! It may be dropped at any time, by the agent or by the agent's death: tasks go
//! on, and the next [`Runtime::open`] of the same directory finds them.
//!
//! Invariant: one open runtime per directory (`agent.lock`), and every tokio
//! task it spawns is in its `JoinSet`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::adopt::{self, Host, OpenError, Standing};
use crate::attach::{self, Attached};
use crate::call::Caller;
use crate::cgroup::{Tree, Usage};
use crate::image::Images;
use crate::keeper;
use crate::launch::{Event, Found, FoundState, Hold, Launch, StartFault, TaskId};
use crate::loans::Loans;
use crate::log::{LogError, LogReader, LogRequest};
use crate::mend::mend;
use crate::order::{self, AGENT_LOCK, Command, Recipient, TASKS};
use crate::record;
use crate::refusal::{ControlError, LaunchError, RemoveError};
use crate::removal;
use crate::spare;
use crate::supervisor;
use crate::underway::{Launches, Underway};
use crate::usage;
use crate::watch::{self, Asked, Shared, blocking};

/// Events that may wait for the agent; then watchers wait too, and lose nothing.
const EVENTS: usize = 1024;

/// How long an agent that is being replaced may hold the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Where a runtime works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own directory, made if it is not there. Nobody else writes in it.
    pub dir: PathBuf,
    /// The agent's own program: `PROGRAM keeper DIR` must call [`keeper_main`](crate::keeper_main).
    pub program: PathBuf,
}

/// A runtime, and what was found when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub runtime: Runtime,
    /// Every task whose directory is there, in the order of ids.
    pub found: Vec<Found>,
    /// What happens from now on.
    pub events: mpsc::Receiver<Event>,
}

/// Starts, stops and reads the tasks of one directory.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// None once it was shut down.
    work: Mutex<Option<JoinSet<()>>>,
    lock: File,
}

impl Runtime {
    /// Opens a directory and finds out what every task in it does.
    pub async fn open(config: Config) -> Result<Opened, OpenError> {
        let path = config.dir.clone();
        let prepared = blocking(move || prepare(config)).await;
        let Prepared { caller, tasks, tasks_path, host, lock, standings, loans } =
            prepared.map_err(|source| OpenError::Directory { path, source })??;
        if let Err(error) = caller.dismiss_older() {
            debug!(%error, "the keeper of an older program cannot be told to leave");
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let busy = Mutex::default();
        let launches = Launches::default();
        let shared = Shared { tasks, tasks_path, host, caller, events, busy, launches, loans };
        let shared = Arc::new(shared);
        let mut work = JoinSet::new();
        let mut found = Vec::new();
        for (id, standing) in standings {
            let state = match standing {
                Standing::Ended(end) => FoundState::Ended(end),
                Standing::Running { pid, supervisor } => {
                    shared.reserve(&id);
                    shared.resume(&id);
                    work.spawn(watch::watch(Arc::clone(&shared), id.clone(), supervisor));
                    FoundState::Running { pid }
                }
                // `examine_all` waits these out.
                Standing::Starting { .. } => continue,
            };
            found.push(Found { id, state });
        }
        let sweeper = Arc::clone(&shared);
        blocking(move || sweep(&sweeper))
            .await
            .map_err(|source| OpenError::Directory { path: PathBuf::from(TASKS), source })?;
        if shared.loans.may_bridge() {
            work.spawn(mend(Arc::clone(&shared)));
        }
        let runtime = Self(Arc::new(Inner { shared, work: Mutex::new(Some(work)), lock }));
        Ok(Opened { runtime, found, events: receiver })
    }

    /// Starts a task; returns its main process once its program runs, or waits to where the
    /// launch has it held.
    ///
    /// Dropping the future does not stop the launch: what becomes of it then
    /// comes as events.
    pub async fn launch(&self, mut launch: Launch) -> Result<u32, LaunchError> {
        launch.check()?;
        let shared = &self.0.shared;
        let id = launch.id.clone();
        if !shared.reserve(&id) {
            return Err(LaunchError::Exists { id });
        }
        let underway = shared.launches.begin(&id);
        launch = self.lend(launch, &underway).await?;
        let (asker, answer) = oneshot::channel();
        {
            let mut work = self.0.work.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(work) = work.as_mut() else {
                shared.loans.take_back(&id);
                shared.release(&id);
                return Err(LaunchError::ShutDown);
            };
            while work.try_join_next().is_some() {}
            let asked = Asked::ask(shared, launch, underway).inspect_err(|_| {
                shared.loans.take_back(&id);
                shared.release(&id);
            })?;
            work.spawn(watch::launch(Arc::clone(shared), asked, asker));
        }
        answer.await.unwrap_or(Err(LaunchError::ShutDown))
    }

    /// What a container needs of the agent, which may take a while. What fails has
    /// nothing, and its id is free; what is stopped, as soon as the work ends.
    async fn lend(&self, mut launch: Launch, underway: &Underway) -> Result<Launch, LaunchError> {
        let (shared, id) = (Arc::clone(&self.0.shared), launch.id.clone());
        let takes_time = Loans::takes_time(&launch);
        let lend = move || shared.loans.lend(&mut launch).map(|()| launch);
        let shared = &self.0.shared;
        let lent = if takes_time {
            let mut lending = tokio::task::spawn_blocking(lend);
            tokio::select! {
                lent = &mut lending => lent.map_err(io::Error::other),
                () = underway.stopped() => {
                    let (shared, id) = (Arc::clone(shared), id.clone());
                    self.go_on(async move {
                        let _ = lending.await;
                        shared.loans.take_back(&id);
                        shared.release(&id);
                    });
                    return Err(LaunchError::NotStarted {
                        fault: StartFault::Interrupted,
                        reason: watch::STOPPED.to_owned(),
                    });
                }
            }
        } else {
            Ok(lend())
        };
        let lent = match lent {
            Ok(lent) => lent.map_err(|error| LaunchError::NotStarted {
                fault: StartFault::System,
                reason: error.to_string(),
            }),
            Err(source) => Err(LaunchError::Io { id: id.clone(), source }),
        };
        lent.inspect_err(|_| shared.release(&id))
    }

    /// Orders a task to stop: its stop signal now, SIGKILL to all of it after
    /// `grace`. The order holds even if the agent dies. A second one can only
    /// shorten the grace. A paused task goes on first.
    ///
    /// A launch under way ends as soon as possible, whatever it waits for; what
    /// [`launch`](Self::launch) returns says so.
    ///
    /// Where a supervisor cannot take commands, as on a full disk, it is told all the
    /// same and gives the task ten seconds.
    pub async fn stop(&self, id: &TaskId, grace: Duration) -> Result<(), ControlError> {
        // One that is being launched has nobody yet who could be told.
        if self.0.shared.launches.stop(id, grace) {
            return Ok(());
        }
        attach::stop(&self.0.shared, id, grace).await
    }

    /// Sends a signal to a task's main process, or to all its processes.
    pub async fn signal(
        &self,
        id: &TaskId,
        signal: i32,
        to: Recipient,
    ) -> Result<(), ControlError> {
        self.tell(id, Command::Signal { signal, to }).await
    }

    /// When the task is killed, agent or no agent: nanoseconds of `CLOCK_BOOTTIME`.
    /// Replaces what its launch or an earlier call said.
    pub async fn set_deadline(
        &self,
        id: &TaskId,
        boot_ns: Option<u64>,
    ) -> Result<(), ControlError> {
        self.tell(id, Command::Deadline { boot_ns }).await
    }

    /// Stops all processes of a task where they are. Refused where there are no
    /// control groups.
    pub async fn pause(&self, id: &TaskId) -> Result<(), ControlError> {
        self.tell(id, Command::Pause).await
    }

    /// Lets a held task go on: to its program, or to where it is held next. Refused, with
    /// the reason, if its program cannot be run; then the task has ended.
    pub async fn start(&self, id: &TaskId) -> Result<Hold, ControlError> {
        attach::ask(&self.0.shared, id, &Command::Start).await.map(|(_, hold)| hold)
    }

    /// Whether a task is held.
    pub async fn hold(&self, id: &TaskId) -> Result<Hold, ControlError> {
        attach::ask(&self.0.shared, id, &Command::AskHeld).await.map(|(_, hold)| hold)
    }

    /// Lets a paused task go on.
    pub async fn resume(&self, id: &TaskId) -> Result<(), ControlError> {
        self.tell(id, Command::Resume).await
    }

    /// What a running task has used. Where no control group counts, what its living
    /// processes have used.
    pub async fn usage(&self, id: &TaskId) -> Result<Usage, ControlError> {
        let (shared, name) = (Arc::clone(&self.0.shared), id.clone());
        let read = blocking(move || usage::of(&shared, &name)).await;
        read.map_err(|source| ControlError::Io { id: id.clone(), source })?
    }

    /// Takes hold of the standard input of a task whose [`Streams`](crate::Streams) have one.
    pub async fn attach(&self, id: &TaskId) -> Result<Attached, ControlError> {
        attach::tell(&self.0.shared, id, &Command::Attach).await.map(Attached::new)
    }

    /// The images of this machine.
    pub fn images(&self) -> &Images {
        self.0.shared.loans.images()
    }

    /// What all handles share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Has something done for as long as this handle is not shut down; false if it is.
    pub(crate) fn go_on<F: Future<Output = ()> + Send + 'static>(&self, work: F) -> bool {
        let mut all = self.0.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(all) = all.as_mut() else { return false };
        while all.try_join_next().is_some() {}
        all.spawn(work);
        true
    }

    async fn tell(&self, id: &TaskId, command: Command) -> Result<(), ControlError> {
        attach::tell(&self.0.shared, id, &command).await.map(drop)
    }

    /// Removes an ended task's directory, with its log and its scratch files.
    pub async fn remove(&self, id: &TaskId) -> Result<(), RemoveError> {
        if !self.0.shared.reserve(id) {
            return Err(RemoveError::Running { id: id.clone() });
        }
        let (shared, name) = (Arc::clone(&self.0.shared), id.clone());
        let removed = blocking(move || {
            let removed = remove(&shared, &name);
            shared.release(&name);
            removed
        });
        removed.await.map_err(|source| RemoveError::Io { id: id.clone(), source })?
    }

    /// Reads a task's log, running or ended.
    pub async fn logs(&self, id: &TaskId, request: LogRequest) -> Result<LogReader, LogError> {
        match spare::hold(&self.0.shared.tasks, id) {
            Ok(dir) => LogReader::open(dir, request).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LogError::Unknown { id: id.clone() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stops watching and gives the directory free. Tasks go on; a bridge that none of
    /// them is on goes, and without a keeper so do control groups that hold none.
    pub async fn shut_down(&self) {
        let work = self.0.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut work) = work {
            work.shutdown().await;
        }
        let shared = Arc::clone(&self.0.shared);
        let closed = blocking(move || {
            tidy_after_keepers(&shared);
            spare::clear(&shared.tasks);
            shared.loans.close()
        });
        if let Err(error) = closed.await {
            warn!(%error, "the bridge may stay");
        }
        self.0.unlock();
    }

    /// Asks the keeper to leave as soon as no task runs. A later launch starts
    /// another.
    pub fn stop_keeper(&self) {
        if let Err(error) = self.0.shared.caller.dismiss() {
            debug!(%error, "the keeper cannot be told to leave");
        }
    }
}

impl Inner {
    fn unlock(&self) {
        // Said, and not left to closing: a process being spawned just now may
        // hold a copy of the descriptor until its exec.
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            warn!(%error, "the runtime's directory stays locked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unlock();
    }
}

struct Prepared {
    caller: Caller,
    tasks: std::os::fd::OwnedFd,
    tasks_path: PathBuf,
    host: Host,
    lock: File,
    standings: Vec<(TaskId, Standing)>,
    loans: Loans,
}

fn prepare(config: Config) -> Result<Prepared, OpenError> {
    let Config { dir, program } = config;
    let failed = |source| OpenError::Directory { path: dir.clone(), source };
    make_directory(&dir).map_err(failed)?;
    let path = dir.canonicalize().map_err(failed)?;
    let tasks_path = path.join(TASKS);
    make_directory(&tasks_path).map_err(failed)?;
    let passage = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(&tasks_path, passage).map_err(failed)?;
    let lock = lock(&path)?;
    let handle = order::open_directory(&path).map_err(failed)?;
    let tasks = order::open_below(&handle, TASKS).map_err(failed)?;
    let host = Host { boot: adopt::boot()?, tree: supervisor::tree(&handle) };
    let stat = rustix::fs::fstat(&handle).map_err(|error| failed(error.into()))?;
    let loans = Loans::new(&path, stat.st_dev.rotate_left(32) ^ stat.st_ino)
        .map_err(|source| OpenError::Images { source })?;
    let caller = Caller::new(handle, path, program);
    let standings = adopt::examine_all(&tasks, &tasks_path, &host, &caller)?;
    Ok(Prepared { caller, tasks, tasks_path, host, lock, standings, loans })
}

fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Directory { path: dir.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(dir.join(AGENT_LOCK)).map_err(failed)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::AGAIN) if Instant::now() > until => {
                return Err(OpenError::Busy { path: dir.to_owned() });
            }
            Err(Errno::AGAIN) => sleep(LOCK_RETRY),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Frees what tasks had that ended while no agent lived, and the groups of agents that have
/// no successor. Blocks.
fn sweep(shared: &Shared) {
    shared.loans.sweep();
    match shared.host.tree.as_ref().map(Tree::remove_deserted) {
        Some(Ok(gone)) if !gone.is_empty() => debug!(?gone, "deserted control groups removed"),
        Some(Err(error)) => debug!(%error, "deserted control groups stay"),
        _ => {}
    }
}

/// Removes what a keeper leaves that was killed, and the supervisors that died with it: its
/// socket, their directories, and the control groups if nothing is in them. One that
/// leaves does the same; but then none may have been started at all.
fn tidy_after_keepers(shared: &Shared) {
    let Ok(dir) = order::open_below(&shared.tasks, "..") else { return };
    // While this is held none starts. One that is leaving has given it up, and removes
    // what is left by then. What dies may hold it for a moment.
    let Ok(Some(_lock)) = keeper::lock(&dir) else { return };
    if let Err(error) = keeper::unlink_socket(&dir) {
        debug!(%error, "a dead keeper's socket stays");
    }
    if let Err(error) = supervisor::sweep(&shared.tasks) {
        debug!(%error, "directories of dead supervisors stay");
    }
    if let Some(tree) = &shared.host.tree
        && let Err(error) = supervisor::sweep_slots(tree).and_then(|()| tree.remove_if_empty())
    {
        debug!(%error, "control groups stay");
    }
}

fn remove(shared: &Shared, id: &TaskId) -> Result<(), RemoveError> {
    let io = |source| RemoveError::Io { id: id.clone(), source };
    let dir = match order::open_below(&shared.tasks, id.as_str()) {
        Ok(dir) if !record::is_over(dir.as_fd()) => {
            return Err(RemoveError::Running { id: id.clone() });
        }
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RemoveError::Unknown { id: id.clone() });
        }
        Err(error) => return Err(io(error)),
    };
    // Moved away first: a half removed directory must not be taken for a task.
    let old = record::unfinished("old", id);
    let remove = || match removal::remove(&shared.caller, &shared.tasks, &old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    remove().map_err(io)?;
    rustix::fs::renameat(&shared.tasks, id.as_str(), &shared.tasks, &old)
        .map_err(|error| io(error.into()))?;
    if spare::give(&shared.tasks, &dir, &old) {
        return Ok(());
    }
    remove().map_err(io)
}
