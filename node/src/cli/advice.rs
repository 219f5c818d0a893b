//! What helps a job that no node takes: a hint for each cause of a decline.
//!
//! A decline comes from its node as a sentence, so causes are told apart by how the
//! sentences of [`Decline`](gossip_core::market::Decline) and of the bidder begin or end;
//! a test holds them together. A sentence of a newer node gets no hint rather than a wrong
//! one.

use crate::api::types::Why;

/// Why a node does not take a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Distrust,
    Unenforced,
    TooLarge,
    Full,
}

impl Cause {
    fn of(reason: &str) -> Option<Self> {
        if reason.contains("this node has no --trust-jobs") {
            return Some(Self::Distrust);
        }
        if reason.contains("which this node cannot enforce") {
            return Some(Self::Unenforced);
        }
        match () {
            () if reason.starts_with("too large for this node") => Some(Self::TooLarge),
            () if reason.starts_with("no room now") => Some(Self::Full),
            () => None,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Distrust => {
                "leave out what needs trust, or, on a node that jobs may take over: starling \
                 down && starling up --trust-jobs"
            }
            Self::Unenforced => "leave that limit out, or see there what it takes: starling doctor",
            Self::TooLarge => "ask for less, or let a larger node join: starling invite",
            Self::Full => "ask for less, or stop what has the room: starling ps",
        }
    }
}

/// A hint for each cause, none if some node would take it.
pub(crate) fn of(why: &Why) -> Vec<&'static str> {
    if why.opinions.iter().any(|opinion| opinion.would_bid) {
        return Vec::new();
    }
    let causes = why.opinions.iter().filter_map(|opinion| Cause::of(&opinion.reason));
    let causes: std::collections::BTreeSet<Cause> = causes.collect();
    causes.into_iter().map(Cause::hint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::market::Decline;

    #[test]
    fn declines_have_hints_of_their_own() {
        let lacks = || "cpu 1 < 4".to_owned();
        let unfit = |reason: &str| Decline::Unfit { reason: reason.to_owned() };
        let distrust = "it asks for the node's own user ids, and this node has no --trust-jobs";
        let unenforced = "it asks for io, which this node cannot enforce: no bfq";
        for (decline, cause) in [
            (Decline::TooLarge { lacks: lacks() }, Some(Cause::TooLarge)),
            (Decline::Full { lacks: lacks() }, Some(Cause::Full)),
            (unfit(distrust), Some(Cause::Distrust)),
            (unfit(unenforced), Some(Cause::Unenforced)),
            (unfit("no group x"), None),
            (Decline::Outdated { answered: 1 }, None),
        ] {
            assert_eq!(Cause::of(&decline.to_string()), cause, "{decline}");
        }
    }
}
