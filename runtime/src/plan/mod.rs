//! From a launch and what this machine can do to a list of steps. Pure: nothing
//! here looks at the machine, makes or changes anything but [`Facts::probe`].
//!
//! ```text
//! Launch ─┐
//! Facts ──┼─▶ plan ─▶ steps of the supervisor ─┐    open, clone, map ids, go
//! id base ┘           steps of the process ────┴─▶  mount, pivot, renounce, execute
//! ```
//!
//! A launch that cannot run is refused here, with the field that is wrong, before
//! anything was done for it. The order of the steps is the security argument:
//! what needs power comes first, what takes it away comes last, and each step may
//! rely on those above it.

mod check;
mod container;
mod exact;
mod facts;
mod flaw;
mod namespaces;
mod step;
#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use container::id_map;
pub use exact::ExactStep;
pub use facts::{Facts, IdRange, Kernel};
pub use flaw::{PlanFlaw, Problem};
pub use namespaces::Namespaces;
pub use step::{Cover, IdMap, MapWriter, Owners, Source, Special, Step, Tree};

use crate::launch::{Launch, Place, Process};

/// Version of Landlock that forbids signals without forbidding files.
pub(crate) const LANDLOCK_SCOPES: u32 = 6;
/// Version of Landlock under which files can be moved between directories.
const LANDLOCK_RENAMES: u32 = 2;

/// What is done for a launch, in order: first the supervisor's steps, then those of
/// the process it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
}

impl Plan {
    /// All steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// What is opened of the host, by the numbers that later steps use.
    pub fn trees(&self) -> impl Iterator<Item = &Tree> {
        self.steps.iter().filter_map(|step| match step {
            Step::Open(tree) => Some(tree),
            _ => None,
        })
    }
}

impl fmt::Display for Plan {
    /// One line for each step, numbered as failures number them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.steps) {
            let who = if step.is_supervisors() { "supervisor" } else { "task" };
            writeln!(f, "{number:3} {who:10} {step}")?;
        }
        Ok(())
    }
}

/// Whether a launch makes sense anywhere: all that [`plan`] refuses without looking at the
/// machine. What it passes a machine may still refuse for what it lacks.
pub fn vet(launch: &Launch) -> Result<(), PlanFlaw> {
    check::check(launch)
}

/// Plans a launch.
///
/// `id_base` is the first of the [`IDS`](crate::IDS) host ids that the container
/// has of its own; a container with the host's ids and a plain process ignore it.
pub fn plan(launch: &Launch, facts: &Facts, id_base: u32) -> Result<Plan, PlanFlaw> {
    check::check(launch)?;
    let steps = match &launch.place {
        Place::Process(process) => of_process(launch, process, facts)?,
        Place::Container(container) => match &container.exact {
            Some(exact) => exact::steps(launch, container, exact, facts)?,
            None => container::steps(launch, container, facts, id_base)?,
        },
    };
    Ok(Plan { steps })
}

/// Plans a further program inside of a running container: `launch` is the container's
/// own, with the program, environment, directory, user and streams of the further one.
pub(crate) fn entry(launch: &Launch, facts: &Facts) -> Result<Plan, PlanFlaw> {
    check::check(launch)?;
    match &launch.place {
        Place::Container(container) if container.exact.is_some() => {
            let problem = "nothing enters a container made by another's description";
            Err(PlanFlaw::new("container.exact", Problem::Launch(problem.to_owned())))
        }
        Place::Container(container) => {
            Ok(Plan { steps: container::entry(launch, container, facts)? })
        }
        Place::Process(_) => {
            let problem = Problem::Launch("a plain process has no inside to enter".to_owned());
            Err(PlanFlaw::new("place", problem))
        }
    }
}

fn of_process(launch: &Launch, process: &Process, facts: &Facts) -> Result<Vec<Step>, PlanFlaw> {
    let veil = veil(process, facts);
    let namespaces = if veil.is_some() { Namespaces::PRIVATE } else { Namespaces::NONE };
    let mut steps = vec![Step::Clone(namespaces), Step::JoinGroups, Step::Session];
    if terminal(launch).is_some() {
        steps.push(Step::TakeTerminal);
    }
    steps.push(Step::Streams);
    let is_veiled = veil.is_some();
    steps.extend(veil);
    if launch.directory.is_none() && !is_veiled {
        // Entered before the user changes: the way there may be closed to it.
        steps.push(Step::Scratch);
    }
    steps.extend(launch.rlimits.iter().cloned().map(Step::Limit));
    // Before the user changes: only root may lower it.
    steps.extend(launch.oom_score_adj.map(Step::Score));
    if let Some(user) = process.user {
        if facts.uid != 0 && user.uid != facts.uid {
            let lacks = "only a runtime of root runs tasks of other users";
            return Err(PlanFlaw::new("process.user", Problem::Machine { lacks }));
        }
        steps.push(Step::Become(user));
    }
    steps.push(Step::NoNewPrivileges);
    if facts.uid != 0 {
        steps.extend(apart(process, facts));
    } else if !process.hidden.is_empty() && facts.landlock > 0 {
        steps.push(Step::Hide(process.hidden.clone()));
    }
    steps.extend(launch.directory.clone().map(Step::Directory));
    steps.push(execute(launch));
    Ok(steps)
}

/// A process of the agent's own user, to which no owner and no mode says no.
fn veil(process: &Process, facts: &Facts) -> Option<Step> {
    let wanted = facts.uid != 0 && facts.own_mounts && !process.hidden.is_empty();
    wanted.then(|| Step::Veil(process.hidden.clone()))
}

/// Landlock's part for such a process. Behind a veil only what the veil does not do;
/// else all it can do without forbidding its user's own files, which begins with the
/// version that can rename them.
fn apart(process: &Process, facts: &Facts) -> Option<Step> {
    let since = if facts.own_mounts { LANDLOCK_SCOPES } else { LANDLOCK_RENAMES };
    (!process.hidden.is_empty() && facts.landlock >= since).then_some(Step::Apart)
}

fn terminal(launch: &Launch) -> Option<Step> {
    match launch.streams {
        crate::Streams::Terminal { rows, columns } => Some(Step::Terminal { rows, columns }),
        _ => None,
    }
}

fn execute(launch: &Launch) -> Step {
    Step::Execute(launch.argv.first().cloned().unwrap_or_default())
}
