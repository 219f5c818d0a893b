//! Frames on the persistent stream between two members.
//!
//!     kind u8 │ version u8 │ length u32, big-endian │ payload, bincode
//!
//! A kind or version that is not known is skipped, so that newer members can
//! say more; a length above the limit ends the stream.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, FRAME_BYTES_MAX};
use crate::log::{Batch, LogId};
use crate::market;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 6;

/// The version of every kind below.
const VERSION: u8 = 1;

/// The most logs that one vector or pull names.
pub const VECTOR_LOGS_MAX: usize = 16_384;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// What the sender holds: the next number wanted of each log.
    Vector(Vec<(LogId, u64)>),
    /// Send me these logs from these numbers on.
    Pull(Vec<(LogId, u64)>),
    /// Records.
    Batches(Vec<Batch>),
    /// Everything of this log below this number is on my disk.
    Persisted(LogId, u64),
    /// About placing work.
    Market(market::Message),
}

/// A frame's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    version: u8,
    /// Bytes of payload that follow.
    pub length: usize,
}

/// A frame longer than [`FRAME_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes; the most is {FRAME_BYTES_MAX}")]
pub struct TooLong(pub usize);

impl Header {
    /// Reads the first bytes of a frame.
    pub fn read(bytes: [u8; HEADER_BYTES]) -> Result<Self, TooLong> {
        let [kind, version, a, b, c, d] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(TooLong(length));
        }
        Ok(Self { kind, version, length })
    }
}

impl Frame {
    /// The frame with its header.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Frame::Vector(logs) => framed(1, logs),
            Frame::Pull(logs) => framed(2, logs),
            Frame::Batches(batches) => framed(3, batches),
            Frame::Persisted(log, next) => framed(4, &(log, next)),
            Frame::Market(message) => framed(16, message),
        }
    }

    /// Reads a payload; `None` for what only newer versions know.
    pub fn decode(header: Header, payload: &[u8]) -> Result<Option<Self>, CodecError> {
        if header.version != VERSION {
            return Ok(None);
        }
        Ok(Some(match header.kind {
            1 => Frame::Vector(bounded(codec::from_bincode(payload)?)?),
            2 => Frame::Pull(bounded(codec::from_bincode(payload)?)?),
            3 => Frame::Batches(codec::from_bincode(payload)?),
            4 => {
                let (log, next) = codec::from_bincode(payload)?;
                Frame::Persisted(log, next)
            }
            16 => Frame::Market(codec::from_bincode(payload)?),
            _ => return Ok(None),
        }))
    }
}

fn bounded(logs: Vec<(LogId, u64)>) -> Result<Vec<(LogId, u64)>, CodecError> {
    if logs.len() > VECTOR_LOGS_MAX {
        return Err(CodecError::Decode(format!("{} logs", logs.len())));
    }
    Ok(logs)
}

fn framed<T: Serialize>(kind: u8, payload: &T) -> Result<Vec<u8>, CodecError> {
    let body = codec::to_bincode(payload)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|&length| length as usize <= FRAME_BYTES_MAX)
        .ok_or_else(|| CodecError::Encode(TooLong(body.len()).to_string()))?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&[kind, VERSION]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// What is said once on a fresh connection, before anything else: admission.
pub mod gate {
    use super::{Deserialize, Serialize};
    use crate::grant::Chain;
    use crate::id::{ClusterId, Signature};
    use crate::invite::{Invitation, Refused};
    use crate::removal::Removal;

    /// The most removals that one hello shows, and their bytes together unless it is one.
    pub const SHOWN_MAX: usize = 4;
    /// See [`SHOWN_MAX`].
    pub const SHOWN_BYTES_MAX: usize = 20 * 1024;

    /// The largest message of admission.
    pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;

    /// The protocol's version; another is refused by name.
    pub const VERSION: u32 = 1;

