//! Tries what containers are made of, in forked children.
//!
//! Each child makes namespaces of its own, mounts memory in them and ends, which takes
//! everything along. It tells how far it came through a pipe, and is killed if it does
//! not: a file system that hangs must not hang the doctor.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, getegid, geteuid, kill_process, waitpid};
use rustix::thread::UnshareFlags;

use super::probe::existing;
use crate::cgroup;
use crate::order;
use crate::sys::mount::{MountAttributes, Reach, set_attributes};
use crate::sys::{self, Fork};

/// Far longer than any of this takes.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// A directory that every machine has, to be covered in the child's own namespace.
const PLACE: &str = "/proc";

/// The ids that the mount is shown with: those at which ranges for containers begin.
const MAPPED: &str = "0 524288 65536\n";

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It works.
    Works,
    /// It does not.
    Fails {
        /// What was done when it failed, as in "to ...".
        at: &'static str,
        /// What the kernel said.
        why: String,
    },
    /// Nobody knows.
    Untried(&'static str),
}

/// Everything that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trials {
    /// A user namespace, and power over mounts in it.
    pub user_namespace: Trial,
    /// An overlay in there.
    pub overlay_in_user_namespace: Trial,
    /// An overlay for root, outside of one.
    pub overlay: Trial,
    /// The data directory's file system, shown with other owners.
    pub mapped_mount: Trial,
    /// A program of root's that decides on devices, for groups of version 2.
    pub device_programs: Trial,
}

impl Trial {
    /// Whether the kernel takes a program that decides on devices.
    pub(super) fn of_device_programs() -> Self {
        match cgroup::try_program() {
            Ok(()) => Self::Works,
            Err(error) => Self::Fails { at: "load a program", why: error.to_string() },
        }
    }
}

impl Trials {
    /// Tries it all. `dir` is the data directory, or where it will be. The calling process
    /// must have one thread, since it forks.
    pub fn run(dir: &Path) -> Self {
        let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads != 1 {
            return Self::none("this process has several threads");
        }
        let (user_namespace, overlay_in_user_namespace) = match attempt(in_user_namespace) {
            Trial::Fails { at, why } if at == OVERLAY => (Trial::Works, Trial::Fails { at, why }),
            Trial::Works => (Trial::Works, Trial::Works),
            other => (other, Trial::Untried("user namespaces come first")),
        };
        let ordinary = Trial::Untried("only an agent of root mounts so");
        let root = geteuid().is_root();
        let dir = existing(dir).unwrap_or_else(|| dir.to_owned());
        Self {
            user_namespace,
            overlay_in_user_namespace,
            overlay: if root { attempt(as_root) } else { ordinary.clone() },
            mapped_mount: if root { attempt(move || mapped(&dir)) } else { ordinary },
            device_programs: Trial::of_device_programs(),
        }
    }

    /// Nothing tried, for this reason.
    pub fn none(why: &'static str) -> Self {
        let untried = Trial::Untried(why);
        Self {
            user_namespace: untried.clone(),
            overlay_in_user_namespace: untried.clone(),
            overlay: untried.clone(),
            mapped_mount: untried.clone(),
            device_programs: untried,
        }
    }
}

const NAMESPACE: &str = "make a user namespace";
const MAP: &str = "be its root";
const MOUNTS: &str = "make a mount namespace";
const MEMORY: &str = "mount a tmpfs";
const OVERLAY: &str = "mount an overlay";
const CLONE: &str = "clone a mount of the data directory";
const SHOW: &str = "show it with other owners";
const REPORT: &str = "learn how the trial went";

/// What can fail, by the number that the child sends.
const STAGES: [&str; 7] = [NAMESPACE, MAP, MOUNTS, MEMORY, OVERLAY, CLONE, SHOW];

type Outcome = Result<(), (&'static str, Errno)>;

fn in_user_namespace() -> Outcome {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::clone::unshare(UnshareFlags::NEWUSER).map_err(|errno| (NAMESPACE, errno))?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| (MAP, code(&error)))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))?;
    as_root()
}

fn as_root() -> Outcome {
    sys::clone::unshare(UnshareFlags::NEWNS).map_err(|errno| (MOUNTS, errno))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|errno| (MOUNTS, errno))?;
    let quiet = MountFlags::NODEV | MountFlags::NOSUID;
    mount("tmpfs", PLACE, "tmpfs", quiet, c"size=1m").map_err(|errno| (MEMORY, errno))?;
    let place = |name: &str| PathBuf::from(PLACE).join(name);
    for name in ["layer", "upper", "work", "merged"] {
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdir(place(name), mode).map_err(|errno| (MEMORY, errno))?;
    }
    // As a container's root is mounted.
    let options =
        c"userxattr,volatile,lowerdir=/proc/layer,upperdir=/proc/upper,workdir=/proc/work";
    mount("overlay", place("merged"), "overlay", quiet, options).map_err(|errno| (OVERLAY, errno))
}

