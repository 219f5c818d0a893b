//! Whoever asked for an image or a layer and takes nothing of it: left after a while, so that
//! what it holds here (a turn, a thread, an open layer) goes to somebody else.
//!
//! ```text
//! answer ──▶ Taking ──▶ socket or stream
//!              └─ blocked for too long, and an answer on it is impatient ──▶ an error
//! ```
//!
//! What counts is a byte that the other side took, not a whole piece: a thin link is slow and
//! moves. An answer that has nothing to send just now is not blocked.
//!
//! Must never: end an answer that nobody called impatient. Somebody reads a log page by page.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a reader of an image or a layer may take nothing: much longer than a link that
/// was cut takes to be back, and much shorter than others wait for a turn.
pub(super) const TAKES_WITHIN: Duration = Duration::from_secs(30);

/// The answers of one connection that do not wait for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Impatience(Arc<AtomicUsize>);

/// One such answer, for as long as this lives.
#[derive(Debug)]
pub(super) struct Impatient(Impatience);

impl Impatience {
    /// From now on the connection's reader must take something now and then.
    pub(super) fn begin(&self) -> Impatient {
        self.0.fetch_add(1, Ordering::Relaxed);
        Impatient(self.clone())
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Impatient {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection whose reader may be given up.
#[derive(Debug)]
pub(super) struct Taking<S> {
    stream: S,
    impatience: Impatience,
    within: Duration,
    /// Runs out when nothing was taken for that long.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl<S> Taking<S> {
    pub(super) fn new(stream: S, impatience: Impatience, within: Duration) -> Self {
        Self { stream, impatience, within, blocked: None }
    }

    /// What the other side did with what it was sent.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        sent: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if sent.is_ready() || !self.impatience.is_any() {
            self.blocked = None;
            return sent;
        }
        let within = self.within;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        ready!(blocked.as_mut().poll(context));
        let why = format!("whoever reads took nothing for {} seconds", within.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taking<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Waiting is no part of these tests: what must not run out never does.
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_left() {
        let (near, _far) = duplex(16);
        let impatience = Impatience::default();
        let _one = impatience.begin();
        let mut taking = Taking::new(near, impatience, Duration::from_millis(5));
        let error = taking.write_all(&[7; 64]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("took nothing"), "{error}");
    }

    #[tokio::test]
    async fn one_byte_is_enough_to_go_on() {
        let (near, mut far) = duplex(1);
        let impatience = Impatience::default();
        let _one = impatience.begin();
        let mut taking = Taking::new(near, impatience, NEVER);
        let mut write = async |bytes: &[u8]| {
            let mut is_blocked = false;
            let sent = poll_fn(|context| {
                let sent = Pin::new(&mut taking).poll_write(context, bytes);
                is_blocked = sent.is_pending();
                Poll::Ready(sent)
            });
            (sent.await.is_ready(), is_blocked, taking.blocked.is_some())
        };
        assert_eq!(write(b"a").await, (true, false, false));
        assert_eq!(write(b"b").await, (false, true, true), "the clock runs");
        far.read_u8().await.expect("a byte");
        assert_eq!(write(b"b").await, (true, false, false), "and stands again");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_called_impatient_waits() {
        let (near, _far) = duplex(1);
        let impatience = Impatience::default();
        drop(impatience.begin());
        let mut taking = Taking::new(near, impatience, Duration::ZERO);
        for _ in 0..3 {
            let sent = poll_fn(|context| {
                Poll::Ready(Pin::new(&mut taking).poll_write(context, b"ab").is_ready())
            });
            sent.await;
            assert!(taking.blocked.is_none());
        }
    }
}
