//! `run`: submits a job, and in the foreground shows it to its end.
//!
//!     submit ──▶ follow ──Done──▶ its exit code
//!        │          │
//!        │          ├─ Ctrl-C: stop the job, follow to its end; once more: leave
//!        │          └─ stdout closed, or not placed in time: stop the job, leave
//!        └─ -d: print its name, leave
//!
//! What its image is is found out before that, and pulled where no member has it; a Ctrl-C
//! then ends the pull, and there is no job. With --rm the job is removed behind all that: here,
//! or by the cluster where nobody waits.
//!
//! A job in the foreground belongs to this command: whatever ends the one ends
//! the other, except a second Ctrl-C and the agent's own restart. The key is
//! made before the first request, so that the job has one identity whatever
//! becomes of the answer.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gossip_core::spec::{JobSpec, TaskSpec};
use tokio::time::{Instant, sleep_until};

use crate::api::types::{Accepted, Complaint, Durable, LogItem, Submission, Why};
use crate::cli::advice;
use crate::cli::client::{Answer, Client, Patience, parse, segment};
use crate::cli::door::Door;
use crate::cli::errors::{Failed, INTERRUPTED, NOT_REPLICATED, NOT_STARTED, READER_LEFT, STOPPED};
use crate::cli::follow::{self, Names, Printer, Style, Times, To};
use crate::cli::id_file::IdFile;
use crate::cli::image::ensure::ensure;
use crate::cli::image::gauge::Gauge;
use crate::cli::interrupt::Interrupts;
use crate::cli::job::{JobArgs, Keyboard, Outside};
use crate::cli::job_name::made_up;
use crate::cli::lines::Lines;
use crate::cli::listed::FILE_BYTES_MAX;
use crate::cli::output::{Format, Output};
use crate::cli::ship::Shipment;
use crate::cli::times;
use crate::cli::typing::Typing;
use crate::cli::waiting::Waiting;

/// How a failure is called when nobody took the job in time.
/// How long the agent may take to hear that a job is to stop.
const STOP_HEARD_WITHIN: Duration = Duration::from_secs(5);

const UNPLACED: &str = "unplaced";

/// The flags of `run`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Print the job's name and leave it to the cluster
    #[arg(short, long)]
    detach: bool,
    /// Give up if no node takes it in this time, like 10s
    #[arg(long, value_name = "TIME", value_parser = times::parse, conflicts_with = "detach")]
    timeout: Option<Duration>,
    /// Remove the job, with all that it wrote, once it is over or stopped
    #[arg(long)]
    rm: bool,
    /// Write the job's id to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    #[command(flatten)]
    job: JobArgs,
}

/// `starling run`.
pub(crate) async fn run(args: RunArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let keyboard = args.job.keyboard();
    let outside = Outside {
        made_up: &made_up(rand::random()),
        variable: &|name| std::env::var(name).ok(),
        file: &bounded_file,
    };
    let refused = |complaint: Complaint| Failed::from(complaint).before_start();
    let shipment = args.job.shipment().map_err(refused)?;
    let mut spec = args.job.spec(&outside).map_err(refused)?;
    // In the foreground its output is read to the end before it goes.
    spec.remove = args.rm && args.detach;
    let id_file = args.cidfile.as_deref().map(IdFile::make).transpose().map_err(refused)?;
    let names = if spec.groups.iter().map(|group| group.count).sum::<u32>() > 1 {
        Names::Shown
    } else {
        Names::Hidden
    };
    if let Some(shipment) = shipment {
        ship(shipment, &mut spec, client, out).await.map_err(Failed::before_start)?;
    }
    let key = format!("{:032x}", rand::random::<u128>());
    if args.detach {
        ensure(&mut spec, client, out).await?;
        let submission = Submission { spec, key };
        // Its exit code is never a program's, so a refusal needs no code of its own.
        let answer = submit(client, &submission).await?;
        tell_id(id_file, &answer.parse()?, out);
        return detached(&answer, out);
    }
    let after = if args.rm { After::Removed } else { After::Kept };
    let wish = Wish { names, timeout: args.timeout, keyboard, after, id_file };
    foreground(Submission { spec, key }, wish, client, out).await
}

