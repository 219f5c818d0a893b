//! What wakes a reader of a log: inotify on the task's directory, or the clock without it.
//!
//! Closing an inotify descriptor waits until every processor let go of it, 8 to 17 ms on
//! two of them, while taking a watch off it waits for nothing. A reader goes when its task
//! has ended, which is just when somebody waits for that end: so a descriptor is used again
//! by the next reader, and only those that are too many are closed. A user has 128 of them
//! by default.
//!
//! Must never miss a change: a directory is watched before it is read.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::sys::Readable;

/// How often to look where the user's inotify instances (128 by default) are
/// all taken.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Descriptors without a reader that are kept: of many that end at once, those that are over
/// are closed.
const SPARES_MAX: usize = 8;

/// Descriptors that watch nothing.
static SPARES: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// Wakes one reader: by a descriptor with its watch, or else by the clock.
#[derive(Debug)]
pub(super) struct Wake(Option<(Readable, i32)>);

impl Wake {
    pub(super) fn on(dir: &OwnedFd) -> io::Result<Self> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF;
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let watched = descriptor()
            .and_then(|fd| inotify::add_watch(&fd, path.as_str(), flags).map(|watch| (fd, watch)));
        match watched {
            Ok((fd, watch)) => Ok(Self(Some((Readable::new(fd)?, watch)))),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::NOSYS) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until something changed, or may have.
    pub(super) async fn wait(&self) -> io::Result<()> {
        let Some((fd, _)) = &self.0 else {
            tokio::time::sleep(LOOK_AGAIN).await;
            return Ok(());
        };
        let mut ready = fd.ready().await?;
        drain(fd.fd())?;
        ready.clear_ready();
        Ok(())
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let Some((fd, watch)) = self.0.take() else { return };
        let fd = fd.into_fd();
        // A directory that is gone took its watch with it.
        let _ = inotify::remove_watch(&fd, watch);
        // What it still says would wake the next one for nothing.
        if drain(&fd).is_err() {
            return;
        }
        let mut spares = SPARES.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES_MAX {
            spares.push(fd);
        }
    }
}

fn descriptor() -> Result<OwnedFd, Errno> {
    let spare = SPARES.lock().unwrap_or_else(PoisonError::into_inner).pop();
    match spare {
        Some(fd) => Ok(fd),
        None => inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC),
    }
}

/// Reads all that is said for now.
fn drain(fd: &OwnedFd) -> io::Result<()> {
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(fd.as_fd(), &mut events) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_descriptor_that_was_used_before_wakes_for_its_new_directory_alone() {
        let (old, new) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let open = |dir: &tempfile::TempDir| std::fs::File::open(dir.path()).expect("open").into();
        drop(Wake::on(&open(&old)).expect("watched"));
        let wake = Wake::on(&open(&new)).expect("watched");
        std::fs::write(old.path().join("late"), "x").expect("written");
        let quiet = tokio::time::timeout(Duration::from_millis(20), wake.wait()).await;
        assert!(quiet.is_err(), "woken by a directory that is not watched any more");
        std::fs::write(new.path().join("now"), "x").expect("written");
        let woken = tokio::time::timeout(Duration::from_secs(60), wake.wait()).await;
        woken.expect("woken").expect("read");
    }
}
