//! The task's process, from its fork to its first instruction.
//!
//! All that needs memory is done before the fork, in [`Plan::new`]. Between fork
//! and exec there are only system calls.
//!
//! Invariant: [`Plan::become_task`] allocates nothing and locks nothing.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{chdir, fchdir, setsid, umask};
use rustix::thread::{
    Gid, Uid, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Ends;
use crate::launch::{Launch, StartFault, Streams, User};
use crate::sys::{self, CStrings};

/// Where programs are when the environment does not say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the task needs, in the form in which it needs it.
#[derive(Debug)]
pub(super) struct Plan {
    candidates: Vec<CString>,
    argv: CStrings,
    env: CStrings,
    place: Place,
    user: Option<User>,
    has_terminal: bool,
}

#[derive(Debug)]
enum Place {
    /// Entered before the user changes: the way there may be closed to it.
    Scratch(OwnedFd),
    /// Entered as the task's user, with its rights.
    Path(CString),
}

/// How far the child came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Prepare,
    User,
    Directory,
    Exec,
}

impl Plan {
    /// Prepares a checked launch; none if some text of it holds a zero byte.
    pub(super) fn new(launch: &Launch, scratch: OwnedFd) -> Option<Self> {
        let program = launch.argv.first()?;
        let argv = launch.argv.iter().map(|word| CString::new(word.as_str()).ok());
        let env =
            launch.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")).ok());
        let place = match &launch.directory {
            None => Place::Scratch(scratch),
            Some(path) => Place::Path(CString::new(path.as_os_str().as_bytes()).ok()?),
        };
        Some(Self {
            candidates: candidates(program, launch.env.get("PATH").map(String::as_str))?,
            argv: CStrings::new(argv.collect::<Option<_>>()?),
            env: CStrings::new(env.collect::<Option<_>>()?),
            place,
            user: launch.user(),
            has_terminal: matches!(launch.streams, Streams::Terminal { .. }),
        })
    }

    /// Turns this fresh process into the task; returns how far it came if that fails.
    pub(super) fn become_task(&self, ends: &Ends, join: &[BorrowedFd<'_>]) -> (Step, Errno) {
        for group in join {
            if let Err(error) = rustix::io::write(group, b"0") {
                return (Step::Prepare, error);
            }
        }
        self.enter(ends)
    }

    fn enter(&self, ends: &Ends) -> (Step, Errno) {
        if let Err(error) = prepare(ends, self.has_terminal) {
            return (Step::Prepare, error);
        }
        if let Place::Scratch(scratch) = &self.place
            && let Err(error) = fchdir(scratch)
        {
            return (Step::Directory, error);
        }
        if let Some(user) = self.user
            && let Err(error) = become_user(user)
        {
            return (Step::User, error);
        }
        if let Err(error) = set_no_new_privs(true) {
            return (Step::Prepare, error);
        }
        if let Place::Path(path) = &self.place
            && let Err(error) = chdir(path)
        {
            return (Step::Directory, error);
        }
        sys::block_only(&[]);
        (Step::Exec, self.exec())
    }

    /// Tries each candidate as a shell does: one that may not be executed is
    /// remembered, a better one may follow.
    fn exec(&self) -> Errno {
        let mut failure = Errno::NOENT;
        for path in &self.candidates {
            match sys::exec(path, &self.argv, &self.env) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => failure = Errno::ACCESS,
                error => return error,
            }
        }
        failure
    }
}

fn prepare(ends: &Ends, has_terminal: bool) -> Result<(), Errno> {
    // Its own session, hence its own group, which it cannot leave.
    setsid()?;
    sys::default_dispositions();
    umask(Mode::WGRP | Mode::WOTH);
    rustix::stdio::dup2_stdin(&ends.stdin)?;
    rustix::stdio::dup2_stdout(&ends.stdout)?;
    rustix::stdio::dup2_stderr(&ends.stderr)?;
    if has_terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    sys::close_all_on_exec().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
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

fn candidates(program: &str, path: Option<&str>) -> Option<Vec<CString>> {
    if program.contains('/') {
        return Some(vec![CString::new(program).ok()?]);
    }
    let directories = path.unwrap_or(USUAL_PATH).split(':');
    directories
        // POSIX: an empty entry is the working directory.
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| CString::new(format!("{directory}/{program}")).ok())
        .collect()
}

/// What a failure means.
pub(super) fn explain(step: Step, error: Errno, launch: &Launch) -> (StartFault, String) {
    let program = launch.argv.first().map_or("", String::as_str);
    if step == Step::User {
        let User { uid, gid } = launch.user().unwrap_or(User { uid: 0, gid: 0 });
        (StartFault::User, format!("cannot run as {uid}:{gid}: {error}"))
    } else if step == Step::Directory {
        let directory =
            launch.directory.as_deref().map_or("scratch".into(), |path| path.to_string_lossy());
        (StartFault::Directory, format!("cannot enter {directory}: {error}"))
    } else if step == Step::Exec {
        let fault = match error {
            Errno::NOENT | Errno::NOTDIR => StartFault::NotFound,
            Errno::NOMEM | Errno::TOOBIG | Errno::AGAIN | Errno::MFILE | Errno::NFILE => {
                StartFault::System
            }
            _ => StartFault::NotExecutable,
        };
        (fault, format!("cannot execute {program}: {error}"))
    } else {
        (StartFault::System, format!("cannot prepare {program}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_path_of_the_task() {
        let text = |program, path| -> Vec<String> {
            let found = candidates(program, path).expect("no zero bytes");
            found.into_iter().map(|path| path.into_string().expect("UTF-8")).collect()
        };
        assert_eq!(text("/bin/true", Some("/x")), ["/bin/true"]);
        assert_eq!(text("true", Some("/x::/y")), ["/x/true", "./true", "/y/true"]);
        assert!(text("true", None).contains(&"/usr/bin/true".to_owned()));
    }
}