/// Sends what the job brings along, and says in it what that is.
async fn ship(
    shipment: Shipment,
    spec: &mut JobSpec,
    client: &mut Client,
    out: Output,
) -> Result<(), Failed> {
    let (id, bytes) = shipment.send(client, out).await?;
    let tasks = spec.groups.iter_mut().flat_map(|group| &mut group.tasks);
    for files in tasks.filter_map(|task| task.run.image_mut()) {
        files.id = Some(id);
        files.bytes = Some(bytes);
    }
    Ok(())
}

/// The file's bytes, or one more than may be read of it.
pub(crate) fn bounded_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What becomes of a job that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Its name and its output stay.
    Kept,
    /// It is removed.
    Removed,
}

/// How a job in the foreground is shown.
struct Wish {
    names: Names,
    timeout: Option<Duration>,
    keyboard: Keyboard,
    after: After,
    id_file: Option<IdFile>,
}

async fn foreground(
    mut submission: Submission,
    wish: Wish,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    let Wish { names, timeout, keyboard, after, id_file } = wish;
    let mut interrupts = Interrupts::catch()?;
    tokio::select! {
        known = ensure(&mut submission.spec, client, out) => known.map_err(Failed::before_start)?,
        exit = interrupts.next() => return Err(Failed::silently(exit)),
    }
    let (answer, early) = submit_uncut(client, &submission, &mut interrupts).await?;
    let accepted: Accepted = answer.parse()?;
    warn_if_alone(&accepted, out);
    tell_id(id_file, &accepted, out);
    let path = format!("/v1/jobs/{}", accepted.job);
    // Programs that read the lines are told what they always were.
    let starting = if out.format == Format::Human { "?starting=true" } else { "" };
    let lines = client.stream(&format!("{path}/follow{starting}")).await?;
    let watch = Watch {
        lines,
        printer: Printer::new(Style { names, times: Times::Hidden, format: out.format }),
        out,
        gauge: Gauge::new(out),
        name: accepted.name.clone(),
        placed: false,
        waiting: Waiting::new(client.door().clone(), accepted.name.clone(), path.clone()),
        give_up: timeout.map(|limit| (Instant::now() + limit, limit)),
        keyboard,
        door: client.door().clone(),
        typing: None,
    };
    let ended = to_its_end(watch, &path, early, &mut interrupts, client).await;
    let is_over =
        ended.as_ref().map_or_else(|failed| failed.code() == Some(UNPLACED), |_exit| true);
    if after == After::Removed
        && is_over
        && let Err(failed) = client.delete(&path).await
    {
        out.warn(&format!("warning: {} is over and not removed; starling rm", accepted.name));
        failed.report(out.format.failures());
    }
    ended
}

/// Shows a job until it is over, or stops it for whoever leaves.
async fn to_its_end(
    mut watch: Watch,
    path: &str,
    early: Option<u8>,
    interrupts: &mut Interrupts,
    client: &mut Client,
) -> Result<u8, Failed> {
    let leave = async {
        match early {
            Some(exit) => exit,
            None => interrupts.next().await,
        }
    };
    let result = tokio::select! {
        result = watch.until_over() => result,
        exit = leave => Ok(End::Left(exit)),
    };
    match result {
        Ok(End::Over(exit)) => Ok(exit),
        Ok(End::NotPlaced(limit)) => {
            let complaint = unplaced(client, path, &watch.name, limit).await;
            stop(client, path).await?;
            Err(complaint.into())
        }
        Ok(End::Left(READER_LEFT)) => stop(client, path).await.map(|()| READER_LEFT),
        Ok(End::Left(exit)) => {
            let name = &watch.name;
            watch.out.note(&format!("stopping {name}; press Ctrl-C again to leave at once"));
            // Whoever is in a hurry leaves a job that stops, and never one that goes on.
            tokio::time::timeout(STOP_HEARD_WITHIN, stop(client, path))
                .await
                .map_err(|_late| cut_short(name))??;
            tokio::select! {
                over = watch.until_over() => over.map(|_over| exit),
                _again = interrupts.next() => Ok(INTERRUPTED),
            }
        }
        // The reader of stdout left in the middle of a line.
        Err(failed) if failed.exit() == 0 => stop(client, path).await.map(|()| READER_LEFT),
        // The job may go on: an exit code of its own must not be mistaken for this.
        Err(failed) => Err(failed.exiting(NOT_STARTED)),
    }
}

