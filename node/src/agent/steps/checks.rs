//! When tasks are asked whether they are well, one check of each at a time.
//!
//! ```text
//! Started ─▶ its check is found: of its job, or of its image
//!               ▼
//!            watched ──interval──▶ a check ──Answer──▶ Watch ──a change──▶ Core
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
use starling_core::effect::Input;
use starling_core::health::{Answer, Watch};
use starling_core::ledger::AllocationId;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::super::{health, moment, naming};
use super::{Done, Running};

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
    /// A task runs: it is found out whether it is to be asked.
    pub(super) fn begin_checks(&mut self, id: &AllocationId) {
        let task = self.starts.get(id).and_then(|start| naming::task_id(id, *start));
        let it = self.core.allocations().get(id).and_then(|it| it.task.as_ref());
        let (Some(task), Some(spec)) = (task, it) else { return };
        if health::may_have_check(spec) {
            let (runtime, spec, id) = (self.runtime.clone(), spec.clone(), id.clone());
            self.work.spawn(async move {
                match health::check_of(&runtime, &spec).await {
                    Some(check) => Done::ToBeChecked(task, id, check),
                    None => Done::Nothing,
                }
            });
        }
    }

    /// It is asked from now on. What is to be told of it at once.
    pub(super) fn watch(&mut self, task: TaskId, id: AllocationId, check: Check) -> Vec<Input> {
        let Some(it) = self.core.allocations().get(&id) else { return Vec::new() };
        let runs = matches!(it.phase, Phase::Running(_)) && it.stop.is_none();
        if !runs || self.tasks.get(&task) != Some(&id) {
            return Vec::new();
        }
        let said = it.claim.health.as_ref().map(|health| health.state);
        let watch = Watch::new(check, moment(self.origin), said.unwrap_or(HealthState::Starting));
        let under_way = self.check_when_due(&task, &watch);
        let watched = Watched { id: id.clone(), watch, under_way };
        if let Some(before) = self.checks.watched.insert(task, watched) {
            before.under_way.abort();
        }
        let tell = Input::Checked { id, health: Health::starting() };
        if said.is_none() { vec![tell] } else { Vec::new() }
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
