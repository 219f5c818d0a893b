//! Invariant 5: what a user was told is durable is known everywhere at the end.
//!
//! Keeps what users asked and what they were answered. Disks are never lost in
//! these runs, so `durable here only` is a promise too.

use std::rc::Rc;

use gossip_core::id::JobId;
use gossip_core::spec::JobSpec;
use starling_core::Core;
use starling_core::effect::{Ask, Reply};

/// What users asked.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    asks: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    ask: Rc<Ask>,
    answered: bool,
    promised: bool,
}

impl Promises {
    /// A user is about to ask; answers the ask's number.
    pub(crate) fn add(&mut self, ask: Ask) -> usize {
        self.asks.push(Asked { ask: Rc::new(ask), answered: false, promised: false });
        self.asks.len() - 1
    }

    pub(crate) fn ask(&self, number: usize) -> Option<Rc<Ask>> {
        self.asks.get(number).map(|it| Rc::clone(&it.ask))
    }

    pub(crate) fn is_answered(&self, number: usize) -> bool {
        self.asks.get(number).is_none_or(|it| it.answered)
    }

    pub(crate) fn replied(&mut self, number: u64, reply: &Reply) {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(asked) = self.asks.get_mut(number) else { return };
        let promised = matches!(reply, Reply::Accepted { .. } | Reply::NotReplicated { .. });
        asked.promised |= promised;
        // A node that did not hear of a job yet is not the last one asked.
        asked.answered |= !matches!(reply, Reply::NoSuchJob { .. } | Reply::Busy);
    }

    /// How many asks were acknowledged.
    pub(crate) fn promised(&self) -> usize {
        self.asks.iter().filter(|it| it.promised).count()
    }

    /// The promises that this core does not know of, in words.
    pub(crate) fn broken(&self, core: &Core) -> Vec<String> {
        let promised = self.asks.iter().filter(|it| it.promised);
        promised.filter_map(|it| broken(core, &it.ask)).collect()
    }
}

fn broken(core: &Core, ask: &Ask) -> Option<String> {
    let known = |job: &JobId| core.state().job(job);
    match ask {
        Ask::Submit { job, spec } => {
            let hash = JobSpec::to_blob(spec).ok()?.0;
            let has = |it: &gossip_core::intent::JobIntent| {
                it.generations.iter().any(|generation| generation.spec == hash)
            };
            let lost = !known(job).is_some_and(has) || core.state().spec(&hash).is_none();
            lost.then(|| format!("the submission of {job:?} is lost"))
        }
        Ask::Stop(job) | Ask::Remove(job) => {
            let lost = known(job).is_none_or(gossip_core::intent::JobIntent::is_live);
            lost.then(|| format!("the stop of {job:?} is lost"))
        }
        // No plan of the simulator has one.
        Ask::RemoveNode { .. } => None,
    }
}
