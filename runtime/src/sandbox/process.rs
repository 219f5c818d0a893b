//! Plain processes: few steps, on the supervisor's memory until the exec.
//!
//! All that needs memory is made before; between clone and exec there are only
//! system calls, and what went wrong is written where the supervisor finds it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, WaitOptions, chdir, fchdir, setsid, umask, waitpid};
use rustix::thread::{
    Gid, Uid, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::program::Program;
use super::report::{self, Failure, Outcome};
use super::terminal::{self, Terminal};
use super::{Ends, NotStarted, Order, Spawned, rlimit};
use crate::landlock::Fence;
use crate::launch::User;
use crate::plan::{Plan, Step};
use crate::sys::clone;
use crate::sys::{self, Fork};

/// A step in the form that needs no memory.
enum Act {
    JoinGroups,
    Session,
    Control,
    Streams,
    Scratch(OwnedFd),
    Directory(std::ffi::CString),
    Limit(Resource, u64, u64),
    Become(User),
    NoNewPrivileges,
    Hide(Fence),
    Execute(Program),
}

pub(super) fn spawn(plan: &Plan, order: Order<'_>) -> Result<Spawned, NotStarted> {
    let failed = |at: usize, failure: Failure| report::in_words(plan, at, &failure);
    let mut terminal = None;
    let mut acts = Vec::new();
    for (at, step) in plan.steps().iter().enumerate() {
        if step.is_supervisors() {
            continue;
        }
        let act = prepare(step, &order, &mut terminal).map_err(|failure| failed(at, failure))?;
        acts.push((at, act));
    }
    let (task_end, ours) = terminal.map_or((None, None), |(task, ours)| (Some(task), Some(ours)));
    if task_end.is_none() && order.ends.is_none() {
        return Err(NotStarted::system("it was given no standard streams"));
    }
    let child = Child { order: &order, terminal: task_end.as_ref(), acts: &acts };
    let mut result = (0, Errno::NOSYS);
    let spawned = clone::spawn_sharing(order.join.into, || {
        result = child.become_task(order.join.into.is_none());
        127
    });
    // Written by the child on this memory, unless it executed its program.
    let failure = std::hint::black_box(result);
    match spawned {
        Ok(pid) if failure == (0, Errno::NOSYS) => {
            Ok(Spawned { pid, terminal: ours, mounts: None })
        }
        Ok(pid) => {
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
            let (at, error) = failure;
            Err(failed(at, error.into()))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => child.fork(ours, plan),
        Err(error) => Err(failed(0, error.into())),
    }
}

fn prepare(
    step: &Step,
    order: &Order<'_>,
    terminal: &mut Option<(Terminal, OwnedFd)>,
) -> Result<Act, Failure> {
    let zero = || Failure::because("it holds a zero byte");
    Ok(match step {
        Step::JoinGroups => Act::JoinGroups,
        Step::Session => Act::Session,
        Step::Terminal { rows, columns } => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let terminals = rustix::fs::open(c"/dev/pts", flags, Mode::empty())?;
            let opened = terminal::open(terminals.as_fd(), *rows, *columns)?;
            if let Some(user) = order.launch.user() {
                opened.0.give_to(user.uid)?;
            }
            *terminal = Some(opened);
            Act::Control
        }
        Step::Streams => Act::Streams,
        Step::Scratch => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Act::Scratch(rustix::fs::openat(
                order.dir,
                crate::record::SCRATCH,
                flags,
                Mode::empty(),
            )?)
        }
        Step::Directory(path) => {
            let path = path.to_str().and_then(|path| std::ffi::CString::new(path).ok());
            Act::Directory(path.ok_or_else(zero)?)
        }
        Step::Limit(limit) => {
            let resource = rlimit::resource(&limit.name).ok_or(Errno::INVAL)?;
            Act::Limit(resource, limit.soft, limit.hard)
        }
        Step::Become(user) => Act::Become(*user),
        Step::NoNewPrivileges => Act::NoNewPrivileges,
        Step::Hide(paths) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let scratch =
                rustix::fs::openat(order.dir, crate::record::SCRATCH, flags, Mode::empty())?;
            let paths: Vec<_> = paths.iter().map(std::path::PathBuf::as_path).collect();
            let fence = Fence::around(&paths)
                .and_then(|fence| fence.admit(scratch.as_fd()).map(|()| fence))
                .map_err(|error| Failure::because(error.to_string()))?;
            Act::Hide(fence)
        }
        Step::Execute(_) => {
            let program = Program::new(&order.launch.argv, &order.launch.env);
            Act::Execute(program.ok_or_else(zero)?)
        }
        _ => return Err(Failure::because("this is not for a plain process")),
    })
}

