//! `ps` and `jobs`: what runs, and what is wanted.

use clap::Args;
use gossip_core::health::HealthState;
use gossip_core::spec::JobKind;
use starling_core::view::{JobView, Listing, TaskView};

use crate::agent::words::HINT;
use crate::cli::client::{Client, segment};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::table::Table;
use crate::cli::times::age;

/// Of how many tasks it is said why they end.
const NOTES_MAX: usize = 5;

/// The flags of `ps`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PsArgs {
    /// Show what ended too
    #[arg(short, long)]
    all: bool,
    /// Only tasks of jobs with this label: label=NAME[=VALUE]
    #[arg(short, long, value_parser = filter)]
    filter: Vec<String>,
    /// Only this job's tasks
    job: Option<String>,
}

/// The flags of `jobs`.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobsArgs {
    /// Show jobs that ended long ago too
    #[arg(short, long)]
    all: bool,
    /// Only jobs with this label: label=NAME[=VALUE]
    #[arg(short, long, value_parser = filter)]
    filter: Vec<String>,
}

/// The label that is asked for.
fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("label", label)) if !label.is_empty() && !label.contains('\n') => {
            Ok(label.to_owned())
        }
        _ => Err("write label=NAME or label=NAME=VALUE; a job's name needs no filter".to_owned()),
    }
}

/// The path of a list, with what is asked of it.
fn listed(path: &str, all: bool, job: Option<&str>, labels: &[String]) -> String {
    let mut asked = Vec::new();
    if all {
        asked.push("all=true".to_owned());
    }
    if let Some(job) = job {
        asked.push(format!("job={}", segment(job)));
    }
    if !labels.is_empty() {
        asked.push(format!("labels={}", segment(&labels.join("\n"))));
    }
    if asked.is_empty() { path.to_owned() } else { format!("{path}?{}", asked.join("&")) }
}

/// `starling ps`.
pub(crate) async fn ps(args: PsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let path = listed("/v1/tasks", args.all, args.job.as_deref(), &args.filter);
    let answer = client.get(&path).await?;
    out.listing(&answer, |task: &TaskView| task.task.clone(), tasks)?;
    if out.format == Format::Human {
        restarts(&answer.parse()?).iter().for_each(|note| out.note(note));
    }
    Ok(0)
}

/// Says of tasks that end again and again why, since no column has room for that.
fn restarts(list: &Listing<TaskView>) -> Vec<String> {
    let ended = list.items.iter().filter(|task| task.state == "restarting" && task.restarts > 1);
    let told = |task: &TaskView| {
        let (name, job, times) = (&task.task, &task.job_name, task.restarts);
        let what = task.detail.split(HINT).next().unwrap_or_default();
        format!("{name} ended {times} times, last: {what}; starling logs {job}, starling why {job}")
    };
    ended.take(NOTES_MAX).map(told).collect()
}

/// `starling jobs`.
pub(crate) async fn jobs(args: JobsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let path = listed("/v1/jobs", args.all, None, &args.filter);
    let answer = client.get(&path).await?;
    out.listing(&answer, |job: &JobView| job.id.short(), jobs_table)?;
    Ok(0)
}

fn tasks(list: &Listing<TaskView>) -> Table {
    let mut table = Table::new(["TASK", "NODE", "STATE", "AGE", "EXIT", "RESTARTS", "COMMAND"]);
    for task in &list.items {
        table.row([
            task.task.clone(),
            task.node_name.clone(),
            state_word(task),
            age(list.as_of, task.since),
            task.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            task.restarts.to_string(),
            task.command.clone(),
        ]);
    }
    table
}

/// `running (healthy)`, in Docker's words; `starting: fetching app:1, 43 % of 120MiB`.
pub(crate) fn state_word(task: &TaskView) -> String {
    let state = &task.state;
    if let Some(fetching) = &task.fetching {
        return format!("{state}: {fetching}");
    }
    match task.health.as_ref().map(|health| health.state) {
        None => state.clone(),
        Some(HealthState::Starting) => format!("{state} (health: starting)"),
        Some(told) => format!("{state} ({})", told.as_str()),
    }
}

fn jobs_table(list: &Listing<JobView>) -> Table {
    let mut table =
        Table::new(["JOB", "ID", "KIND", "STATE", "RUNNING", "DONE", "FAILED", "AGE", "OWNER"]);
    for job in &list.items {
        let batch = job.kind == Some(JobKind::Batch);
        let of_batch = |text: String| if batch { text } else { String::new() };
        table.row([
            job.name.clone(),
            job.id.short(),
            kind_word(job.kind).to_owned(),
            job.state.as_str().to_owned(),
            running_word(job, batch),
            of_batch(format!("{}/{}", job.succeeded, job.wanted)),
            of_batch(job.failed.to_string()),
            age(list.as_of, job.submitted),
            job.owner.clone(),
        ]);
    }
    table
}

fn running_word(job: &JobView, batch: bool) -> String {
    let odd =
        [(job.paused, "paused"), (job.unhealthy, "unhealthy"), (job.restarting, "restarting")];
    let odd: Vec<_> = odd
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let held = if odd.is_empty() { String::new() } else { format!(" ({})", odd.join(", ")) };
    if batch {
        format!("{}{held}", job.running)
    } else {
        format!("{}/{}{held}", job.running, job.wanted)
    }
}

