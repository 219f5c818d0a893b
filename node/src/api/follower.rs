//! Follows one job's output, allocation by allocation.
//!
//! A task's output comes before its end, and the end of the job after
//! everything. Every allocation has a reader; those of other members' output
//! wait for their turn, because each needs a stream of its own. The tasks that
//! ended have turns apart, so that those that run do not keep them waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gossip_core::id::{JobId, NodeId};
use starling_core::view::{Ended, JobState, TaskView};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::find::Part;
use super::logs::{Left, Lines, Source};
use super::pulse::Pulse;
use super::relay::{self, Passed};
use super::starting::Starting;
use super::types::LogItem;
use super::{jobs, spot, starts};
use crate::agent::Doors;
use crate::agent::words::HINT;

/// How many running tasks of other members one follower reads at once.
const FOLLOWED_MAX: usize = 48;

/// How many ended ones, beside them.
const FETCHED_MAX: usize = 16;

/// How soon a running task whose output broke off is read again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// What was written so far.
    Past,
    /// And what is written from now on.
    Follow,
    /// And where tasks are placed, and how they and the job end.
    Everything,
}

/// Names one allocation and where it is.
type Place = (u64, u32, NodeId);

/// What came of a reading.
struct Reading {
    place: Place,
    label: String,
    passed: Passed,
    broken: Option<String>,
}

/// How far the reading of one allocation is.
enum Progress {
    /// A reader has it.
    Read,
    /// It broke off then, and may go on.
    Broken(Passed, Instant),
    /// All of it was read, or all that can be.
    Over,
}

/// Follows one job.
pub(super) struct Follower {
    doors: Doors,
    job: JobId,
    wish: Wish,
    lines: Lines,
    /// Only some of its tasks.
    pub(super) part: Option<Part>,
    /// Only the last lines of each.
    pub(super) tail: Option<usize>,
    /// Tells of those that start, too.
    pub(super) starting: Option<Starting>,
    readers: JoinSet<Reading>,
    progress: BTreeMap<Place, Progress>,
    told: BTreeSet<Place>,
    /// How many restarts were told of.
    restarts: BTreeMap<Place, u32>,
    followed: Arc<Semaphore>,
    fetched: Arc<Semaphore>,
    told_full: bool,
}

impl Follower {
    pub(super) fn new(doors: Doors, job: JobId, wish: Wish, lines: Lines) -> Self {
        Self {
            doors,
            job,
            wish,
            lines,
            part: None,
            tail: None,
            starting: None,
            readers: JoinSet::new(),
            progress: BTreeMap::new(),
            told: BTreeSet::new(),
            restarts: BTreeMap::new(),
            followed: Arc::new(Semaphore::new(FOLLOWED_MAX)),
            fetched: Arc::new(Semaphore::new(FETCHED_MAX)),
            told_full: false,
        }
    }

    /// Sends what is wished for.
    pub(super) async fn run(&mut self) -> Result<(), Left> {
        if self.wish == Wish::Past { self.once().await } else { self.follow().await }
    }

    async fn tasks(&self) -> Option<Vec<TaskView>> {
        let job = self.job;
        let views = self.doors.agent.look(move |core, _| core.task_views(&job, Ended::Shown)).await;
        let mut tasks = views.ok()?;
        tasks.retain(|task| self.part.as_ref().is_none_or(|part| part.has(&task.slot)));
        Some(tasks)
    }

    fn source(&self, task: &TaskView) -> Source {
        Source {
            tender: task.tender,
            index: task.slot.index,
            label: task.task.clone(),
            tail: self.tail,
        }
    }

    /// Everything there is, without waiting for more.
    async fn once(&mut self) -> Result<(), Left> {
        for task in self.tasks().await.unwrap_or_default() {
            let Some((_, _, node)) = place(&task) else { continue };
            let source = self.source(&task);
            if node == self.doors.facts.node {
                starts::send(&self.doors, &source, false, &self.lines).await;
                continue;
            }
            let (doors, lines) = (&self.doors, &self.lines);
            let mut passed = Passed::default();
            if let Err(e) = relay::send(doors, node, &source, false, &mut passed, lines).await {
                let message = format!("{}: its node {e}", source.label);
                self.lines.item(&LogItem::Notice { message }).await?;
            }
        }
        Ok(())
    }

