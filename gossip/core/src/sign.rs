//! Signatures that cannot be replayed elsewhere.
//!
//! A signature covers a domain tag (what kind of statement, with its version)
//! and the cluster id before the statement itself, so that bytes signed for
//! one purpose or cluster never verify for another.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::id::{ClusterId, NodeId, Signature};

/// What kind of statement is signed; the text carries the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A grant of membership.
    Grant,
    /// An invitation's delegation.
    Invitation,
    /// A joiner's proof that it holds an invitation's secret.
    Redemption,
    /// A batch of log records.
    Batch,
    /// An advert.
    Advert,
    /// A member's word that a key is no member's any more.
    Removal,
}

impl Domain {
    fn tag(self) -> &'static str {
        match self {
            Domain::Grant => "starling grant 1",
            Domain::Invitation => "starling invitation 1",
            Domain::Redemption => "starling redemption 1",
            Domain::Batch => "starling batch 1",
            Domain::Advert => "starling advert 1",
            Domain::Removal => "starling removal 1",
        }
    }
}

fn framed(domain: Domain, cluster: &ClusterId, statement: &[u8]) -> Vec<u8> {
    let tag = domain.tag().as_bytes();
    let mut bytes = Vec::with_capacity(tag.len() + 1 + ClusterId::LENGTH + statement.len());
    bytes.extend_from_slice(tag);
    bytes.push(0);
    bytes.extend_from_slice(cluster.as_bytes());
    bytes.extend_from_slice(statement);
    bytes
}

/// A node's signing key.
#[derive(Clone)]
pub struct Key(SigningKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.id())
    }
}

impl Key {
    /// The key that this secret seed makes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The public half, which is the node's name.
    pub fn id(&self) -> NodeId {
        NodeId::new(self.0.verifying_key().to_bytes())
    }

    /// The secret seed, for the one file that keeps it.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Signs `statement` for one purpose in one cluster.
    pub fn sign(&self, domain: Domain, cluster: &ClusterId, statement: &[u8]) -> Signature {
        Signature::new(self.0.sign(&framed(domain, cluster, statement)).to_bytes())
    }
}

/// Whether `signer` signed `statement` for that purpose in that cluster.
#[must_use]
pub fn verifies(
    signer: &NodeId,
    domain: Domain,
    cluster: &ClusterId,
    statement: &[u8],
    signature: &Signature,
) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    VerifyingKey::from_bytes(signer.as_bytes())
        .is_ok_and(|key| key.verify_strict(&framed(domain, cluster, statement), &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_purpose_and_cluster_only() {
        let key = Key::from_seed([1; 32]);
        let (here, there) = (ClusterId::new([1; 32]), ClusterId::new([2; 32]));
        let signature = key.sign(Domain::Grant, &here, b"x");
        assert!(verifies(&key.id(), Domain::Grant, &here, b"x", &signature));
        assert!(!verifies(&key.id(), Domain::Batch, &here, b"x", &signature));
        assert!(!verifies(&key.id(), Domain::Grant, &there, b"x", &signature));
        assert!(!verifies(&key.id(), Domain::Grant, &here, b"y", &signature));
        let other = Key::from_seed([2; 32]).id();
        assert!(!verifies(&other, Domain::Grant, &here, b"x", &signature));
    }
}
