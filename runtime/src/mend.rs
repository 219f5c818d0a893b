//! Puts back the packet rules of containers when somebody flushes the host's.
//!
//! `nft flush ruleset`, which the service of nftables does on each reload, takes
//! everybody's rules: ours too, and with them the way out and the published ports of
//! containers that go on running.
//!
//! Must never do more than put back: who changes the rest knows why.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::net::RuleWatch;
use crate::watch::{Shared, blocking};

/// How long rules are left alone after a change: whoever flushes them writes others
/// right after, and ours are to come last. Also the most often that we look.
const CALM: Duration = Duration::from_millis(300);

/// Looks after the rules for as long as it is polled; returns where that cannot be done.
pub(crate) async fn mend(shared: Arc<Shared>) {
    let watch = match RuleWatch::open() {
        Ok(watch) => watch,
        Err(error) => return warn!(%error, "flushed packet rules will not be put back"),
    };
    while watch.changed().await.is_ok() {
        tokio::time::sleep(CALM).await;
        let work = Arc::clone(&shared);
        match blocking(move || work.loans.repair()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(rules)) => info!(rules, "packet rules that somebody removed are back"),
            Ok(Err(error)) => warn!(error, "containers may be cut off from the network"),
            Err(error) => warn!(%error, "containers may be cut off from the network"),
        }
    }
    warn!("changes of packet rules cannot be heard any more");
}
