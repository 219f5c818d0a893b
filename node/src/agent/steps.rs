//! The loop: everything that wakes the agent, and what it does then.
//!
//! Only `select!` waits; an input once taken is handled whole, and performing
//! an effect never waits: it goes into a bounded queue or an owned task. An
//! append that finds gossip busy is kept in order and tried again, because no
//! effect of the core may be lost.

mod checks;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gossip::{Gossip, Say};
use gossip_core::fact::{Entry, Update};
use gossip_core::health::Check;
use gossip_core::id::JobId;
use gossip_core::log::LogId;
use rand::Rng as _;
use runtime::{Runtime, TaskId};
use starling_core::Core;
use starling_core::core::{Found, Identity};
use starling_core::effect::{Dice, Effect, Input, Now, Reply};
use starling_core::event::What;
use starling_core::health::Answer;
use starling_core::ledger::AllocationId;
use starling_core::stock::Stock;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fetch::Shares;
use super::handle::{Agent, Doors, Events, Facts, How, QUESTIONS_MAX, Question, wall_now};
use super::images::{self, Supply};
use super::request::Here;
use super::signals::signals;
use super::{Ready, machine, naming};
use crate::api::types::Complaint;
use crate::{api, remote};

/// How soon a full queue is tried again.
const BUSY_RETRY: Duration = Duration::from_millis(5);

/// How long tasks get to end when the agent goes down with them, beyond the longest of their graces.
const DRAIN_FOR: Duration = Duration::from_secs(30);

/// How long open requests get to end when the agent goes down.
const CLOSE_FOR: Duration = Duration::from_secs(2);

/// How long a node that joined may wait to hear of another before it says that it is ready.
const READY_BY: Duration = Duration::from_secs(3);

/// How many inputs of one kind are taken in a row before effects are performed.
const INPUTS_AT_ONCE: usize = 64;

/// What a loop is made of.
pub(super) struct Parts {
    pub(super) here: Here,
    pub(super) identity: Identity,
    pub(super) past: Vec<(LogId, Update)>,
    pub(super) found: BTreeMap<AllocationId, (u32, Found)>,
    pub(super) orphans: Vec<TaskId>,
    pub(super) ended: Vec<TaskId>,
    pub(super) gossip: Gossip,
    pub(super) gossip_events: mpsc::Receiver<gossip::Event>,
    pub(super) runtime: Runtime,
    pub(super) runtime_events: mpsc::Receiver<runtime::Event>,
    pub(super) origin: Instant,
    /// Bytes a second to be sent of images, to all members together.
    pub(super) image_rate: Option<u64>,
}

/// Where users are awaited.
pub(super) struct Listeners {
    pub(super) socket: UnixListener,
    pub(super) socket_path: PathBuf,
    pub(super) operators: quinn::Endpoint,
}

/// An agent whose doors are open.
pub(super) struct Running {
    core: Core,
    origin: Instant,
    here: Here,
    gossip: Gossip,
    gossip_events: mpsc::Receiver<gossip::Event>,
    runtime: Runtime,
    runtime_events: mpsc::Receiver<runtime::Event>,
    questions: mpsc::Receiver<Question>,
    stocks: mpsc::Receiver<Stock>,
    changed: watch::Sender<u64>,
    doors: Doors,
    work: JoinSet<Done>,
    replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    requests: u64,
    unsent: VecDeque<(u64, Vec<Entry>)>,
    starts: BTreeMap<AllocationId, u32>,
    tasks: BTreeMap<TaskId, AllocationId>,
    /// Launches that are not over, and how to call each off while its image is brought.
    launching: BTreeMap<AllocationId, CancellationToken>,
    checks: checks::Checks,
    /// Ended tasks whose output is kept, oldest first, with their job where it is known.
    ended: VecDeque<(TaskId, Option<JobId>)>,
    down: Option<(How, oneshot::Sender<()>, Option<Instant>)>,
    down_too: Vec<oneshot::Sender<()>>,
    socket_path: PathBuf,
}

/// What an owned task came to.
enum Done {
    /// What a launch came to, for the core.
    Launched(Box<(AllocationId, Input)>),
    /// A task has a check.
    ToBeChecked(TaskId, AllocationId, Check),
    /// How a task's check went.
    Checked(TaskId, Answer),
    /// Nothing more.
    Nothing,
}

struct Thrown;

impl Dice for Thrown {
    fn roll(&mut self) -> u64 {
        rand::rng().next_u64()
    }
}

