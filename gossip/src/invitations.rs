//! Invitations, as far as their records came here: made, redeemed, revoked.
//!
//! Records arrive in any order, and an invitation made by an older version has
//! none of its making, so each part stands for itself. Nothing is taken away:
//! a revocation is for good, like a use. No secret is ever in a record, and so
//! none is here.

use std::collections::{BTreeMap, BTreeSet};

use gossip_core::id::NodeId;
use gossip_core::invite::Invitation;

/// Everything known of one invitation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// What its issuer signed; `None` until that record came.
    pub(crate) invitation: Option<Invitation>,
    /// Who came in by it.
    pub(crate) redeemed: BTreeSet<NodeId>,
    /// Which member took it back.
    pub(crate) revoked: Option<NodeId>,
}

/// All of them, by name.
#[derive(Debug, Default)]
pub(crate) struct Invitations {
    known: BTreeMap<NodeId, Known>,
    /// Whom each member let in.
    admitted: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Invitations {
    pub(crate) fn made(&mut self, invitation: Invitation) {
        let known = self.known.entry(invitation.id).or_default();
        known.invitation.get_or_insert(invitation);
    }

    pub(crate) fn redeemed(&mut self, by: NodeId, invitation: NodeId, subject: NodeId) {
        self.known.entry(invitation).or_default().redeemed.insert(subject);
        self.admitted.entry(by).or_default().insert(subject);
    }

    /// Of several who revoke it at once the least is named, on every node the same.
    pub(crate) fn revoke(&mut self, invitation: NodeId, by: NodeId) {
        let revoked = &mut self.known.entry(invitation).or_default().revoked;
        *revoked = Some(revoked.map_or(by, |before| before.min(by)));
    }

    pub(crate) fn get(&self, invitation: &NodeId) -> Option<&Known> {
        self.known.get(invitation)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.known.iter()
    }

    /// Whom a member let in by invitations: nodes and operators.
    pub(crate) fn admitted_by(&self, member: &NodeId) -> impl Iterator<Item = NodeId> + use<'_> {
        self.admitted.get(member).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_does_not_depend_on_the_order_in_which_it_came() {
        let [id, a, b] = [1, 2, 3].map(|n| NodeId::new([n; 32]));
        let (mut one, mut other) = (Invitations::default(), Invitations::default());
        one.revoke(id, a);
        one.revoke(id, b);
        one.redeemed(b, id, a);
        other.redeemed(b, id, a);
        other.revoke(id, b);
        other.revoke(id, a);
        assert_eq!(one.get(&id), other.get(&id));
        assert_eq!(one.get(&id).and_then(|known| known.revoked), Some(a));
        assert_eq!(one.admitted_by(&b).collect::<Vec<_>>(), [a]);
        assert_eq!(one.admitted_by(&a).count(), 0);
    }
}
