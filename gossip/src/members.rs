//! Who is a member, as this node's journal says: proofs shown, and removals.
//!
//!     scribe: Members ──posts its Ruling when that changed──▶ Notice ◀──read── gate, loop
//!
//! The scribe alone changes it, after the same records on every node. A proof
//! that verified once is kept, so that its standing can be told again whenever
//! a removal arrives. The gate and the loop see no more than the ruling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use gossip_core::grant::Chain;
use gossip_core::id::NodeId;
use gossip_core::log::LogId;
use gossip_core::removal::{Removal, Removals, Standing};

/// Who is kept out, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruling {
    /// All removals.
    pub(crate) removals: Removals,
    /// Every known key whose membership ended.
    pub(crate) out: BTreeSet<NodeId>,
}

/// Where the ruling of the day hangs: posted once it is on the disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notice(Arc<Mutex<Arc<Ruling>>>);

impl Notice {
    pub(crate) fn post(&self, ruling: &Arc<Ruling>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(ruling);
    }

    pub(crate) fn read(&self) -> Arc<Ruling> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Everybody who ever opened a log.
#[derive(Debug, Default)]
pub(crate) struct Members {
    chains: BTreeMap<NodeId, (LogId, Chain)>,
    ruling: Arc<Ruling>,
}

impl Members {
    /// The writer of `log` showed this proof, which verified; an older log says nothing new.
    pub(crate) fn learn(&mut self, log: LogId, chain: &Chain) {
        let known = self.chains.get(&log.node);
        if known.is_some_and(|(newest, _)| *newest > log) {
            return;
        }
        let is_news = known.is_none_or(|(_, before)| before != chain);
        self.chains.insert(log.node, (log, chain.clone()));
        if is_news && !self.ruling.removals.is_empty() {
            self.rule(self.ruling.removals.clone());
        }
    }

    /// Takes a removal that verified.
    pub(crate) fn remove(&mut self, removal: Removal) {
        let mut removals = self.ruling.removals.clone();
        if removals.insert(removal) {
            self.rule(removals);
        }
    }

    fn rule(&mut self, removals: Removals) {
        let is_out = |chain: &Chain| removals.standing(chain) != Standing::Good;
        let shown = self.chains.iter().filter(|(_, (_, chain))| is_out(chain));
        // Who was removed before anybody heard of its log is out as well.
        let named = removals.counting().map(|removal| removal.subject);
        let out = shown.map(|(node, _)| *node).chain(named).collect();
        self.ruling = Arc::new(Ruling { removals, out });
    }

    /// What follows for others.
    pub(crate) fn ruling(&self) -> &Arc<Ruling> {
        &self.ruling
    }

    /// Whether a node showed a proof, which may not hold any more.
    pub(crate) fn knows(&self, node: &NodeId) -> bool {
        self.chains.contains_key(node)
    }

    /// Whether a node showed a proof that still holds.
    pub(crate) fn is_member(&self, node: &NodeId) -> bool {
        self.knows(node) && !self.ruling.out.contains(node)
    }

    /// All whom `grantor` admitted itself, as their proofs say.
    pub(crate) fn granted_by<'a>(
        &'a self,
        grantor: &'a NodeId,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let links = self.chains.values().flat_map(|(_, chain)| chain.links().iter().skip(1));
        links.filter(move |link| link.grantor == *grantor).map(|link| link.subject)
    }
}
