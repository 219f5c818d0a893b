//! Launches under way, and the orders to stop that come before their programs run.
//!
//! Until then there is nobody who could be told: the agent may be unpacking a root, the
//! supervisor may wait for a file system that does not answer. So the order waits here,
//! for whoever waits for the launch.
//!
//! Invariant: an order that was taken here is obeyed: by whoever waits, or, if the
//! program runs by then, by whoever asks whether the launch was [`over`](Underway::over).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::launch::TaskId;

#[derive(Debug, Default)]
struct Launching {
    stopped: Notify,
    grace: Mutex<Option<Duration>>,
}

/// All launches under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launches(Arc<Mutex<BTreeMap<TaskId, Arc<Launching>>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Underway {
    all: Launches,
    id: TaskId,
    launching: Arc<Launching>,
}

impl Launches {
    /// Begins one. There is no other of that id.
    pub(crate) fn begin(&self, id: &TaskId) -> Underway {
        let launching = Arc::default();
        self.lock().insert(id.clone(), Arc::clone(&launching));
        Underway { all: self.clone(), id: id.clone(), launching }
    }

    /// Orders a launch to stop; false if there is none.
    pub(crate) fn stop(&self, id: &TaskId, grace: Duration) -> bool {
        let all = self.lock();
        let Some(launching) = all.get(id) else { return false };
        let mut wanted = launching.grace.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = Some(wanted.map_or(grace, |before| before.min(grace)));
        launching.stopped.notify_one();
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Arc<Launching>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Underway {
    /// Returns when it is to stop.
    pub(crate) async fn stopped(&self) {
        self.launching.stopped.notified().await;
    }

    /// Takes no further orders; says with which grace it was ordered to stop, if it was.
    pub(crate) fn over(self) -> Option<Duration> {
        let launching = Arc::clone(&self.launching);
        drop(self);
        *launching.grace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_is_taken_while_a_launch_is_under_way_and_is_not_forgotten() {
        let (all, id) = (Launches::default(), "a".parse().expect("an id"));
        let seconds = Duration::from_secs;
        assert!(!all.stop(&id, seconds(1)), "there is none yet");
        let underway = all.begin(&id);
        assert!(
            all.stop(&id, seconds(3)) && all.stop(&id, seconds(2)) && all.stop(&id, seconds(5))
        );
        underway.stopped().await;
        assert_eq!(underway.over(), Some(seconds(2)));
        assert!(!all.stop(&id, seconds(1)), "it is over");
        assert_eq!(all.begin(&id).over(), None);
    }
}
