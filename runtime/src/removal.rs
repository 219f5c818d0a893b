//! Removes what a task left, also what belongs to other ids of its container.
//!
//! The files of an ordinary user's container may belong to ids that were granted to that
//! user (`/etc/subuid`); only root of a user namespace that has them may remove these. A
//! process with threads cannot enter one, so the agent's own program does it in its stead,
//! as `PROGRAM keeper DIR` with [`ASKED`] in its environment:
//!
//! ```text
//! agent ─▶ PROGRAM keeper DIR ─fork─▶ a child: a namespace of its own, root in it, removes
//!                  └─ newuidmap, newgidmap ───▶┘
//! ```
//!
//! Must never touch anything but one directory of `tasks/` that is no task's any more.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{WaitOptions, geteuid, waitpid};
use rustix::thread::UnshareFlags;

use crate::call::Caller;
use crate::order::{self, TASKS};
use crate::plan::{Facts, MapWriter, id_map};
use crate::sandbox;
use crate::sys::{self, Fork};
use crate::unpack::remove_tree;

/// The variable that names the directory.
const ASKED: &str = "STARLING_REMOVE";

/// Removes a directory below `tasks/` and all in it, whosever it is. Blocks.
pub(crate) fn remove(caller: &Caller, tasks: &OwnedFd, name: &str) -> io::Result<()> {
    match remove_tree(tasks.as_fd(), name.as_bytes()) {
        Err(error) if is_others(&error) => {}
        removed => return removed,
    }
    let status = Command::new(caller.program())
        .arg("keeper")
        .arg(caller.path())
        .env_clear()
        .env(ASKED, name)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { remove_tree(tasks.as_fd(), name.as_bytes()) }
}

/// Whether somebody with other rights might do better.
fn is_others(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && !geteuid().is_root()
}

/// Does what the agent asked for, if it asked this process; `dir` is the runtime's.
pub(crate) fn serve(dir: &Path) -> Option<ExitCode> {
    let name = std::env::var(ASKED).ok()?;
    Some(match remove_in_namespace(dir, &name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("starling: cannot remove {name}: {error}");
            ExitCode::FAILURE
        }
    })
}

fn remove_in_namespace(dir: &Path, name: &str) -> io::Result<()> {
    // A task's name begins with a letter or a digit.
    if !name.starts_with('.') || name.contains('/') || name.trim_matches('.').is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sys::close_all()?;
    let tasks = order::open_below(order::open_directory(dir)?, TASKS)?;
    let map = id_map(&Facts::probe(), 0);
    if map.writer != MapWriter::Helpers {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let child = match sys::fork()? {
        Fork::Child => {
            drop(ours);
            let done = as_root_inside(&theirs, &tasks, name);
            sys::exit_now(i32::from(done.is_err()))
        }
        Fork::Parent(child) => child,
    };
    drop(theirs);
    // Closing tells a child that waits to leave.
    let mapped = hear(&ours)
        .and_then(|()| sandbox::map_by_helpers(&map, child).map_err(io::Error::other))
        .and_then(|()| say(&ours));
    drop(ours);
    let status = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    mapped?;
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

fn as_root_inside(
    parent: &std::os::unix::net::UnixStream,
    tasks: &OwnedFd,
    name: &str,
) -> io::Result<()> {
    sys::clone::unshare(UnshareFlags::NEWUSER)?;
    say(parent)?;
    hear(parent)?;
    // Its own id is root's now, with all rights over those that are mapped.
    remove_tree(tasks.as_fd(), name.as_bytes())
}

fn say(to: impl AsFd) -> io::Result<()> {
    rustix::io::write(to, b"+")?;
    Ok(())
}

fn hear(from: impl AsFd) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::io::read(&from, &mut [0_u8; 1]))? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
