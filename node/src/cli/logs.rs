//! `logs`: what a job's tasks wrote, wherever they ran.

use clap::Args;
use starling_core::view::JobView;

use crate::api::types::LogItem;
use crate::cli::client::{Client, parse};
use crate::cli::errors::Failed;
use crate::cli::follow::{self, Names, Printer, Style, Times, To};
use crate::cli::interrupt::or_interrupt;
use crate::cli::output::{Format, Output};
use crate::cli::run::job_path;

/// The flags of `logs`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines of each task, or all
    #[arg(short = 'n', long, value_name = "N", value_parser = tail, allow_hyphen_values = true)]
    tail: Option<Tail>,
    /// Show each line's time, by the clock of the node where it ran
    #[arg(short, long)]
    timestamps: bool,
    /// A job, or one of its tasks
    #[arg(value_name = "JOB[.INDEX]")]
    task: String,
}

/// How much of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    All,
    Lines(u64),
}

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail::All),
        _ => text
            .parse()
            .map(Tail::Lines)
            .map_err(|_no_number| "write how many lines of the end, like 20, or all".to_owned()),
    }
}

/// `starling logs`.
pub(crate) async fn run(args: LogsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    or_interrupt(show(args, client, out)).await
}

async fn show(args: LogsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let path = job_path(&args.task);
    let names = if out.format == Format::Json || args.task.contains('.') {
        Names::Hidden
    } else {
        let job: JobView = client.get(&path).await?.parse()?;
        if job.wanted > 1 { Names::Shown } else { Names::Hidden }
    };
    let times = if args.timestamps { Times::Shown } else { Times::Hidden };
    let mut printer = Printer::new(Style { names, times, format: out.format });
    let mut lines = client.stream(&query(&path, args.follow, args.tail)).await?;
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue;
        }
        if out.format == Format::Json {
            follow::write(vec![(To::Stdout, [&line[..], b"\n"].concat())]).await?;
            continue;
        }
        let item: LogItem = parse(&line)?;
        follow::write(printer.show(&item)?).await?;
    }
    follow::write(printer.rest()).await?;
    Ok(0)
}

fn query(path: &str, follow: bool, tail: Option<Tail>) -> String {
    let follow = follow.then(|| "follow=true".to_owned());
    let tail = match tail {
        Some(Tail::Lines(lines)) => Some(format!("tail={lines}")),
        Some(Tail::All) | None => None,
    };
    let wishes: Vec<String> = [follow, tail].into_iter().flatten().collect();
    if wishes.is_empty() {
        format!("{path}/logs")
    } else {
        format!("{path}/logs?{}", wishes.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_a_number_of_lines_or_all() {
        assert_eq!((tail("7"), tail("all")), (Ok(Tail::Lines(7)), Ok(Tail::All)));
        for bad in ["x", "-1", "", "1.5"] {
            assert!(tail(bad).is_err_and(|why| why.contains("like 20")), "{bad}");
        }
    }

    #[test]
    fn wishes_are_asked_for_and_nothing_else() {
        assert_eq!(query("/j", false, None), "/j/logs");
        assert_eq!(query("/j", false, Some(Tail::All)), "/j/logs");
        assert_eq!(query("/j", true, Some(Tail::Lines(0))), "/j/logs?follow=true&tail=0");
    }
}
