//! Between our names and libp2p's: a node is its Ed25519 key on both sides.

use gossip_core::id::NodeId;
use gossip_core::sign::Key;
use libp2p::PeerId;
use libp2p::identity::{DecodingError, Keypair, PublicKey, ed25519};

/// The bytes of an Ed25519 peer id before the key itself: identity hash, protobuf key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// libp2p's name of `node`; `None` if its bytes are no point on the curve.
pub(crate) fn peer_of(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// Our name of `peer`; `None` unless it proves an Ed25519 key.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    Some(NodeId::new(key.try_into().ok()?))
}

/// The same key for libp2p.
pub(crate) fn keypair(key: &Key) -> Result<Keypair, DecodingError> {
    Keypair::ed25519_from_bytes(key.seed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_both_ways() {
        let key = Key::from_seed([5; 32]);
        let peer = keypair(&key).expect("keypair").public().to_peer_id();
        assert_eq!(peer_of(&key.id()), Some(peer));
        assert_eq!(node_of(&peer), Some(key.id()));
        assert_eq!(node_of(&PeerId::random()), None);
    }
}
