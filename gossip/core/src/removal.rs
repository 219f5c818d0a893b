//! Who may speak no more: removals, and which of them count.
//!
//!     founder (0) ──▶ a (1) ──▶ c (2)     a removal takes a key away for ever, and
//!           └───────▶ b (1)               every grant of it that is not kept
//!
//! A removal is signed and carries its issuer's own proof of membership, so it
//! convinces whoever it reaches, by whatever way. The set of them only grows.
//! Where sides removed each other, rank decides: removals apply in the order of
//! their issuers' distance from the founder, ties by hash, and one by a key
//! that is gone by then is void. So whoever holds the same set judges the same.
//!
//! Rank is all that orders them: clocks may lie. Therefore a key can undo its
//! removal by a member of higher rank, by removing that member. And a removal
//! that adds to the set may bring a node back; nothing else ever does.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::grant::{BadChain, Chain, Role};
use crate::id::{ClusterId, ContentHash, NodeId, Signature};
use crate::moment::WallTime;
use crate::sign::{Domain, Key, verifies};

/// The most grants that one removal keeps: with them it still fits a message of admission.
pub const KEEPS_MAX: usize = 512;

/// A member's signed word that a key is no member's any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Who is removed.
    pub subject: NodeId,
    /// Why the issuer may speak; its last link names the issuer.
    pub chain: Chain,
    /// Whom the removed admitted and who stays: sorted, each once.
    pub keeps: Vec<NodeId>,
    /// When, by the issuer's clock; for people.
    pub at: WallTime,
    /// By the issuer.
    pub signature: Signature,
}

/// Why a removal proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRemoval {
    /// Its issuer was never a member.
    #[error("a removal by nobody: {0}")]
    Chain(#[from] BadChain),
    /// It is signed by an operator, who asks a member to remove.
    #[error("a removal by an operator's key")]
    Operator,
    /// Nobody leaves by removing itself.
    #[error("a removal of its own issuer")]
    Own,
    /// More than [`KEEPS_MAX`], out of order, or one of them twice.
    #[error("a removal that lists kept grants wrongly")]
    Keeps,
    /// Signed by somebody else, or changed since.
    #[error("a removal that its issuer did not sign")]
    Forged,
}

fn statement(subject: &NodeId, rank: u32, keeps: &[NodeId], at: WallTime) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + keeps.len() * NodeId::LENGTH);
    bytes.extend_from_slice(subject.as_bytes());
    bytes.extend_from_slice(&rank.to_be_bytes());
    bytes.extend_from_slice(&at.0.to_be_bytes());
    keeps.iter().for_each(|node| bytes.extend_from_slice(node.as_bytes()));
    bytes
}

impl Removal {
    /// Removes `subject` in the name of `key`, whose proof of membership `chain` is, and
    /// keeps the first [`KEEPS_MAX`] of its grants to `keeps`.
    pub fn sign(
        key: &Key,
        cluster: &ClusterId,
        (subject, chain): (NodeId, Chain),
        mut keeps: Vec<NodeId>,
        at: WallTime,
    ) -> Self {
        keeps.sort_unstable();
        keeps.dedup();
        keeps.truncate(KEEPS_MAX);
        let statement = statement(&subject, chain.rank(), &keeps, at);
        let signature = key.sign(Domain::Removal, cluster, &statement);
        Self { subject, chain, keeps, at, signature }
    }

    /// Who signed it; `None` for what [`Removal::verify`] refuses.
    pub fn issuer(&self) -> Option<NodeId> {
        self.chain.subject()
    }

    /// Whether a member signed it, whatever became of that member since.
    pub fn verify(&self, cluster: &ClusterId) -> Result<(), BadRemoval> {
        let issuer = self.issuer().ok_or(BadChain::Length(0))?;
        if self.chain.verify(cluster, &issuer)? != Role::Member {
            return Err(BadRemoval::Operator);
        }
        if issuer == self.subject {
            return Err(BadRemoval::Own);
        }
        let is_sorted = self.keeps.is_sorted_by(|a, b| a < b);
        if self.keeps.len() > KEEPS_MAX || !is_sorted {
            return Err(BadRemoval::Keeps);
        }
        let statement = statement(&self.subject, self.chain.rank(), &self.keeps, self.at);
        if !verifies(&issuer, Domain::Removal, cluster, &statement, &self.signature) {
            return Err(BadRemoval::Forged);
        }
        Ok(())
    }