impl Running {
    pub(super) fn new(
        parts: Parts,
        facts: Facts,
        listeners: Listeners,
        stop: CancellationToken,
    ) -> Self {
        let Listeners { socket, socket_path, operators } = listeners;
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (changed, changes) = watch::channel(0);
        let (stock, stocks) = mpsc::channel(1);
        let doors = Doors {
            agent: Agent::new(questions, changes),
            gossip: parts.gossip.clone(),
            runtime: parts.runtime.clone(),
            events: Events::new(),
            facts: Arc::new(facts),
            tasks: TaskTracker::new(),
            supply: Supply::new(),
            shares: Shares::new(parts.origin, parts.image_rate),
            member_turns: api::serve::Turns::default(),
            stop,
        };
        let mut effects = Vec::new();
        let now = Now { moment: super::moment(parts.origin), wall: wall_now() };
        let found =
            parts.found.iter().map(|(id, (_, found))| (id.clone(), found.clone())).collect();
        let core = Core::start(now, parts.identity, parts.past, &found, &mut effects);
        let mut running = Self {
            core,
            origin: parts.origin,
            here: parts.here,
            gossip: parts.gossip,
            gossip_events: parts.gossip_events,
            runtime: parts.runtime,
            runtime_events: parts.runtime_events,
            questions: asked,
            stocks,
            changed,
            doors: doors.clone(),
            work: JoinSet::new(),
            replies: BTreeMap::new(),
            requests: 0,
            unsent: VecDeque::new(),
            starts: BTreeMap::new(),
            tasks: BTreeMap::new(),
            launching: BTreeMap::new(),
            checks: checks::Checks::default(),
            ended: VecDeque::new(),
            down: None,
            down_too: Vec::new(),
            socket_path,
        };
        for (id, (start, _)) in parts.found {
            running.name_task(&id, start);
            running.begin_checks(&id);
        }
        running.keep_earlier(parts.ended);
        for orphan in parts.orphans {
            tracing::warn!(task = %orphan, "stopping a task that nobody claims");
            let runtime = running.runtime.clone();
            running.work.spawn(async move {
                machine::stop(runtime, orphan, Duration::from_secs(10)).await;
                Done::Nothing
            });
        }
        doors.tasks.spawn(api::serve::unix(socket, doors.clone()));
        doors.tasks.spawn(remote::server::serve(operators, doors.clone()));
        doors.tasks.spawn(images::keep(doors.clone()));
        doors.tasks.spawn(images::tell_stock(doors.clone(), stock));
        running.perform(effects);
        running
    }

    fn now(&self) -> Now {
        Now { moment: super::moment(self.origin), wall: wall_now() }
    }

