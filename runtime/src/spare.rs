//! Directories of removed tasks, kept for the next ones.
//!
//! ```text
//! tasks/ID ──remove──▶ .old-ID ──give──▶ .spare-N ──take──▶ .new-… ──launch──▶ tasks/ID
//! ```
//!
//! On a disk it is new and removed directories that cost: some 60 to 200 us each with
//! ext4, where a rename costs 7. So what every task needs is used again: its directory, the
//! state file, an empty scratch directory, and what holds a container's changes.
//!
//! The names are few and fixed, so nobody counts: whoever gives looks for a free one,
//! whoever takes for one that is there, and a rename decides between two.
//!
//! Whoever looks into a task's directory [holds](hold) it, by a shared lock; one that is
//! held does not become a spare, so nobody who asked for one task ever sees another.
//!
//! Invariant: nothing of the task before is left in a spare, and nobody else's hand is
//! on it: of the directories that a task could write to only the scratch of host's root
//! stays, empty and as it was made, since nothing is kept from root anyway. All others
//! are new for each task: one may have handed them to somebody who lives.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::apart::move_apart;
use crate::launch::TaskId;
use crate::order;
use crate::record::{self, PASSAGE, SCRATCH, STATE};
use crate::sandbox;
use crate::unpack::remove_tree;

/// Spares at most: as many as may be launched between two removals on a small
/// machine, and few enough to search.
const SPARES: usize = 16;

const PREFIX: &str = ".spare-";

fn name(number: usize) -> String {
    format!("{PREFIX}{number}")
}

