//! A task's directory before there is a task: made while its supervisor waits, best of
//! one that another task had, so that a launch costs one rename.
//!
//! Its name says who made it, `.new-PID-START-NUMBER`, so that whoever finds it can
//! tell whether the maker still lives.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, RenameFlags};
use rustix::io::Errno;

use crate::launch::{TaskId, User};
use crate::order;
use crate::proc::ProcessMark;
use crate::record::{PASSAGE, SCRATCH, STATE, StateFile};
use crate::sandbox;
use crate::spare;
use crate::unpack::remove_tree;

/// How such a directory's name begins.
const PREFIX: &str = ".new-";

#[derive(Debug)]
pub(super) struct Prepared {
    name: String,
    pub(super) dir: OwnedFd,
    pub(super) state: StateFile,
}

impl Prepared {
    /// Makes a directory that nobody else has made. This process's umask lets others
    /// do nothing.
    pub(super) fn make(tasks: &OwnedFd, own: ProcessMark, number: u64) -> io::Result<Self> {
        let name = format!("{PREFIX}{}-{}-{number}", own.pid, own.start);
        if let Some(dir) = spare::take(tasks, &name) {
            match StateFile::again(&dir) {
                Ok(state) => return Ok(Self { name, dir, state }),
                Err(_) => remove_tree(tasks.as_fd(), name.as_bytes())?,
            }
        }
        rustix::fs::mkdirat(tasks, name.as_str(), Mode::RWXU)?;
        let made = order::open_below(tasks, &name).and_then(|dir| Self::fill(name.clone(), dir));
        if made.is_err() {
            empty(tasks, &name);
        }
        made
    }

    fn fill(name: String, dir: OwnedFd) -> io::Result<Self> {
        // The umask has no say here.
        rustix::fs::fchmod(&dir, PASSAGE)?;
        let state = StateFile::make(&dir)?;
        Ok(Self { name, dir, state })
    }

    /// Makes the scratch directory, which containers have none of.
    pub(super) fn make_scratch(&self) -> Result<(), Errno> {
        match rustix::fs::mkdirat(&self.dir, SCRATCH, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives the scratch directory to whom the task runs as.
    pub(super) fn give(&self, user: User) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(&self.dir, SCRATCH, Some(uid), Some(gid), flags)?)
    }

    /// Makes the directory a task's: the claim. `EXIST` if there is one of that id.
    pub(super) fn become_task(&self, tasks: &OwnedFd, id: &TaskId) -> Result<(), Errno> {
        let name = self.name.as_str();
        rustix::fs::renameat_with(tasks, name, tasks, id.as_str(), RenameFlags::NOREPLACE)
    }

    pub(super) fn remove(self, tasks: &OwnedFd) {
        empty(tasks, &self.name);
    }
}

/// Removes a directory that never became a task's, as far as it was made.
fn empty(tasks: &OwnedFd, name: &str) {
    if let Ok(dir) = order::open_below(tasks, name) {
        // What stays is found by the next sweep.
        let _ = rustix::fs::unlinkat(&dir, STATE, AtFlags::empty());
        let _ = rustix::fs::unlinkat(&dir, SCRATCH, AtFlags::REMOVEDIR);
        sandbox::unmake_changes(dir.as_fd());
    }
    let _ = rustix::fs::unlinkat(tasks, name, AtFlags::REMOVEDIR);
}

/// Removes what dead supervisors had prepared.
pub(crate) fn sweep(tasks: &OwnedFd) -> io::Result<()> {
    let mut dead = Vec::new();
    for entry in Dir::read_from(tasks.as_fd())? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if let Some(maker) = maker(name)
            && maker.open()?.is_none()
        {
            dead.push(name.to_owned());
        }
    }
    dead.iter().for_each(|name| empty(tasks, name));
    Ok(())
}

/// Whether a name is one of ours.
pub(crate) fn is_prepared(name: &str) -> bool {
    maker(name).is_some()
}

fn maker(name: &str) -> Option<ProcessMark> {
    let mut numbers = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let pid = numbers.next()?.parse().ok()?;
    let start = numbers.next()?.parse().ok()?;
    numbers.next().map(|_| ProcessMark { pid, start })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_the_dead_prepared_is_swept_and_what_the_living_did_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks: OwnedFd = File::open(dir.path()).expect("a handle").into();
        let own = ProcessMark::own().expect("own mark");
        let dead = ProcessMark { start: own.start + 1, ..own };
        let kept = Prepared::make(&tasks, own, 1).expect("made");
        Prepared::make(&tasks, dead, 1).expect("made");
        std::fs::create_dir(dir.path().join("task")).expect("made");
        let count = || std::fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!(count(), 3);
        sweep(&tasks).expect("swept");
        assert_eq!(count(), 2);
        kept.remove(&tasks);
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_task_is_claimed_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks: OwnedFd = File::open(dir.path()).expect("a handle").into();
        let own = ProcessMark::own().expect("own mark");
        let id: TaskId = "a".parse().expect("an id");
        let claim = |number| {
            let prepared = Prepared::make(&tasks, own, number).expect("made");
            prepared.become_task(&tasks, &id)
        };
        assert_eq!(claim(1), Ok(()));
        assert_eq!(claim(2), Err(Errno::EXIST));
    }
}