fn tell_id(file: Option<IdFile>, accepted: &Accepted, out: Output) {
    if let Some(Err(failure)) = file.map(|file| file.write(accepted.job)) {
        out.warn(&format!("warning: {failure}"));
    }
}

/// Submits, and keeps a Ctrl-C for when the answer is there: a job that may have been
/// accepted must be known to be stopped. A second one leaves at once.
async fn submit_uncut(
    client: &mut Client,
    submission: &Submission,
    interrupts: &mut Interrupts,
) -> Result<(Answer, Option<u8>), Failed> {
    let submitting = submit(client, submission);
    tokio::pin!(submitting);
    let mut early = None;
    loop {
        tokio::select! {
            answer = &mut submitting => {
                return answer.map(|answer| (answer, early)).map_err(Failed::before_start);
            }
            exit = interrupts.next() => match early {
                None => early = Some(exit),
                Some(_) => return Err(Failed::silently(INTERRUPTED)),
            },
        }
    }
}

async fn submit(client: &mut Client, submission: &Submission) -> Result<Answer, Failed> {
    // An image that no node has is pulled before the job is taken, which takes its time.
    let mut tasks = submission.spec.groups.iter().flat_map(|group| &group.tasks);
    let has_image = |task: &TaskSpec| task.run.image().is_some();
    let patience = if tasks.any(has_image) { Patience::Unlimited } else { Patience::Ordinary };
    client.post("/v1/jobs", submission, patience).await
}

async fn stop(client: &mut Client, path: &str) -> Result<(), Failed> {
    client.post_empty(&format!("{path}/stop")).await.map(|_accepted| ())
}

fn detached(answer: &Answer, out: Output) -> Result<u8, Failed> {
    let accepted: Accepted = answer.parse()?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Human | Format::Quiet => out.line(&accepted.name)?,
    }
    Ok(warn_if_alone(&accepted, out))
}

/// Says how safe an accepted change is; answers the exit code that says the same.
pub(crate) fn warn_if_alone(accepted: &Accepted, out: Output) -> u8 {
    accepted.notices.iter().for_each(|notice| out.note(&format!("note: {notice}")));
    let on = accepted.on.join(", ");
    match accepted.durable {
        Durable::NotReplicated => {
            out.warn(&format!(
                "warning: {} is accepted, not replicated: no other member confirmed in time; \
                 only {} has it",
                accepted.name,
                if on.is_empty() { "this host" } else { &on }
            ));
            NOT_REPLICATED
        }
        Durable::Local | Durable::Replicated => 0,
    }
}

/// How watching a job ends.
enum End {
    /// With the job, and its exit code.
    Over(u8),
    /// Nobody took the job in this time.
    NotPlaced(Duration),
    /// The user left, or whoever reads stdout.
    Left(u8),
}

/// A job in the foreground, seen from here.
struct Watch {
    lines: Lines,
    printer: Printer,
    out: Output,
    gauge: Gauge,
    name: String,
    placed: bool,
    waiting: Waiting,
    give_up: Option<(Instant, Duration)>,
    keyboard: Keyboard,
    door: Door,
    typing: Option<Typing>,
}

