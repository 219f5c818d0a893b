//! `why`: why a job is not running, node by node, asked now.

use gossip_core::health::HealthState;
use starling_core::view::{JobState, TaskView};

use crate::api::types::Why;
use crate::cli::advice;
use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::ps::{kind_word, state_word};
use crate::cli::run::job_path;
use crate::cli::table::Table;

/// `starling why`.
pub(crate) async fn run(job: &str, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get(&format!("{}/why", job_path(job))).await?;
    if out.format == Format::Json {
        out.json(answer.bytes())?;
        return Ok(0);
    }
    let why: Why = answer.parse()?;
    out.line(&headline(&why))?;
    let tasks = tasks(&why);
    if !tasks.is_empty() {
        out.table(&tasks)?;
    }
    if matches!(why.job.state, JobState::Pending | JobState::Running) {
        let opinions = opinions(&why);
        if !opinions.is_empty() {
            out.table(&opinions)?;
        }
        advice::of(&why).iter().for_each(|hint| out.note(&format!(" hint: {hint}")));
    }
    Ok(0)
}

fn headline(why: &Why) -> String {
    let job = &why.job;
    let mut text = format!(
        "{}  {}, {}: {} of {} run",
        job.name,
        kind_word(job.kind),
        job.state.as_str(),
        job.running,
        job.wanted
    );
    if job.succeeded + job.failed > 0 {
        text.push_str(&format!(", {} succeeded, {} failed", job.succeeded, job.failed));
    }
    text.push_str(&format!("; each asks {}", why.asks));
    text
}

/// The tasks that are not simply running, and well.
fn tasks(why: &Why) -> Table {
    let mut table = Table::new(["TASK", "NODE", "STATE", "DETAIL"]);
    let ill = |task: &&TaskView| {
        task.health.as_ref().filter(|health| health.state == HealthState::Unhealthy).cloned()
    };
    let odd = why.tasks.iter().filter(|task| {
        ill(task).is_some() || !matches!(task.state.as_str(), "running" | "paused" | "succeeded")
    });
    for task in odd {
        let mut state = state_word(task);
        let detail = match (task.detail.as_str(), task.state.as_str(), &task.fetching) {
            (_, _, Some(fetching)) => {
                state = task.state.clone();
                let from = fetching.from.join(", ");
                let from = if from.is_empty() { from } else { format!(" from {from}") };
                format!("{fetching}{from}")
            }
            ("", "pending", None) => "no node took it yet".to_owned(),
            (detail, _, None) => match ill(&task) {
                Some(health) => format!("its check failed: {}", health.output),
                None => detail.to_owned(),
            },
        };
        table.row([task.task.clone(), task.node_name.clone(), state, detail]);
    }
    table
}

fn opinions(why: &Why) -> Table {
    let mut table = Table::new(["NODE", "VERDICT", "REASON"]);
    for opinion in &why.opinions {
        let verdict = if opinion.would_bid { "yes" } else { "no" };
        table.row([opinion.name.clone(), verdict.to_owned(), opinion.reason.clone()]);
    }
    for (node, reason) in &why.unknown {
        table.row([node.clone(), "unknown".to_owned(), reason.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_node_has_a_verdict_and_a_reason() {
        let job = "07".repeat(16);
        let opinion = |name: &str, yes: bool, reason: &str| json!({"node": "0a".repeat(32), "name": name, "would_bid": yes, "reason": reason});
        let why = json!({
            "job": {
                "id": job, "name": "train", "namespace": "default", "owner": "", "kind": "batch",
                "state": "pending", "wanted": 1, "running": 0, "succeeded": 0, "failed": 0,
                "submitted": 0, "exit_code": null,
            },
            "asks": {"cpu_milli": 4000, "memory_bytes": 1_u64 << 30},
            "tasks": [{
                "task": "train.1", "job": job, "job_name": "train",
                "slot": {"job": job, "group": "main", "index": 1}, "command": "x", "node": null,
                "node_name": "", "state": "pending", "detail": "", "exit_code": null, "since": 0,
                "restarts": 0, "epoch": 0, "tender": 0, "ended": false,
            }],
            "opinions": [opinion("h1", false, "cpu 1 < 4"), opinion("h2", true, "has room")],
            "unknown": [["h3", "silent for 42s"]],
        });
        let why: Why = serde_json::from_value(why).expect("a why");
        assert_eq!(headline(&why), "train  batch, pending: 0 of 1 run; each asks 4 cpu, 1GiB");
        assert!(tasks(&why).print(None).contains("train.1  -     pending  no node took it yet"));
        let expected = "NODE  VERDICT  REASON\n\
                        h1    no       cpu 1 < 4\n\
                        h2    yes      has room\n\
                        h3    unknown  silent for 42s\n";
        assert_eq!(opinions(&why).print(None), expected);
    }
}
