//! How messages lie on a stream: one frame each.
//!
//! ```text
//! u32 length of the body │ u32 version │ body        (little endian)
//! ```
//!
//! The version stands before the body, so a message of a later program is refused
//! before anything of it is read. The body is JSON, or bytes where text would have
//! to be escaped (see [`Typed`](crate::order::Typed)).

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of all messages between agent, keeper and supervisors. The first
/// version had a datagram for each message and went through files.
pub(crate) const VERSION: u32 = 2;

/// Longest body: a launch has at most 1 MiB of arguments, of which the worst would
/// be escaped to six times that; nobody sends such.
pub(crate) const FRAME_BYTES: usize = 4 << 20;

/// Bytes before a body.
const HEAD_BYTES: usize = 8;

/// Bytes taken from a socket at once: most orders whole.
pub(crate) const READ_BYTES: usize = 4 << 10;

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A message as it goes onto the stream.
pub(crate) fn encode<T: Serialize>(body: &T) -> io::Result<Vec<u8>> {
    let mut text = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut text, body)?;
    finish(text)
}

/// Bytes as they go onto the stream.
pub(crate) fn encode_bytes(parts: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut text = vec![0; HEAD_BYTES];
    parts.iter().for_each(|part| text.extend_from_slice(part));
    finish(text)
}

fn finish(mut text: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = text.len() - HEAD_BYTES;
    let fits = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES);
    let Some(length) = fits else {
        return Err(invalid(format!("a message of {length} bytes; {FRAME_BYTES} may be sent")));
    };
    let head = length.to_le_bytes().into_iter().chain(VERSION.to_le_bytes());
    text.iter_mut().zip(head).for_each(|(slot, byte)| *slot = byte);
    Ok(text)
}

/// What a body says.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(body)?)
}

/// What came of a stream and was not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets everything, for the next stream.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(READ_BYTES);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The body of the next whole frame.
    pub(crate) fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some([l0, l1, l2, l3, v0, v1, v2, v3]) = self.bytes.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
        let version = u32::from_le_bytes([*v0, *v1, *v2, *v3]);
        if version > VERSION {
            return Err(invalid(format!(
                "a message of version {version}; this end knows {VERSION}"
            )));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FRAME_BYTES {
            return Err(invalid(format!("a message of {length} bytes; {FRAME_BYTES} may be sent")));
        }
        let Some(body) = self.bytes.get(HEAD_BYTES..HEAD_BYTES + length) else { return Ok(None) };
        let body = body.to_vec();
        self.bytes.drain(..HEAD_BYTES + length);
        Ok(Some(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_whole_however_it_was_cut() {
        let text = [encode(&"one").expect("framed"), encode_bytes(&[b"t", b"wo"]).expect("framed")];
        let mut inbox = Inbox::default();
        let mut seen = Vec::new();
        for byte in text.concat() {
            inbox.push(&[byte]);
            seen.extend(inbox.take().expect("sound"));
        }
        assert_eq!(seen, [b"\"one\"".to_vec(), b"two".to_vec()]);
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_newer_version_and_an_absurd_length_are_refused_by_the_head_alone() {
        for head in [[1_u32, VERSION + 1], [FRAME_BYTES as u32 + 1, VERSION]] {
            let mut inbox = Inbox::default();
            head.iter().for_each(|number| inbox.push(&number.to_le_bytes()));
            assert!(inbox.take().is_err(), "{head:?}");
        }
    }
}