    /// Runs until told to go down, or until nothing can be stored any more. Says that it is
    /// ready once it knows of `company` nodes, itself included, or has waited long enough.
    pub(super) async fn run(
        mut self,
        mut ready: Option<Ready>,
        company: usize,
    ) -> Result<(), Complaint> {
        let mut terminate = signals()?;
        let ready_by = Instant::now() + READY_BY;
        let ended = loop {
            if self.may_leave() {
                break Ok(());
            }
            let known = self.core.state().nodes().count();
            let arrived = known >= company || (known > 0 && Instant::now() >= ready_by);
            if arrived && let Some(ready) = ready.take() {
                ready.say(r#"{"ready":true}"#);
            }
            let wake = self.wake_at();
            let inputs = tokio::select! {
                // Fair on purpose: a member that never falls silent must not keep users waiting.
                Some(done) = self.work.join_next() => self.done(done),
                event = self.runtime_events.recv() => match event {
                    Some(event) => self.runtime_event(event),
                    None => break Err(died("the task watcher")),
                },
                event = self.gossip_events.recv() => match event {
                    Some(event) => match self.gossip_events_from(event) {
                        Ok(inputs) => inputs,
                        Err(complaint) => break Err(complaint),
                    },
                    None => break Err(died("gossip")),
                },
                Some(question) = self.questions.recv() => self.question(question),
                Some(stock) = self.stocks.recv() => vec![Input::Stock(stock)],
                () = terminate.recv(), if self.down.is_none() => {
                    let (done, _) = oneshot::channel();
                    self.question(Question::Down(How::TasksStay, done))
                }
                () = tokio::time::sleep_until(wake) => vec![Input::Tick],
            };
            self.step(inputs);
        };
        self.close(ended.is_ok()).await;
        ended
    }

    fn step(&mut self, inputs: Vec<Input>) {
        let mut effects = Vec::new();
        let mut changed = false;
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        let mut removed = BTreeSet::new();
        for input in inputs {
            changed |= matches!(&input, Input::Updates(_));
            match &input {
                Input::Updates(updates) => {
                    removed.extend(updates.iter().filter_map(tasks::removed_job))
                }
                Input::Started(id) => started.push(id.clone()),
                Input::Ended { id, .. } => {
                    self.forget_checks(id);
                    ended.push(id.clone());
                }
                _ => {}
            }
            let now = self.now();
            self.core.handle(now, &mut Thrown, input, &mut effects);
        }
        started.iter().for_each(|id| self.begin_checks(id));
        // Deadlines that fall due are handled whatever woke the loop.
        let now = self.now();
        if self.core.deadline(now.moment) <= now.moment {
            self.core.handle(now, &mut Thrown, Input::Tick, &mut effects);
        }
        // A service's task that ended is started again, and its output is not over.
        ended.retain(|id| !self.core.allocations().contains_key(id));
        self.forget_tasks(ended, &removed);
        let judged = |effect: &Effect| {
            let Effect::Tell(what) = effect else { return false };
            matches!(what, What::NodeLost { .. } | What::NodeBack { .. } | What::NodeRemoved { .. })
        };
        changed |= effects.iter().any(judged);
        self.perform(effects);
        if changed {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    fn wake_at(&self) -> tokio::time::Instant {
        let now = super::moment(self.origin);
        let mut wait = self.core.deadline(now).since(now).max(Duration::from_millis(1));
        if !self.unsent.is_empty() {
            wait = wait.min(BUSY_RETRY);
        }
        tokio::time::Instant::now() + wait
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { ticket, entries } => self.unsent.push_back((ticket, entries)),
                Effect::Send { to, message } => {
                    if self.gossip.try_send(to, message).is_err() {
                        tracing::debug!(to = %to.short(), "gossip is busy: a market message is lost");
                    }
                }
                Effect::Publish { free, capacity, running, bidding } => {
                    self.gossip.try_publish(Say { free, capacity, running, bidding });
                }
                Effect::Launch(launch) => {
                    // A crash may have lost the record of a start whose directory is still there.
                    let before = self.starts.get(&launch.id).map_or(0, |start| start + 1);
                    let start = launch.restarts.max(before);
                    self.name_task(&launch.id, start);
                    let (doors, here) = (self.doors.clone(), self.here.clone());
                    let stop = CancellationToken::new();
                    self.launching.insert(launch.id.clone(), stop.clone());
                    self.work.spawn(async move {
                        let id = launch.id.clone();
                        let input = machine::launch(doors, here, *launch, start, stop).await;
                        Done::Launched(Box::new((id, input)))
                    });
                }
                Effect::Stop { id, grace_ms } => {
                    self.stop_task(&id, Duration::from_millis(grace_ms))
                }
                Effect::Reply { request, reply } => {
                    if let Some(waiting) = self.replies.remove(&request) {
                        // Whoever asked may have left.
                        let _ = waiting.send(reply);
                    }
                }
                Effect::Tell(what) => self.doors.events.tell(what),
            }
        }
        while let Some((ticket, entries)) = self.unsent.pop_front() {
            if self.gossip.try_append(ticket, entries.clone()).is_err() {
                self.unsent.push_front((ticket, entries));
                break;
            }
        }
    }

    fn runtime_event(&mut self, event: runtime::Event) -> Vec<Input> {
        match event {
            // The launch itself says so.
            runtime::Event::Started { .. } => Vec::new(),
            runtime::Event::Ended { id, end } => {
                let Some(allocation) = self.tasks.get(&id).cloned() else { return Vec::new() };
                vec![Input::Ended { id: allocation, end: naming::task_end(&end) }]
            }
        }
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Vec<Input> {
        match done {
            Ok(Done::Launched(launched)) => {
                let (id, input) = *launched;
                self.launching.remove(&id);
                vec![input]
            }
            Ok(Done::ToBeChecked(task, id, check)) => self.watch(task, id, check),
            Ok(Done::Checked(task, answer)) => self.checked(task, answer),
            Ok(Done::Nothing) => Vec::new(),
            // A check of a task that ended.
            Err(error) if error.is_cancelled() => Vec::new(),
            Err(error) => {
                tracing::error!(%error, "a task of the agent failed");
                Vec::new()
            }
        }
    }

    /// One event and those right behind it.
    fn gossip_events_from(&mut self, first: gossip::Event) -> Result<Vec<Input>, Complaint> {
        let mut inputs = Vec::new();
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                gossip::Event::Updates(updates) => inputs.push(Input::Updates(updates)),
                gossip::Event::Durable { ticket } => inputs.push(Input::Durable(ticket)),
                gossip::Event::Refused { ticket, reason } => {
                    inputs.push(Input::Refused { ticket, reason });
                }
                gossip::Event::Persisted { ticket, by } => {
                    inputs.push(Input::Persisted { ticket, by });
                }
                gossip::Event::Advert(advert) => inputs.push(Input::Advert(advert)),
                gossip::Event::Market { from, message } => {
                    inputs.push(Input::Market { from, message });
                }
                gossip::Event::Heard(node) => inputs.push(Input::Heard(node)),
                gossip::Event::PeerUp(node) => {
                    tracing::info!(peer = %node.short(), "connected");
                    inputs.push(Input::Heard(node));
                }
                gossip::Event::PeerDown(node) => {
                    tracing::info!(peer = %node.short(), "connection closed");
                }
                gossip::Event::Stream { from, stream } => {
                    let doors = self.doors.clone();
                    self.doors.tasks.spawn(api::serve::member(from, stream, doors));
                }
                gossip::Event::Rejected { author, reason } => {
                    tracing::warn!(author = %author.short(), reason, "a record was refused");
                }
                gossip::Event::Failed(failure) => {
                    return Err(Complaint::new(
                        "storage",
                        "the agent has to stop; its tasks go on",
                    )
                    .because(&failure)
                    .hint("check the disk under the data directory, then `starling up`"));
                }
            }
            next = if inputs.len() < INPUTS_AT_ONCE {
                self.gossip_events.try_recv().ok()
            } else {
                None
            };
        }
        Ok(inputs)
    }

