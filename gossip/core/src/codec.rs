//! The two encodings, behind one door each, both with a size limit.
//!
//! CBOR maps for what is signed or stored: fields can be added and unknown
//! ones survive. bincode for what peers say on version-negotiated streams: it
//! is positional, compact and no longer maintained, so nothing durable uses
//! it, and nothing decodes it without a limit (a nine-byte hostile length
//! aborts a process that forgets one).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame on a peer stream, header not counted.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How deep nested CBOR may be: our own types need fewer than ten.
const CBOR_DEPTH_MAX: usize = 32;

/// Bytes that are not what they should be, or a value that cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Cannot be written.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// Cannot be read. The input is somebody's; nothing was changed.
    #[error("cannot decode: {0}")]
    Decode(String),
    /// Bytes are left over after the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Encodes for storage or signing.
pub fn to_cbor<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|e| CodecError::Encode(e.to_string()))?;
    Ok(bytes)
}

/// Decodes what was stored or signed; the caller has bounded `bytes`.
pub fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, CBOR_DEPTH_MAX)
        .map_err(|e| CodecError::Decode(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing(rest.len())) }
}

/// Encodes a frame's payload.
pub fn to_bincode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|e| CodecError::Encode(e.to_string()))
}

/// Decodes a frame's payload, refusing more than [`FRAME_BYTES_MAX`] of memory.
pub fn from_bincode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let limited = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, limited)
        .map_err(|e| CodecError::Decode(e.to_string()))?;
    match bytes.len() - read {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_length_is_refused_and_not_allocated() {
        let mut bytes = vec![253];
        bytes.extend(u64::MAX.to_le_bytes());
        assert!(from_bincode::<Vec<u8>>(&bytes).is_err());
        assert!(from_bincode::<Vec<String>>(&bytes).is_err());
        let mut cbor = vec![0x5b];
        cbor.extend(u64::MAX.to_be_bytes());
        assert!(from_cbor::<ciborium::Value>(&cbor).is_err());
    }

    #[test]
    fn deep_nesting_and_trailing_bytes_are_refused() {
        let deep = vec![0x81; 100_000];
        assert!(from_cbor::<ciborium::Value>(&deep).is_err());
        assert!(matches!(from_cbor::<u8>(&[1, 2]), Err(CodecError::Trailing(1))));
        assert!(matches!(from_bincode::<u8>(&[1, 2]), Err(CodecError::Trailing(1))));
    }
}
