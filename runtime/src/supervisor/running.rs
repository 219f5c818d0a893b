//! One started task, until nothing of it is left: a single `poll` over its outputs,
//! its input, its deadline, the signals and whoever commands it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::desk::{Desk, Heard};
use super::group::Group;
use super::input::Input;
use super::kin;
use super::pump::Pump;
use super::signals::Signals;
use crate::launch::{End, Hold};
use crate::order::{self, Command, Done, Recipient, Report, shorten};
use crate::proc::ProcessMark;
use crate::sandbox::{Held, NotStarted};
use crate::sys;

/// Grace of a stop that came without an order, from somebody's `kill`.
const UNORDERED_GRACE: Duration = Duration::from_secs(10);

/// Longest grace obeyed: a larger number is a mistake.
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A task that lives longer than this may live long: what its start took of memory is
/// given back then. Most tasks that end sooner would only have it taken again.
const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// A task that ends sooner is told with one message and not two: each costs the agent a
/// wake-up, which is a good part of such a task. Nobody notices that others are told to
/// run that much later.
const TOLD_AFTER: Duration = Duration::from_millis(2);

/// What the agent knows of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// That it runs.
    Started,
    /// It could not be told.
    Failed,
}

/// The news that a task runs.
#[derive(Debug)]
pub(super) struct News<'a> {
    agent: &'a OwnedFd,
    pid: u32,
    due: Instant,
    told: Told,
}

impl<'a> News<'a> {
    pub(super) fn new(agent: &'a OwnedFd, pid: u32) -> Self {
        Self { agent, pid, due: Instant::now() + TOLD_AFTER, told: Told::Nothing }
    }

    /// How long they can wait; none if they were told.
    fn wait(&self) -> Option<Duration> {
        let waits = self.told == Told::Nothing;
        waits.then(|| self.due.saturating_duration_since(Instant::now()))
    }

    /// Tells them once they are due.
    fn tell(&mut self) {
        if self.wait() == Some(Duration::ZERO) {
            let told = order::say(self.agent, &Report::Started { pid: self.pid });
            self.told = if told.is_ok() { Told::Started } else { Told::Failed };
        }
    }
}

/// A started task.
#[derive(Debug)]
pub(super) struct Running<'a> {
    pub(super) news: News<'a>,
    pub(super) own: ProcessMark,
    pub(super) task: Pid,
    pub(super) stop_signal: Signal,
    pub(super) dir: &'a OwnedFd,
    pub(super) signals: &'a mut Signals,
    pub(super) group: &'a Group,
    /// Where orders come.
    pub(super) orders: &'a mut Option<OwnedFd>,
    pub(super) pump: Pump,
    pub(super) input: Input,
    pub(super) desk: Desk,
    pub(super) fate: Fate,
    /// By which it is let go, until it was.
    pub(super) held: Option<Held>,
}

/// What is going to happen to it, or has.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// When the grace of a stop is over.
    kill_at: Option<Instant>,
    /// Rings when its time is over, whatever the host slept.
    alarm: Option<OwnedFd>,
    /// We killed it.
    was_killed: bool,
    /// That, because its time was over.
    is_expired: bool,
    is_paused: bool,
    /// It has lived for a while.
    is_settled: bool,
    /// It was held, and its program could not be run.
    not_started: Option<NotStarted>,
}

/// What is left to tell.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) end: End,
    pub(super) news: Told,
    /// Nothing is left of it.
    pub(super) is_gone: bool,
}

/// What a wait may wake for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Output,
    Input,
    Alarm,
    Door,
    Client(usize),
}

impl Fate {
    pub(super) fn new(deadline_boot_ns: Option<u64>) -> Self {
        let alarm = deadline_boot_ns.and_then(alarm);
        Self { alarm, ..Self::default() }
    }
}

/// A descriptor that is readable from a moment of `CLOCK_BOOTTIME` on.
fn alarm(boot_ns: u64) -> Option<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let alarm = timerfd_create(TimerfdClockId::Boottime, flags).ok()?;
    // Zero would disarm it.
    let at = Timespec::try_from(Duration::from_nanos(boot_ns.max(1))).ok()?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
    timerfd_settime(&alarm, TimerfdTimerFlags::ABSTIME, &once).ok()?;
    Some(alarm)
}

