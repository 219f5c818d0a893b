//! What a host runs: its tasks and their ends, which outlive the agent.
//!
//!     Starting ──▶ Running ──▶ Ended
//!                     └─ stop ─┘
//!
//! Named as the runtime names them, by allocation and start. A record of an
//! ended task stays until its host forgets it, so that an agent that was away
//! finds how it went. Must never know why a task was wanted.

use std::collections::BTreeMap;

use gossip_core::fact::TaskEnd;
use gossip_core::resources::Resources;
use starling_core::core::Found;
use starling_core::ledger::AllocationId;

/// One start of one allocation.
pub(super) type TaskName = (AllocationId, u32);

/// How far a task is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Its launch is under way.
    Starting,
    /// It runs; `true` once it was told to stop.
    Running(bool),
    /// It is gone.
    Ended(TaskEnd),
}

/// One task.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) state: State,
    /// What it takes while it exists.
    pub(super) ask: Resources,
}

impl Task {
    pub(super) fn exists(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }
}

/// All tasks of one host.
#[derive(Debug, Default)]
pub(super) struct Tasks(BTreeMap<TaskName, Task>);

impl Tasks {
    /// A launch begins; `false` if there is or was such a task.
    pub(super) fn begin(&mut self, name: &TaskName, ask: Resources) -> bool {
        if self.0.contains_key(name) {
            return false;
        }
        self.0.insert(name.clone(), Task { state: State::Starting, ask });
        true
    }

    pub(super) fn get_mut(&mut self, name: &TaskName) -> Option<&mut Task> {
        self.0.get_mut(name)
    }

    /// Nothing of a task is left, not even how it ended.
    pub(super) fn forget(&mut self, name: &TaskName) {
        self.0.remove(name);
    }

    /// Those that take room.
    pub(super) fn existing(&self) -> impl Iterator<Item = (&TaskName, &Task)> {
        self.0.iter().filter(|(_, task)| task.exists())
    }

    /// The room they take.
    pub(super) fn used(&self) -> Resources {
        self.existing().fold(Resources::default(), |sum, (_, task)| Resources {
            cpu_milli: sum.cpu_milli + task.ask.cpu_milli,
            memory_bytes: sum.memory_bytes + task.ask.memory_bytes,
        })
    }

    /// Names of those that exist, to be ended one by one.
    pub(super) fn names(&self) -> Vec<TaskName> {
        self.existing().map(|(name, _)| name.clone()).collect()
    }

    /// Names of those whose launch is under way.
    pub(super) fn starting(&self) -> Vec<TaskName> {
        let starting = self.0.iter().filter(|(_, task)| task.state == State::Starting);
        starting.map(|(name, _)| name.clone()).collect()
    }

    /// Sorts what is there by what the agent's log says it holds: for each known
    /// allocation its last start, and those that run for nobody.
    pub(super) fn find(
        &mut self,
        known: impl Fn(&AllocationId) -> bool,
    ) -> (BTreeMap<AllocationId, (u32, Found)>, Vec<TaskName>) {
        let mut found = BTreeMap::new();
        let mut orphans = Vec::new();
        self.0.retain(|(id, _), task| known(id) || task.exists());
        for ((id, start), task) in &self.0 {
            if !known(id) {
                orphans.push((id.clone(), *start));
                continue;
            }
            let state = match &task.state {
                State::Ended(end) => Found::Ended(end.clone()),
                State::Starting | State::Running(_) => Found::Running,
            };
            // In order of starts: the last one stays.
            found.insert(id.clone(), (*start, state));
        }
        (found, orphans)
    }
}
