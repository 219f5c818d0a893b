//! A batch's task is started again on its host only where its job says so: after a failure
//! of its own, and no more often than that; or after the host lost it.
//!
//! Told of starts and of true ends, whatever an agent heard of them.

use std::collections::BTreeMap;

use gossip_core::fact::TaskEnd;
use gossip_core::restart::Restart;
use gossip_core::spec::{JobKind, JobSpec};

use super::super::tasks::TaskName;
use super::{Bench, Judge};

/// How tasks ended, by their host.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    ends: BTreeMap<(usize, TaskName), TaskEnd>,
    /// How many were started again after a failure of their own.
    pub(crate) failed: usize,
}

impl Restarts {
    pub(crate) fn ended(&mut self, host: usize, name: &TaskName, end: &TaskEnd) {
        self.ends.insert((host, name.clone()), end.clone());
    }
}

impl Bench {
    pub(super) fn judge_restart(&mut self, at: u64, host: usize, name: &TaskName) {
        let (id, start) = name;
        let Some(before) = start.checked_sub(1) else { return };
        let Some(spec) = self.sight.spec(&id.slot.job).filter(|it| it.kind == JobKind::Batch)
        else {
            return;
        };
        let most = most(spec);
        let end = self.restarts.ends.get(&(host, (id.clone(), before)));
        let wrong = match end {
            // What is not known to have ended is told of by other judges.
            None | Some(TaskEnd::Lost { .. }) => false,
            Some(TaskEnd::Exited { code: 0 } | TaskEnd::NotStarted { .. }) => true,
            Some(_) => {
                self.restarts.failed += 1;
                *start > most
            }
        };
        if wrong {
            let what = format!("h{} starts {name:?} again after {end:?}, of {most}", host + 1);
            self.complain(Judge::Restarts, at, what);
        }
    }
}

/// How often a failure may be followed by a restart.
fn most(spec: &JobSpec) -> u32 {
    let rule = spec.groups.iter().flat_map(|group| &group.tasks).find_map(|task| task.restart);
    match rule {
        None => 0,
        Some(Restart::OnFailure { most }) => most.unwrap_or(u32::MAX),
    }
}
