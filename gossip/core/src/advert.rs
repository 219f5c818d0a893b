//! Adverts: what a node says it has free, as soft state.
//!
//! Signed, numbered, published on change and refreshed slowly, forwarded by
//! gossip and never stored. An advert is also a sign of life that reaches
//! those whom its node cannot reach directly. It promises nothing: only the
//! ledger of its node does.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::id::{ClusterId, NodeId, Signature};
use crate::log::LogId;
use crate::resources::Resources;
use crate::sign::{Domain, Key, verifies};

/// The largest advert on the wire.
pub const ADVERT_BYTES_MAX: usize = 8 * 1024;

/// What a node says of itself right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Its current log; says who it is, and which start of it.
    pub log: LogId,
    /// How far its log goes: whoever holds less should pull.
    pub next: u64,
    /// Counts adverts of this log; an older one is not news.
    pub number: u64,
    /// What nobody holds or claims.
    pub free: Resources,
    /// Everything it offers.
    pub capacity: Resources,
    /// How many tasks run.
    pub running: u32,
    /// Whether it answers calls with bids at all.
    pub bidding: bool,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    node: NodeId,
    advert: ciborium::Value,
    signature: Signature,
}

impl Advert {
    /// Signs it for the wire.
    pub fn seal(&self, key: &Key, cluster: &ClusterId) -> Result<Vec<u8>, CodecError> {
        let body = codec::to_cbor(self)?;
        let signature = key.sign(Domain::Advert, cluster, &body);
        let advert = ciborium::Value::Bytes(body);
        codec::to_cbor(&Envelope { node: key.id(), advert, signature })
    }

    /// Reads what gossip brought; `None` unless its node signed it.
    pub fn open(bytes: &[u8], cluster: &ClusterId) -> Option<Self> {
        if bytes.len() > ADVERT_BYTES_MAX {
            return None;
        }
        let envelope: Envelope = codec::from_cbor(bytes).ok()?;
        let body = envelope.advert.as_bytes()?;
        if !verifies(&envelope.node, Domain::Advert, cluster, body, &envelope.signature) {
            return None;
        }
        let advert: Self = codec::from_cbor(body).ok()?;
        (advert.log.node == envelope.node).then_some(advert)
    }

    /// Whether this is news after `other` of the same node.
    pub fn is_newer_than(&self, other: &Advert) -> bool {
        (self.log.start, self.log.nonce, self.number)
            > (other.log.start, other.log.nonce, other.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advert_speaks_for_its_signer_only() {
        let (key, other) = (Key::from_seed([1; 32]), Key::from_seed([2; 32]));
        let cluster = ClusterId::new([3; 32]);
        let advert = Advert {
            log: LogId { node: key.id(), start: 1, nonce: 2 },
            next: 3,
            number: 4,
            free: Resources::default(),
            capacity: Resources::default(),
            running: 0,
            bidding: true,
        };
        let bytes = advert.seal(&key, &cluster).expect("seals");
        assert_eq!(Advert::open(&bytes, &cluster), Some(advert.clone()));
        assert_eq!(Advert::open(&bytes, &ClusterId::new([4; 32])), None);
        let forged = advert.seal(&other, &cluster).expect("seals");
        assert_eq!(Advert::open(&forged, &cluster), None);
        assert_eq!(Advert::open(&bytes[..bytes.len() - 1], &cluster), None);
    }
}
