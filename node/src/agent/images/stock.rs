//! What this node has of images, as its bids must know it: ids, and how fast others come.

use gossip_core::id::ContentHash;
use starling_core::stock::Stock;
use tokio::sync::mpsc;

use crate::agent::Doors;

/// Tells the loop what is here, now and whenever that changed, until the agent goes down.
pub(in crate::agent) async fn tell(doors: Doors, to: mpsc::Sender<Stock>) {
    let mut told = None;
    loop {
        let images = doors.runtime.images().list().into_iter();
        // One of which some is damaged has to be fetched again.
        let ids = images.filter(|info| info.damaged.is_empty());
        let held = ids.map(|info| ContentHash::new(*info.id.as_bytes())).collect();
        let stock = Stock { held, link: doors.shares.worth() };
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
