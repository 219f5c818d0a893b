//! Rendezvous hashing: everybody ranks the same nodes the same way, unasked.
//!
//! Used to decide who steps in first for a silent driver. All nodes must
//! compute it alike, so it changes only with the cluster level.

use sha2::{Digest, Sha256};

use crate::id::NodeId;

/// The place of `node` among `nodes` for `subject`: 0 steps in first.
pub fn rank<'a>(
    subject: &[u8],
    node: &NodeId,
    nodes: impl IntoIterator<Item = &'a NodeId>,
) -> usize {
    let own = weight(subject, node);
    nodes.into_iter().filter(|other| weight(subject, other) > own).count()
}

fn weight(subject: &[u8], node: &NodeId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"starling rendezvous 1\0");
    hash.update(node.as_bytes());
    hash.update(subject);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_a_permutation_and_differ_between_subjects() {
        let nodes: Vec<_> = (0..5).map(|n| NodeId::new([n; 32])).collect();
        let ranks = |subject: &[u8]| -> Vec<usize> {
            nodes.iter().map(|node| rank(subject, node, &nodes)).collect()
        };
        let mut sorted = ranks(b"job");
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4]);
        assert!((0..20u8).any(|n| ranks(&[n]) != ranks(b"job")));
    }
}
