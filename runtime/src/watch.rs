//! What the agent does for each task: asks for its start, hears of its end, tells it.
//!
//! Each of these is one tokio task in the handle's `JoinSet`. Whoever asked for a
//! launch may stop listening; the launch goes on, and is watched. While all goes
//! well the agent touches no file: the supervisor says everything over one
//! connection, and only the connection's early end makes the agent look.
//!
//! Invariant: a task is in `busy` from before it is asked for until its end is
//! known, so nobody can remove it or launch it again in between.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{debug, warn};

use crate::adopt::{self, Host, Standing};
use crate::attach;
use crate::call::{Caller, Line};
use crate::frame;
use crate::launch::{End, Event, Launch, StartFault, TaskId};
use crate::loans::Loans;
use crate::order::{self, Order, Reply, Report};
use crate::record::{self, RecordError};
use crate::refusal::LaunchError;
use crate::spare;
use crate::supervisor::ETC;
use crate::sys::Readable;
use crate::underway::{Launches, Underway};

/// How long keeper and supervisor may be silent before a launch that nobody has
/// claimed is given up.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);

/// How long a launch that somebody has claimed may take until its program runs. Set-up
/// takes milliseconds; what takes longer waits for a disk or a file system, and one that
/// has not answered by now is as good as gone. Unpacking a root comes before, and has its
/// own bounds.
pub(crate) const SET_UP_LIMIT: Duration = Duration::from_secs(60);

/// What a launch has in any case, however soon its deadline is: far longer than a set-up
/// takes on a slow machine. One that starts late is ended by its supervisor, as expired.
const SET_UP_LEAST: Duration = Duration::from_secs(5);

/// Why a launch ended that was to stop.
pub(crate) const STOPPED: &str = "it was stopped before its program ran";

/// Supervisors that may die with an order in hand before the launch fails: each
/// was the fault of somebody who killed it, or its keeper.
const TRIES: usize = 5;

/// What all watchers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tasks: OwnedFd,
    pub(crate) tasks_path: PathBuf,
    pub(crate) host: Host,
    pub(crate) caller: Caller,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) busy: Mutex<BTreeSet<TaskId>>,
    pub(crate) launches: Launches,
    pub(crate) loans: Loans,
}

impl Shared {
    /// Marks a task as somebody's work. False if it is already.
    pub(crate) fn reserve(&self, id: &TaskId) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone())
    }

    /// Remembers what a task was lent that an earlier agent launched.
    pub(crate) fn resume(&self, id: &TaskId) {
        let dir = order::open_below(&self.tasks, id.as_str());
        match dir.map(|dir| record::read_launch(dir.as_fd())) {
            Ok(Ok(launch)) => self.loans.resume(&launch),
            Ok(Err(error)) => warn!(%id, %error, "what it has of this machine is not known"),
            Err(error) => warn!(%id, %error, "what it has of this machine is not known"),
        }
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

    /// Takes back what a task had that has ended or never started.
    async fn take_back(self: &Arc<Self>, id: &TaskId) {
        if !self.loans.returns_slowly(id) {
            return self.loans.take_back(id);
        }
        let (shared, id) = (Arc::clone(self), id.clone());
        if let Err(error) = blocking(move || shared.loans.take_back(&id)).await {
            warn!(%error, "what a task had is not taken back");
        }
    }

    async fn tell_end(self: &Arc<Self>, id: TaskId, end: End) {
        self.take_back(&id).await;
        self.release(&id);
        self.tell(Event::Ended { id, end }).await;
    }
}

/// Runs blocking work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Watches a task that another agent started to its end, and tells it.
pub(crate) async fn watch(shared: Arc<Shared>, id: TaskId, supervisor: OwnedFd) {
    let end = end_after(&shared, &id, supervisor).await;
    shared.tell_end(id, end).await;
}

