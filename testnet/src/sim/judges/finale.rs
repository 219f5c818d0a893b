//! What must hold when a run is over: equal replicas, kept promises, and
//! nothing left of anything.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use gossip_core::id::JobId;
use gossip_core::spec::JobKind;
use starling_core::Core;

use super::super::host::Host;
use super::super::tasks::Tasks;
use super::{Bench, Judge};

impl Bench {
    /// All replicas hold the same.
    pub(crate) fn compare_replicas(&mut self, at: u64, hosts: &[Host]) {
        let mut cores =
            hosts.iter().enumerate().filter_map(|(index, it)| Some((index, it.core()?)));
        let Some((_, first)) = cores.next() else { return };
        for (index, core) in cores {
            if core.state() != first.state() {
                let what = difference(first, core);
                let what = format!("h1 and h{} hold different states: {what}", index + 1);
                self.complain(Judge::Replicas, at, what);
            }
        }
    }

    /// Merging does not depend on the order in which logs come.
    pub(crate) fn compare_orders(&mut self, at: u64, hosts: &[Host]) {
        let Some(journal) = hosts.first().map(|host| &host.journal) else { return };
        let forth = journal.merged(|log| *log);
        let back = journal.merged(|log| Reverse(*log));
        let mixed = journal.merged(|log| log.nonce);
        if forth != back || forth != mixed {
            let what = "the same logs merged in another order give another state".to_owned();
            self.complain(Judge::Replicas, at, what);
        }
    }

    /// Every node shows as many copies of each service as there are.
    pub(crate) fn compare_views(&mut self, at: u64, hosts: &[Host]) {
        let mut running: BTreeMap<JobId, u32> = BTreeMap::new();
        for it in self.sight.slots().iter().filter(|it| it.kind == JobKind::Service) {
            let runs = self.sight.copies_of(&it.slot) > 0;
            *running.entry(it.slot.job).or_default() += u32::from(runs);
        }
        for (index, host) in hosts.iter().enumerate() {
            let Some(core) = host.core() else { continue };
            for (job, there) in &running {
                let shown = core.job_view(job).map_or(0, |view| view.running);
                if shown != *there {
                    let what = format!("h{} shows {shown} of {job:?}, {there} run", index + 1);
                    self.complain(Judge::Views, at, what);
                }
            }
        }
    }

    /// Every promise is known everywhere.
    pub(crate) fn compare_promises(&mut self, at: u64, hosts: &[Host]) {
        for (index, host) in hosts.iter().enumerate() {
            let broken = host.core().map(|core| self.promises.broken(core)).unwrap_or_default();
            for what in broken {
                self.complain(Judge::Promises, at, format!("h{}: {what}", index + 1));
            }
        }
    }

    /// Every job is stopped: nothing is left anywhere.
    pub(crate) fn look_for_residue(&mut self, at: u64, hosts: &[Host]) {
        for (index, host) in hosts.iter().enumerate() {
            let mut left: Vec<String> = names(&host.tasks);
            if let Some(core) = host.core() {
                let ledger = core.ledger();
                if ledger.free() != host.card().capacity {
                    left.push(format!("{} in the ledger", ledger.used()));
                }
                left.extend(core.allocations().keys().map(|id| format!("allocation {id:?}")));
            }
            for what in left {
                self.complain(Judge::Residue, at, format!("h{}: {what} is left", index + 1));
            }
        }
    }
}

fn names(tasks: &Tasks) -> Vec<String> {
    tasks.existing().map(|(name, _)| format!("task {name:?}")).collect()
}

/// The first thing in which two states differ, in words.
fn difference(one: &Core, other: &Core) -> String {
    let claims = |core: &Core| {
        let claims = core.state().all_claims();
        claims.map(|(node, claim)| (*node, claim.clone())).collect::<Vec<_>>()
    };
    let (ours, theirs) = (claims(one), claims(other));
    if let Some((node, claim)) = ours.iter().find(|it| !theirs.contains(it)) {
        return format!("only the first has the claim of {node:?}: {claim:?}");
    }
    if let Some((node, claim)) = theirs.iter().find(|it| !ours.contains(it)) {
        return format!("only the other has the claim of {node:?}: {claim:?}");
    }
    let count = |core: &Core| (core.state().all_outcomes().count(), core.state().jobs().count());
    format!("outcomes and jobs: {:?} against {:?}", count(one), count(other))
}
