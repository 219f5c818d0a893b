//! How doors reach the agent: questions in, answers out, and a feed of events.
//!
//! A door never holds the core. It sends an ask or a reading question into a
//! bounded queue and waits for the answer; a full queue is an error that the
//! user sees, never a pile-up.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use gossip::Gossip;
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::moment::WallTime;
use runtime::Runtime;
use starling_core::Core;
use starling_core::effect::{Ask, Now, Reply};
use starling_core::event::{Event, What};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fetch::Shares;
use super::images::Supply;
use crate::api::serve::Turns;

/// How many asks and questions may wait for the loop.
pub(super) const QUESTIONS_MAX: usize = 1024;

/// How many past events are kept for those who come later.
const EVENTS_KEPT: usize = 4096;

/// How far behind a follower of events may fall before it misses some.
const EVENTS_BEHIND: usize = 4096;

/// Reads the core as it is; must be quick.
type Look = Box<dyn FnOnce(&Core, Now) + Send>;

/// What a door sends into the loop.
pub(super) enum Question {
    /// Change something.
    Ask(Ask, oneshot::Sender<Reply>),
    /// Look at something; must be quick and change nothing.
    Look(Look),
    /// A task of this node was held still, or goes on.
    Held(runtime::TaskId, bool),
    /// Go down.
    Down(How, oneshot::Sender<()>),
}

/// How an agent goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Its tasks go on.
    TasksStay,
    /// Its tasks are stopped first; what is still wanted runs elsewhere.
    TasksStop,
}

/// The agent does not answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is going down")]
pub(crate) struct Gone;

/// A way to ask the agent.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    questions: mpsc::Sender<Question>,
    changed: watch::Receiver<u64>,
}

impl Agent {
    pub(super) fn new(questions: mpsc::Sender<Question>, changed: watch::Receiver<u64>) -> Self {
        Self { questions, changed }
    }

    /// Changes something; answered when it is durable.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Reply, Gone> {
        let (answer, reply) = oneshot::channel();
        self.questions.send(Question::Ask(ask, answer)).await.map_err(|_closed| Gone)?;
        reply.await.map_err(|_dropped| Gone)
    }

    /// Looks at the core as it is now.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core, Now) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, seen) = oneshot::channel();
        let question = Question::Look(Box::new(move |core, now| {
            // Whoever asked may have left.
            let _ = answer.send(look(core, now));
        }));
        self.questions.send(question).await.map_err(|_closed| Gone)?;
        seen.await.map_err(|_dropped| Gone)
    }

    /// Tells that a task of this node was held still, or goes on.
    pub(crate) async fn held(&self, task: runtime::TaskId, paused: bool) -> Result<(), Gone> {
        self.questions.send(Question::Held(task, paused)).await.map_err(|_closed| Gone)
    }

    /// Ends the agent; answered when everything is done.
    pub(crate) async fn down(&self, how: How) -> Result<(), Gone> {
        let (done, wait) = oneshot::channel();
        self.questions.send(Question::Down(how, done)).await.map_err(|_closed| Gone)?;
        wait.await.map_err(|_dropped| Gone)
    }

    /// Changes whenever the replicated state did.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

/// What does not change while an agent runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// This node.
    pub(crate) node: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// Its agent's own directory.
    pub(crate) data: PathBuf,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// Where it listens.
    pub(crate) addresses: Vec<String>,
    /// Where operators reach it, as `host:port`.
    pub(crate) operator_addresses: Vec<String>,
    /// When it started.
    pub(crate) started: WallTime,
    /// What the host cannot do.
    pub(crate) warnings: Vec<String>,
}

/// What every door is given.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    /// To ask the agent.
    pub(crate) agent: Agent,
    /// To reach other members.
    pub(crate) gossip: Gossip,
    /// To read logs.
    pub(crate) runtime: Runtime,
    /// What happened.
    pub(crate) events: Events,
    /// What does not change.
    pub(crate) facts: Arc<Facts>,
    /// Owns what outlives a request handler's return, such as a log being followed.
    pub(crate) tasks: TaskTracker,
    /// Images that are brought here.
    pub(crate) supply: Supply,
    /// What goes over the links of layers.
    pub(crate) shares: Shares,
    /// How much members may ask at once.
    pub(crate) member_turns: Turns,
    /// The agent is going down.
    pub(crate) stop: CancellationToken,
}

/// Past events, and those to come.
#[derive(Clone, Debug)]
pub(crate) struct Events(Arc<Mutex<EventLog>>);

#[derive(Debug)]
struct EventLog {
    next: u64,
    past: VecDeque<Arc<Event>>,
    counts: BTreeMap<&'static str, u64>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Events {
    pub(super) fn new() -> Self {
        let (live, _) = broadcast::channel(EVENTS_BEHIND);
        let (past, counts) = (VecDeque::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(EventLog { next: 1, past, counts, live })))
    }

    /// Tells everybody.
    pub(super) fn tell(&self, what: What) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(Event { number: log.next, at: wall_now(), what });
        log.next += 1;
        *log.counts.entry(kind(&event.what)).or_default() += 1;
        if log.past.len() >= EVENTS_KEPT {
            log.past.pop_front();
        }
        log.past.push_back(Arc::clone(&event));
        // Nobody may be listening.
        let _ = log.live.send(event);
    }

    /// What is kept, and everything from now on without a gap between.
    pub(crate) fn follow(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (log.past.iter().cloned().collect(), log.live.subscribe())
    }

    /// How many events of each kind there were.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }
}

fn kind(what: &What) -> &'static str {
    match what {
        What::JobSubmitted { .. } => "job-submitted",
        What::JobStopped { .. } => "job-stopped",
        What::TenderOpened { .. } => "tender-opened",
        What::Bid { .. } => "bid",
        What::Declined { .. } => "declined",
        What::Awarded { .. } => "awarded",
        What::Unplaced { .. } => "unplaced",
        What::Claimed { .. } => "claimed",
        What::Running { .. } => "running",
        What::Checked { .. } => "checked",
        What::Restarting { .. } => "restarting",
        What::Ended { .. } => "ended",
        What::ClaimedTwice { .. } => "claimed-twice",
        What::NodeJoined { .. } => "node-joined",
        What::NodeLost { .. } => "node-lost",
        What::NodeBack { .. } => "node-back",
        What::NodeRemoved { .. } => "node-removed",
    }
}

/// This host's wall clock, for people.
pub(crate) fn wall_now() -> WallTime {
    super::wall(SystemTime::now())
}
