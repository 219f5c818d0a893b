//! What a job in the foreground waits for, told while it waits: that no node took it yet, and
//! what each of them says to it, once and again whenever that changed.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::api::types::Why;
use crate::cli::client::Client;
use crate::cli::door::Door;

/// After this long without a node, the user is told what the job waits for.
const FIRST_AFTER: Duration = Duration::from_secs(2);

/// How long after it was asked the first time it is asked again; it doubles. Every member
/// answers each time.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The longest pause.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// How many nodes are told of; the rest is counted.
const NODES_TOLD_MAX: usize = 5;

/// A job that no node took yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    client: Client,
    name: String,
    path: String,
    at: Instant,
    pause: Duration,
    told: Option<Vec<String>>,
}

impl Waiting {
    /// Of the job of this name, at this path of the API.
    pub(crate) fn new(door: Door, name: String, path: String) -> Self {
        let (at, pause) = (Instant::now() + FIRST_AFTER, AGAIN_AFTER);
        Self { client: Client::new(door), name, path, at, pause, told: None }
    }

    /// The next lines to tell, once there are some. May be dropped and called again.
    pub(crate) async fn news(&mut self) -> Vec<String> {
        loop {
            sleep_until(self.at).await;
            // Without reasons it still waits.
            let why = match self.client.get(&format!("{}/why", self.path)).await {
                Ok(answer) => answer.parse::<Why>().ok(),
                Err(_unreachable) => None,
            };
            self.at = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(AGAIN_AFTER_MAX);
            let now = why.as_ref().map(reasons).unwrap_or_default();
            let head = match &self.told {
                None => format!("{} waits for a node; starling why {0}", self.name),
                Some(told) if now.is_empty() || *told == now => continue,
                Some(_) => format!("{} still waits for a node", self.name),
            };
            let lines = std::iter::once(head).chain(now.iter().cloned()).collect();
            self.told = Some(now);
            return lines;
        }
    }
}

/// Why each node does not take it. How long one is silent is no news.
fn reasons(why: &Why) -> Vec<String> {
    let declined = why.opinions.iter().filter(|opinion| !opinion.would_bid);
    let declined = declined.map(|opinion| format!(" {}: {}", opinion.name, opinion.reason));
    let unknown = why.unknown.iter().map(|(node, _)| format!(" {node}: does not answer"));
    let mut reasons: Vec<String> = declined.chain(unknown).collect();
    if let Some(more @ 1..) = reasons.len().checked_sub(NODES_TOLD_MAX) {
        reasons.truncate(NODES_TOLD_MAX);
        reasons.push(format!(" and {more} more"));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_node_that_does_not_take_it_says_why_and_many_are_counted() {
        let opinion = |name: &str, yes: bool, reason: &str| json!({"node": "0a".repeat(32), "name": name, "would_bid": yes, "reason": reason});
        let why = |opinions: Vec<serde_json::Value>, unknown: Vec<[&str; 2]>| {
            let job = json!({
                "id": "07".repeat(16), "name": "t", "namespace": "default", "owner": "",
                "kind": "batch", "state": "pending", "wanted": 1, "running": 0, "succeeded": 0,
                "failed": 0, "submitted": 0, "exit_code": null,
            });
            let why = json!({
                "job": job, "asks": {"cpu_milli": 1, "memory_bytes": 1}, "tasks": [],
                "opinions": opinions, "unknown": unknown,
            });
            reasons(&serde_json::from_value(why).expect("a why"))
        };
        let both = vec![opinion("h1", false, "cpu 1 < 4"), opinion("h2", true, "has room")];
        let told = why(both, vec![["h3", "silent for 42s"]]);
        assert_eq!(told, [" h1: cpu 1 < 4", " h3: does not answer"]);
        let many = (0..9).map(|_| opinion("h", false, "full")).collect();
        assert_eq!(why(many, Vec::new()).last().map(String::as_str), Some(" and 4 more"));
    }
}
