//! Entering a container that runs: with its namespaces, groups, user, powers and
//! filters, so that what enters can do what the container's program can, and no more.
//!
//! ```text
//! supervisor ──fork──▶ guide: joins groups, joins namespaces ──fork──▶ visitor: steps, exec
//!      ▲                 └─ says the visitor's number, leaves            │
//!      └──────────── becomes its parent ◀───────────────────────────────┘
//! ```
//!
//! Two forks, because a process namespace is joined by children only. The guide
//! is hidden from before it enters: what it has in memory and which file it runs is
//! nobody's business inside, until its program replaces both.
//!
//! Invariant: the visitor has nothing open but its streams and what it reports on,
//! from before it looks at a path inside.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::chamber::Chamber;
use super::report::{self, Failure, Outcome};
use super::{Ends, NotStarted, Order, Spawned, rlimit};
use crate::capability::CapabilitySet;
use crate::launch::{Rlimit, User};
use crate::plan::{self, Plan};
use crate::sys::clone::{self, Birth};
use crate::sys::{self, Fork};

/// A running process, and what its namespaces are joined by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host<'a> {
    /// A handle to it.
    pub(crate) process: &'a OwnedFd,
    /// Its number, which the handle keeps.
    pub(crate) pid: i32,
}

/// Longest message of a guide.
const MESSAGE_BYTES: u64 = 1 << 10;

/// Kinds of namespaces by the kernel's name for them.
const KINDS: [(&str, ThreadNameSpaceType); 8] = [
    ("user", ThreadNameSpaceType::USER),
    ("mnt", ThreadNameSpaceType::MOUNT),
    ("pid", ThreadNameSpaceType::PROCESS_ID),
    ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
    ("net", ThreadNameSpaceType::NETWORK),
    ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
    ("time", ThreadNameSpaceType::TIME),
];

/// Runs a launch's program in the container of a process; of the launch's container
/// only what is about the program counts.
pub(crate) fn enter(order: Order<'_>, host: Host<'_>) -> Result<Spawned, NotStarted> {
    // Ids are the running container's; a launch must have some to be planned.
    let plan = plan::plan(order.launch, order.facts, order.id_base)?;
    let (socket, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| cannot("make a socket", error))?;
    let chamber = Chamber::new(&plan, &order, Vec::new(), theirs, Birth::Outside);
    // Consumed here too, so that our copy of its socket is closed.
    let pid = visit(order.join.procs, &order.launch.rlimits, host, || chamber.visit())?;
    outcome(&plan, &socket, pid)
}

fn outcome(plan: &Plan, socket: &OwnedFd, pid: Pid) -> Result<Spawned, NotStarted> {
    match report::receive(socket) {
        Ok(Outcome::Runs(terminal)) => Ok(Spawned { pid, terminal, mounts: None }),
        Ok(Outcome::Failed(at, failure)) => {
            end(pid);
            Err(report::in_words(plan, at, &failure))
        }
        Err(error) => {
            end(pid);
            Err(cannot("hear what became of it", error))
        }
    }
}

/// Does work that is no program in the container of a process, as its root with these
/// powers; the work's result is the process's exit code.
pub(crate) fn work_inside(
    groups: &[OwnedFd],
    host: Host<'_>,
    ends: Ends,
    powers: CapabilitySet,
    work: impl FnOnce() -> i32,
) -> Result<Pid, NotStarted> {
    let groups: Vec<_> = groups.iter().map(AsFd::as_fd).collect();
    visit(&groups, &[], host, || {
        let settled = settle(&ends, powers);
        if settled.is_ok() { work() } else { NOT_SETTLED }
    })
}

/// Does work beside a plain process, as its user, with nothing but a directory of the
/// task's open.
pub(crate) fn work_outside(
    groups: &[OwnedFd],
    ends: Ends,
    user: Option<User>,
    dir: OwnedFd,
    work: impl FnOnce(BorrowedFd<'_>) -> i32,
) -> Result<Pid, NotStarted> {
    match sys::fork().map_err(|error| cannot("fork", error))? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let settled = settle_outside(groups, &ends, user, dir.as_fd());
            sys::exit_now(if settled.is_ok() { work(dir.as_fd()) } else { NOT_SETTLED })
        }
    }
}

fn settle_outside(
    groups: &[OwnedFd],
    ends: &Ends,
    user: Option<User>,
    dir: BorrowedFd<'_>,
) -> Result<(), Failure> {
    groups.iter().try_for_each(|procs| rustix::io::write(procs, b"0").map(drop))?;
    super::chamber::begin_session()?;
    if let Some(User { uid, gid }) = user {
        sys::capability::become_user_with(uid, gid, &[], CapabilitySet::EMPTY)?;
    }
    clone::hide_memory()?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::stdio::dup2_stdin(&ends.stdin)?;
    rustix::stdio::dup2_stdout(&ends.stdout)?;
    rustix::stdio::dup2_stderr(&ends.stderr)?;
    Ok(sys::close_all_but(&[dir.as_raw_fd()])?)
}