/// What kind of job it is, in one word.
pub(crate) fn kind_word(kind: Option<JobKind>) -> &'static str {
    match kind {
        Some(JobKind::Service) => "service",
        Some(JobKind::Batch) => "batch",
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list<T: serde::de::DeserializeOwned>(item: serde_json::Value) -> Listing<T> {
        let view = json!({"peer": "h1", "heard": 1, "known": 1, "silent": []});
        let list = json!({"items": [item], "as_of": 65_000, "view": view});
        serde_json::from_value(list).expect("a listing")
    }

    #[test]
    fn a_task_is_a_line() {
        let job = "07".repeat(16);
        let text = tasks(&list(json!({
            "task": "web.1", "job": job, "job_name": "web",
            "slot": {"job": job, "group": "main", "index": 1},
            "command": "sleep 10", "node": null, "node_name": "", "state": "pending",
            "detail": "", "exit_code": null, "since": 5000, "restarts": 0, "epoch": 0,
            "tender": 0, "ended": false, "a field of tomorrow": 1,
        })))
        .print(None);
        let expected = "TASK   NODE  STATE    AGE  EXIT  RESTARTS  COMMAND\n\
                        web.1  -     pending  60s  -     0         sleep 10\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_list_is_asked_for_what_is_wanted_of_it() {
        assert_eq!(listed("/v1/jobs", false, None, &[]), "/v1/jobs");
        let labels = ["tier=front".to_owned(), "keep".to_owned()];
        let path = "/v1/tasks?all=true&job=web&labels=tier%3Dfront%0Akeep";
        assert_eq!(listed("/v1/tasks", true, Some("web"), &labels), path);
        assert_eq!(filter("label=a=b"), Ok("a=b".to_owned()));
        for bad in ["label", "label=", "name=web", "a", "label=a\nb"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_its_checks_came_to_stands_behind_its_state() {
        for (health, word) in [
            (json!(null), "running"),
            (json!({"state": "starting"}), "running (health: starting)"),
            (json!({"state": "healthy", "output": "ok"}), "running (healthy)"),
            (json!({"state": "unhealthy"}), "running (unhealthy)"),
        ] {
            let job = "07".repeat(16);
            let list: Listing<TaskView> = list(json!({
                "task": "web.1", "job": job, "job_name": "web",
                "slot": {"job": job, "group": "main", "index": 1},
                "command": "x", "node": null, "node_name": "h1", "state": "running",
                "detail": "", "exit_code": null, "since": 0, "restarts": 0, "epoch": 0,
                "tender": 0, "ended": false, "health": health,
            }));
            assert_eq!(state_word(&list.items[0]), word);
        }
    }

    #[test]
    fn what_a_task_waits_for_stands_behind_its_state() {
        let job = "07".repeat(16);
        let list: Listing<TaskView> = list(json!({
            "task": "web.1", "job": job, "job_name": "web",
            "slot": {"job": job, "group": "main", "index": 1},
            "command": "x", "node": null, "node_name": "h1", "state": "starting",
            "detail": "", "exit_code": null, "since": 0, "restarts": 0, "epoch": 0,
            "tender": 0, "ended": false,
            "fetching": {"image": "app:1", "bytes": 43 << 20, "of": 100 << 20, "from": ["h2"]},
        }));
        assert_eq!(state_word(&list.items[0]), "starting: fetching app:1, 43 % of 100MiB");
    }

    #[test]
    fn a_task_that_ends_again_and_again_is_told_of_with_the_reason() {
        let job = "07".repeat(16);
        let list = list(json!({
            "task": "web.1", "job": job, "job_name": "web",
            "slot": {"job": job, "group": "main", "index": 1},
            "command": "x", "node": null, "node_name": "h1", "state": "restarting",
            "detail": "could not be started: no x; hint: PATH", "exit_code": 127, "since": 5000,
            "restarts": 12, "epoch": 0, "tender": 0, "ended": false,
        }));
        let text = tasks(&list).print(None);
        assert!(text.ends_with("web.1  h1    restarting  60s  127   12        x\n"), "{text}");
        let told = "web.1 ended 12 times, last: could not be started: no x; starling logs web, \
                    starling why web";
        assert_eq!(restarts(&list), [told]);
    }

    #[test]
    fn services_count_copies_and_batches_count_ends() {
        let job = |kind: &str| {
            json!({
                "id": "07".repeat(16), "name": "j", "namespace": "default", "owner": "",
                "kind": kind, "state": "running", "wanted": 3, "running": 2, "succeeded": 1,
                "failed": 0, "submitted": 5000, "exit_code": null,
            })
        };
        let row = |kind: &str| {
            let text = jobs_table(&list(job(kind))).print(None);
            let line = text.lines().last().map(str::to_owned).unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let service = ["j", "070707070707", "service", "running", "2/3", "-", "-", "60s", "-"];
        let batch = ["j", "070707070707", "batch", "running", "2", "1/3", "0", "60s", "-"];
        assert_eq!(row("service"), service);
        assert_eq!(row("batch"), batch);
        let mut failing = job("service");
        failing["restarting"] = 1.into();
        let text = jobs_table(&list(failing)).print(None);
        assert!(text.contains("2/3 (1 restarting)"), "{text}");
    }
}
