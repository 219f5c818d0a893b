//! The keeper: a process with one thread that forks supervisors, and nothing more.
//!
//! It is exec'd from the agent's own program, so that there is one file to
//! install, and leaves the agent's session and tree at once. It exists because a
//! fork of the agent costs a copy of its page tables, and because the parent of
//! a task must not be a process that gets upgraded.
//!
//! It takes no orders. The supervisors that wait take them from the socket, which
//! is theirs too; the keeper sees to it that a few wait at all times, and sleeps.
//!
//! Orphans of a supervisor that died come to the keeper, which kills them: a
//! supervisor that ends well leaves none.
//!
//! It leaves when it is told to and no task runs, or when it has neither a task nor an
//! agent (see `alone`).
//!
//! Invariant: a keeper's death harms no task; it holds nothing that is not on
//! disk. It waits for nobody, but for what it kills while there is no agent.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, getpid, kill_process, set_child_subreaper, setsid, wait,
};

use rustix::thread::set_name;

use crate::adopt::Host;
use crate::alone::{Alone, LOOK_EVERY};
use crate::order::{self, LOCK, SOCKET, TASKS};
use crate::sandbox::Facts;
use crate::supervisor::{self, Post, TAKEN, WAITING, supervise};
use crate::sys::{self, Fork, Seat, Seats};
use crate::{proc, removal};

/// How long a starting keeper waits for one that is about to leave.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Before the next attempt to fork, on a machine that is full.
const FORK_RETRY: Duration = Duration::from_millis(100);

/// Launches that may wait for a supervisor; beyond these the agent tries again.
const BACKLOG: i32 = 1024;

/// What `ps` calls it.
const NAME: &CStr = c"starling-keeper";

/// Exit status of a supervisor that panicked.
const PANICKED: i32 = 70;

#[derive(Debug)]
struct Keeper {
    dir: OwnedFd,
    tasks: OwnedFd,
    listener: OwnedFd,
    signals: OwnedFd,
    /// Written by supervisors when there is something to see to.
    wake: OwnedFd,
    seats: Seats,
    /// Held until the door is closed; supervisors close it at once.
    lock: File,
    host: Host,
    facts: Facts,
    /// Whether a supervisor's child can be born in a group of that.
    births: bool,
    supervisors: HashSet<Pid>,
    /// A supervisor died badly, so children that are none may come.
    orphans: bool,
    alone: Alone,
    /// Nobody can come in any more.
    closed: bool,
}

/// Becomes the keeper of `dir`: call it first thing in `main`, before any thread
/// exists, when the program is run as `keeper DIR`.
///
/// An agent may also ask it for something else, through its environment: to remove what
/// only a process without threads can; then it does that and returns.
///
/// Returns in the process that was called once the keeper, its child, takes
/// orders, or when another keeper does; and in the keeper when it leaves.
pub fn keeper_main(dir: &Path) -> ExitCode {
    keeper_main_looking_every(dir, LOOK_EVERY)
}

/// The same, of a keeper that looks that often whether it has an agent: tests have less
/// patience than a host.
pub fn keeper_main_looking_every(dir: &Path, every: Duration) -> ExitCode {
    if let Some(done) = removal::serve(dir) {
        return done;
    }
    match prepare(dir, every).and_then(|keeper| keeper.map_or(Ok(()), detach_and_serve)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain!("starling keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(dir: &Path, every: Duration) -> io::Result<Option<Keeper>> {
    sys::close_all()?;
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("keeper_main was called in a process with threads"));
    }
    let dir = order::open_directory(dir)?;
    let tasks = order::open_below(&dir, TASKS)?;
    let Some(lock) = lock(&dir)? else { return Ok(None) };
    sys::default_dispositions();
    sys::block_only(&TAKEN);
    let signals = sys::signal_fd(&TAKEN)?;
    unlink_socket(&dir)?;
    supervisor::sweep(&tasks)?;
    let tree = supervisor::tree(&dir);
    if let Some(tree) = &tree
        && let Err(error) = supervisor::sweep_slots(tree)
    {
        complain!("starling keeper: control groups of dead tasks stay: {error}");
    }
    let listener = order::socket(SocketFlags::empty())?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::net::bind(&listener, &order::address(&dir, SOCKET)?)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let alone = Alone::new(every, &dir);
    Ok(Some(Keeper {
        dir,
        tasks,
        listener,
        signals,
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        seats: Seats::set_up()?,
        lock,
        facts: Facts::probe(),
        births: tree.as_ref().is_some_and(supervisor::try_birth),
        host: Host { boot: proc::boot_id()?, tree },
        supervisors: HashSet::new(),
        orphans: false,
        alone,
        closed: false,
    }))
}