    /// Its place among all: the issuer's rank, then its hash, then what it says.
    fn place(&self) -> Place {
        let issuer = self
            .issuer()
            .map_or(ContentHash::new([0xff; 32]), |issuer| ContentHash::of(issuer.as_bytes()));
        let own = ContentHash::of(self.signature.as_bytes());
        Place { rank: self.chain.rank(), issuer, subject: self.subject, own }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    rank: u32,
    issuer: ContentHash,
    subject: NodeId,
    own: ContentHash,
}

/// What removals leave of a proof of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It holds.
    Good,
    /// Its subject was removed, for ever.
    Removed(&'a Removal),
    /// A link of it was signed by a key that was removed since, and was not kept:
    /// its subject may be admitted anew.
    Orphaned(&'a Removal),
}

impl<'a> Standing<'a> {
    /// The removal that stands in its way.
    pub fn against(self) -> Option<&'a Removal> {
        match self {
            Standing::Good => None,
            Standing::Removed(removal) | Standing::Orphaned(removal) => Some(removal),
        }
    }
}

/// All removals that were heard of, and which of them count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removals {
    all: BTreeMap<Place, Arc<Removal>>,
    /// By subject; of several the first counts.
    counting: BTreeMap<NodeId, Arc<Removal>>,
}

impl Removals {
    /// Takes one that was verified; whether it was news.
    pub fn insert(&mut self, removal: Removal) -> bool {
        let is_news = self.all.insert(removal.place(), Arc::new(removal)).is_none();
        if is_news {
            self.weigh();
        }
        is_news
    }

    fn weigh(&mut self) {
        self.counting.clear();
        for removal in self.all.values() {
            if standing(&self.counting, &removal.chain) == Standing::Good {
                self.counting.entry(removal.subject).or_insert_with(|| Arc::clone(removal));
            }
        }
    }

    /// Whether nobody was ever removed.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What is left of a chain that verifies.
    pub fn standing(&self, chain: &Chain) -> Standing<'_> {
        standing(&self.counting, chain)
    }

    /// The removal of `node` that counts.
    pub fn of(&self, node: &NodeId) -> Option<&Removal> {
        self.counting.get(node).map(Arc::as_ref)
    }

    /// All that count, by subject.
    pub fn counting(&self) -> impl Iterator<Item = &Removal> {
        self.counting.values().map(Arc::as_ref)
    }

    /// Whether `issuer` is known to have removed `subject`, in vain or not.
    pub fn is_known(&self, issuer: &NodeId, subject: &NodeId) -> bool {
        let same = |it: &Removal| it.subject == *subject && it.issuer() == Some(*issuer);
        self.all.values().any(|removal| same(removal))
    }

    /// Whether another judgement follows from one more.
    pub fn would_change(&self, removal: &Removal) -> bool {
        let mut after = self.clone();
        after.insert(removal.clone()) && after.counting != self.counting
    }

    /// Those of the removals that count now and would not beside `removal`: whoever issues it
    /// and means them to last says them again.
    pub fn undone_by(&self, removal: &Removal) -> Vec<&Removal> {
        let mut after = self.clone();
        after.insert(removal.clone());
        self.counting().filter(|it| !after.counting.contains_key(&it.subject)).collect()
    }

    /// Why removals of `node` are void, for whoever believes in one of them: at most `most`.
    pub fn defence_of(&self, node: &NodeId, most: usize) -> Vec<&Removal> {
        if self.counting.contains_key(node) {
            return Vec::new();
        }
        let of_node = self.all.values().filter(|removal| removal.subject == *node);
        let mut against: Vec<_> =
            of_node.filter_map(|removal| self.standing(&removal.chain).against()).collect();
        against.sort_unstable_by_key(|removal| removal.place());
        against.dedup();
        against.truncate(most);
        against
    }
}

fn standing<'a>(counting: &'a BTreeMap<NodeId, Arc<Removal>>, chain: &Chain) -> Standing<'a> {
    if counting.is_empty() {
        return Standing::Good;
    }
    if let Some(removal) = chain.subject().and_then(|subject| counting.get(&subject)) {
        return Standing::Removed(removal.as_ref());
    }
    let broken = chain.links().iter().skip(1).find_map(|link| {
        let removal = counting.get(&link.grantor)?;
        removal.keeps.binary_search(&link.subject).is_err().then_some(removal.as_ref())
    });
    broken.map_or(Standing::Good, Standing::Orphaned)
}

#[cfg(test)]
#[path = "removal_tests.rs"]
mod tests;
