//! Which task of the runtime belongs to which allocation, and how long its output stays.
//!
//! Output outlives its task, but not its job, and never without bound. A task
//! that still runs is never forgotten here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use gossip_core::fact::Update;
use gossip_core::id::JobId;
use gossip_core::log::LogId;
use runtime::TaskId;
use starling_core::ledger::AllocationId;

use super::super::{machine, naming};
use super::{Done, Running};

/// How many ended tasks keep their output, unless their job is removed before.
const ENDED_KEPT: usize = 1000;

impl Running {
    pub(super) fn name_task(&mut self, id: &AllocationId, start: u32) {
        if let Some(task) = naming::task_id(id, start) {
            if let Some(before) = self.starts.insert(id.clone(), start)
                && let Some(old) = naming::task_id(id, before)
            {
                self.tasks.remove(&old);
            }
            self.tasks.insert(task, id.clone());
        }
    }

    /// One whose image is still being brought is called off, and ends by that. Any other is
    /// told; so is that one, in case it began meanwhile.
    pub(super) fn stop_task(&mut self, id: &AllocationId, grace: Duration) {
        if let Some(launching) = self.launching.get(id) {
            launching.cancel();
        }
        let start = self.starts.get(id).copied().unwrap_or(0);
        if let Some(task) = naming::task_id(id, start) {
            let runtime = self.runtime.clone();
            self.work.spawn(async move {
                machine::stop(runtime, task, grace).await;
                Done::Nothing
            });
        }
    }

    /// Output goes with its job, or when there is too much of it.
    pub(super) fn forget_tasks(&mut self, over: Vec<AllocationId>, removed: &BTreeSet<JobId>) {
        for id in over {
            let job = id.slot.job;
            let gone = self.core.state().job(&job).is_some_and(|intent| intent.removed);
            let newest = self.starts.remove(&id).unwrap_or(0);
            for start in newest.saturating_sub(machine::STARTS_KEPT)..=newest {
                let Some(task) = naming::task_id(&id, start) else { continue };
                self.tasks.remove(&task);
                if gone {
                    self.remove_task(task);
                } else {
                    self.ended.push_back((task, Some(job)));
                }
            }
        }
        if !removed.is_empty() {
            let of_removed = |job: &Option<JobId>| job.is_some_and(|job| removed.contains(&job));
            let (gone, kept): (VecDeque<_>, VecDeque<_>) =
                self.ended.drain(..).partition(|(_, job)| of_removed(job));
            self.ended = kept;
            gone.into_iter().for_each(|(task, _)| self.remove_task(task));
        }
        while self.ended.len() > ENDED_KEPT {
            let Some((oldest, _)) = self.ended.pop_front() else { break };
            self.remove_task(oldest);
        }
    }

    /// Keeps what ended before this agent began, but for what belongs to jobs that were removed
    /// since, as on a disk that was too full to remove it then.
    pub(super) fn keep_earlier(&mut self, ended: Vec<TaskId>) {
        let state = self.core.state();
        let own = state.all_outcomes().filter(|(rank, _)| rank.node == self.doors.facts.node);
        let jobs: BTreeMap<(u64, u32), JobId> = own
            .map(|(_, ended)| ((ended.epoch.tender, ended.slot.index), ended.slot.job))
            .collect();
        let job_of = |task: &TaskId| {
            let (tender, index, _) = naming::parse(task)?;
            jobs.get(&(tender, index)).copied()
        };
        let kept: VecDeque<_> = ended.into_iter().map(|task| (job_of(&task), task)).collect();
        let is_removed = |job: &JobId| state.job(job).is_some_and(|intent| intent.removed);
        let removed: BTreeSet<JobId> =
            kept.iter().filter_map(|(job, _)| *job).filter(is_removed).collect();
        self.ended = kept.into_iter().map(|(job, task)| (task, job)).collect();
        self.forget_tasks(Vec::new(), &removed);
    }

    pub(super) fn remove_task(&mut self, task: TaskId) {
        let runtime = self.runtime.clone();
        self.work.spawn(async move {
            if let Err(error) = runtime.remove(&task).await {
                tracing::debug!(%task, %error, "an ended task's directory stays");
            }
            Done::Nothing
        });
    }
}

/// The job that an update removes for good.
pub(super) fn removed_job((_, update): &(LogId, Update)) -> Option<JobId> {
    match update {
        Update::Intent { job, intent } if intent.removed => Some(*job),
        _ => None,
    }
}
