//! A descriptor whose readiness wakes an async task: pidfds, inotify, sockets that are
//! watched for reading only.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// An owned descriptor in tokio's reactor.
///
/// Invariant: nobody gets the descriptor mutably, so it cannot be exchanged.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(register(fd, Interest::READABLE)?))
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Waits until there is something to read, or the other side is gone.
    pub(crate) async fn ready(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }

    /// Reads as soon as it can be done without waiting.
    pub(crate) async fn read_with<T>(
        &self,
        mut read: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        self.0.async_io(Interest::READABLE, |fd| read(fd)).await
    }

    /// Writes as soon as it can be done without waiting; for one that cannot now.
    pub(crate) async fn write_with<T>(
        &self,
        mut write: impl FnMut(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let writable = register(self.fd().try_clone()?, Interest::WRITABLE)?;
        writable.async_io(Interest::WRITABLE, |fd| write(fd)).await
    }

    /// Out of the reactor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open as long as it lives and always returns the
    // same number; nobody gets it mutably out of what this module makes of it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
