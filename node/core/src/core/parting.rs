//! Parting: who is a member changed, because somebody was removed or was not after all.
//!
//! The work of a removed node is wanted elsewhere at once: its claims count no
//! more, whatever it may still run. The removed node itself takes no work,
//! tenders none, and stops what it runs, for the cluster that wanted it there
//! has signed that it does not. That is a word, not a silence. If the removal
//! turns out to be void, it is a member again, with nothing running.

use std::collections::BTreeSet;

use gossip_core::id::NodeId;
use gossip_core::removal::Removal;

use super::Core;
use crate::effect::{Effect, Now};
use crate::event::What;

impl Core {
    /// The removal that ended this node's own membership.
    pub fn own_removal(&self) -> Option<&Removal> {
        self.state.standing_of(&self.me).against()
    }

    /// Whether this node may run and tender work at all.
    pub(super) fn is_outcast(&self) -> bool {
        self.state.is_out(&self.me)
    }

    pub(super) fn parted(
        &mut self,
        now: Now,
        (gone, back): (&BTreeSet<NodeId>, &BTreeSet<NodeId>),
        out: &mut Vec<Effect>,
    ) {
        for node in gone {
            self.liveness.forget(node);
            self.adverts.remove(node);
            let by = self.state.standing_of(node).against().and_then(Removal::issuer);
            let name = self.node_name(node);
            out.push(Effect::Tell(What::NodeRemoved { node: *node, name, by }));
        }
        for node in back.iter().filter(|node| **node != self.me) {
            self.liveness.watch(*node, now.moment);
            out.push(Effect::Tell(What::NodeBack { node: *node }));
        }
        if gone.contains(&self.me) {
            self.stop_all(now, out);
        }
        for node in gone.union(back) {
            let held = self.state.holdings(node);
            self.mark(now, held.into_iter().map(|claim| claim.slot.job).collect::<BTreeSet<_>>());
        }
        self.poke(now);
    }
}
