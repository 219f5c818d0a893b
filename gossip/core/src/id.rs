//! Names that cannot be confused: one type for each thing that has an id.
//!
//! Ids are fixed-length bytes. They print as lower-case hex and parse back;
//! in self-describing text (JSON) they travel as that hex, elsewhere as bytes.
//! An id never changes meaning: nothing here is ever re-used for another thing.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The text given is not such an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a {what} ({digits} hex digits)")]
pub struct BadId {
    what: &'static str,
    given: String,
    digits: usize,
}

/// How many hex digits of an id people are shown.
pub const SHORT_DIGITS: usize = 12;

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// How many bytes such an id has.
            pub const LENGTH: usize = $len;

            /// Wraps bytes that are known to be such an id.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes as they are hashed and signed.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first digits, enough for people.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(SHORT_DIGITS);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", $what, self.short())
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                data_encoding::HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| <[u8; $len]>::try_from(bytes).ok())
                    .map(Self)
                    .ok_or_else(|| BadId { what: $what, given: text.to_owned(), digits: $len * 2 })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() {
                    to.collect_str(self)
                } else {
                    to.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Either;
                impl Visitor<'_> for Either {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a {} as hex text or {} bytes", $what, $len)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        let wrong = || E::invalid_length(bytes.len(), &self);
                        bytes.try_into().map($name).map_err(|_: std::array::TryFromSliceError| wrong())
                    }
                }
                if from.is_human_readable() {
                    from.deserialize_str(Either)
                } else {
                    from.deserialize_bytes(Either)
                }
            }
        }
    };
}

fixed_bytes!(
    /// A node, or an operator: the Ed25519 public key that it proves to hold.
    NodeId, 32, "node"
);
fixed_bytes!(
    /// A cluster: the hash of its founding key and a random number.
    ClusterId, 32, "cluster"
);
fixed_bytes!(
    /// A job, for as long as any node remembers it.
    JobId, 16, "job"
);
fixed_bytes!(
    /// Content, by the SHA-256 of its bytes.
    ContentHash, 32, "hash"
);
fixed_bytes!(
    /// An Ed25519 signature.
    Signature, 64, "signature"
);

impl ContentHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl JobId {
    /// The id of what `submitter` submitted under `key`: a retry at another
    /// peer is the same job (DESIGN: hash of cluster, submitter, idempotency key).
    pub fn derive(cluster: &ClusterId, submitter: &str, key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"starling job 1\0");
        hash.update(cluster.as_bytes());
        hash.update(submitter.as_bytes());
        hash.update([0]);
        hash.update(key.as_bytes());
        let whole: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&whole[..16]);
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_back() {
        let id = JobId::new([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "abababababab");
        assert!("abc".parse::<JobId>().is_err());
        assert!("AB".repeat(16).parse::<JobId>().is_err(), "one printed form only");
    }

    #[test]
    fn an_id_is_hex_in_json_and_bytes_in_cbor() {
        let id = JobId::new([7; 16]);
        let json = serde_json::to_string(&id).expect("json");
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<JobId>(&json).expect("back"), id);
        let mut cbor = Vec::new();
        ciborium::into_writer(&id, &mut cbor).expect("cbor");
        assert_eq!(cbor.len(), 17);
        assert_eq!(ciborium::from_reader::<JobId, _>(&cbor[..]).expect("back"), id);
    }
}