impl Running<'_> {
    /// Returns when the main process is dead and all the rest with it.
    pub(super) fn run(mut self) -> Ran {
        let status = loop {
            self.turn();
            if let Some(status) = self.reap() {
                break status;
            }
            self.news.tell();
            if self.fate.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.fate.kill_at = None;
                self.kill();
            }
        };
        // Somebody may have killed it while it was paused, and the group serves the next one.
        let _ = self.thaw();
        let is_gone = kin::kill_children(self.signals, &mut self.pump, self.group);
        self.pump.finish();
        Ran { end: self.end(status), news: self.news.told, is_gone }
    }

    fn end(&self, status: WaitStatus) -> End {
        if let Some(NotStarted { fault, reason }) = &self.fate.not_started {
            return End::NotStarted { fault: *fault, reason: shorten(reason.clone()) };
        }
        let killed = status.terminating_signal() == Some(Signal::KILL.as_raw());
        match (status.exit_status(), status.terminating_signal()) {
            _ if killed && self.fate.is_expired => End::Expired,
            _ if killed && !self.fate.was_killed && self.group.ran_out_of_memory() => {
                End::OutOfMemory
            }
            (Some(code), _) => End::Exited { code },
            (None, Some(signal)) => End::Signalled { signal },
            (None, None) => End::Lost { reason: format!("status {:#x}", status.as_raw()) },
        }
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

    /// Waits for something and deals with all that is there.
    fn turn(&mut self) {
        let sources = self.wait();
        if sources.is_empty() && self.news.wait().is_none() && !self.fate.is_settled {
            self.fate.is_settled = true;
            sys::give_memory_back();
        }
        for source in sources {
            match source {
                Source::Signals => {
                    if self.signals.take() {
                        self.stop(UNORDERED_GRACE);
                    }
                    if std::mem::take(&mut self.signals.knocked)
                        && let Err(error) = self.desk.open(self.dir)
                    {
                        complain!("starling supervisor: cannot take commands: {error}");
                    }
                    if self.signals.orphaned {
                        // As long as it is open, agents believe that somebody waits.
                        *self.orders = None;
                    }
                }
                Source::Output => self.pump.turn(),
                Source::Input => self.hear_rest(),
                Source::Alarm => self.expire(),
                Source::Door => self.desk.admit(),
                Source::Client(at) => self.listen(at),
            }
        }
    }

    fn wait(&self) -> Vec<Source> {
        let timeout = self.fate.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        let settles = (!self.fate.is_settled).then_some(SETTLED_AFTER);
        let timeout = timeout.into_iter().chain(settles).chain(self.news.wait()).min();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let (is, takes) = (PollFlags::IN, PollFlags::OUT);
        let outputs = self.pump.outputs().map(|fd| (Source::Output, fd, is));
        let input = self.input.blocked_on().map(|fd| (Source::Input, fd, takes));
        let alarm = self.fate.alarm.as_ref().map(|fd| (Source::Alarm, fd.as_fd(), is));
        let door = self.desk.door().map(|fd| (Source::Door, fd, is));
        let clients = self.desk.clients(self.input.has_room());
        let mut watch: Vec<_> = [(Source::Signals, self.signals.fd().as_fd(), is)].into();
        watch.extend(outputs.chain(input).chain(alarm).chain(door));
        let fixed = watch.len();
        watch.extend(clients.map(|(at, fd)| (Source::Client(at), fd, is)));
        // Those behind a dismissed one move up, so the last comes first.
        if let Some(clients) = watch.get_mut(fixed..) {
            clients.reverse();
        }
        let polled = watch.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags));
        let mut watched: Vec<_> = polled.collect();
        if poll(&mut watched, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = watched.iter().zip(&watch).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, (source, ..))| *source).collect()
    }

    /// Goes on with what was typed faster than the task read.
    fn hear_rest(&mut self) {
        self.input.turn();
        for at in self.desk.unheard() {
            if self.input.has_room() {
                self.listen(at);
            }
        }
    }

    /// Hears one client out, as far as the task takes what it types.
    fn listen(&mut self, at: usize) {
        let mut heard = match self.desk.next(at) {
            Heard::Nothing => self.desk.hear(at),
            more => more,
        };
        loop {
            match heard {
                Heard::Nothing => return,
                Heard::Gone => return self.desk.dismiss(at),
                Heard::Typed(typed) => {
                    self.input.take(typed);
                    if !self.input.has_room() {
                        return;
                    }
                }
                Heard::Command(command) => {
                    let is_attach = command == Command::Attach;
                    let done = match self.obey(command) {
                        Ok(()) if self.held.is_some() => Done::Held,
                        Ok(()) => Done::Obeyed,
                        Err(reason) => Done::Refused { reason: shorten(reason) },
                    };
                    if is_attach && !matches!(done, Done::Refused { .. }) {
                        self.desk.attach(at);
                    }
                    self.desk.answer(at, &done);
                }
            }
            heard = self.desk.next(at);
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Stop { grace_ms } => self.stop(Duration::from_millis(grace_ms)),
            Command::Signal { signal, to } => {
                let signal = Signal::from_named_raw(signal).ok_or("no such signal")?;
                self.fate.was_killed |= signal == Signal::KILL;
                match to {
                    Recipient::Main => {
                        kill_process(self.task, signal).map_err(|e| e.to_string())?
                    }
                    Recipient::All => {
                        kin::signal_all(self.own, signal).map_err(|e| e.to_string())?;
                    }
                }
            }
            Command::Deadline { boot_ns: None } => self.fate.alarm = None,
            Command::Deadline { boot_ns: Some(at) } => {
                self.fate.alarm = Some(alarm(at).ok_or("no timer to be had")?);
            }
            Command::Pause => {
                self.group.freeze(true).map_err(|error| error.to_string())?;
                self.fate.is_paused = true;
            }
            Command::Resume => self.thaw()?,
            Command::Start => self.start()?,
            Command::AskHeld => {}
            Command::Attach if self.input.is_open() => {}
            Command::Attach => return Err("its standard input is not open".to_owned()),
        }
        Ok(())
    }

    /// Lets a held task go on.
    fn start(&mut self) -> Result<(), String> {
        let held = self.held.take().ok_or("it is not held: it was started already")?;
        if self.fate.is_paused {
            self.held = Some(held);
            return Err("it is paused; let it go on first".to_owned());
        }
        match held.release() {
            Ok(Hold::Released) => Ok(()),
            Ok(Hold::Held) => {
                self.held = Some(held);
                Ok(())
            }
            Err(not_started) => {
                let reason = not_started.reason.clone();
                self.fate.not_started = Some(not_started);
                Err(reason)
            }
        }
    }

    /// Obeys an order to stop. A second one can only shorten the grace.
    fn stop(&mut self, grace: Duration) {
        if self.held.is_some() {
            // There is no program yet that could end by itself.
            return self.kill();
        }
        let until = Instant::now() + grace.min(GRACE_MAX);
        self.fate.kill_at = Some(self.fate.kill_at.map_or(until, |at| at.min(until)));
        let _ = kill_process_group(self.task, self.stop_signal);
        // A stopped process hears nothing until it goes on, nor does a frozen one.
        let _ = kill_process_group(self.task, Signal::CONT);
        let _ = self.thaw();
    }

    fn thaw(&mut self) -> Result<(), String> {
        if self.fate.is_paused {
            self.group.freeze(false).map_err(|error| error.to_string())?;
            self.fate.is_paused = false;
        }
        Ok(())
    }

    fn expire(&mut self) {
        self.fate.alarm = None;
        self.fate.is_expired = true;
        self.kill();
    }

    fn kill(&mut self) {
        self.fate.was_killed = true;
        // Unreaped, so these numbers are still the task's. The rest of the tree
        // follows as soon as the main process is gone.
        let _ = kill_process_group(self.task, Signal::KILL);
        let _ = kill_process(self.task, Signal::KILL);
        self.group.kill();
        let _ = self.thaw();
    }
}
