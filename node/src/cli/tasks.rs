//! `kill`, `pause`, `unpause`, `stats` and `top`: one running task, wherever it is.
//!
//! Each command asks any node, which finds the task. Several tasks are asked
//! for one by one, and one that fails does not keep the others from it.

use std::time::Duration;

use clap::Args;
use gossip_core::resources::show_bytes;
use gossip_core::spec::signal_number;
use tokio::time::{Instant, sleep_until};

use starling_core::view::{Listing, TaskView};

use crate::api::types::{Processes, Usage};
use crate::cli::client::{Client, segment};
use crate::cli::errors::Failed;
use crate::cli::interrupt::Interrupts;
use crate::cli::output::{Format, Output};
use crate::cli::stop::first;
use crate::cli::table::Table;

/// Between two samples of `stats`: long enough for a share of CPU to mean something.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Tasks as users name them.
#[derive(Args, Clone, Debug)]
pub(crate) struct TasksNamed {
    /// Tasks as JOB.INDEX, or jobs that have one
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<String>,
}

/// The flags of `kill`.
#[derive(Args, Clone, Debug)]
pub(crate) struct KillArgs {
    /// Which signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = signal)]
    signal: i32,
    /// Send it to every process of the task, not to its first alone
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    named: TasksNamed,
}

/// The flags of `stats`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatsArgs {
    /// Go on until Ctrl-C
    #[arg(short, long, conflicts_with = "no_stream")]
    follow: bool,
    /// Docker's word for what is done anyway: one sample
    #[arg(long, hide = true)]
    no_stream: bool,
    /// Tasks as JOB.INDEX; all that run if none is named
    #[arg(value_name = "TASK")]
    tasks: Vec<String>,
}

fn signal(text: &str) -> Result<i32, String> {
    signal_number(text)
        .ok_or_else(|| format!("{text:?} is no signal; write it like TERM, SIGHUP or 9"))
}

fn path(task: &str, verb: &str) -> String {
    format!("/v1/tasks/{}/{verb}", segment(task))
}

/// `starling kill`.
pub(crate) async fn kill(args: KillArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let verb = format!("signal?signal={}&main={}", args.signal, !args.all);
    each(args.named, &verb, client, out).await
}

/// `starling pause`.
pub(crate) async fn pause(
    named: TasksNamed,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    each(named, "pause", client, out).await
}

/// `starling unpause`.
pub(crate) async fn unpause(
    named: TasksNamed,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    each(named, "resume", client, out).await
}

async fn each(
    named: TasksNamed,
    verb: &str,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    let mut exit = 0;
    for task in &named.tasks {
        let told = match client.post_empty(&path(task, verb)).await {
            Ok(answer) if out.format == Format::Json => out.json(answer.bytes()).map(|()| 0)?,
            Ok(_answer) => out.line(task).map(|()| 0)?,
            Err(failed) if failed.code() == Some("unreachable") => return Err(failed),
            Err(failed) => failed.report(out.format.failures()),
        };
        exit = first(exit, told);
    }
    Ok(exit)
}

/// `starling top`.
pub(crate) async fn top(task: &str, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get(&path(task, "processes")).await?;
    if out.format == Format::Json {
        out.json(answer.bytes())?;
        return Ok(0);
    }
    let Processes { items, .. } = answer.parse()?;
    let mut table = Table::new(["PID", "USER", "STATE", "CPU", "MEMORY", "COMMAND"]);
    for process in items {
        let cpu = Duration::from_millis(process.cpu_ms);
        table.row([
            process.pid.to_string(),
            process.uid.to_string(),
            process.state,
            format!("{:.2}s", cpu.as_secs_f64()),
            show_bytes(process.memory_bytes),
            process.command,
        ]);
    }
    out.table(&table)?;
    Ok(0)
}

