//! A streamed answer, cut into lines of bounded length.
//!
//! Both newline-delimited JSON and server-sent events are lines; this file
//! knows nothing of what they hold. `next` may be dropped at any await and
//! called again: what was received stays in the buffer.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::api::types::Complaint;
use crate::cli::client::Connection;
use crate::cli::errors::Failed;

/// The longest line that is read: a chunk of output in base64, with room to spare.
pub(crate) const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Lines of one answer, as they come.
#[derive(Debug)]
pub(crate) struct Lines<B = Incoming> {
    body: B,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no newline.
    looked_at: usize,
    ended: bool,
    /// Kept open for as long as lines are read.
    _connection: Option<Connection>,
}

impl Lines {
    /// Reads an answer's body over the connection that it came on.
    pub(crate) fn new(body: Incoming, connection: Connection) -> Self {
        Self::of(body, Some(connection))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Lines<B>
where
    B::Error: std::fmt::Display,
{
    fn of(body: B, connection: Option<Connection>) -> Self {
        let buffer = BytesMut::new();
        Self { body, buffer, looked_at: 0, ended: false, _connection: connection }
    }

    /// The next line without its newline; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        loop {
            let unseen = &self.buffer[self.looked_at..];
            if let Some(at) = unseen.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(self.looked_at + at + 1).freeze();
                self.looked_at = 0;
                return Ok(Some(line.slice(..line.len() - 1)));
            }
            self.looked_at = self.buffer.len();
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(too_long().into());
            }
            if self.ended {
                self.looked_at = 0;
                let rest = std::mem::take(&mut self.buffer).freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => return Err(broken(&error).into()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

fn too_long() -> Complaint {
    Complaint::new("bad_answer", "the agent's answer cannot be read")
        .because(format!("a line is longer than {LINE_BYTES_MAX} bytes"))
}

fn broken(error: &impl std::fmt::Display) -> Complaint {
    Complaint::new("broken", "the agent left before the end of its answer")
        .because(error)
        .hint("starling status   whether it is back; tasks go on without it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    type Piece = Result<Frame<Bytes>, String>;

    fn lines(pieces: Vec<Result<Vec<u8>, &str>>) -> Lines<impl Body<Data = Bytes, Error = String>> {
        let piece = |piece: Result<Vec<u8>, &str>| -> Piece {
            piece.map(|data| Frame::data(Bytes::from(data))).map_err(str::to_owned)
        };
        let pieces: Vec<Piece> = pieces.into_iter().map(piece).collect();
        Lines::of(StreamBody::new(futures::stream::iter(pieces)), None)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn lines_are_found_wherever_the_pieces_were_cut() {
        let pieces = ["a", "b\nc\n", "\n", "d\ne"].map(|piece| Ok(piece.as_bytes().to_vec()));
        let mut lines = lines(pieces.to_vec());
        for expected in ["ab", "c", "", "d", "e"] {
            assert_eq!(lines.next().await.expect("line").as_deref(), Some(expected.as_bytes()));
        }
        assert_eq!(lines.next().await.expect("end"), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_without_end_is_refused_instead_of_kept() {
        let piece = vec![b'x'; 512 * 1024];
        let mut lines = lines(vec![Ok(piece.clone()), Ok(piece.clone()), Ok(piece)]);
        assert_eq!(lines.next().await.expect_err("too long").code(), Some("bad_answer"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_broken_connection_is_no_end() {
        let mut lines = lines(vec![Ok(b"a\nb".to_vec()), Err("reset")]);
        assert_eq!(lines.next().await.expect("line").as_deref(), Some(&b"a"[..]));
        assert_eq!(lines.next().await.expect_err("broken").code(), Some("broken"));
    }
}