/// How a task ends whose supervisor is watched.
async fn end_after(shared: &Arc<Shared>, id: &TaskId, supervisor: OwnedFd) -> End {
    let gone = async { Readable::new(supervisor)?.ready().await.map(drop) };
    if let Err(error) = gone.await {
        return unknown_end(id, &error);
    }
    // A lost task may take a while to kill.
    let (work, name) = (Arc::clone(shared), id.clone());
    let examined = blocking(move || {
        let dir = spare::hold(&work.tasks, &name)?;
        adopt::examine_end(dir.as_fd(), &name, &work.host)
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

/// A launch that was asked for, or is about to be.
pub(crate) struct Asked {
    id: TaskId,
    nonce: String,
    order: Vec<u8>,
    /// None if the first attempt came to nothing.
    line: Option<Line>,
    underway: Underway,
    /// When it is given up if its program does not run, and what is said then.
    limit: (Instant, String),
}

impl Asked {
    /// Asks for a launch without waiting: the supervisor may begin while the agent
    /// still makes itself comfortable.
    pub(crate) fn ask(
        shared: &Shared,
        launch: Launch,
        underway: Underway,
    ) -> Result<Self, LaunchError> {
        let id = launch.id.clone();
        let limit = limit(launch.deadline_boot_ns);
        let io = |source| LaunchError::Io { id: id.clone(), source };
        let nonce = nonce().map_err(io)?;
        let order = Order::Launch { nonce: nonce.clone(), launch: Box::new(launch) };
        let order = frame::encode(&order).map_err(io)?;
        let line = shared.caller.order_now(&order);
        Ok(Self { id, nonce, order, line, underway, limit })
    }
}

/// Until when a launch must have come to its program: its own deadline may be earlier.
fn limit(deadline_boot_ns: Option<u64>) -> (Instant, String) {
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::try_from(now).unwrap_or_default();
    let left = deadline_boot_ns.map(|at| Duration::from_nanos(at).saturating_sub(now));
    match left.filter(|left| *left < SET_UP_LIMIT) {
        Some(left) => {
            let reason = "its time was over before its program ran".to_owned();
            (Instant::now() + left.max(SET_UP_LEAST), reason)
        }
        None => {
            let reason = format!("its set-up took longer than {} s", SET_UP_LIMIT.as_secs());
            (Instant::now() + SET_UP_LIMIT, reason)
        }
    }
}

/// Sees to it that a task starts, reports to whoever asked, and watches it.
pub(crate) async fn launch(
    shared: Arc<Shared>,
    mut asked: Asked,
    asker: oneshot::Sender<Result<u32, LaunchError>>,
) {
    let id = asked.id.clone();
    let begun = begin(&shared, &mut asked).await;
    let stop = asked.underway.over();
    match begun {
        Ok((pid, watched)) => {
            // It was faster than the order to stop.
            if let Some(grace) = stop
                && let Err(error) = attach::stop(&shared, &id, grace).await
            {
                warn!(%id, %error, "a task that was to stop as it started may go on");
            }
            // An asker that went away learns it from the events.
            let _ = asker.send(Ok(pid));
            shared.tell(Event::Started { id: id.clone(), pid }).await;
            let (end, line) = match watched {
                Watched::Line(line) => (hear_end(&shared, &id, line).await, None),
                Watched::Process(supervisor) => (end_after(&shared, &id, supervisor).await, None),
                Watched::Ended(end, line) => (end, Some(line)),
            };
            shared.tell_end(id, end).await;
            // Closing takes a while, and whoever waits for the end need not wait for that.
            drop(line);
        }
        Err(error) => {
            shared.take_back(&id).await;
            shared.release(&id);
            if let Err(Err(LaunchError::NotStarted { fault, reason })) = asker.send(Err(error)) {
                let end = End::NotStarted { fault, reason };
                shared.tell(Event::Ended { id, end }).await;
            }
        }
    }
}

/// What says when a task ends.
enum Watched {
    Line(Line),
    Process(OwnedFd),
    /// It has ended already, as was told over this.
    Ended(End, Line),
}

type Begun = (u32, Watched);

async fn begin(shared: &Arc<Shared>, asked: &mut Asked) -> Result<Begun, LaunchError> {
    for _ in 0..TRIES {
        let line = match asked.line.take() {
            Some(line) => Some(line),
            // Half an order is none, so it can be broken off at any time.
            None => tokio::select! {
                line = deliver(shared, &asked.order) => line?,
                () = asked.underway.stopped() => {
                    return call_off(shared, &asked.id, &asked.nonce, STOPPED).await;
                }
                () = sleep_until(asked.limit.0.into()) => {
                    return call_off(shared, &asked.id, &asked.nonce, &asked.limit.1).await;
                }
            },
        };
        if let Some(line) = line
            && let Some(begun) = answer(shared, asked, line).await
        {
            return begun;
        }
        // The other side is gone. What it had not claimed it never will.
        if let Some(begun) = settle(shared, &asked.id, &asked.nonce).await? {
            return Ok(begun);
        }
        debug!(id = %asked.id, "a supervisor died with an order in hand");
    }
    let reason = format!("{TRIES} supervisors died with the order in hand");
    Err(LaunchError::NotStarted { fault: StartFault::Interrupted, reason })
}

/// Gives an order to whoever waits; none if the other side died over it.
async fn deliver(shared: &Shared, order: &[u8]) -> Result<Option<Line>, LaunchError> {
    let line = shared.caller.connect().await;
    let line = line.map_err(|source| LaunchError::Keeper { source })?;
    Ok(line.send(order).await.is_ok().then_some(line))
}

/// What comes of an order that was given; none if the other side died.
async fn answer(
    shared: &Arc<Shared>,
    asked: &Asked,
    mut line: Line,
) -> Option<Result<Begun, LaunchError>> {
    let Asked { id, nonce, underway, limit: (limit, reason), .. } = asked;
    let mut look_at = (Instant::now() + LAUNCH_PATIENCE).min(*limit);
    loop {
        let heard = tokio::select! {
            biased;
            heard = line.hear() => heard,
            () = underway.stopped() => return Some(call_off(shared, id, nonce, STOPPED).await),
            () = sleep_until(look_at.into()) => {
                if look_at == *limit {
                    return Some(call_off(shared, id, nonce, reason).await);
                }
                match give_up(shared, id, nonce).await {
                    Ok(Some(end)) => return Some(Err(refusal(end))),
                    // A slow start, but somebody is at it.
                    Ok(None) => look_at = *limit,
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
        };
        match heard {
            Ok(Some(Report::Started { pid })) => return Some(Ok((pid, Watched::Line(line)))),
            Ok(Some(Report::Ran { pid, end })) => {
                return Some(Ok((pid, Watched::Ended(end, line))));
            }
            Ok(Some(Report::NotStarted { fault, reason })) => {
                return Some(Err(LaunchError::NotStarted { fault, reason }));
            }
            Ok(Some(Report::Exists)) => {
                return Some(Err(LaunchError::Exists { id: id.clone() }));
            }
            Ok(Some(Report::Ended { end })) => return Some(Err(LaunchError::Lost { end })),
            Ok(Some(Report::NetworkWanted { id })) => {
                let reply = match line.passed() {
                    Some(namespace) => match network(shared, &id, namespace).await {
                        Ok(()) => Reply::NetworkReady,
                        Err(reason) => Reply::NetworkFailed { reason },
                    },
                    None => Reply::NetworkFailed { reason: "no namespace came".to_owned() },
                };
                let reply = frame::encode(&reply).ok()?;
                line.send(&reply).await.ok()?;
            }
            Ok(None) => return None,
            Err(error) => {
                warn!(%id, %error, "the answer to a launch cannot be read");
                return None;
            }
        }
    }
}

/// Makes a network of a container's namespace.
async fn network(shared: &Arc<Shared>, id: &TaskId, namespace: OwnedFd) -> Result<(), String> {
    let (work, id) = (Arc::clone(shared), id.clone());
    let connected = blocking(move || {
        let texts = work.tasks_path.join(id.as_str()).join(ETC);
        work.loans.connect(&id, &namespace, &texts)
    });
    connected.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// How a started task ends, as its supervisor tells it.
async fn hear_end(shared: &Arc<Shared>, id: &TaskId, mut line: Line) -> End {
    match line.hear().await {
        Ok(Some(Report::Ended { end })) => return end,
        Ok(Some(other)) => warn!(%id, ?other, "a running task's supervisor talks nonsense"),
        Ok(None) => debug!(%id, "a supervisor died"),
        Err(error) => warn!(%id, %error, "a supervisor cannot be heard"),
    }
    match examine(shared, id).await {
        Ok(Standing::Ended(end)) => end,
        Ok(Standing::Running { supervisor, .. } | Standing::Starting { supervisor }) => {
            end_after(shared, id, supervisor).await
        }
        Err(error) => unknown_end(id, &error),
    }
}

/// Something nobody has used before.
fn nonce() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Gives up a launch that nobody has claimed; none if somebody has.
async fn give_up(
    shared: &Arc<Shared>,
    id: &TaskId,
    nonce: &str,
) -> Result<Option<End>, LaunchError> {
    let (work, name, nonce) = (Arc::clone(shared), id.clone(), nonce.to_owned());
    blocking(move || adopt::give_up(&work.tasks, &name, &nonce, &work.host.boot))
        .await
        .map_err(|source| LaunchError::Io { id: id.clone(), source })?
        .map_err(|source| LaunchError::Record { id: id.clone(), source })
}

/// Ends a launch whose program does not run yet, for this reason. It goes on if its program
/// was faster.
async fn call_off(
    shared: &Arc<Shared>,
    id: &TaskId,
    nonce: &str,
    reason: &str,
) -> Result<Begun, LaunchError> {
    let fault = StartFault::Interrupted;
    if give_up(shared, id, nonce).await?.is_some() {
        return Err(LaunchError::NotStarted { fault, reason: reason.to_owned() });
    }
    let (work, name, reason) = (Arc::clone(shared), id.clone(), reason.to_owned());
    let nonce = nonce.to_owned();
    let ended = blocking(move || {
        let dir = spare::hold(&work.tasks, &name)?;
        match record::read(dir.as_fd())?.claim.nonce == nonce {
            true => adopt::end_set_up(dir.as_fd(), &name, &work.host, &reason).map(Some),
            false => Ok(None),
        }
    });
    let ended = ended.await.map_err(|source| LaunchError::Io { id: id.clone(), source })?;
    match ended.map_err(|source| LaunchError::Record { id: id.clone(), source })? {
        None => Err(LaunchError::Exists { id: id.clone() }),
        Some(Standing::Ended(end)) => Err(refusal(end)),
        Some(Standing::Running { pid, supervisor }) => Ok((pid, Watched::Process(supervisor))),
        Some(Standing::Starting { .. }) => {
            let reason = "it neither starts nor ends".to_owned();
            Err(LaunchError::NotStarted { fault, reason })
        }
    }
}

/// Finds out what became of a launch whose answer will not come; none if it was not
/// taken by anybody.
async fn settle(
    shared: &Arc<Shared>,
    id: &TaskId,
    nonce: &str,
) -> Result<Option<Begun>, LaunchError> {
    let dir = match order::open_below(&shared.tasks, id.as_str()) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LaunchError::Io { id: id.clone(), source }),
    };
    match record::read(dir.as_fd()) {
        Ok(state) if state.claim.nonce == nonce => {}
        Ok(_) | Err(_) => return Err(LaunchError::Exists { id: id.clone() }),
    }
    let record = |source| LaunchError::Record { id: id.clone(), source };
    loop {
        match examine(shared, id).await.map_err(record)? {
            Standing::Running { pid, supervisor } => {
                return Ok(Some((pid, Watched::Process(supervisor))));
            }
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

async fn examine(shared: &Arc<Shared>, id: &TaskId) -> Result<Standing, RecordError> {
    let (work, name) = (Arc::clone(shared), id.clone());
    blocking(move || {
        let dir = spare::hold(&work.tasks, &name)?;
        adopt::examine(dir.as_fd(), &name, &work.host)
    })
    .await?
}

fn refusal(end: End) -> LaunchError {
    match end {
        End::NotStarted { fault, reason } => LaunchError::NotStarted { fault, reason },
        end => LaunchError::Lost { end },
    }
}