/// `starling stats`.
pub(crate) async fn stats(args: StatsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let mut interrupts = Interrupts::catch()?;
    let mut before = sample(&args.tasks, client).await?;
    loop {
        let at = before.0 + SAMPLE_EVERY;
        tokio::select! {
            () = sleep_until(at) => {}
            exit = interrupts.next() => return Ok(exit),
        }
        let now = sample(&args.tasks, client).await?;
        show(&before, &now, out)?;
        if !args.follow {
            return Ok(0);
        }
        before = now;
    }
}

type Sample = (Instant, Vec<Usage>);

async fn sample(tasks: &[String], client: &mut Client) -> Result<Sample, Failed> {
    let named = if tasks.is_empty() { running(client).await? } else { tasks.to_vec() };
    let mut found = Vec::new();
    for task in &named {
        match client.get(&path(task, "stats")).await {
            Ok(answer) => {
                let usage: Usage = answer.parse()?;
                found.push(Usage { task: task.clone(), ..usage });
            }
            // It ended since it was listed.
            Err(_) if tasks.is_empty() => {}
            Err(failed) => return Err(failed),
        }
    }
    Ok((Instant::now(), found))
}

async fn running(client: &mut Client) -> Result<Vec<String>, Failed> {
    let listing: Listing<TaskView> = client.get("/v1/tasks").await?.parse()?;
    let alive = |task: &TaskView| matches!(task.state.as_str(), "running" | "paused");
    Ok(listing.items.into_iter().filter(alive).map(|it| it.task).collect())
}

fn show(before: &Sample, now: &Sample, out: Output) -> Result<(), Failed> {
    if out.format == Format::Json {
        let items = serde_json::to_vec(&serde_json::json!({ "items": now.1 }));
        out.json(&items.unwrap_or_default())?;
        return Ok(());
    }
    let elapsed = now.0.duration_since(before.0).as_secs_f64().max(f64::EPSILON);
    let mut table =
        Table::new(["TASK", "NODE", "STATE", "CPU", "MEMORY", "PEAK", "PIDS", "READ", "WRITTEN"]);
    for usage in &now.1 {
        let earlier = before.1.iter().find(|earlier| earlier.task == usage.task);
        let shown = |value: Option<u64>| value.map_or("-".to_owned(), show_bytes);
        let of = &usage.usage;
        table.row([
            usage.task.clone(),
            usage.node.clone(),
            if usage.paused { "paused" } else { "running" }.to_owned(),
            cpu(earlier.map(|earlier| earlier.usage.cpu_ns), of.cpu_ns, elapsed),
            shown(of.memory_bytes),
            shown(of.memory_peak),
            of.pids.map_or("-".to_owned(), |pids| pids.to_string()),
            shown(of.read_bytes),
            shown(of.write_bytes),
        ]);
    }
    out.table(&table)
}

/// The share of one core between two samples.
fn cpu(before: Option<Option<u64>>, now: Option<u64>, elapsed: f64) -> String {
    match (before.flatten(), now) {
        (Some(before), Some(now)) => {
            let used = Duration::from_nanos(now.saturating_sub(before)).as_secs_f64();
            format!("{:.1}%", used / elapsed * 100.0)
        }
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_cpu_is_of_one_core() {
        assert_eq!(cpu(Some(Some(0)), Some(500_000_000), 1.0), "50.0%");
        assert_eq!(cpu(Some(Some(5)), Some(5), 1.0), "0.0%");
        // Another start of the task counts from zero.
        assert_eq!(cpu(Some(Some(9)), Some(5), 1.0), "0.0%");
        assert_eq!(cpu(None, Some(5), 1.0), "-");
    }

    #[test]
    fn signals_are_named_or_numbered() {
        for (text, number) in [("9", 9), ("SIGHUP", 1), ("term", 15), ("usr1", 10)] {
            assert_eq!(signal(text), Ok(number));
        }
        assert!(signal("0").is_err() && signal("SIGNOT").is_err());
    }
}
