//! What this node has of images, as its bids must know it: ids, and how fast others come.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gossip_core::id::ContentHash;
use starling_core::stock::Stock;
use tokio::sync::mpsc;

use crate::agent::Doors;

/// Less than this says more of the way to the other node than of the link.
const MEASURED_BYTES_MIN: u64 = 1 << 20;

/// How fast layers came lately, in bytes a second; 0 before the first.
#[derive(Debug, Default)]
pub(super) struct Link(AtomicU64);

impl Link {
    /// A layer came. The last ones count most.
    pub(super) fn measured(&self, bytes: u64, took: Duration) {
        if bytes < MEASURED_BYTES_MIN {
            return;
        }
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let now = bytes.saturating_mul(1000) / millis;
        // Two at once lose one measurement, which is no more than one.
        let before = self.0.load(Ordering::Relaxed);
        let mixed = if before == 0 { now } else { before / 2 + now / 2 };
        self.0.store(mixed.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|link| *link > 0)
    }
}

/// Tells the loop what is here, now and whenever that changed, until the agent goes down.
pub(in crate::agent) async fn tell(doors: Doors, to: mpsc::Sender<Stock>) {
    let mut told = None;
    loop {
        let ids = doors.runtime.images().list().into_iter();
        let held = ids.map(|info| ContentHash::new(*info.id.as_bytes())).collect();
        let stock = Stock { held, link: doors.supply.0.link.get() };
        if told.as_ref() != Some(&stock) {
            told = Some(stock.clone());
            if to.send(stock).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = doors.supply.0.changed.notified() => {}
            () = doors.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_what_large_layers_came_by_lately() {
        let link = Link::default();
        link.measured(1000, Duration::from_millis(1));
        assert_eq!(link.get(), None);
        link.measured(10 << 20, Duration::from_secs(1));
        assert_eq!(link.get(), Some(10 << 20));
        link.measured(20 << 20, Duration::from_secs(1));
        assert_eq!(link.get(), Some(15 << 20));
        link.measured(u64::MAX, Duration::ZERO);
        assert!(link.get().is_some_and(|link| link > 15 << 20));
    }
}
