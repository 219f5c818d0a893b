//! A batch as the journal keeps it: keys that sort, values that prove themselves.
//!
//! The key is node, start, nonce and first number, big-endian, so that logs
//! lie together and in order. The value is a CBOR map behind a checksum. The
//! records' hashes are not stored: they follow from the records.

use gossip_core::codec::{self, CodecError};
use gossip_core::id::{ContentHash, NodeId, Signature};
use gossip_core::log::{Batch, LogId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const KEY_BYTES: usize = NodeId::LENGTH + 3 * 8;
const CHECKSUM_BYTES: usize = 8;

#[derive(Serialize, Deserialize)]
struct Value {
    signature: Signature,
    records: Vec<Blob>,
}

/// Bytes as CBOR bytes, not as an array of numbers.
struct Blob(Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

/// The key of record `number` of `log`, or of the batch that starts with it.
pub(crate) fn key(log: &LogId, number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let (node, numbers) = key.split_at_mut(NodeId::LENGTH);
    node.copy_from_slice(log.node.as_bytes());
    for (at, number) in numbers.chunks_exact_mut(8).zip([log.start, log.nonce, number]) {
        at.copy_from_slice(&number.to_be_bytes());
    }
    key
}

/// What a key names.
pub(crate) fn parse_key(key: &[u8]) -> Option<(LogId, u64)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let (node, numbers) = key.split_at(NodeId::LENGTH);
    let mut numbers = numbers.chunks_exact(8).map(|eight| eight.try_into().map(u64::from_be_bytes));
    let mut next = || numbers.next()?.ok();
    let log = LogId { node: NodeId::new(node.try_into().ok()?), start: next()?, nonce: next()? };
    Some((log, next()?))
}

/// The value of `batch`, which holds all of its records.
pub(crate) fn encode(batch: &Batch) -> Result<Vec<u8>, CodecError> {
    let records = batch.records.iter().flatten().map(|record| Blob(record.clone())).collect();
    let body = codec::to_cbor(&Value { signature: batch.signature, records })?;
    let mut value = checksum(&body).to_vec();
    value.extend(body);
    Ok(value)
}

/// Reads a batch back.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Batch, CodecError> {
    let broken = |what: &str| CodecError::Decode(format!("a batch: {what}"));
    let (log, first) = parse_key(key).ok_or_else(|| broken("its key"))?;
    let (sum, body) = value.split_at_checked(CHECKSUM_BYTES).ok_or_else(|| broken("its length"))?;
    if *sum != checksum(body) {
        return Err(broken("its checksum"));
    }
    let Value { signature, records } = codec::from_cbor(body)?;
    let hashes = records.iter().map(|record| ContentHash::of(&record.0)).collect();
    let records = records.into_iter().map(|record| Some(record.0)).collect();
    Ok(Batch { log, first, hashes, signature, records })
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = ContentHash::of(body);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::id::ClusterId;
    use gossip_core::sign::Key;

    #[test]
    fn a_batch_survives_and_a_flipped_bit_does_not() {
        let signer = Key::from_seed([1; 32]);
        let cluster = ClusterId::new([2; 32]);
        let log = LogId { node: signer.id(), start: 3, nonce: 4 };
        let batch = Batch::sign(&signer, &cluster, log, 5, vec![vec![1, 2], vec![]]);
        let key = key(&log, 5);
        let mut value = encode(&batch).expect("encodes");
        let back = decode(&key, &value).expect("decodes");
        assert_eq!(back, batch);
        assert_eq!(back.verify(&cluster), Ok(()));
        let last = value.len() - 1;
        value[last] ^= 1;
        assert!(decode(&key, &value).is_err());
        assert!(decode(&key[1..], &value).is_err());
        assert_eq!(parse_key(&key), Some((log, 5)));
    }
}
