//! `testnet vm`: the runtime's tests, or one command, in a guest with all of cgroup v2.
//!
//! Progress goes to standard error, as a first run takes a minute; the report
//! comes at the end like any other. Exit codes: 1 when a test or the command
//! failed, 3 when the guest itself did (panic, hang, QEMU).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf, absolute};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::complaint::{Complaint, USAGE};
use testnet::vm::suite::{self, Suite, Tally};
use testnet::vm::{
    self, Accelerator, Afterwards, Close, Event, Guest, Job, Outcome, Ran, VmError, Who,
};

use super::{Report, table};
use crate::cli::{Users, Vm};

/// Where everything that can be kept is, below the workspace.
const CACHE: &str = "target/vm";
/// What `--all` runs: whose tests, which of them (none: each), as whom.
const ALL: [(&str, &[&str], &[Who]); 2] = [
    (suite::PACKAGE, &[], &[Who::Root, Who::Delegated, Who::Undelegated]),
    // Its canaries are set by root.
    ("testnet", &["escape"], &[Who::Root]),
];
/// The exit code when there is no verdict, because the guest died.
const NO_VERDICT: u8 = 3;
/// Of a command that its time limit ended, gently or not; as `timeout` has it.
const TIMED_OUT: [i32; 2] = [124, 137];
/// While tests run, their number is said this often.
const TICK: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Vm) -> Result<Report, Complaint> {
    equip()?;
    let users: &[Who] = match args.user {
        None => &[Who::Root],
        Some(Users::Delegated) => &[Who::Delegated],
        Some(Users::Undelegated) => &[Who::Undelegated],
        Some(Users::Both) => &[Who::Delegated, Who::Undelegated],
    };
    let limit = Duration::from_secs(args.timeout);
    if !args.command.is_empty() {
        let mut carry = brought(args)?;
        let jobs = own_command(&args.command, users, &mut carry)?;
        let outcome = in_guest(args, &jobs, carry)?;
        return Ok(of_own(&jobs, &outcome, limit));
    }
    let (jobs, outcome) = if args.all {
        all(args)?
    } else {
        let names: Vec<_> = args.tests.iter().map(String::as_str).collect();
        tests(args, &args.package, &names, users)?
    };
    Ok(of_tests(&jobs, &outcome, limit))
}

/// Each package in a guest of its own, whose memory would not hold the programs of all.
fn all(args: &Vm) -> Result<(Vec<Job>, Outcome), Complaint> {
    let [(package, names, users), others @ ..] = ALL;
    let (mut jobs, mut outcome) = tests(args, package, names, users)?;
    for (package, names, users) in others {
        let (more, next) = tests(args, package, names, users)?;
        jobs.extend(more);
        outcome = outcome.and(next);
    }
    Ok((jobs, outcome))
}

/// Builds a package's tests and runs them.
fn tests(
    args: &Vm,
    package: &str,
    names: &[&str],
    users: &[Who],
) -> Result<(Vec<Job>, Outcome), Complaint> {
    eprintln!("vm: building the tests of {package}");
    let suite = Suite::build(&workspace(), package, names).map_err(complaint)?;
    let jobs = suite.jobs(users, args.filter.as_deref());
    let carry = brought(args)?.into_iter().chain(suite.carry()).collect();
    let outcome = in_guest(args, &jobs, carry)?;
    Ok((jobs, outcome))
}

fn in_guest(args: &Vm, jobs: &[Job], carry: Vec<PathBuf>) -> Result<Outcome, Complaint> {
    let guest = Guest {
        cache: workspace().join(CACHE),
        memory_mib: args.memory,
        cpus: args.cpus,
        accelerator: if args.kvm { Accelerator::Kvm } else { Accelerator::Tcg },
        limit: Duration::from_secs(args.timeout),
        carry,
        afterwards: if args.keep { Afterwards::Keep } else { Afterwards::Remove },
    };
    let mut progress = Progress::new(jobs, args.verbose);
    let outcome = vm::run(&guest, jobs, &mut |event| progress.show(&event)).map_err(complaint)?;
    if matches!(outcome.close, Close::Done) {
        Ok(outcome)
    } else {
        Err(no_verdict(jobs, &outcome, guest.accelerator))
    }
}

fn workspace() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    workspace.canonicalize().unwrap_or(workspace)
}

