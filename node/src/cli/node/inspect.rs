//! `node inspect`: all that the agent asked knows of one node.
//!
//! A line stands only where its value is known: nothing is guessed.

use std::fmt::Write as _;

use crate::api::member_types::NodeDetail;
use crate::cli::client::{Client, segment};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::times::{self, timestamp};

/// `starling node inspect`.
pub(super) async fn run(node: &str, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get(&format!("/v1/nodes/{}", segment(node))).await?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Quiet => out.line(&answer.parse::<NodeDetail>()?.view.id.to_string())?,
        Format::Human => {
            let detail: NodeDetail = answer.parse()?;
            text(&detail).lines().try_for_each(|line| out.line(line))?;
        }
    }
    Ok(0)
}

fn text(detail: &NodeDetail) -> String {
    let mut text = String::new();
    let mut line = |word: &str, rest: String| {
        let _infallible = writeln!(text, "{word:<10}{rest}");
    };
    let view = &detail.view;
    line("node", format!("{} ({})", view.name, view.id));
    let heard = match view.heard_ms {
        _ if view.me => ", the one asked".to_owned(),
        None => String::new(),
        Some(0..1000) => ", heard just now".to_owned(),
        Some(millis) => format!(", heard {} ago", times::show(millis / 1000)),
    };
    line("state", format!("{}{heard}", view.state));
    if let Some(removed) = &detail.removed {
        let (whom, by) = (&removed.whom.name, &removed.by.name);
        line("removed", format!("{whom}, by {by}, {}", timestamp(removed.at)));
    }
    line("version", view.version.clone());
    line(
        "offers",
        match view.free {
            Some(free) => format!("{}, of which free {free}", view.capacity),
            None => view.capacity.to_string(),
        },
    );
    let limits = if view.enforces_limits { "enforced" } else { "not enforced" };
    line("limits", limits.to_owned());
    line("trusts", if detail.trusts_jobs { "its jobs" } else { "no job with itself" }.to_owned());
    line("tasks", view.tasks.to_string());
    line("listens", view.addresses.join(" "));
    if let (Some(over), Some(at)) = (&view.over, &detail.connected_at) {
        line("path", format!("direct, {over}, {at}"));
    }
    if let Some(micros) = detail.answered_us {
        line("answers", format!("in {}.{:03} ms", micros / 1000, micros % 1000));
    }
    let names: Vec<_> = detail.chain.iter().map(|link| link.name.as_str()).collect();
    line(
        "admitted",
        match names.as_slice() {
            [_founder] => "by itself: it founded the cluster".to_owned(),
            chain => format!("{} (rank {})", chain.join(" > "), view.rank),
        },
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_known_is_a_line_and_what_is_not_is_none() {
        let amount = json!({"cpu_milli": 4000, "memory_bytes": 1_u64 << 30});
        let name = |name: &str| json!({"id": "0a".repeat(32), "name": name});
        let mut detail = json!({
            "id": "0a".repeat(32), "name": "h3", "me": false, "state": "ready",
            "capacity": amount, "free": null, "tasks": 2, "heard_ms": 42_000,
            "addresses": ["/ip4/1.2.3.4/udp/7827/quic-v1"], "version": "0.1.0",
            "enforces_limits": true, "rank": 2, "trusts_jobs": false,
            "chain": [name("h1"), name("h2"), name("h3")],
        });
        let told = |detail: &serde_json::Value| {
            text(&serde_json::from_value(detail.clone()).expect("a detail"))
        };
        let text = told(&detail);
        assert!(text.contains("state     ready, heard 42s ago\n"), "{text}");
        assert!(text.contains("admitted  h1 > h2 > h3 (rank 2)\n"), "{text}");
        for word in ["path", "answers", "removed"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        detail["over"] = json!("quic");
        detail["connected_at"] = json!("/ip4/1.2.3.4/udp/7827/quic-v1");
        detail["answered_us"] = json!(1_250);
        detail["removed"] = json!({"whom": name("h3"), "by": name("h1"), "at": 0});
        let text = told(&detail);
        assert!(text.contains("path      direct, quic, /ip4/1.2.3.4/udp/7827/quic-v1\n"), "{text}");
        assert!(text.contains("answers   in 1.250 ms\n"), "{text}");
        assert!(text.contains("removed   h3, by h1, 1970-01-01T"), "{text}");
    }
}
