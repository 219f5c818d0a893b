//! Work of ours beside a task, with the task's rights: reading and writing its files.
//!
//! ```text
//! supervisor ──fork──▶ guide: joins groups, joins namespaces ──fork──▶ worker
//!      ▲                 └─ says the worker's number, leaves              │
//!      └──────────── becomes its parent ◀────────────────────────────────┘
//! ```
//!
//! Two forks, because a process namespace is joined by children only. The guide
//! is hidden from before it enters: what it has in memory and which file it runs is
//! nobody's business inside.
//!
//! Invariant: the worker has nothing open but its streams, and one directory of a plain
//! process, from before it looks at a path; and no power but those it is given.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::report::Failure;
use super::{Ends, NotStarted};
use crate::capability::CapabilitySet;
use crate::launch::User;
use crate::sys::clone;
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

/// Does work that is no program in the container of a process, as its root with these
/// powers; the work's result is the process's exit code.
pub(crate) fn work_inside(
    groups: &[OwnedFd],
    host: Host<'_>,
    ends: Ends,
    powers: CapabilitySet,
    work: impl FnOnce() -> i32,
) -> Result<Pid, NotStarted> {
    visit(groups, host, || {
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
    groups: &[OwnedFd],
    host: Host<'_>,
    live: impl FnOnce() -> i32,
) -> Result<Pid, NotStarted> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| cannot("make a pipe", e))?;
    let guide = match sys::fork().map_err(|error| cannot("fork", error))? {
        Fork::Parent(guide) => guide,
        Fork::Child => match guide(groups, host) {
            Ok(Fork::Child) => {
                drop(tell);
                sys::exit_now(live())
            }
            Ok(Fork::Parent(worker)) => {
                say(&tell, &worker.as_raw_nonzero().get().to_string());
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
    // Only when it is gone is the worker ours.
    let status = rustix::io::retry_on_intr(|| waitpid(Some(guide), WaitOptions::empty()));
    read.map_err(|error| cannot("hear from inside", error))?;
    let is_well = matches!(status, Ok(Some((_, status))) if status.exit_status() == Some(0));
    match text.parse().ok().and_then(Pid::from_raw).filter(|_| is_well) {
        Some(worker) => Ok(worker),
        None if text.is_empty() => Err(unheard("nobody says why")),
        None => Err(unheard(&text)),
    }
}

fn say(tell: &OwnedFd, text: &str) {
    // The supervisor may be gone, and then nobody asks.
    let _ = rustix::io::write(tell, text.as_bytes());
}

fn guide(groups: &[OwnedFd], Host { process, pid }: Host<'_>) -> Result<Fork, NotStarted> {
    for procs in groups {
        rustix::io::write(procs, b"0").map_err(|e| cannot("join its control groups", e))?;
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
        return Err(unheard("its first process has ended"));
    }
    move_into_thread_name_spaces(process.as_fd(), kinds)
        .map_err(|error| cannot("join its namespaces", error))?;
    sys::fork().map_err(|error| cannot("fork inside", error))
}

fn cannot(what: &str, error: impl Into<std::io::Error>) -> NotStarted {
    NotStarted::system(&format!("cannot {what}"), error.into())
}

fn unheard(why: &str) -> NotStarted {
    NotStarted::system("the task cannot be entered", why)
}