fn brought(args: &Vm) -> Result<Vec<PathBuf>, Complaint> {
    args.carry.iter().map(|path| there(path)).collect()
}

/// Installs what is missing, if that is possible.
fn equip() -> Result<(), Complaint> {
    let packages = vm::missing().map_err(complaint)?;
    if packages.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(complaint(VmError::Missing { packages }));
    }
    eprintln!("vm: installing {} with apt-get", packages.join(" "));
    vm::install(&packages).map_err(complaint)
}

/// A file to bring along, by its absolute path.
fn there(path: &Path) -> Result<PathBuf, Complaint> {
    let refused = |error| {
        Complaint::caused(format!("cannot take {} along", path.display()), &error, "is it there?")
            .with_code(USAGE)
    };
    let path = absolute(path).map_err(refused)?;
    path.symlink_metadata().map_err(refused)?;
    Ok(path)
}

/// The user's command; a program given as a path is brought along.
fn own_command(
    command: &[OsString],
    users: &[Who],
    carry: &mut Vec<PathBuf>,
) -> Result<Vec<Job>, Complaint> {
    let mut argv = command.to_vec();
    let title = argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    if let Some(first) = argv.first_mut()
        && Path::new(first).components().count() > 1
    {
        let relative = Path::new(first).is_relative();
        if relative || Path::new(first).exists() {
            let path = there(Path::new(first))?;
            first.clone_from(&path.clone().into_os_string());
            carry.push(path);
        }
    }
    let job = |who: &Who| Job {
        title: title.clone(),
        dir: PathBuf::from("/tmp"),
        argv: argv.clone(),
        who: *who,
    };
    Ok(users.iter().map(job).collect())
}

/// What standard error shows while it lasts.
struct Progress<'a> {
    jobs: &'a [Job],
    verbose: bool,
    current: Option<usize>,
    verdicts: usize,
    told: Instant,
}

impl<'a> Progress<'a> {
    fn new(jobs: &'a [Job], verbose: bool) -> Self {
        Self { jobs, verbose, current: None, verdicts: 0, told: Instant::now() }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Step(what) => eprintln!("vm: {what}"),
            Event::Booted { kernel } => eprintln!("vm: kernel {kernel} is up"),
            Event::Started { number } => {
                (self.current, self.verdicts, self.told) = (Some(*number), 0, Instant::now());
                eprintln!("vm: {}", self.name(*number));
            }
            Event::Ended { number, run } => {
                let end = run.end.map_or("?".to_owned(), |end| {
                    format!("exit code {} after {:.1} s", end.code, end.took.as_secs_f64())
                });
                eprintln!("vm: {}: {end}", self.name(*number));
            }
            Event::Console(line) => {
                if self.verbose {
                    eprintln!("console: {line}");
                }
            }
            Event::Output { line, .. } => {
                self.verdicts += usize::from(suite::is_verdict(line));
                if self.verbose || suite::is_failure(line) {
                    eprintln!("{line}");
                } else {
                    self.tick();
                }
            }
            Event::Quiet => self.tick(),
        }
    }

    fn tick(&mut self) {
        if self.told.elapsed() < TICK {
            return;
        }
        self.told = Instant::now();
        match self.current {
            None => eprintln!("vm: still booting"),
            Some(number) if self.verdicts > 0 => {
                eprintln!("vm: {}: {} tests so far", self.name(number), self.verdicts);
            }
            Some(number) => eprintln!("vm: {}: still running", self.name(number)),
        }
    }

    fn name(&self, number: usize) -> String {
        self.jobs.get(number).map_or_else(String::new, name)
    }
}

/// A command as people tell it from the others.
fn name(job: &Job) -> String {
    match job.who {
        Who::Root => job.title.clone(),
        Who::Delegated => format!("{} (user, own cgroup)", job.title),
        Who::Undelegated => format!("{} (user, no cgroup)", job.title),
    }
}