impl Watch {
    async fn until_over(&mut self) -> Result<End, Failed> {
        loop {
            let line = match self.next().await {
                Next::Line(line) => line?,
                Next::Waits(told) => {
                    told.iter().for_each(|line| self.out.note(line));
                    continue;
                }
                Next::GivesUp(limit) => return Ok(End::NotPlaced(limit)),
            };
            let Some(line) = line else { return Err(cut_short(&self.name).into()) };
            if line.is_empty() {
                continue;
            }
            let item: LogItem = parse(&line)?;
            match &item {
                LogItem::Starting { node, fetching: Some(fetching), .. } => {
                    self.gauge.fetching(node, fetching);
                }
                _ => self.gauge.clear(),
            }
            self.placed |= !matches!(item, LogItem::Notice { .. });
            self.type_into(&item);
            if self.out.format == Format::Json {
                follow::write(vec![(To::Stdout, [&line[..], b"\n"].concat())]).await?;
            } else {
                follow::write(self.printer.show(&item)?).await?;
            }
            if let LogItem::Done { exit_code, state } = item {
                return Ok(End::Over(exit_of(exit_code, &state)));
            }
        }
    }

    fn type_into(&mut self, item: &LogItem) {
        if let LogItem::Placed { task, .. } = item
            && self.typing.is_none()
        {
            let begin = || Typing::begin(self.door.clone(), task.clone());
            self.typing = match self.keyboard {
                Keyboard::Unused => None,
                Keyboard::Lines => Some(begin()),
                Keyboard::Terminal => Some(begin().with_terminal()),
            };
        }
    }

    /// The next line, or what is due for a job that nobody took yet.
    async fn next(&mut self) -> Next {
        if self.placed {
            return Next::Line(self.lines.next().await);
        }
        let give_up = self.give_up;
        let in_time = async {
            match give_up {
                Some((at, limit)) => {
                    sleep_until(at).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = self.lines.next() => Next::Line(line),
            told = self.waiting.news() => Next::Waits(told),
            limit = in_time => Next::GivesUp(limit),
        }
    }
}

/// What happens next to a job in the foreground.
enum Next {
    Line(Result<Option<bytes::Bytes>, Failed>),
    Waits(Vec<String>),
    GivesUp(Duration),
}

/// The exit code of a job that is over.
pub(crate) fn exit_of(code: i32, state: &str) -> u8 {
    match (code, state) {
        // Not a success: somebody stopped it before its end.
        (0, "stopped") => STOPPED,
        (code, _) => u8::try_from(code).unwrap_or(1),
    }
}

fn cut_short(name: &str) -> Complaint {
    Complaint::new("broken", format!("the agent stopped telling about {name}"))
        .because("its answer ended before the job did")
        .hint(format!("starling logs -f {name}, starling wait {name}   the job goes on"))
}

async fn unplaced(client: &mut Client, path: &str, name: &str, limit: Duration) -> Complaint {
    let limit = times::show_duration(limit);
    let mut complaint = Complaint::new(UNPLACED, format!("no node took {name} within {limit}"));
    let mut hints = Vec::new();
    // Without reasons it is still true that nobody took it.
    if let Ok(Ok(why)) =
        client.get(&format!("{path}/why")).await.map(|answer| answer.parse::<Why>())
    {
        for opinion in why.opinions.iter().filter(|opinion| !opinion.would_bid) {
            complaint = complaint.because(format!("{}: {}", opinion.name, opinion.reason));
        }
        for (node, reason) in &why.unknown {
            complaint = complaint.because(format!("{node}: {reason}"));
        }
        hints = advice::of(&why);
    }
    hints.push("starling run -d   leaves it waiting for a node");
    complaint.hint(hints.join("\n"))
}

/// A job as users name it, as a path of the API.
pub(crate) fn job_path(reference: &str) -> String {
    format!("/v1/jobs/{}", segment(reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_end_is_the_commands_end() {
        let ends =
            [(0, "succeeded", 0), (3, "failed", 3), (0, "stopped", 143), (137, "failed", 137)];
        for (code, state, exit) in ends {
            assert_eq!(exit_of(code, state), exit, "{code} {state}");
        }
        assert_eq!(exit_of(-1, "failed"), 1);
        assert_eq!(exit_of(256, "failed"), 1);
    }
}