    /// The dialer's only word.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub struct Hello {
        /// [`VERSION`].
        pub version: u32,
        /// Where the dialer belongs, or wants to.
        pub cluster: ClusterId,
        /// Why it should be let in.
        pub claim: Claim,
        /// What the listener should know before it judges: that it was removed itself, or why
        /// a removal of the dialer that it may believe in is void. At most [`SHOWN_MAX`] count.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub removals: Vec<Removal>,
    }

    /// Why a dialer should be let in.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub enum Claim {
        /// It is a member.
        Member {
            /// Proof.
            chain: Chain,
        },
        /// It was invited.
        Invited {
            /// The delegation.
            invitation: Box<Invitation>,
            /// Proof that it holds the secret.
            proof: Signature,
        },
    }

    /// The listener's only word.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub enum Reply {
        /// Welcome back.
        Welcome {
            /// The listener's own proof.
            chain: Chain,
        },
        /// Welcome; this is yours from now on.
        Granted {
            /// The listener's own proof.
            chain: Chain,
            /// The dialer's.
            yours: Chain,
        },
        /// No.
        Refused(Refusal),
        /// No: one of the two was removed, or its grant was, and this is the proof.
        Removed {
            /// By whom, and of whom.
            proof: Box<Removal>,
        },
    }

    /// Why not; no more than a stranger may know.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
    pub enum Refusal {
        /// No valid grant for this cluster.
        #[error("not a member of this cluster")]
        NotAMember,
        /// The listener belongs to no cluster yet.
        #[error("the host asked belongs to no cluster itself")]
        NotReady,
        /// The invitation does not hold.
        #[error(transparent)]
        Invitation(Refused),
        /// Another version of admission.
        #[error("the host asked speaks admission version {0} only")]
        Version(u32),
        /// The member could not record the admission.
        #[error("the host asked could not write the admission to its disk")]
        Disk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn read(bytes: &[u8]) -> Result<Option<Frame>, CodecError> {
        let head = bytes[..HEADER_BYTES].try_into().expect("header");
        Frame::decode(Header::read(head).expect("length"), &bytes[HEADER_BYTES..])
    }

    #[test]
    fn frames_survive_and_unknown_kinds_are_skipped() {
        let log = LogId { node: NodeId::new([1; 32]), start: 2, nonce: 3 };
        for frame in [Frame::Vector(vec![(log, 9)]), Frame::Persisted(log, 4)] {
            let mut bytes = frame.encode().expect("encodes");
            assert_eq!(read(&bytes).expect("decodes"), Some(frame));
            bytes[0] = 99;
            assert_eq!(read(&bytes).expect("skips"), None);
        }
        let mut bytes = Frame::Vector(vec![]).encode().expect("encodes");
        bytes[1] = 2;
        assert_eq!(read(&bytes).expect("skips"), None);
    }

    #[test]
    fn a_hello_is_read_across_versions_that_show_removals_and_that_do_not() {
        use crate::grant::Chain;
        use crate::removal::Removal;
        use crate::sign::Key;

        #[derive(Serialize, Deserialize)]
        struct Older {
            version: u32,
            cluster: crate::id::ClusterId,
            claim: gate::Claim,
        }
        let key = Key::from_seed([1; 32]);
        let (cluster, chain) = Chain::found(&key, 1);
        let claim = gate::Claim::Member { chain: chain.clone() };
        let older = Older { version: gate::VERSION, cluster, claim: claim.clone() };
        let bytes = codec::to_cbor(&older).expect("cbor");
        let read: gate::Hello = codec::from_cbor(&bytes).expect("reads");
        assert!(read.removals.is_empty());
        assert_eq!(codec::to_cbor(&read).expect("cbor"), bytes, "nothing to show, nothing new");
        let about = (NodeId::new([2; 32]), chain);
        let removal = Removal::sign(&key, &cluster, about, vec![], crate::moment::WallTime(1));
        let newer = gate::Hello { removals: vec![removal], ..read };
        let bytes = codec::to_cbor(&newer).expect("cbor");
        let read: Older = codec::from_cbor(&bytes).expect("an older one reads it");
        assert_eq!((read.version, read.cluster), (gate::VERSION, cluster));
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused() {
        assert!(Header::read([1, 1, 0xff, 0xff, 0xff, 0xff]).is_err());
        let garbage = [1, 1, 0, 0, 0, 3, 0xff, 0xff, 0xff];
        assert!(read(&garbage).is_err());
    }
}