/// The guest died: which command it took along, and the last that was heard.
fn no_verdict(jobs: &[Job], outcome: &Outcome, accelerator: Accelerator) -> Complaint {
    let (error, why) = match &outcome.close {
        Close::Done => ("the guest said it is done", String::new()),
        Close::Panicked { line } => ("the guest's kernel panicked", line.clone()),
        Close::Broken { why } => ("the guest did not boot", why.clone()),
        Close::Hung { phase } => {
            ("the guest was killed", format!("it hung while {phase}, longer than that may take"))
        }
        Close::Died { status, last } => {
            ("the guest died", format!("QEMU ended with {status}; its last words were: {last}"))
        }
    };
    let running = jobs.iter().zip(&outcome.runs).find(|(_, run)| run.started && run.end.is_none());
    let why = match running {
        Some((job, run)) => {
            format!("{why}; {} ran, and had said: {}", name(job), suite::last_words(&run.output))
        }
        None => why,
    };
    let hint = match &outcome.by_hand {
        Some(command) => format!("this starts it again: {command}"),
        None if accelerator == Accelerator::Kvm => {
            "it needs no KVM: leave --kvm out, unless other guests run well here".to_owned()
        }
        None => "-v shows the whole console; --keep says how to start it by hand".to_owned(),
    };
    Complaint::new(error, why, hint).with_code(NO_VERDICT)
}

/// The report on a command of the user's own.
fn of_own(jobs: &[Job], outcome: &Outcome, limit: Duration) -> Report {
    let mut text = String::new();
    for (job, run) in jobs.iter().zip(&outcome.runs) {
        if jobs.len() > 1 {
            text.push_str(&format!("--- {}\n", name(job)));
        }
        text.push_str(run.output.trim_end());
        if code(run) != 0 {
            text.push_str(&format!("\n{}", verdict(run, limit)));
        }
        text.push('\n');
    }
    closing(&mut text, outcome);
    let runs = jobs.iter().zip(&outcome.runs).map(|(job, run)| json_of(job, run)).collect();
    finish(text, runs, outcome, outcome.runs.iter().any(|run| code(run) != 0))
}

/// The report on tests: libtest's own words where something failed, its summaries, one total.
fn of_tests(jobs: &[Job], outcome: &Outcome, limit: Duration) -> Report {
    let mut text = String::new();
    let mut rows = Vec::new();
    let mut runs = Vec::new();
    let mut total = Tally::default();
    let mut failed = false;
    for (job, run) in jobs.iter().zip(&outcome.runs) {
        let tally = Tally::of(&run.output);
        let bad = code(run) != 0 || tally.summary.is_empty();
        failed |= bad;
        if bad {
            let account = suite::account(&run.output).trim();
            let _ = writeln!(text, "--- {}\n{account}\n", name(job));
        }
        for reason in &tally.skipped {
            let _ = writeln!(text, "SKIPPED: {reason} ({})", name(job));
        }
        let summary = match tally.summary.as_str() {
            "" => format!("no verdict, {}", verdict(run, limit)),
            summary => summary.trim_start_matches("test result: ").to_owned(),
        };
        rows.push(vec![name(job), summary, leftovers(run)]);
        total.passed += tally.passed;
        total.failed += tally.failed;
        total.ignored += tally.ignored;
        total.skipped.extend(tally.skipped.iter().cloned());
        let mut json = json_of(job, run);
        json["tests"] = json!(tally);
        runs.push(json);
    }
    text.push_str(&table::columns(&rows));
    let Tally { passed, failed: lost, ignored, skipped, .. } = &total;
    let _ = writeln!(
        text,
        "total: {passed} passed, {lost} failed, {ignored} ignored, {} of the passed skipped",
        skipped.len()
    );
    closing(&mut text, outcome);
    finish(text, runs, outcome, failed || total.passed + total.failed == 0)
}

fn code(run: &Ran) -> i32 {
    run.end.map_or(-1, |end| end.code)
}

/// The end of a command that went wrong.
fn verdict(run: &Ran, limit: Duration) -> String {
    match run.end {
        Some(end) if TIMED_OUT.contains(&end.code) && end.took >= limit => {
            format!("killed after {} s, its time limit", limit.as_secs())
        }
        _ => format!("exit code {}", code(run)),
    }
}

fn leftovers(run: &Ran) -> String {
    match run.end {
        Some(end) if end.processes > 0 || end.mounts != 0 => {
            format!("left {} processes, {:+} mounts", end.processes, end.mounts)
        }
        _ => String::new(),
    }
}