    fn question(&mut self, question: Question) -> Vec<Input> {
        match question {
            Question::Ask(ask, answer) => {
                self.requests += 1;
                self.replies.insert(self.requests, answer);
                vec![Input::Asked { request: self.requests, ask }]
            }
            Question::Look(look) => {
                look(&self.core, self.now());
                Vec::new()
            }
            Question::Held(task, paused) => {
                let id = self.tasks.get(&task).cloned();
                id.map(|id| Input::Held { id, paused }).into_iter().collect()
            }
            Question::Down(how, done) => {
                if let Some((going, _, _)) = &self.down
                    && *going == How::TasksStop
                {
                    // A drain goes on; whoever asks again is answered when it is over.
                    self.down_too.push(done);
                    return Vec::new();
                }
                let grace = self.core.allocations().values().filter_map(|it| it.task.as_ref());
                let grace = grace.map(|task| task.stop_grace_ms).max().unwrap_or(0);
                let limit = DRAIN_FOR + Duration::from_millis(grace);
                let until = (how == How::TasksStop).then(|| Instant::now() + limit);
                if let Some((_, before, _)) = self.down.replace((how, done, until)) {
                    self.down_too.push(before);
                }
                match how {
                    How::TasksStay => vec![Input::Away],
                    How::TasksStop => vec![Input::Drain],
                }
            }
        }
    }

    fn may_leave(&self) -> bool {
        let Some((how, _, until)) = &self.down else { return false };
        let late = until.is_some_and(|until| until <= Instant::now());
        let written = self.unsent.is_empty();
        written && (*how == How::TasksStay || self.core.is_drained() || late)
    }

    /// Closes the doors, then everything behind them.
    async fn close(self, orderly: bool) {
        let Self { gossip, runtime, doors, work, down, down_too, socket_path, .. } = self;
        // The local door goes first, so that whoever waits for it to vanish sees it vanish.
        if let Err(error) = std::fs::remove_file(&socket_path) {
            tracing::debug!(%error, "the socket was gone already");
        }
        drop(work);
        gossip.shut_down().await;
        // It stays as long as a task does, and is started again when it is needed.
        runtime.stop_keeper();
        if let Some((_, done, _)) = down {
            for done in down_too.into_iter().chain([done]) {
                // Whoever asked may have left.
                let _ = done.send(());
            }
        }
        runtime.shut_down().await;
        doors.stop.cancel();
        doors.tasks.close();
        if tokio::time::timeout(CLOSE_FOR, doors.tasks.wait()).await.is_err() {
            tracing::debug!("some requests were cut off");
        }
        tracing::info!(orderly, "agent down");
    }
}

fn died(who: &str) -> Complaint {
    Complaint::new(
        "internal",
        format!("{who} ended unexpectedly; the agent stops, its tasks go on"),
    )
    .hint("start it again with `starling up`, and report what DATA/agent.log says")
}
