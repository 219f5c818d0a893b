//! `status`: this host's agent and its cluster, on half a screen.

use std::fmt::Write as _;

use starling_core::liveness::LOST_AFTER;

use crate::api::types::Status;
use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::times::timestamp;

/// `starling status`.
pub(crate) async fn run(client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get("/v1/status").await?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Quiet => out.line(&answer.parse::<Status>()?.name)?,
        Format::Human => {
            let status: Status = answer.parse()?;
            for line in text(&status).lines() {
                out.line(line)?;
            }
            out.freshness(&status.view);
            status.warnings.iter().for_each(|warning| out.note(&format!("warning: {warning}")));
        }
    }
    Ok(0)
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |word: &str, rest: String| {
        let _infallible = writeln!(text, "{word:<9}{rest}");
    };
    line("node", format!("{} ({})", status.name, status.node.short()));
    line("cluster", format!("{}, {}", status.cluster.short(), members(status)));
    if let Some(removed) = &status.removed {
        let (whom, by) = (&removed.whom, &removed.by.name);
        let whom = if whom.id == status.node { "this host" } else { &whom.name };
        line("removed", format!("{whom}, by {by}, {}", timestamp(removed.at)));
    } else if status.view.known > 1 {
        line("heard", heard(status));
    }
    let since = timestamp(status.started);
    line("agent", format!("version {}, process {}, since {since}", status.version, status.pid));
    line("listens", status.addresses.join(" "));
    line("offers", format!("{}, of which free {}", status.capacity, status.free));
    line("all", format!("{}, of which free {}", status.cluster_capacity, status.cluster_free));
    let (live, pending) = (status.jobs_live, status.jobs_pending);
    line("jobs", format!("{live} live, {pending} pending, {} tasks run", status.tasks_running));
    text
}

fn members(status: &Status) -> String {
    match status.view.known {
        0 | 1 if status.removed.is_none() => "this member alone".to_owned(),
        _ if status.removed.is_some() => "no member any more".to_owned(),
        known => format!("{known} members"),
    }
}

/// How fresh the view is.
fn heard(status: &Status) -> String {
    let (heard, known) = (status.view.heard.saturating_sub(1), status.view.known - 1);
    format!("{heard} of {known} peers in the last {} s", LOST_AFTER.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_a_few_labelled_lines() {
        let amount = json!({"cpu_milli": 4000, "memory_bytes": 1_u64 << 30});
        let status = json!({
            "node": "0a".repeat(32), "name": "h1", "cluster": "0b".repeat(32),
            "version": "0.1.0", "pid": 7, "started": 0, "addresses": ["/ip4/1.2.3.4/udp/7827"],
            "capacity": amount, "free": amount,
            "view": {"peer": "h1", "heard": 2, "known": 3, "silent": [["h3", 42]]},
            "cluster_capacity": amount, "cluster_free": amount,
            "jobs_live": 2, "jobs_pending": 1, "tasks_running": 5, "warnings": [],
        });
        let text = text(&serde_json::from_value(status).expect("a status"));
        assert!(text.starts_with("node     h1 (0a0a0a0a0a0a)\n"), "{text}");
        assert!(text.contains("cluster  0b0b0b0b0b0b, 3 members\n"), "{text}");
        assert!(text.contains("heard    1 of 2 peers in the last 5 s\n"), "{text}");
        assert!(text.ends_with("jobs     2 live, 1 pending, 5 tasks run\n"), "{text}");
    }
}