/// A handle to a task's directory, which stays that task's while the handle is open.
/// `NotFound` if there is no such task, or it is just being removed.
pub(crate) fn hold(tasks: &OwnedFd, id: &TaskId) -> io::Result<OwnedFd> {
    let dir = order::open_below(tasks, id.as_str())?;
    match flock(&dir, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(Errno::AGAIN) => return Err(io::ErrorKind::NotFound.into()),
        Err(error) => return Err(error.into()),
    }
    // It may have become another's before it was held.
    let named = rustix::fs::statat(tasks, id.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
    let is_its = rustix::fs::fstat(&dir)?.st_ino == named.st_ino;
    if is_its { Ok(dir) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Makes the directory `dir`, called `old` below `tasks`, a spare one. False if it must be
/// removed: no spare is wanted, somebody holds it, or something is wrong with it. Blocks.
pub(crate) fn give(tasks: &OwnedFd, dir: &OwnedFd, old: &str) -> bool {
    flock(dir, FlockOperation::NonBlockingLockExclusive).is_ok()
        && strip(dir.as_fd()).unwrap_or(false)
        // Said, and not left to closing: a fork may have a copy of the handle, and the next
        // task must not be taken for one that is removed. Nobody finds the old name now.
        && flock(dir, FlockOperation::NonBlockingUnlock).is_ok()
        && (0..SPARES).any(|at| rename_new(tasks, old, &name(at)))
}

/// Takes a spare directory, and calls it `new`; none if there is none.
pub(crate) fn take(tasks: &OwnedFd, new: &str) -> Option<OwnedFd> {
    let found = (0..SPARES).any(|at| rename_new(tasks, &name(at), new));
    found.then(|| order::open_below(tasks, new).ok()).flatten()
}

/// Removes all of them. What cannot be removed is found by the next agent.
pub(crate) fn clear(tasks: &OwnedFd) {
    for at in 0..SPARES {
        let gone = format!(".gone-{at}");
        let _ = remove_tree(tasks.as_fd(), gone.as_bytes());
        // A supervisor may take it meanwhile: here, too, a rename decides.
        if rename_new(tasks, &name(at), &gone) {
            let _ = remove_tree(tasks.as_fd(), gone.as_bytes());
        }
    }
}

/// Whether a name is that of a spare one, which whoever waits may take at any moment.
pub(crate) fn is_spare(name: &str) -> bool {
    name.starts_with(PREFIX)
}

fn rename_new(tasks: &OwnedFd, old: &str, new: &str) -> bool {
    rustix::fs::renameat_with(tasks, old, tasks, new, RenameFlags::NOREPLACE).is_ok()
}

/// Leaves nothing of the task that was; false if the directory is of no use.
fn strip(dir: BorrowedFd<'_>) -> io::Result<bool> {
    for name in names(dir)? {
        match name.to_str() {
            Ok(STATE) => {}
            Ok(SCRATCH) if is_pristine(dir)? => {}
            Ok(sandbox::CHANGES) if !move_apart(dir) && sandbox::forget_changes(dir)? => {}
            _ => remove_tree(dir, name.as_bytes())?,
        }
    }
    // One of a launch that was given up has another.
    rustix::fs::fchmod(dir, PASSAGE)?;
    record::wipe(dir)
}

/// Largest size of a directory that is new, on any file system of ours.
const NEW_BYTES: i64 = 4096;

/// What is in a directory.
fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether a scratch directory is root's, and as it was made.
fn is_pristine(dir: BorrowedFd<'_>) -> io::Result<bool> {
    if !geteuid().is_root() {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let scratch = match rustix::fs::openat(dir, SCRATCH, flags, Mode::empty()) {
        Ok(scratch) => scratch,
        Err(Errno::ACCESS | Errno::LOOP | Errno::NOTDIR) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&scratch)?;
    let is_own = stat.st_uid == 0
        && stat.st_mode & 0o7777 == Mode::RWXU.as_raw_mode()
        // One that had many files keeps their room, and takes long to look through.
        && stat.st_size <= NEW_BYTES
        && rustix::fs::flistxattr(&scratch, &mut [0_u8; 0])? == 0;
    Ok(is_own && names(scratch.as_fd())?.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::record::StateFile;

    fn task(tasks: &Path, name: &str) -> OwnedFd {
        let path = tasks.join(name);
        fs::create_dir(&path).expect("a directory");
        let dir: OwnedFd = File::open(&path).expect("a handle").into();
        StateFile::make(&dir).expect("a state");
        fs::write(path.join(STATE), "{\"version\":3}\na secret").expect("written");
        rustix::fs::mkdirat(&dir, SCRATCH, Mode::RWXU).expect("a directory");
        dir
    }

    #[test]
    fn what_is_given_is_taken_once_and_says_nothing_of_the_task_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks: OwnedFd = File::open(dir.path()).expect("a handle").into();
        let old = task(dir.path(), ".old-a");
        fs::write(dir.path().join(".old-a/log.0"), "words").expect("written");
        fs::create_dir_all(dir.path().join(".old-a/etc/deep")).expect("made");
        fs::write(dir.path().join(".old-a/scratch/file"), "words").expect("written");
        assert!(give(&tasks, &old, ".old-a"));
        assert!(take(&tasks, ".new-1").is_some());
        assert!(take(&tasks, ".new-2").is_none());
        let path = dir.path().join(".new-1");
        let left: Vec<_> = fs::read_dir(&path).expect("listed").collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, PASSAGE.as_raw_mode());
        let text = fs::read(path.join(STATE)).expect("read");
        assert!(text.iter().all(|byte| *byte == 0), "{text:?}");
    }

    #[test]
    fn a_directory_that_is_held_does_not_become_another_task_s() {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks: OwnedFd = File::open(dir.path()).expect("a handle").into();
        let task = task(dir.path(), "a");
        let id: TaskId = "a".parse().expect("an id");
        let held = hold(&tasks, &id).expect("held");
        assert!(!give(&tasks, &task, "a"));
        drop(held);
        assert!(give(&tasks, &task, "a"));
        assert_eq!(hold(&tasks, &id).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_scratch_directory_stays_only_as_it_was_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let scratch = dir.path().join("t/scratch");
        let task = task(dir.path(), "t");
        assert_eq!(is_pristine(task.as_fd()).expect("seen"), geteuid().is_root());
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755)).expect("set");
        assert!(!is_pristine(task.as_fd()).expect("seen"));
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o700)).expect("set");
        fs::create_dir(scratch.join("inner")).expect("made");
        assert!(!is_pristine(task.as_fd()).expect("seen"));
        fs::remove_dir_all(&scratch).expect("removed");
        std::os::unix::fs::symlink(dir.path(), &scratch).expect("linked");
        assert!(!is_pristine(task.as_fd()).expect("seen"));
    }

    #[test]
    fn the_state_of_an_older_version_is_not_used_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks: OwnedFd = File::open(dir.path()).expect("a handle").into();
        let old = task(dir.path(), ".old-a");
        fs::write(dir.path().join(".old-a/state"), "{\"version\":2}\n").expect("written");
        assert!(!give(&tasks, &old, ".old-a"));
    }

    #[test]
    fn there_are_never_more_than_are_wanted() {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks: OwnedFd = File::open(dir.path()).expect("a handle").into();
        for at in 0..=SPARES {
            let name = format!(".old-{at}");
            let old = task(dir.path(), &name);
            assert_eq!(give(&tasks, &old, &name), at < SPARES, "{at}");
        }
        clear(&tasks);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
