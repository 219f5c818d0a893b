//! The supervisor: parent of one task, from before its start until after its end.
//!
//! ```text
//! claim ─▶ fork ─▶ answer ─▶ drain pipes, obey stop ─▶ main process ends
//!                                                        │
//!            leave ◀─ end.json (durable) ◀─ drain ◀─ kill the rest
//! ```
//!
//! A fork of the keeper, without exec: it costs a few pages. Every orphan of the
//! task comes to it, so what the task leaves behind is its children, in whatever
//! session they hide. It has one thread and no runtime; it waits in one `poll`.
//!
//! Invariant: it never leaves while anything of its task lives (but for a
//! process the kernel cannot kill), and never before the end is on disk. It
//! never waits for the agent.

mod pump;
mod tree;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group,
    set_child_subreaper, setsid, wait,
};

use rustix::thread::set_name;

use crate::launch::{End, Launch, StartFault, TaskId};
use crate::order::{self, Answer};
use crate::plan::Facts;
use crate::proc::ProcessMark;
use crate::record::{
    self, Claim, Existing, LAUNCH, LaunchRecord, STATE, STOP, StateRecord, StopRecord, Survives,
};
use crate::sandbox;
use crate::sys;
use crate::volume;
use pump::Pump;

/// Signals the keeper and its supervisors take from a descriptor.
pub(crate) const TAKEN: [Signal; 4] = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];

/// What `ps` calls it; fifteen bytes are shown.
const NAME: &CStr = c"starling-superv";

/// Grace of a stop that came without an order, from somebody's `kill`.
const UNORDERED_GRACE: Duration = Duration::from_secs(10);

/// Longest grace obeyed: a larger number is a mistake.
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a supervisor is forked with.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) tasks: OwnedFd,
    pub(crate) connection: OwnedFd,
    pub(crate) id: TaskId,
    pub(crate) nonce: String,
    pub(crate) boot: String,
}

#[derive(Debug)]
struct NotStarted {
    fault: StartFault,
    reason: String,
    /// Whether the launch is ours, so that its end is for us to record.
    claimed: bool,
}

impl NotStarted {
    fn system(what: &str, error: impl std::fmt::Display, claimed: bool) -> Self {
        Self { fault: StartFault::System, reason: format!("{what}: {error}"), claimed }
    }
}

/// A started task.
#[derive(Debug)]
struct Running {
    dir: OwnedFd,
    task: Pid,
    stop_signal: Signal,
    signals: OwnedFd,
    pump: Pump,
    kill_at: Option<Instant>,
}

/// Runs one task to its end; returns this process's exit status.
pub(crate) fn supervise(post: Post) -> i32 {
    let begun = claim(&post).and_then(start);
    let Post { connection, .. } = post;
    match begun {
        Ok((running, answer)) => {
            // An agent that is gone finds the state on disk.
            let _ = order::send(&connection, answer);
            drop(connection);
            running.run()
        }
        Err((dir, NotStarted { fault, reason, claimed })) => {
            let reason = order::shorten(reason);
            let mut status = 0;
            if let Some(dir) = dir.filter(|_| claimed) {
                let end = End::NotStarted { fault, reason: reason.clone() };
                status = record_end(dir.as_fd(), &end);
            }
            let _ = order::send(&connection, Answer::NotStarted { fault, reason });
            status
        }
    }
}

struct Claimed {
    dir: OwnedFd,
    launch: Launch,
    own: ProcessMark,
}

type Failure = (Option<OwnedFd>, NotStarted);

/// Makes the launch ours, unless somebody gave it up.
fn claim(post: &Post) -> Result<Claimed, Failure> {
    let early =
        |what: &str, error: &dyn std::fmt::Display| (None, NotStarted::system(what, error, false));
    let dir = order::open_below(&post.tasks, post.id.as_str())
        .map_err(|error| early("cannot open the task's directory", &error))?;
    let record = record::read::<LaunchRecord>(dir.as_fd(), LAUNCH)
        .map_err(|error| early("cannot read the launch", &error))?;
    let Some(LaunchRecord { launch, .. }) = record.filter(|record| record.nonce == post.nonce)
    else {
        return Err(early("there is no such launch", &post.id));
    };
    launch.check().map_err(|flaw| early("the launch is flawed", &flaw))?;
    let own = ProcessMark::own().map_err(|error| early("cannot read /proc", &error))?;
    let claim = Claim::Supervised { supervisor: own };
    let state = StateRecord { nonce: post.nonce.clone(), boot: post.boot.clone(), claim };
    match record::write(dir.as_fd(), STATE, &state, Existing::Kept, Survives::Processes) {
        Ok(true) => Ok(Claimed { dir, launch, own }),
        Ok(false) => {
            let reason = "the launch was given up before it came here".to_owned();
            Err((None, NotStarted { fault: StartFault::Interrupted, reason, claimed: false }))
        }
        Err(error) => Err(early("cannot claim the launch", &error)),
    }
}