fn closing(text: &mut String, outcome: &Outcome) {
    for alarm in &outcome.alarms {
        let _ = writeln!(text, "kernel: {alarm}");
    }
    let booted = outcome.booted.unwrap_or_default().as_secs_f64();
    let took = outcome.took.as_secs_f64();
    let _ =
        writeln!(text, "guest: kernel {}, up in {booted:.1} s, {took:.1} s in all", outcome.kernel);
    if let Some(command) = &outcome.by_hand {
        let _ = writeln!(text, "again: {command}");
    }
}

fn json_of(job: &Job, run: &Ran) -> Value {
    let end = run.end;
    json!({
        "command": job.title,
        "user": job.who.word(),
        "exit_code": end.map(|end| end.code),
        "seconds": end.map(|end| end.took.as_secs_f64()),
        "processes_left": end.map(|end| end.processes),
        "mounts_left": end.map(|end| end.mounts),
        "output": run.output,
    })
}

fn finish(text: String, runs: Vec<Value>, outcome: &Outcome, failed: bool) -> Report {
    let json = json!({
        "kernel": outcome.kernel,
        "boot_seconds": outcome.booted.map(|booted| booted.as_secs_f64()),
        "seconds": outcome.took.as_secs_f64(),
        "kernel_alarms": outcome.alarms,
        "again": outcome.by_hand,
        "failed": failed,
        "runs": runs,
    });
    let report = Report::new(text, json);
    if failed { report.failed() } else { report }
}

fn complaint(error: VmError) -> Complaint {
    let (what, hint) = match &error {
        VmError::Missing { packages } => (
            "this machine cannot run a guest yet",
            format!("run as root once, or `apt-get install {}`", packages.join(" ")),
        ),
        VmError::Architecture => ("there is no guest for this machine", "use x86-64".to_owned()),
        VmError::NoApt | VmError::NoKernel { .. } => (
            "cannot make the guest's disk",
            "use a Debian with package lists (apt-get update); apt's user needs no root".to_owned(),
        ),
        VmError::NoTests { .. } => ("there is nothing to run", "look at `cargo test`".to_owned()),
        VmError::Start { .. } | VmError::Failed { .. } => {
            ("a program that the guest needs failed", "its words tell more".to_owned())
        }
        VmError::Io { .. } => ("cannot prepare the guest", "look at the disk".to_owned()),
    };
    Complaint::caused(what, &error, hint)
}

#[cfg(test)]
mod tests {
    use testnet::vm::End;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(9);

    fn report(output: &str, code: i32, seconds: u64) -> Report {
        let end = End { code, took: Duration::from_secs(seconds), processes: 2, mounts: 1 };
        let run = Ran { output: output.to_owned(), end: Some(end), started: true };
        let outcome = Outcome {
            runs: vec![run],
            kernel: "6.1".to_owned(),
            booted: None,
            took: Duration::ZERO,
            close: Close::Done,
            alarms: vec!["WARNING: at x.c".to_owned()],
            by_hand: None,
        };
        let (title, dir) = ("lib runtime".to_owned(), PathBuf::from("/"));
        of_tests(&[Job { title, dir, argv: Vec::new(), who: Who::Root }], &outcome, LIMIT)
    }

    #[test]
    fn a_failed_test_fails_the_run_and_is_told_in_its_own_words() {
        let output = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nleft 1\n\n\
                      test result: FAILED. 3 passed; 1 failed; 0 ignored; finished in 0.1s\n";
        let report = report(output, 101, 1);
        assert!(report.has_failed());
        for word in ["left 1", "3 passed, 1 failed", "left 2 processes, +1 mounts", "WARNING"] {
            assert!(report.text.contains(word), "{word}: {}", report.text);
        }
        assert_eq!(report.json["runs"][0]["tests"]["failures"][0], "a");
    }

    #[test]
    fn a_run_without_a_verdict_or_without_tests_is_no_success() {
        let late = report("test a ... ok\n", 137, 14);
        assert!(late.has_failed() && late.text.contains("its time limit"), "{}", late.text);
        let crashed = report("", 139, 0);
        assert!(crashed.has_failed() && crashed.text.contains("exit code 139"));
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; finished in 0.1s\n";
        assert!(report(none, 0, 0).has_failed());
        assert!(!report(&none.replace("0 passed", "1 passed"), 0, 0).has_failed());
    }
}
