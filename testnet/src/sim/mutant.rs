//! Flaws on purpose: each makes the shell around the cores lie in one way.
//!
//! A judge that was never seen to complain proves nothing, so for every judge
//! there is a flaw that it must catch. The cores are the shipped ones; only
//! what goes into them and comes out of them is tampered with.

use std::str::FromStr;

use gossip_core::fact::{Claim, Entry, Record, TaskEnd, Update};
use gossip_core::id::NodeId;
use gossip_core::log::LogId;
use gossip_core::market::Message;
use gossip_core::slot::ClaimRank;
use starling_core::effect::Input;

/// One flaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The ledger believes in twice the room there is: holds back nothing real.
    NoHold,
    /// Every award goes to all members, as if it had been won by each.
    SecondAward,
    /// A holder never hears that the better claim runs, so nobody yields.
    NeverYield,
    /// Each node ranks all other nodes' claims above its own.
    NoEpochOrder,
    /// A lesser holder stops without hearing the better one.
    StopUnheard,
    /// A node that hears nobody stops its tasks.
    StopOnSilence,
    /// Claims are launched without being journaled.
    NoClaimJournal,
    /// Appends are called durable seconds before they are.
    LyingFsync,
    /// Nobody asks for what it missed.
    NoPull,
    /// The ends of some tasks are not reported.
    LostEnd,
    /// Some tasks that ended well are said to have failed.
    FalseFailure,
}

/// All flaws with their names and the judge that catches each.
pub const MUTANTS: [(&str, Mutant, super::Judge); 11] = [
    ("no-hold", Mutant::NoHold, super::Judge::Capacity),
    ("second-award", Mutant::SecondAward, super::Judge::WarmUp),
    ("never-yield", Mutant::NeverYield, super::Judge::Healed),
    ("no-epoch-order", Mutant::NoEpochOrder, super::Judge::Gaps),
    ("stop-unheard", Mutant::StopUnheard, super::Judge::Gaps),
    ("stop-on-silence", Mutant::StopOnSilence, super::Judge::Gaps),
    ("no-claim-journal", Mutant::NoClaimJournal, super::Judge::Views),
    ("lying-fsync", Mutant::LyingFsync, super::Judge::Promises),
    ("no-pull", Mutant::NoPull, super::Judge::Replicas),
    ("lost-end", Mutant::LostEnd, super::Judge::Residue),
    ("false-failure", Mutant::FalseFailure, super::Judge::Restarts),
];

/// There is no such flaw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a mutant; there are {}", MUTANTS.map(|(name, _, _)| name).join(", "))]
pub struct BadMutant {
    given: String,
}

impl FromStr for Mutant {
    type Err = BadMutant;

    fn from_str(text: &str) -> Result<Self, BadMutant> {
        let named = MUTANTS.iter().find(|(name, _, _)| *name == text);
        named.map(|(_, mutant, _)| *mutant).ok_or_else(|| BadMutant { given: text.to_owned() })
    }
}

impl Mutant {
    /// The name that `--mutant` takes.
    pub fn name(self) -> &'static str {
        MUTANTS.iter().find(|(_, mutant, _)| *mutant == self).map_or("", |(name, _, _)| name)
    }

    /// What the core is told instead of `input`.
    pub(super) fn tell(self, me: NodeId, input: Input) -> Option<Input> {
        match (self, input) {
            (Mutant::NeverYield, Input::Market { message: Message::Ready { .. }, .. }) => None,
            (Mutant::LostEnd, Input::Ended { id, .. }) if id.epoch.tender.is_multiple_of(4) => None,
            (Mutant::FalseFailure, Input::Ended { id, end: TaskEnd::Exited { code: 0 } }) => {
                Some(Input::Ended { id, end: TaskEnd::Exited { code: 1 } })
            }
            (Mutant::NoEpochOrder, Input::Updates(updates)) => {
                Some(Input::Updates(updates.into_iter().map(|update| raise(me, update)).collect()))
            }
            (Mutant::NoEpochOrder, Input::Market { from, message }) => {
                Some(Input::Market { from, message: reorder(message) })
            }
            (_, input) => Some(input),
        }
    }

    /// What is journaled instead of `entries`.
    pub(super) fn journal(self, mut entries: Vec<Entry>) -> Vec<Entry> {
        if self == Mutant::NoClaimJournal {
            entries.retain(|entry| !matches!(entry, Entry::Fact(Record::Claim(_))));
        }
        entries
    }
}

/// By how much the others' claims are raised.
const RAISE: u64 = 1 << 20;

fn raise(me: NodeId, (log, mut update): (LogId, Update)) -> (LogId, Update) {
    if log.node != me {
        let raise = |claim: &mut Claim| claim.epoch.counter += RAISE;
        match &mut update {
            Update::Claim(claim) => raise(claim),
            Update::Opened { holdings, .. } => holdings.iter_mut().for_each(raise),
            Update::Outcome(outcome) => outcome.epoch.counter += RAISE,
            _ => {}
        }
    }
    (log, update)
}

fn reorder(mut message: Message) -> Message {
    match &mut message {
        // The asker raised it; its holder knows it as it is.
        Message::Probe { rank: ClaimRank { epoch, .. }, .. } => {
            epoch.counter = epoch.counter.saturating_sub(RAISE);
        }
        Message::Ready { rank: ClaimRank { epoch, .. }, .. } => epoch.counter += RAISE,
        _ => {}
    }
    message
}
