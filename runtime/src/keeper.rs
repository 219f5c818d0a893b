//! The keeper: a process with one thread that forks supervisors, and nothing more.
//!
//! It is exec'd from the agent's own program, so that there is one file to
//! install, and leaves the agent's session and tree at once. It exists because a
//! fork of the agent costs a copy of its page tables, and because the parent of
//! a task must not be a process that gets upgraded.
//!
//! Orphans of a supervisor that died come to the keeper, which kills them: a
//! supervisor that ends well leaves none.
//!
//! Invariant: a keeper's death harms no task; it holds nothing that is not on
//! disk. It never waits for an agent longer than [`ORDER_PATIENCE`].

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

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, sockopt};
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, geteuid, getpid, kill_process, set_child_subreaper, setsid,
    wait,
};

use rustix::thread::set_name;

use crate::launch::{StartFault, TaskId};
use crate::order::{self, Answer, LOCK, MESSAGE_BYTES, Order, SOCKET, TASKS};
use crate::proc;
use crate::supervisor::{Post, TAKEN, supervise};
use crate::sys::{self, Fork};

/// How long a connection may take to give its order.
const ORDER_PATIENCE: Duration = Duration::from_secs(1);

/// How long a starting keeper waits for one that is about to leave.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Launches that may wait for the keeper; beyond these the agent tries again.
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
    /// Held for the life of this process; supervisors close it at once.
    _lock: File,
    boot: String,
    supervisors: HashSet<Pid>,
    /// A supervisor died badly, so children that are none may come.
    orphans: bool,
    leaving: bool,
}

/// Becomes the keeper of `dir`: call it first thing in `main`, before any thread
/// exists, when the program is run as `keeper DIR`.
///
/// Returns in the process that was called once the keeper, its child, takes
/// orders, or when another keeper does; and in the keeper when it leaves.
pub fn keeper_main(dir: &Path) -> ExitCode {
    match prepare(dir).and_then(|keeper| keeper.map_or(Ok(()), detach_and_serve)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("starling keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(dir: &Path) -> io::Result<Option<Keeper>> {
    sys::close_all()?;
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("keeper_main was called in a process with threads"));
    }
    let dir = order::open_directory(dir)?;
    let tasks = order::open_below(&dir, TASKS)?;
    let Some(lock) = lock(&dir)? else { return Ok(None) };
    sys::block_only(&TAKEN);
    let signals = sys::signal_fd(&TAKEN)?;
    match rustix::fs::unlinkat(&dir, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let listener = order::socket(SocketFlags::NONBLOCK)?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::net::bind(&listener, &order::address(&dir)?)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let supervisors = HashSet::new();
    let boot = proc::boot_id()?;
    Ok(Some(Keeper {
        dir,
        tasks,
        listener,
        signals,
        _lock: lock,
        boot,
        supervisors,
        orphans: false,
        leaving: false,
    }))
}

fn lock(dir: &OwnedFd) -> io::Result<Option<File>> {
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
    Ok(rustix::net::connect(&socket, &order::address(dir)?).is_ok())
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
        while !(self.leaving && self.supervisors.is_empty()) {
            let mut watched = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            if poll(&mut watched, None).is_err() {
                continue;
            }
            let [_, term, int, _] = sys::take_signals(self.signals.as_fd(), TAKEN);
            self.reap();
            if term || int {
                break;
            }
            self = self.accept_all();
        }
        // Whoever connected in time is served; the next one starts a new keeper.
        let _ = rustix::fs::unlinkat(&self.dir, SOCKET, AtFlags::empty());
        self.accept_all();
    }

    fn accept_all(mut self) -> Self {
        loop {
            let connection = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(connection) => connection,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return self,
                Err(error) => {
                    eprintln!("starling keeper: cannot accept: {error}");
                    sleep(LOCK_RETRY);
                    return self;
                }
            };
            match take_order(&connection) {
                Ok(Order::Launch { id, nonce }) => self = self.launch(connection, id, nonce),
                Ok(Order::Leave) => self.leaving = true,
                Err(error) => {
                    eprintln!("starling keeper: a bad order: {error}");
                    let reason = order::shorten(error.to_string());
                    let answer = Answer::NotStarted { fault: StartFault::Interrupted, reason };
                    let _ = order::send(&connection, answer);
                }
            }
        }
    }

    fn launch(mut self, connection: OwnedFd, id: TaskId, nonce: String) -> Self {
        self.leaving = false;
        match sys::fork() {
            Ok(Fork::Parent(supervisor)) => {
                self.supervisors.insert(supervisor);
                self
            }
            Ok(Fork::Child) => {
                let Self { tasks, boot, dir, listener, signals, _lock, .. } = self;
                // The lock above all: it is held as long as any copy is open.
                drop((_lock, listener, signals, dir));
                let post = Post { tasks, connection, id, nonce, boot };
                let status = catch_unwind(AssertUnwindSafe(|| supervise(post)));
                sys::exit_now(status.unwrap_or(PANICKED));
            }
            Err(error) => {
                // The agent finds the launch unclaimed and gives it up.
                eprintln!("starling keeper: cannot fork for {id}: {error}");
                self
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.supervisors.remove(&pid) && status.exit_status() != Some(0) {
                eprintln!("starling keeper: supervisor {pid:?} ended with {status:?}");
                self.orphans = true;
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
        }
    }
}

fn take_order(connection: &OwnedFd) -> io::Result<Order> {
    let uid = sockopt::socket_peercred(connection)?.uid;
    if !uid.is_root() && uid != geteuid() {
        return Err(io::Error::other(format!("from user {uid:?}")));
    }
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Recv, Some(ORDER_PATIENCE))?;
    let mut text = vec![0; MESSAGE_BYTES];
    let (length, _) = rustix::net::recv(connection, text.as_mut_slice(), RecvFlags::empty())?;
    if length == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    order::parse(text.get(..length).unwrap_or_default())
}
