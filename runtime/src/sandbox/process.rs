//! Plain processes: few steps, on the supervisor's memory until the exec.
//!
//! All that needs memory is made before; between clone and exec there are only
//! system calls, and what went wrong is written where the supervisor finds it.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Resource, WaitOptions, chdir, fchdir, ioctl_tiocsctty, setsid, umask, waitpid,
};
use rustix::thread::{
    Gid, Uid, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::program::Program;
use super::report::{self, Failure};
use super::veil::Veil;
use super::{IGNORED, NotStarted, Order, Spawned, rlimit};
use crate::landlock::{Fence, FenceError};
use crate::launch::User;
use crate::order::open_below;
use crate::plan::{Namespaces, Plan, Step};
use crate::record::SCRATCH;
use crate::sys;
use crate::sys::clone::{self, Birth};

/// A step in the form that needs no memory.
enum Act {
    JoinGroups,
    Session,
    TakeTerminal,
    Streams,
    Scratch(OwnedFd),
    /// Hides, and enters the scratch directory: the handle to it from before leads out.
    Veil(Veil),
    Directory(CString),
    Limit(Resource, u64, u64),
    Score(String),
    Become(User),
    NoNewPrivileges,
    Hide(Fence),
    Execute(Program),
}

pub(super) fn spawn(plan: &Plan, order: Order<'_>) -> Result<Spawned, NotStarted> {
    let failed = |at: usize, failure: Failure| report::in_words(plan, at, &failure);
    let mut acts = Vec::new();
    for (at, step) in plan.steps().iter().enumerate().filter(|(_, s)| !s.is_supervisors()) {
        acts.push((at, prepare(step, &order).map_err(|failure| failed(at, failure))?));
    }
    // Written by the child, on this memory, if it does not come to its program.
    let mut failure = None;
    let birth = if order.birthplace().is_some() { Birth::InGroup } else { Birth::Outside };
    let namespaces = namespaces(plan);
    let spawned = clone::spawn_sharing(order.birthplace(), namespaces.bits(), || {
        failure = Some(become_task(&order, &acts, birth));
        127
    });
    let lacking = [libc::ENOSYS, libc::E2BIG].map(Some);
    let spawned = match spawned {
        Err(error) if lacking.contains(&error.raw_os_error()) && namespaces == Namespaces::NONE => {
            sys::vfork(&mut || failure = Some(become_task(&order, &acts, Birth::Outside)))
        }
        spawned => spawned,
    };
    let pid = spawned.map_err(|error| failed(0, error.into()))?;
    match failure {
        None => Ok(Spawned::of(pid)),
        Some((at, error)) => {
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
            Err(failed(at, error.into()))
        }
    }
}

fn namespaces(plan: &Plan) -> Namespaces {
    let made = plan.steps().iter().find_map(|step| match step {
        Step::Clone(namespaces) => Some(*namespaces),
        _ => None,
    });
    made.unwrap_or(Namespaces::NONE)
}

fn prepare(step: &Step, order: &Order<'_>) -> Result<Act, Failure> {
    let zero = || Failure::because("it holds a zero byte");
    Ok(match step {
        Step::JoinGroups => Act::JoinGroups,
        Step::Session => Act::Session,
        Step::TakeTerminal => Act::TakeTerminal,
        Step::Streams => Act::Streams,
        Step::Scratch => Act::Scratch(open_below(order.dir, SCRATCH)?),
        Step::Veil(paths) => Act::Veil(Veil::new(paths, order.dir)?),
        Step::Directory(path) => {
            let path = path.to_str().and_then(|path| CString::new(path).ok());
            Act::Directory(path.ok_or_else(zero)?)
        }
        Step::Limit(limit) => {
            let resource = rlimit::resource(&limit.name).ok_or(Errno::INVAL)?;
            Act::Limit(resource, limit.soft, limit.hard)
        }
        Step::Score(score) => Act::Score(score.to_string()),
        Step::Become(user) => Act::Become(*user),
        Step::NoNewPrivileges => Act::NoNewPrivileges,
        Step::Apart => Act::Hide(Fence::around(&[]).map_err(unfenced)?),
        Step::Hide(paths) => {
            let scratch = open_below(order.dir, SCRATCH)?;
            let paths: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
            let fence = Fence::around(&paths)
                .and_then(|fence| fence.admit(scratch.as_fd()).map(|()| fence))
                .map_err(unfenced)?;
            Act::Hide(fence)
        }
        Step::Execute(_) => {
            let program = Program::new(&order.launch.argv, &order.launch.env);
            Act::Execute(program.ok_or_else(zero)?)
        }
        _ => return Err(Failure::because("this is not for a plain process")),
    })
}

fn unfenced(error: FenceError) -> Failure {
    Failure::because(error.to_string())
}

/// Turns this process into the task; returns only with the step that failed.
fn become_task(order: &Order<'_>, acts: &[(usize, Act)], birth: Birth) -> (usize, Errno) {
    for (at, act) in acts {
        if let Err(error) = perform(order, act, birth) {
            return (*at, error);
        }
    }
    (0, Errno::INVAL)
}

fn perform(order: &Order<'_>, act: &Act, birth: Birth) -> Result<(), Errno> {
    match act {
        Act::JoinGroups => order.join(birth),
        Act::Session => {
            // Its own session, hence its own group, which it cannot leave.
            setsid()?;
            IGNORED.into_iter().for_each(sys::heed);
            umask(Mode::WGRP | Mode::WOTH);
            // The session's keyring is the supervisor's, and every other task's. Some
            // hosts forbid keyrings.
            let _ = clone::own_keyring();
            Ok(())
        }
        Act::TakeTerminal => ioctl_tiocsctty(&order.ends.stdin),
        Act::Streams => {
            rustix::stdio::dup2_stdin(&order.ends.stdin)?;
            rustix::stdio::dup2_stdout(&order.ends.stdout)?;
            rustix::stdio::dup2_stderr(&order.ends.stderr)?;
            sys::close_all_on_exec().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        }
        Act::Scratch(scratch) => fchdir(scratch),
        Act::Veil(veil) => veil.draw().and_then(|()| chdir(veil.scratch())),
        Act::Directory(path) => chdir(path),
        Act::Limit(resource, soft, hard) => rlimit::set(*resource, *soft, *hard),
        Act::Score(score) => {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
            rustix::io::write(file, score.as_bytes()).map(drop)
        }
        Act::Become(user) => become_user(*user),
        Act::NoNewPrivileges => set_no_new_privs(true),
        Act::Hide(fence) => fence.restrict(),
        Act::Execute(program) => {
            sys::block_only(&[]);
            Err(program.execute())
        }
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