/// Removes the socket, if it is there.
pub(crate) fn unlink_socket(dir: &OwnedFd) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The keeper's lock; none if a keeper serves.
pub(crate) fn lock(dir: &OwnedFd) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::openat(dir, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(File::from(lock))),
            Err(Errno::AGAIN) if Instant::now() > until => return Ok(None),
            Err(Errno::AGAIN) => {
                // Another keeper serves, or is about to leave.
                if connects(dir)? {
                    return Ok(None);
                }
                sleep(LOCK_RETRY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn connects(dir: &OwnedFd) -> io::Result<bool> {
    let socket = order::socket(SocketFlags::NONBLOCK)?;
    Ok(rustix::net::connect(&socket, &order::address(dir, SOCKET)?).is_ok())
}

fn detach_and_serve(keeper: Keeper) -> io::Result<()> {
    match sys::fork()? {
        Fork::Parent(_) => Ok(()),
        Fork::Child => {
            setsid()?;
            chdir("/")?;
            set_name(NAME)?;
            set_child_subreaper(Some(getpid()))?;
            keeper.serve();
            Ok(())
        }
    }
}

impl Keeper {
    fn serve(mut self) {
        loop {
            let mut timeout = None;
            if !self.closed {
                let done;
                (self, done) = self.replenish();
                let retry = (!done).then_some(FORK_RETRY);
                let wait = retry.into_iter().chain(self.alone.wait()).min();
                timeout = wait.and_then(|wait| Timespec::try_from(wait).ok());
            }
            let always = [self.signals.as_fd(), self.wake.as_fd()];
            let watched = always.into_iter().chain(self.alone.ends());
            let mut watched: Vec<_> =
                watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            if poll(&mut watched, timeout.as_ref()).is_err() {
                continue;
            }
            // What it counts does not matter.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            let [_, term, int, _] = sys::take_signals(self.signals.as_fd(), TAKEN);
            self.reap();
            if term || int {
                return self.close();
            }
            self.alone.hear();
            let Self { alone, dir, tasks, host, closed, .. } = &mut self;
            let is_deserted = !*closed && alone.look(dir, tasks, host);
            // Every one that lives is seated, so none has a task.
            let is_idle = self.supervisors.len() == self.seats.taken();
            if (is_deserted || self.seats.is_leaving()) && is_idle && !self.closed {
                self.close();
            }
            if self.closed && self.supervisors.is_empty() {
                if let Some(tree) = &self.host.tree {
                    // Another keeper may have slots in it by now.
                    let _ = tree.remove_if_empty();
                }
                return;
            }
        }
    }

    /// Lets nobody in any more. Who is before the door already is served by those
    /// that wait; then they leave. The next agent to ask starts another keeper.
    fn close(&mut self) {
        let _ = unlink_socket(&self.dir);
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Read);
        let _ = flock(&self.lock, FlockOperation::Unlock);
        self.closed = true;
    }

    /// Forks until enough wait. False if that must be tried again.
    fn replenish(mut self) -> (Self, bool) {
        while self.seats.taken() < WAITING {
            let Some(seat) = self.seats.reserve() else { break };
            let done;
            (self, done) = self.fork(seat);
            if !done {
                return (self, false);
            }
        }
        (self, true)
    }

    fn fork(mut self, seat: Seat) -> (Self, bool) {
        let keeper = getpid();
        match sys::fork() {
            Ok(Fork::Parent(supervisor)) => {
                self.seats.confirm(seat, supervisor);
                self.supervisors.insert(supervisor);
                (self, true)
            }
            Ok(Fork::Child) => {
                let Self {
                    tasks,
                    listener,
                    wake,
                    seats,
                    host: Host { boot, tree },
                    facts,
                    births,
                    dir,
                    signals,
                    lock,
                    alone,
                    ..
                } = self;
                // The lock above all: it is held as long as any copy is open.
                drop((lock, signals, dir, alone));
                let listener = Some(listener);
                let post =
                    Post { tasks, listener, wake, seats, seat, keeper, boot, facts, tree, births };
                let status = catch_unwind(AssertUnwindSafe(|| supervise(post)));
                sys::exit_now(status.unwrap_or(PANICKED));
            }
            Err(error) => {
                self.seats.rise(seat);
                complain!("starling keeper: cannot fork: {error}");
                (self, false)
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.supervisors.remove(&pid) && status.exit_status() != Some(0) {
                complain!("starling keeper: supervisor {pid:?} ended with {status:?}");
                self.seats.vacate(pid);
                self.orphans = true;
                if let Err(error) = supervisor::sweep(&self.tasks) {
                    complain!("starling keeper: cannot tidy up after it: {error}");
                }
            }
        }
        if self.orphans {
            let children = proc::own_children().unwrap_or_default();
            let mut strays =
                children.into_iter().filter(|pid| !self.supervisors.contains(pid)).peekable();
            // The death of each comes back as a signal, and with it its children.
            self.orphans = strays.peek().is_some();
            for stray in strays {
                let _ = kill_process(stray, Signal::KILL);
            }
            if let Some(tree) = self.host.tree.as_ref().filter(|_| !self.orphans)
                && let Err(error) = supervisor::sweep_slots(tree)
            {
                complain!("starling keeper: a control group stays: {error}");
            }
        }
    }
}
