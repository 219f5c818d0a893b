//! Clearing: removes jobs that said so, once they are over.
//!
//! Docker's `--rm`, for jobs that nobody waits for. Whoever is first in the job's order and
//! whoever ran a task of it do it: one of them is there, and a removal twice is one.

use gossip_core::fact::Entry;
use gossip_core::id::JobId;
use gossip_core::intent::Edit;
use gossip_core::rendezvous;
use gossip_core::slot::SlotId;

use super::Core;
use crate::effect::Effect;

impl Core {
    pub(super) fn look_at_remains(&mut self, job: &JobId, out: &mut Vec<Effect>) {
        if self.is_to_be_cleared(job) {
            self.append(vec![Entry::Edit { job: *job, edit: Edit::Remove }], out);
        }
    }

    /// Whether it goes when it is stopped, too.
    pub(super) fn is_removed_at_its_end(&self, job: &JobId) -> bool {
        self.state.spec_of(job).is_some_and(|(_, spec)| spec.remove)
    }

    fn is_to_be_cleared(&self, job: &JobId) -> bool {
        let is_there = self.state.job(job).is_some_and(|intent| !intent.removed);
        // Of a job that is wanted no more nothing is wanted, be it over or stopped.
        if !is_there || !self.is_removed_at_its_end(job) || !self.is_over(job) {
            return false;
        }
        rendezvous::rank(job.as_bytes(), &self.me, &self.alive()) == 0 || self.has_run(job)
    }

    fn has_run(&self, job: &JobId) -> bool {
        let Some((_, spec)) = self.state.spec_of(job) else { return false };
        let slots = spec.groups.iter().flat_map(|group| {
            let slot = |index| SlotId { job: *job, group: group.name.clone(), index };
            (1..=group.count).map(slot)
        });
        slots
            .into_iter()
            .any(|slot| self.state.outcomes(&slot).any(|(rank, _)| rank.node == self.me))
    }
}
