//! When tasks are asked whether they are well, one check of each at a time.
//!
//! ```text
//! Started ─▶ watched ──interval──▶ a check ──Answer──▶ Watch ──a change──▶ Core
//!               ▲                                        │
//!               └────────────────────────────────────────┘
//! Ended ──▶ forgotten, and whatever is under way with it
//! ```
//!
//! Every check is an owned task of the loop, so that none outlives what it asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gossip_core::health::{Check, Health, HealthState};
use runtime::TaskId;
use starling_core::allocation::Phase;
use starling_core::effect::{Effect, Input};
use starling_core::health::{Answer, Watch};
use starling_core::ledger::AllocationId;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::super::{health, moment, naming};
use super::{Done, Running, Thrown};

/// How many checks run at once on a node: each starts a program, and a node with a thousand
/// tasks has other things to do as well. The others wait, which their time does not count.
const CHECKS_AT_ONCE: usize = 32;

/// All tasks that are asked.
#[derive(Debug)]
pub(super) struct Checks {
    watched: BTreeMap<TaskId, Watched>,
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct Watched {
    id: AllocationId,
    watch: Watch,
    under_way: AbortHandle,
}

impl Default for Checks {
    fn default() -> Self {
        Self { watched: BTreeMap::new(), turns: Arc::new(Semaphore::new(CHECKS_AT_ONCE)) }
    }
}

impl Running {
    /// A task runs: it is asked from now on, if it is to be.
    pub(super) fn begin_checks(&mut self, id: &AllocationId, effects: &mut Vec<Effect>) {
        if let Some(input) = self.watch_checks(id) {
            let now = self.now();
            self.core.handle(now, &mut Thrown, input, effects);
        }
    }

    /// What is to be told of it at once.
    fn watch_checks(&mut self, id: &AllocationId) -> Option<Input> {
        let it = self.core.allocations().get(id)?;
        let runs = matches!(it.phase, Phase::Running(_)) && it.stop.is_none();
        let check = it.task.as_ref().filter(|_| runs)?.health.as_ref()?.over(None)?;
        let said = it.claim.health.as_ref().map(|health| health.state);
        let task = naming::task_id(id, self.starts.get(id).copied().unwrap_or(0))?;
        let watch = Watch::new(check, moment(self.origin), said.unwrap_or(HealthState::Starting));
        let under_way = self.check_when_due(&task, &watch);
        let watched = Watched { id: id.clone(), watch, under_way };
        if let Some(before) = self.checks.watched.insert(task, watched) {
            before.under_way.abort();
        }
        let tell = Input::Checked { id: id.clone(), health: Health::starting() };
        said.is_none().then_some(tell)
    }

    /// A check ended.
    pub(super) fn checked(&mut self, task: TaskId, answer: Answer) -> Vec<Input> {
        let now = moment(self.origin);
        let Some(mut watched) = self.checks.watched.remove(&task) else { return Vec::new() };
        let Some(it) = self.core.allocations().get(&watched.id) else { return Vec::new() };
        let health = if it.claim.paused {
            // It was held still, and so was what asked it.
            watched.watch.skip(now);
            None
        } else {
            watched.watch.hear(now, answer)
        };
        let told = health.map(|health| Input::Checked { id: watched.id.clone(), health });
        watched.under_way = self.check_when_due(&task, &watched.watch);
        self.checks.watched.insert(task, watched);
        told.into_iter().collect()
    }

    /// A task ended: nobody is asked any more.
    pub(super) fn forget_checks(&mut self, id: &AllocationId) {
        self.checks.watched.retain(|_, watched| {
            let stays = watched.id != *id;
            if !stays {
                watched.under_way.abort();
            }
            stays
        });
    }

    fn check_when_due(&mut self, task: &TaskId, watch: &Watch) -> AbortHandle {
        let wait: Duration = watch.due().since(moment(self.origin));
        let (runtime, turns) = (self.runtime.clone(), Arc::clone(&self.checks.turns));
        let (task, check): (TaskId, Check) = (task.clone(), watch.check().clone());
        self.work.spawn(async move {
            tokio::time::sleep(wait).await;
            // It is never closed.
            let _turn = turns.acquire_owned().await.ok();
            let answer = health::ask(&runtime, &task, &check).await;
            Done::Checked(task, answer)
        })
    }
}
