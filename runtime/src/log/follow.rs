//! The agent's side of a log: a cursor, and something that wakes it.
//!
//! It knows nothing but the task's directory. That is enough: the directory says
//! what was written and, by `end.json`, that nothing more will be.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::read::{Cursor, Step};
use super::{LogError, LogRecord, LogRequest};
use crate::record;
use crate::sys::Readable;

/// How often to look where the user's inotify instances (128 by default) are
/// all taken.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Reads the log of one task.
#[derive(Debug)]
pub struct LogReader {
    cursor: Cursor,
    /// None if the end of what is there is the end.
    wake: Option<Wake>,
    /// The end of the task was seen, so what is there now is all.
    ended: bool,
}

#[derive(Debug)]
enum Wake {
    Inotify(Readable),
    Interval,
}

impl LogReader {
    pub(crate) async fn open(dir: OwnedFd, request: LogRequest) -> Result<Self, LogError> {
        // Watched before it is read, so that nothing falls between.
        let wake = if request.follow { Some(Wake::on(&dir)?) } else { None };
        let opened = tokio::task::spawn_blocking(move || Cursor::open(dir, request.tail));
        let cursor = opened.await.map_err(io::Error::other)??;
        Ok(Self { cursor, wake, ended: false })
    }

    /// The next piece; none at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<LogRecord>, LogError> {
        loop {
            if let Step::Record(record) = self.cursor.step()? {
                return Ok(Some(record));
            }
            let Some(wake) = &self.wake else { return Ok(None) };
            if self.ended {
                return Ok(None);
            }
            if is_over(self.cursor.dir()) {
                self.ended = true;
                continue;
            }
            wake.wait().await?;
        }
    }
}

/// Whether the task has ended: its end is recorded, or its directory is being removed.
fn is_over(dir: &OwnedFd) -> bool {
    record::has_end(dir.as_fd()) || !record::has_launch(dir.as_fd())
}

impl Wake {
    fn on(dir: &OwnedFd) -> io::Result<Self> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF;
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let watched = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .and_then(|fd| inotify::add_watch(&fd, path.as_str(), flags).map(|_| fd));
        match watched {
            Ok(fd) => Ok(Self::Inotify(Readable::new(fd)?)),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::NOSYS) => Ok(Self::Interval),
            Err(error) => Err(error.into()),
        }
    }

    async fn wait(&self) -> io::Result<()> {
        let Self::Inotify(fd) = self else {
            tokio::time::sleep(LOOK_AGAIN).await;
            return Ok(());
        };
        let mut ready = fd.ready().await?;
        let mut events = [0; 4096];
        loop {
            match rustix::io::read(fd.fd(), &mut events) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