/// Exit code of work that could not begin.
const NOT_SETTLED: i32 = 125;

fn settle(ends: &Ends, powers: CapabilitySet) -> Result<(), Failure> {
    super::chamber::begin_session()?;
    super::chamber::be_root()?;
    let powers = powers.intersection(sys::capability::own()?);
    sys::capability::become_user_with(0, 0, &[], powers)?;
    // A change of user may have shown it again.
    clone::hide_memory()?;
    rustix::thread::set_no_new_privs(true)?;
    take(ends)
}

/// Makes these the standard streams, and closes all else.
fn take(ends: &Ends) -> Result<(), Failure> {
    rustix::stdio::dup2_stdin(&ends.stdin)?;
    rustix::stdio::dup2_stdout(&ends.stdout)?;
    rustix::stdio::dup2_stderr(&ends.stderr)?;
    Ok(sys::close_all_but(&[])?)
}

/// Makes a process inside that lives as it is told, and ends with what comes of that;
/// it becomes this one's child.
fn visit(
    groups: &[BorrowedFd<'_>],
    limits: &[Rlimit],
    host: Host<'_>,
    live: impl FnOnce() -> i32,
) -> Result<Pid, NotStarted> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| cannot("make a pipe", e))?;
    let guide = match sys::fork().map_err(|error| cannot("fork", error))? {
        Fork::Parent(guide) => guide,
        Fork::Child => match guide(groups, limits, host) {
            Ok(Fork::Child) => {
                drop(tell);
                sys::exit_now(live())
            }
            Ok(Fork::Parent(visitor)) => {
                say(&tell, &visitor.as_raw_nonzero().get().to_string());
                sys::exit_now(0)
            }
            Err(NotStarted { reason, .. }) => {
                say(&tell, &reason);
                sys::exit_now(1)
            }
        },
    };
    drop(tell);
    let mut text = String::new();
    let read = std::fs::File::from(told).take(MESSAGE_BYTES).read_to_string(&mut text);
    // Only when it is gone is the visitor ours.
    let status = rustix::io::retry_on_intr(|| waitpid(Some(guide), WaitOptions::empty()));
    read.map_err(|error| cannot("hear from inside", error))?;
    let is_well = matches!(status, Ok(Some((_, status))) if status.exit_status() == Some(0));
    match text.parse().ok().and_then(Pid::from_raw).filter(|_| is_well) {
        Some(visitor) => Ok(visitor),
        None if text.is_empty() => Err(NotStarted::system("the task cannot be entered")),
        None => Err(NotStarted::system(text)),
    }
}

fn say(tell: &OwnedFd, text: &str) {
    // The supervisor may be gone, and then nobody asks.
    let _ = rustix::io::write(tell, text.as_bytes());
}

fn guide(
    groups: &[BorrowedFd<'_>],
    limits: &[Rlimit],
    Host { process, pid }: Host<'_>,
) -> Result<Fork, NotStarted> {
    for procs in groups {
        rustix::io::write(procs, b"0").map_err(|e| cannot("join its control groups", e))?;
    }
    for limit in limits {
        let raised = rlimit::raise(getpid(), limit);
        raised.map_err(|error| cannot(&format!("raise the limit {}", limit.name), error))?;
    }
    clone::hide_memory().map_err(|error| cannot("hide its memory", error))?;
    let mut kinds = ThreadNameSpaceType::empty();
    for (name, kind) in KINDS {
        let space = |of: &str| rustix::fs::readlink(format!("/proc/{of}/ns/{name}"), Vec::new());
        // A kernel without one kind has no such file for either.
        if let (Ok(theirs), Ok(ours)) = (space(&pid.to_string()), space("self"))
            && theirs != ours
        {
            kinds |= kind;
        }
    }
    if kinds.is_empty() {
        return Err(NotStarted::system("its first process has ended"));
    }
    move_into_thread_name_spaces(process.as_fd(), kinds)
        .map_err(|error| cannot("join its namespaces", error))?;
    sys::fork().map_err(|error| cannot("fork inside", error))
}

fn cannot(what: &str, error: impl Into<std::io::Error>) -> NotStarted {
    NotStarted::system(format!("cannot {what}: {}", error.into()))
}

/// Leaves nothing of a process that will not run its program.
fn end(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
}