/// The namespace's process ends with this one: it waits for the end of a pipe.
fn mapped(dir: &Path) -> Outcome {
    let clone = |errno| (CLONE, errno);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, dir, flags).map_err(clone)?;
    let ids = ids().map_err(|error| (NAMESPACE, code(&error)))?;
    set_attributes(tree.as_fd(), MountAttributes::NONE, Some(ids.as_fd()), Reach::This)
        .map_err(|error| (SHOW, code(&error)))
}

/// A user namespace with ids of a container.
fn ids() -> io::Result<OwnedFd> {
    let (ready, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    let (end, held) = pipe_with(PipeFlags::CLOEXEC)?;
    let holder = match sys::fork()? {
        Fork::Child => {
            drop((ready, held));
            let made = sys::clone::unshare(UnshareFlags::NEWUSER).is_ok();
            let _ = rustix::io::write(&ours, &[u8::from(made)]);
            drop(ours);
            let _ = rustix::io::read(&end, &mut [0_u8; 1]);
            sys::exit_now(0)
        }
        Fork::Parent(pid) => pid,
    };
    drop((ours, end));
    let mut made = [0_u8; 1];
    rustix::io::read(&ready, &mut made)?;
    let found = (|| {
        if made != [1] {
            return Err(io::Error::from(Errno::PERM));
        }
        let pid = holder.as_raw_nonzero();
        fs::write(format!("/proc/{pid}/uid_map"), MAPPED)?;
        fs::write(format!("/proc/{pid}/gid_map"), MAPPED)?;
        let file = format!("/proc/{pid}/ns/user");
        Ok(rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    })();
    drop(held);
    let _ = waitpid(Some(holder), WaitOptions::empty());
    found
}

fn code(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Runs it in a child and hears how it went.
fn attempt(act: impl FnOnce() -> Outcome) -> Trial {
    let failed = |error: io::Error| Trial::Fails { at: REPORT, why: error.to_string() };
    let (ours, theirs) = match pipe_with(PipeFlags::CLOEXEC) {
        Ok(pipe) => pipe,
        Err(errno) => return failed(errno.into()),
    };
    let child = match sys::fork() {
        Ok(Fork::Child) => {
            drop(ours);
            // A panic must not reach the caller's code in its copy.
            if let Ok(outcome) = catch_unwind(AssertUnwindSafe(act)) {
                let _ = rustix::io::write(&theirs, &told(outcome));
            }
            sys::exit_now(0)
        }
        Ok(Fork::Parent(pid)) => pid,
        Err(error) => return failed(error),
    };
    drop(theirs);
    let trial = hear(&ours, child);
    let _ = waitpid(Some(child), WaitOptions::empty());
    trial
}

/// A stage, from 1, and an error number; zeros if all went well.
fn told(outcome: Outcome) -> [u8; 2] {
    let Err((at, errno)) = outcome else { return [0, 0] };
    let stage = STAGES.iter().position(|stage| *stage == at).unwrap_or(0) + 1;
    let small = |number| u8::try_from(number).unwrap_or(u8::MAX);
    [u8::try_from(stage).unwrap_or(u8::MAX), small(errno.raw_os_error())]
}

fn hear(from: &OwnedFd, child: Pid) -> Trial {
    let mut word = [0_u8; 2];
    let ready = poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&PATIENCE));
    if !matches!(ready, Ok(1..)) {
        let _ = kill_process(child, Signal::KILL);
        return Trial::Fails { at: REPORT, why: "nothing within 5 seconds".to_owned() };
    }
    match rustix::io::read(from, &mut word) {
        Ok(2) if word == [0, 0] => Trial::Works,
        Ok(2) => {
            let stage = usize::from(word[0]).checked_sub(1).and_then(|at| STAGES.get(at));
            let errno = io::Error::from_raw_os_error(word[1].into());
            let why = order::plain(&errno);
            Trial::Fails { at: stage.copied().unwrap_or(REPORT), why }
        }
        _ => Trial::Fails { at: REPORT, why: "the child was killed".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::forked;

    #[test]
    fn how_far_a_child_came_is_heard_with_the_kernels_word() {
        assert_eq!(attempt(|| Ok(())), Trial::Works);
        let denied = attempt(|| Err((OVERLAY, Errno::INVAL)));
        assert_eq!(denied, Trial::Fails { at: OVERLAY, why: "Invalid argument".to_owned() });
        let killed = attempt(|| {
            let _ = kill_process(rustix::process::getpid(), Signal::KILL);
            Ok(())
        });
        assert_eq!(killed, Trial::Fails { at: REPORT, why: "the child was killed".to_owned() });
    }

    #[test]
    fn trials_leave_the_mounts_of_their_caller_alone() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can try all of it");
            return;
        }
        let before = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        // The tests' process has threads; its fork has one.
        let outcome = forked::run(|| {
            let trials = Trials::run(Path::new("/"));
            let tried = [
                trials.user_namespace,
                trials.overlay_in_user_namespace,
                trials.overlay,
                trials.mapped_mount,
            ];
            i32::from(tried.iter().any(|trial| matches!(trial, Trial::Untried(_))))
        });
        assert_eq!(outcome, forked::Outcome::Exited(0));
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("mounts"), before);
    }
}
