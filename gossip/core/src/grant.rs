//! Who may speak: grants, delegated from the founding key.
//!
//!     founder ──grants──▶ member ──grants──▶ member …   (rank 0, 1, 2 …)
//!
//! A chain of grants proves a membership by itself: it starts with the
//! founder's grant to itself, whose hash is the cluster's name, and each link
//! is signed by the one before. Nobody has to be asked, and the founder's loss
//! costs nothing. There is no expiry: a clock that is wrong never locks out.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{ClusterId, NodeId, Signature};
use crate::sign::{Domain, Key, verifies};

/// The longest chain: far more delegations than any cluster of people makes.
pub const CHAIN_LENGTH_MAX: usize = 24;

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A node of the cluster; may invite others.
    Member,
    /// A person or tool that may use the API from afar; is no node.
    Operator,
}

/// One link: `grantor` admits `subject`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who is admitted.
    pub subject: NodeId,
    /// Who admits; the founder admits itself.
    pub grantor: NodeId,
    /// 0 for the founder, one more than the grantor's otherwise.
    pub rank: u32,
    /// What is allowed.
    pub role: Role,
    /// Random; the founder's names the cluster.
    pub nonce: u64,
    /// By the grantor.
    pub signature: Signature,
}

/// A proof of membership, from the founder down to its subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain(Vec<Grant>);

/// Why a chain proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    /// No links, or more than [`CHAIN_LENGTH_MAX`].
    #[error("the proof of membership has {0} links")]
    Length(usize),
    /// It leads to the founder of another cluster.
    #[error("the proof of membership is for another cluster")]
    OtherCluster,
    /// It is somebody else's.
    #[error("the proof of membership is for another key")]
    OtherSubject,
    /// A link that does not follow from the one before.
    #[error("link {0} of the proof of membership does not hold")]
    Link(usize),
}

impl Grant {
    fn statement(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(80);
        bytes.extend_from_slice(self.subject.as_bytes());
        bytes.extend_from_slice(self.grantor.as_bytes());
        bytes.extend_from_slice(&self.rank.to_be_bytes());
        bytes.push(match self.role {
            Role::Member => 1,
            Role::Operator => 2,
        });
        bytes.extend_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    fn signed(mut self, key: &Key, cluster: &ClusterId) -> Self {
        self.signature = key.sign(Domain::Grant, cluster, &self.statement());
        self
    }
}

fn cluster_of(founder: &NodeId, nonce: u64) -> ClusterId {
    let mut hash = Sha256::new();
    hash.update(b"starling cluster 1\0");
    hash.update(founder.as_bytes());
    hash.update(nonce.to_be_bytes());
    ClusterId::new(hash.finalize().into())
}

impl Chain {
    /// Founds a cluster: its name follows from the key and a random number.
    pub fn found(key: &Key, nonce: u64) -> (ClusterId, Chain) {
        let cluster = cluster_of(&key.id(), nonce);
        let grant = Grant {
            subject: key.id(),
            grantor: key.id(),
            rank: 0,
            role: Role::Member,
            nonce,
            signature: Signature::new([0; 64]),
        };
        (cluster, Chain(vec![grant.signed(key, &cluster)]))
    }

    /// Admits `subject`, signed by `key`, whose own chain this is.
    pub fn extend(
        &self,
        key: &Key,
        cluster: &ClusterId,
        subject: NodeId,
        role: Role,
        nonce: u64,
    ) -> Result<Chain, BadChain> {
        if self.0.len() >= CHAIN_LENGTH_MAX {
            return Err(BadChain::Length(self.0.len() + 1));
        }
        let last = self.0.last().ok_or(BadChain::Length(0))?;
        let grant = Grant {
            subject,
            grantor: key.id(),
            rank: last.rank + 1,
            role,
            nonce,
            signature: Signature::new([0; 64]),
        };
        let mut links = self.0.clone();
        links.push(grant.signed(key, cluster));
        Ok(Chain(links))
    }

    /// Checks every link and answers what the chain allows `subject` in `cluster`.
    pub fn verify(&self, cluster: &ClusterId, subject: &NodeId) -> Result<Role, BadChain> {
        let links = &self.0;
        if links.is_empty() || links.len() > CHAIN_LENGTH_MAX {
            return Err(BadChain::Length(links.len()));
        }
        if cluster_of(&links[0].subject, links[0].nonce) != *cluster {
            return Err(BadChain::OtherCluster);
        }
        for (at, link) in links.iter().enumerate() {
            let grantor = match at.checked_sub(1) {
                None => &links[0],
                Some(before) => &links[before],
            };
            let follows = link.grantor == grantor.subject
                && grantor.role == Role::Member
                && usize::try_from(link.rank) == Ok(at)
                && verifies(
                    &link.grantor,
                    Domain::Grant,
                    cluster,
                    &link.statement(),
                    &link.signature,
                );
            if !follows {
                return Err(BadChain::Link(at));
            }
        }
        match links.last() {
            Some(last) if last.subject == *subject => Ok(last.role),
            _ => Err(BadChain::OtherSubject),
        }
    }

    /// All links, the founder's first.
    pub fn links(&self) -> &[Grant] {
        &self.0
    }

    /// Whom it admits; `None` for a chain without links, which proves nothing.
    pub fn subject(&self) -> Option<NodeId> {
        self.0.last().map(|grant| grant.subject)
    }

    /// How far its subject is from the founder.
    pub fn rank(&self) -> u32 {
        self.0.last().map_or(u32::MAX, |grant| grant.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_proves_its_subject_and_nothing_else() {
        let [a, b, c] = [1, 2, 3].map(|n| Key::from_seed([n; 32]));
        let (cluster, founder) = Chain::found(&a, 7);
        assert_eq!(founder.verify(&cluster, &a.id()), Ok(Role::Member));
        let second = founder.extend(&a, &cluster, b.id(), Role::Member, 1).expect("room");
        let third = second.extend(&b, &cluster, c.id(), Role::Operator, 2).expect("room");
        assert_eq!(third.verify(&cluster, &c.id()), Ok(Role::Operator));
        assert_eq!(third.rank(), 2);
        assert_eq!(third.verify(&cluster, &b.id()), Err(BadChain::OtherSubject));
        let (elsewhere, _) = Chain::found(&b, 7);
        assert_eq!(third.verify(&elsewhere, &c.id()), Err(BadChain::OtherCluster));
        let by_operator = third.extend(&c, &cluster, a.id(), Role::Member, 3).expect("room");
        assert_eq!(by_operator.verify(&cluster, &a.id()), Err(BadChain::Link(3)));
        let forged = second.extend(&c, &cluster, c.id(), Role::Member, 2).expect("room");
        assert_eq!(forged.verify(&cluster, &c.id()), Err(BadChain::Link(2)));
        assert_eq!(Chain(vec![]).verify(&cluster, &a.id()), Err(BadChain::Length(0)));
    }
}