    /// Until the job is over and everything was sent.
    async fn follow(&mut self) -> Result<(), Left> {
        let mut pulse = Pulse::new(&self.doors);
        loop {
            pulse.turn().await;
            let Some(tasks) = self.tasks().await else { return Ok(()) };
            while let Some(Ok(reading)) = self.readers.try_join_next() {
                self.take(reading, &tasks).await?;
            }
            self.read_new(&tasks).await?;
            if let Some(starting) = &mut self.starting {
                starting.tell(&tasks).await?;
            }
            self.tell_restarts(&tasks).await?;
            self.tell_ends(&tasks).await?;
            if let Some(done) = self.is_done(&tasks).await {
                let tell = self.wish == Wish::Everything;
                return if tell { self.lines.item(&done).await } else { Ok(()) };
            }
            tokio::select! {
                changed = pulse.changed() => if changed.is_err() { return Ok(()) },
                Some(Ok(reading)) = self.readers.join_next(), if !self.readers.is_empty() => {
                    self.take(reading, &tasks).await?;
                }
                () = due(self.starting.as_ref()) => {}
                () = self.lines.left() => return Err(Left),
                () = self.doors.stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn take(&mut self, reading: Reading, tasks: &[TaskView]) -> Result<(), Left> {
        let Reading { place: which, label, passed, broken } = reading;
        let Some(why) = broken else {
            self.progress.insert(which, Progress::Over);
            return Ok(());
        };
        let runs = tasks.iter().any(|task| place(task) == Some(which) && !task.ended);
        let now = if runs { Progress::Broken(passed, Instant::now()) } else { Progress::Over };
        self.progress.insert(which, now);
        let message = format!("{label}: its node {why}");
        self.lines.item(&LogItem::Notice { message }).await
    }

    async fn read_new(&mut self, tasks: &[TaskView]) -> Result<(), Left> {
        for task in tasks {
            let Some(place) = place(task) else { continue };
            let begun = task.ended || spot::is_alive(&task.state) || task.state == "restarting";
            let passed = match self.progress.get(&place) {
                _ if !begun => continue,
                None => Passed::default(),
                Some(Progress::Broken(passed, at)) if task.ended || at.elapsed() > AGAIN_AFTER => {
                    *passed
                }
                Some(_) => continue,
            };
            if self.progress.insert(place, Progress::Read).is_none() {
                self.tell_placed(task).await?;
            }
            if place.2 == self.doors.facts.node {
                self.read_here(place, task);
            } else {
                self.read_there(place, task, passed).await?;
            }
        }
        Ok(())
    }

    fn read_here(&mut self, place: Place, task: &TaskView) {
        let (doors, lines) = (self.doors.clone(), self.lines.clone());
        let source = self.source(task);
        self.readers.spawn(async move {
            starts::send(&doors, &source, true, &lines).await;
            Reading { place, label: source.label, passed: Passed::default(), broken: None }
        });
    }

    async fn read_there(
        &mut self,
        place: Place,
        task: &TaskView,
        mut passed: Passed,
    ) -> Result<(), Left> {
        let (doors, lines) = (self.doors.clone(), self.lines.clone());
        let source = self.source(task);
        let turns = if task.ended { &self.fetched } else { &self.followed };
        let (turns, turn) = (Arc::clone(turns), Arc::clone(turns).try_acquire_owned().ok());
        let full = turn.is_none() && !task.ended;
        self.readers.spawn(async move {
            let _turn = match turn {
                Some(turn) => Some(turn),
                None => turns.acquire_owned().await.ok(),
            };
            let sent = relay::send(&doors, place.2, &source, true, &mut passed, &lines).await;
            let broken = sent.err().map(|error| error.to_string());
            Reading { place, label: source.label, passed, broken }
        });
        if full && !std::mem::replace(&mut self.told_full, true) {
            let message = format!(
                "of the tasks that run on other nodes {FOLLOWED_MAX} are followed at once; the \
                 output of the others comes as those end"
            );
            self.lines.item(&LogItem::Notice { message }).await?;
        }
        Ok(())
    }

    async fn tell_placed(&self, task: &TaskView) -> Result<(), Left> {
        if self.wish != Wish::Everything {
            return Ok(());
        }
        let (task, node) = (task.task.clone(), task.node_name.clone());
        self.lines.item(&LogItem::Placed { task, node }).await
    }

    fn is_read(&self, place: &Place) -> bool {
        matches!(self.progress.get(place), Some(Progress::Over))
    }

    /// A task that is started again and again without a word would look like one that runs.
    async fn tell_restarts(&mut self, tasks: &[TaskView]) -> Result<(), Left> {
        for task in tasks.iter().filter(|task| task.state == "restarting") {
            let Some(place) = place(task) else { continue };
            let before = self.restarts.insert(place, task.restarts).unwrap_or(0);
            if before < task.restarts {
                let what = task.detail.split(HINT).next().unwrap_or_default();
                let (name, node, times) = (&task.task, &task.node_name, task.restarts);
                let message = format!("{name} on {node}: {what}; it is started again ({times})");
                self.lines.item(&LogItem::Notice { message }).await?;
            }
        }
        Ok(())
    }

    async fn tell_ends(&mut self, tasks: &[TaskView]) -> Result<(), Left> {
        for task in tasks.iter().filter(|task| task.ended && self.wish == Wish::Everything) {
            let Some(place) = place(task) else { continue };
            if self.is_read(&place) && self.told.insert(place) {
                let item = LogItem::Ended {
                    task: task.task.clone(),
                    node: task.node_name.clone(),
                    exit_code: task.exit_code.unwrap_or(125),
                    detail: task.detail.clone(),
                };
                self.lines.item(&item).await?;
            }
        }
        Ok(())
    }

    async fn is_done(&self, tasks: &[TaskView]) -> Option<LogItem> {
        let is_lost = |task: &TaskView| !task.ended && task.state == "lost";
        let unread =
            |task: &TaskView| task.ended && place(task).is_some_and(|at| !self.is_read(&at));
        if tasks.iter().any(|task| (!task.ended && !is_lost(task)) || unread(task)) {
            return None;
        }
        let view = jobs::view(&self.doors, self.job).await.ok()?;
        match view.state {
            JobState::Pending | JobState::Running
                if self.part.is_none() || tasks.is_empty() || tasks.iter().any(is_lost) =>
            {
                None
            }
            // Nobody wants it any more: what a lost node may still run is not waited for.
            state => Some(LogItem::Done {
                exit_code: view.exit_code.unwrap_or(143),
                state: state.as_str().to_owned(),
            }),
        }
    }
}

async fn due(starting: Option<&Starting>) {
    match starting {
        Some(starting) => starting.due().await,
        None => std::future::pending().await,
    }
}

fn place(task: &TaskView) -> Option<Place> {
    Some((task.tender, task.slot.index, task.node?))
}