fn start(claimed: Claimed) -> Result<(Running, Answer), Failure> {
    let Claimed { dir, launch, own } = claimed;
    match fork_task(&dir, &launch) {
        Ok((task, signals, mut pump)) => {
            let mark = ProcessMark::of(task).map_err(|error| error.to_string());
            let recorded = mark.and_then(|mark| {
                record::add_task(dir.as_fd(), mark).map_err(|error| error.to_string())
            });
            if let Err(error) = recorded {
                // A task that a restarted agent could not find must not run.
                tree::kill_children(&signals, &mut pump);
                let failure = NotStarted::system("cannot record the start", error, true);
                return Err((Some(dir), failure));
            }
            let pid = task.as_raw_nonzero().get().unsigned_abs();
            let answer = Answer::Started { supervisor: own, pid };
            let stop_signal = Signal::from_named_raw(launch.stop_signal).unwrap_or(Signal::TERM);
            let running = Running { dir, task, stop_signal, signals, pump, kill_at: None };
            Ok((running, answer))
        }
        Err(failure) => Err((Some(dir), failure)),
    }
}

/// Forks the task and waits until its program runs or has failed to.
fn fork_task(dir: &OwnedFd, launch: &Launch) -> Result<(Pid, OwnedFd, Pump), NotStarted> {
    let failed = |error: io::Error| NotStarted::system("cannot prepare the task", error, true);
    let errno = |error: rustix::io::Errno| failed(error.into());
    setsid().map_err(errno)?;
    set_name(NAME).map_err(errno)?;
    set_child_subreaper(Some(getpid())).map_err(errno)?;
    // A log that hits a file size limit must come back as an error.
    sys::ignore(Signal::XFSZ);
    sys::block_only(&TAKEN);
    let signals = sys::signal_fd(&TAKEN).map_err(failed)?;

    let (out, stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(errno)?;
    let (err, stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(errno)?;
    let stdin = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(errno)?;
    let log = rustix::io::fcntl_dupfd_cloexec(dir, 3).map_err(errno)?;
    let pump = Pump::new(log, out, err).map_err(failed)?;
    let volumes = order::open_below(dir, "..")
        .and_then(|tasks| order::open_below(&tasks, ".."))
        .and_then(|runtime| volume::directory(&runtime))
        .map_err(failed)?;
    let order = sandbox::Order {
        launch,
        facts: &Facts::probe(),
        id_base: launch.id_base().unwrap_or(0),
        dir: dir.as_fd(),
        volumes: Some(volumes.as_fd()),
        join: sandbox::Join::default(),
        network_of: None,
        ends: Some(sandbox::Ends { stdin, stdout, stderr }),
    };
    let no_network = &mut |_| Err("networks are not there yet".to_owned());
    let sandbox::Spawned { pid: task, .. } =
        sandbox::spawn(order, no_network).map_err(|sandbox::NotStarted { fault, reason }| {
            NotStarted { fault, reason, claimed: true }
        })?;
    Ok((task, signals, pump))
}

impl Running {
    fn run(mut self) -> i32 {
        let status = loop {
            let timeout = self.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
            self.pump.wait(&self.signals, timeout);
            let [_, stop, int, hup] = sys::take_signals(self.signals.as_fd(), TAKEN);
            if let Some(status) = self.reap() {
                break status;
            }
            if stop || int || hup {
                self.stop();
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                // Unreaped, so these numbers are still the task's. The rest of the
                // tree follows as soon as the main process is gone.
                let _ = kill_process_group(self.task, Signal::KILL);
                let _ = kill_process(self.task, Signal::KILL);
            }
        };
        let alone = tree::kill_children(&self.signals, &mut self.pump);
        self.pump.finish();
        let end = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exited { code },
            (None, Some(signal)) => End::Signalled { signal },
            (None, None) => End::Lost { reason: format!("status {:#x}", status.as_raw()) },
        };
        // A bad status makes the keeper look for what stayed.
        record_end(self.dir.as_fd(), &end).max(i32::from(!alone))
    }

    /// Takes the status of every dead child; returns the main process's.
    fn reap(&self) -> Option<WaitStatus> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.task {
                return Some(status);
            }
        }
        None
    }

    /// Obeys an order to stop. A second one can only shorten the grace.
    fn stop(&mut self) {
        let order = record::read::<StopRecord>(self.dir.as_fd(), STOP).ok().flatten();
        let grace = order.map_or(UNORDERED_GRACE, |order| Duration::from_millis(order.grace_ms));
        let until = Instant::now() + grace.min(GRACE_MAX);
        self.kill_at = Some(self.kill_at.map_or(until, |at| at.min(until)));
        let _ = kill_process_group(self.task, self.stop_signal);
        // A stopped process hears nothing until it goes on.
        let _ = kill_process_group(self.task, Signal::CONT);
    }
}

fn record_end(dir: BorrowedFd<'_>, end: &End) -> i32 {
    match record::write_end(dir, end) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("starling supervisor: cannot record {end:?}: {error:?}");
            1
        }
    }
}
