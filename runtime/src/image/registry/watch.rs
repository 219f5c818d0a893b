//! Whoever waits for a pull or push, and how they end it.
//!
//! A watcher says by its answers whether to go on. Bytes ask it, and a clock does, so that
//! work that waits for a silent server ends as fast as any other.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::image::{ImageError, Progress, Stage};

/// Like [`Watcher`](crate::image::Watcher), for work in several threads.
pub type SharedWatcher = Arc<dyn Fn(Progress) -> bool + Send + Sync>;

/// How often the clock asks.
const BEAT: Duration = Duration::from_millis(200);

/// A watcher, and what it said.
pub(super) struct Watch {
    watcher: SharedWatcher,
    called_off: AtomicBool,
    /// Whether all work is to end, by the watcher's will or because some of it failed.
    end: watch::Sender<bool>,
    /// What was last told of the whole.
    whole: Mutex<Progress>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "Watch({:?})", self.called_off)
    }
}

impl Watch {
    pub(super) fn new(watcher: SharedWatcher) -> Arc<Self> {
        let whole = Progress { layer: None, stage: Stage::Working, bytes: 0, of: None };
        Arc::new(Self {
            watcher,
            called_off: AtomicBool::new(false),
            end: watch::Sender::new(false),
            whole: Mutex::new(whole),
        })
    }

    /// Tells the watcher; says whether to go on.
    pub(super) fn tell(&self, progress: Progress) -> bool {
        if *self.end.borrow() {
            return false;
        }
        let on = (self.watcher)(progress);
        if !on {
            self.called_off.store(true, Ordering::Relaxed);
            self.end();
        }
        on
    }

    /// Asks whether to go on.
    pub(super) fn go_on(&self) -> bool {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.tell(whole)
    }

    /// Ends all work that is under way.
    pub(super) fn end(&self) {
        self.end.send_replace(true);
    }

    /// Whether the watcher ended it.
    pub(super) fn called_off(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }

    /// Does `work` unless all is to end.
    pub(super) async fn unless_off<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, ImageError> {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(|end| *end);
        tokio::select! {
            biased;
            _ = ended => Err(ImageError::CalledOff),
            done = work => Ok(done),
        }
    }

    /// Does `work` and asks the watcher meanwhile. If this is dropped, all of it is to end.
    pub(super) async fn over<T>(&self, work: impl Future<Output = T>) -> T {
        let _end = End(self);
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(BEAT) => { self.go_on(); }
            }
        }
    }
}

/// Ends threads, too, that nobody waits for any more.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
