//! What is said on the connection of a session: the order, then bytes both ways.
//!
//! Towards the supervisor go frames of [`Typed`](crate::order::Typed); back come
//! frames of [`Word`], a kind and its bytes.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::frame;
use crate::launch::{End, TaskId};
use crate::session::Exec;

/// Most output in one frame: what a pipe gives at once is rarely more.
pub(crate) const PIECE_BYTES: usize = 32 << 10;

/// Something to do inside a task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) id: TaskId,
    pub(crate) deed: Deed,
}

/// What to do there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    /// Run this.
    Exec(Exec),
    /// Write a tar archive of this to standard output; what it names first is called so.
    CopyOut { path: PathBuf, name: Option<String> },
    /// Say on standard output what is there: `directory`, `file`, or `nothing`.
    Look(PathBuf),
    /// Unpack the tar archive on standard input into this directory.
    CopyIn(PathBuf),
}

/// What a supervisor says of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It runs.
    Began,
    /// The task does not run, so nothing can run in it.
    NotRunning,
    /// It cannot be done there, for this reason.
    Refused(String),
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The last word.
    Ended(End),
}

impl Word {
    pub(crate) fn frame(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Began => frame::encode_bytes(&[&[1]]),
            Self::NotRunning => frame::encode_bytes(&[&[2]]),
            Self::Refused(reason) => frame::encode_bytes(&[&[3], reason.as_bytes()]),
            Self::Stdout(bytes) => frame::encode_bytes(&[&[4], bytes]),
            Self::Stderr(bytes) => frame::encode_bytes(&[&[5], bytes]),
            Self::Ended(end) => frame::encode_bytes(&[&[6], &serde_json::to_vec(end)?]),
        }
    }

    /// None if it is nothing this program knows.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        match (kind, rest) {
            (1, []) => Some(Self::Began),
            (2, []) => Some(Self::NotRunning),
            (3, reason) => Some(Self::Refused(String::from_utf8_lossy(reason).into_owned())),
            (4, bytes) => Some(Self::Stdout(bytes.to_vec())),
            (5, bytes) => Some(Self::Stderr(bytes.to_vec())),
            (6, end) => serde_json::from_slice(end).ok().map(Self::Ended),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Inbox;

    #[test]
    fn what_is_said_comes_back_and_nonsense_does_not() {
        let all = [
            Word::Began,
            Word::NotRunning,
            Word::Refused("paused".into()),
            Word::Stdout(vec![0; PIECE_BYTES]),
            Word::Stderr(Vec::new()),
            Word::Ended(End::Exited { code: 7 }),
        ];
        for word in all {
            let mut inbox = Inbox::default();
            inbox.push(&word.frame().expect("framed"));
            assert_eq!(Word::read(&inbox.take().expect("sound").expect("whole")), Some(word));
        }
        for bad in [&[][..], &[1, 1], &[6, b'{'], &[99]] {
            assert_eq!(Word::read(bad), None);
        }
    }
}
