//! Removals: those that this node's users ask for, and those that peers show at the gate.
//!
//! A removal takes along what the removed key said, its own removals too. So
//! whoever removes a key says again, in its own name, which of those are to
//! last: all that count now. Nobody comes back because an old host is retired.

use std::collections::BTreeSet;

use gossip_core::fact::{Grants, Record};
use gossip_core::id::NodeId;
use gossip_core::moment::WallTime;
use gossip_core::removal::{KEEPS_MAX, Removal, Standing};

use crate::knowledge::Knowledge;

use super::{Author, Round, Scribe};

/// What is to be written for `node` to be removed, or why it cannot be.
pub(super) fn removals(
    author: &Author,
    knowledge: &Knowledge,
    (node, grants, at): (NodeId, Grants, WallTime),
) -> Result<Vec<Removal>, String> {
    let Author { key, cluster, chain, .. } = author;
    let members = knowledge.members();
    let known = &members.ruling().removals;
    if node == key.id() {
        return Err("a node cannot remove itself".to_owned());
    }
    if known.standing(chain) != Standing::Good {
        return Err("this node is no member itself any more".to_owned());
    }
    if known.of(&node).is_some() {
        return Err("it was removed before".to_owned());
    }
    // Whoever removes a node that stands above it does not lose its own grant by that.
    let above = chain.links().iter().skip(1).filter(|link| link.grantor == node);
    let mut keeps: BTreeSet<_> = above.map(|link| link.subject).collect();
    if grants == Grants::Keep {
        keeps.extend(members.granted_by(&node));
        keeps.extend(knowledge.invitations().admitted_by(&node));
    }
    keeps.retain(|kept| known.of(kept).is_none());
    if keeps.len() > KEEPS_MAX {
        let count = keeps.len();
        return Err(format!("it admitted {count}, and no more than {KEEPS_MAX} can be kept"));
    }
    let sign = |subject, keeps| Removal::sign(key, cluster, (subject, chain.clone()), keeps, at);
    let removal = sign(node, keeps.into_iter().collect());
    let undone = known.undone_by(&removal);
    let again: Vec<_> = undone.iter().map(|it| sign(it.subject, it.keeps.clone())).collect();
    Ok([vec![removal], again].concat())
}

impl Scribe {
    /// Takes removals that somebody showed at the gate, where they say something new. What is
    /// void is kept only of keys that wrote a log here, so that strangers cannot fill the disk.
    pub(super) fn heed(&mut self, shown: Vec<Removal>, round: &mut Round) {
        if self.next() == 0 {
            // Shown again soon; a log begins with its opening.
            return;
        }
        for removal in shown {
            let members = self.knowledge.members();
            let known = &members.ruling().removals;
            let is_told = removal.issuer().is_some_and(|issuer| {
                members.knows(&issuer) && !known.is_known(&issuer, &removal.subject)
            });
            if !is_told && !known.would_change(&removal) {
                continue;
            }
            let record = Record::Removal(removal);
            self.note(record, round);
        }
    }
}