struct Child<'a> {
    order: &'a Order<'a>,
    terminal: Option<&'a Terminal>,
    acts: &'a [(usize, Act)],
}

impl Child<'_> {
    /// Turns this process into the task; returns only with the step that failed.
    fn become_task(&self, joined: bool) -> (usize, Errno) {
        for (at, act) in self.acts {
            if let Err(error) = self.perform(act, joined) {
                return (*at, error);
            }
        }
        (0, Errno::INVAL)
    }

    fn perform(&self, act: &Act, joined: bool) -> Result<(), Errno> {
        match act {
            Act::JoinGroups => join_groups(self.order, joined),
            Act::Session => {
                // Its own session, hence its own group, which it cannot leave.
                setsid()?;
                sys::default_dispositions();
                umask(Mode::WGRP | Mode::WOTH);
                // The session's keyring is the supervisor's, and every other task's.
                let _ = clone::own_keyring();
                Ok(())
            }
            Act::Control => self.terminal.map_or(Ok(()), Terminal::control),
            Act::Streams => {
                take_streams(self.terminal, self.order.ends.as_ref())?;
                sys::close_all_on_exec().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            }
            Act::Scratch(scratch) => fchdir(scratch),
            Act::Directory(path) => chdir(path),
            Act::Limit(resource, soft, hard) => rlimit::set(*resource, *soft, *hard),
            Act::Become(user) => become_user(*user),
            Act::NoNewPrivileges => set_no_new_privs(true),
            Act::Hide(fence) => fence.restrict(),
            Act::Execute(program) => {
                sys::block_only(&[]);
                Err(program.execute())
            }
        }
    }

    /// The long way, for kernels without the short one.
    fn fork(&self, ours: Option<OwnedFd>, plan: &Plan) -> Result<Spawned, NotStarted> {
        let system = |error: std::io::Error| NotStarted::system(format!("cannot fork: {error}"));
        let (reported, report) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| system(error.into()))?;
        let pid = match sys::fork().map_err(system)? {
            Fork::Child => {
                let (at, error) = self.become_task(false);
                report::send_failure(report.as_fd(), at, &error.into());
                sys::exit_now(127)
            }
            Fork::Parent(pid) => pid,
        };
        drop(report);
        match report::receive(&reported).map_err(|error| system(error.into()))? {
            Outcome::Runs(_) => Ok(Spawned { pid, terminal: ours, mounts: None }),
            Outcome::Failed(at, failure) => {
                let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
                Err(report::in_words(plan, at, &failure))
            }
        }
    }
}

/// `joined` says that there is no group of version 2 to join by hand.
fn join_groups(order: &Order<'_>, joined: bool) -> Result<(), Errno> {
    if let Some(group) = order.join.into.filter(|_| !joined) {
        join_by_hand(group)?;
    }
    for procs in order.join.procs {
        rustix::io::write(procs, b"0")?;
    }
    Ok(())
}

fn join_by_hand(group: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = rustix::fs::openat(group, c"cgroup.procs", flags, Mode::empty())?;
    rustix::io::write(&procs, b"0").map(drop)
}

fn take_streams(terminal: Option<&Terminal>, ends: Option<&Ends>) -> Result<(), Errno> {
    match (terminal, ends) {
        (Some(terminal), _) => terminal.become_streams(),
        (None, Some(ends)) => {
            rustix::stdio::dup2_stdin(&ends.stdin)?;
            rustix::stdio::dup2_stdout(&ends.stdout)?;
            rustix::stdio::dup2_stderr(&ends.stderr)
        }
        (None, None) => Err(Errno::BADF),
    }
}

fn become_user(user: User) -> Result<(), Errno> {
    // -1 means "leave as it is" to the kernel; nobody may ask for that.
    if user.uid == u32::MAX || user.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
