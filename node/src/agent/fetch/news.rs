//! What another member has of a layer, again and again while it is fetched.

use std::time::Duration;

use data_encoding::BASE64;
use gossip_core::id::NodeId;
use runtime::image::Digest;
use runtime::image::chunks::Ranges;
use tokio::sync::mpsc;

use super::run::Event;
use crate::agent::Doors;
use crate::api::chunks::LayerNews;
use crate::api::peer::{self, PeerError};

/// Between two questions: what came in it is still worth to be shared.
const PAUSE: Duration = Duration::from_millis(100);

/// After one that failed.
const PAUSE_FAILED: Duration = Duration::from_secs(1);

/// The largest answer: the stretches of the largest layer, in base64.
const NEWS_BYTES_MAX: usize = 8 << 20;

/// The longest version of an answer.
const WORD_MAX: usize = 64;

/// What of an answer may be of the link in a second, so that a thin one is not filled with
/// them: one part in so many.
const LINK_PART: u64 = 50;

/// What a member said.
#[derive(Debug)]
pub(super) enum News {
    /// It has this, and these fetch it too.
    Has { whole: bool, ranges: Ranges, fetchers: Vec<NodeId> },
    /// It says that it has nothing of it.
    Nothing,
    /// It is not heard any more, by anybody: it is not waited for until it is back.
    Lost,
    /// It does not answer.
    Silent,
}

/// Asks a member until nobody listens any more.
pub(super) async fn follow(doors: Doors, layer: Digest, node: NodeId, events: mpsc::Sender<Event>) {
    let mut seen = String::new();
    loop {
        let path = format!("/v1/local/layers/{layer}/news?seen={seen}");
        let answer = peer::document::<LayerNews>(&doors, node, &path, NEWS_BYTES_MAX).await;
        let (news, pause) = match answer {
            Ok(told) => {
                let thin = doors.shares.rate().map_or(Duration::ZERO, |rate| {
                    let bytes = told.ranges.len() as u64;
                    Duration::from_millis(bytes * 1000 * LINK_PART / rate.max(1))
                });
                let ranges = BASE64.decode(told.ranges.as_bytes()).ok();
                let ranges = ranges.and_then(|bytes| Ranges::decode(&bytes).ok());
                seen = plain(told.version);
                let news = match ranges {
                    Some(ranges) => {
                        News::Has { whole: told.whole, ranges, fetchers: told.fetchers }
                    }
                    None => News::Nothing,
                };
                (news, PAUSE.max(thin))
            }
            Err(PeerError::Status(404)) => (News::Nothing, PAUSE_FAILED),
            Err(_unreachable) => {
                let lost = doors.agent.look(move |core, _| core.is_lost(&node)).await;
                let news = if lost.unwrap_or(true) { News::Lost } else { News::Silent };
                (news, PAUSE_FAILED)
            }
        };
        if events.send(Event::News { node, news }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// A member's word as it may stand in a path.
fn plain(mut word: String) -> String {
    word.retain(|letter| letter.is_ascii_alphanumeric());
    word.truncate(WORD_MAX);
    word
}
