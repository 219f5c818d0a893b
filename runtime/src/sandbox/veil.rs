//! The veil between an ordinary user's agent and its plain processes, which have the
//! agent's own user and so pass every check of owner and mode that the agent passes.
//!
//! ```text
//! before                                     behind the veil
//! ~/.local/share/starling/node.key           ~/.local/share/starling   empty, read-only
//! ~/.local/share/starling/run/keeper-3.sock    └ run/tasks/ID/scratch  its own
//! ~/notes, /tmp, /usr …                      as ever
//! ```
//!
//! Such a process has a user namespace in which its own user is all there is, and in
//! that a mount namespace in which memory covers the hidden directories. It has no
//! capability there once it executes its program, so it cannot lift the cover; in
//! namespaces that it makes itself the kernel keeps mounts together that came from
//! above. And nobody in a user namespace may trace a process outside of it, or open its
//! `/proc/PID/{mem,environ,fd,root,cwd}`, though both have one user
//! (`cap_ptrace_access_check` of the kernel). Control groups are made read-only on the
//! way: they too belong to that user, and a limit that a task can lift is none.
//!
//! What it does not keep from: signals (Landlock's scopes do), `prlimit` and the nice
//! value of that user's processes; changing what that user runs later, as
//! `~/.profile`; another mount of the same files elsewhere. Files of others are shown
//! as nobody's.
//!
//! A task may rename what lies above a hidden directory, and put another there for the
//! next task's veil to fall on. So each place is known by device and inode as well, and
//! the hidden directories must hold the task's own: one that does not is refused.
//!
//! Made by a child on its supervisor's memory: [`Veil::new`] prepares, and
//! [`Veil::draw`] makes system calls only.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, mkdirat, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{WaitOptions, getegid, geteuid, waitpid};

use super::outside::clone_tree;
use super::place::attach;
use super::report::Failure;
use super::special::{STILL, descriptor, make};
use crate::order::open_below;
use crate::plan::Namespaces;
use crate::record::SCRATCH;
use crate::sys::clone;
use crate::sys::mount::{MountAttributes, Reach, set_attributes};

/// Where control groups are, on every machine that has them.
const GROUPS: &CStr = c"/sys/fs/cgroup";

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Device and inode.
type Identity = (u64, u64);

/// Everything that is needed to draw it, without memory.
#[derive(Debug)]
pub(super) struct Veil {
    ids: Ids,
    covers: Vec<Cover>,
    scratch: Place,
    /// Options of the memory that covers.
    options: [(&'static str, String); 1],
}

/// A directory by its path, and what is there.
#[derive(Debug)]
struct Place {
    path: CString,
    identity: Identity,
}

/// A hidden directory.
#[derive(Debug)]
struct Cover {
    place: Place,
    /// The way to the scratch, if that lies below: each directory of it, from the top.
    way: Vec<CString>,
}

impl Veil {
    /// Looks where everything is. What is not there needs no cover.
    pub(super) fn new(hidden: &[PathBuf], dir: BorrowedFd<'_>) -> Result<Self, Failure> {
        let (scratch, scratch_path) = placed(&open_below(dir, SCRATCH)?)?;
        let mut found = Vec::new();
        for path in hidden {
            match open(path, PLACE, Mode::empty()) {
                Ok(handle) => found.push(placed(&handle)?),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(Failure::at(path.display())(error)),
            }
        }
        // One inside of another is hidden with it.
        let above = |path: &Path| path.ancestors().skip(1).any(|above| holds(&found, above));
        let outer = found.iter().filter(|(_, path)| !above(path));
        let covers = outer.map(|(place, path)| cover(place, path, &scratch_path));
        let covers = covers.collect::<Result<Vec<_>, _>>()?;
        if covers.iter().all(|cover| cover.way.is_empty()) {
            return Err(Failure::because(format!(
                "{} is in none of them; was a directory moved?",
                scratch_path.display()
            )));
        }
        Ok(Self { ids: Ids::own()?, covers, scratch, options: options() })
    }

    /// The way to the scratch directory, behind the veil as before it.
    pub(super) fn scratch(&self) -> &CStr {
        &self.scratch.path
    }

    /// Hides all that is hidden from this process, which is in namespaces of its own and
    /// has not mapped its user. Allocates nothing.
    pub(super) fn draw(&self) -> Result<(), Errno> {
        self.ids.map()?;
        let scratch = clone_tree(self.scratch.open()?.as_fd(), Reach::This)?;
        for Cover { place, way } in &self.covers {
            let place = place.open()?;
            let memory = make("tmpfs", &self.options, STILL)?;
            for step in way {
                mkdirat(&memory, step.as_c_str(), Mode::from_raw_mode(0o755))?;
            }
            attach(memory.as_fd(), place.as_fd())?;
            if let Some(last) = way.last() {
                let place = openat(&memory, last.as_c_str(), PLACE, Mode::empty())?;
                attach(scratch.as_fd(), place.as_fd())?;
            }
            read_only(memory.as_fd(), Reach::This)?;
        }
        match open(GROUPS, PLACE, Mode::empty()).and_then(|all| read_only(all.as_fd(), Reach::All))
        {
            // There are none, or nothing is mounted there.
            Err(Errno::NOENT | Errno::INVAL) => Ok(()),
            done => done,
        }
    }
}

fn options() -> [(&'static str, String); 1] {
    [("mode", "0755".to_owned())]
}

/// Keeps the mount still, beside.
fn read_only(mount: BorrowedFd<'_>, reach: Reach) -> Result<(), Errno> {
    set_attributes(mount, MountAttributes::READ_ONLY, None, reach)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A directory with its path in this namespace, without links.
fn placed(handle: &OwnedFd) -> Result<(Place, PathBuf), Failure> {
    let path = readlinkat(CWD, descriptor(handle.as_fd()), Vec::new())?;
    let found = fstat(handle)?;
    let real = PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()));
    Ok((Place { path, identity: (found.st_dev, found.st_ino) }, real))
}

fn holds(found: &[(Place, PathBuf)], path: &Path) -> bool {
    found.iter().any(|(_, hidden)| hidden == path)
}

fn cover(place: &Place, path: &Path, scratch: &Path) -> Result<Cover, Failure> {
    if path == Path::new("/") {
        return Err(Failure::because("/ cannot be hidden"));
    }
    let rest = scratch.strip_prefix(path).unwrap_or(Path::new(""));
    let mut way: Vec<&Path> =
        rest.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    way.reverse();
    let way = way.iter().map(|part| CString::new(part.as_os_str().as_bytes()));
    let way = way.collect::<Result<_, _>>().map_err(|error| Failure::because(error.to_string()))?;
    Ok(Cover { place: Place { path: place.path.clone(), identity: place.identity }, way })
}

impl Place {
    /// What is there, in the mount namespace of this process.
    fn open(&self) -> Result<OwnedFd, Errno> {
        let found = open(self.path.as_c_str(), PLACE | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = fstat(&found)?;
        // Somebody put another directory there since.
        if (stat.st_dev, stat.st_ino) == self.identity { Ok(found) } else { Err(Errno::STALE) }
    }
}

/// The maps of a user namespace that has one user.
#[derive(Debug)]
struct Ids {
    user: String,
    group: String,
}

impl Ids {
    fn own() -> Result<Self, Errno> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        Ok(Self { user: format!("{user} {user} 1"), group: format!("{group} {group} 1") })
    }

    /// Allocates nothing.
    fn map(&self) -> Result<(), Errno> {
        for (file, text) in [
            (c"/proc/self/setgroups", "deny"),
            (c"/proc/self/uid_map", self.user.as_str()),
            (c"/proc/self/gid_map", self.group.as_str()),
        ] {
            let file = open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&file, text.as_bytes())?;
        }
        Ok(())
    }
}

/// Whether this user may draw one here: tried, on a directory that everybody has.
pub(crate) fn is_possible() -> bool {
    let (Ok(ids), options) = (Ids::own(), options()) else { return false };
    let attempt = || -> Result<(), Errno> {
        ids.map()?;
        let place = open(c"/proc", PLACE, Mode::empty())?;
        let copy = clone_tree(place.as_fd(), Reach::This)?;
        let memory = make("tmpfs", &options, STILL)?;
        attach(memory.as_fd(), place.as_fd())?;
        read_only(memory.as_fd(), Reach::This)?;
        drop(copy);
        rustix::fs::statat(&memory, c"", AtFlags::EMPTY_PATH).map(drop)
    };
    let spawned =
        clone::spawn_sharing(None, Namespaces::PRIVATE.bits(), || i32::from(attempt().is_err()));
    let ended = spawned.ok().and_then(|pid| {
        rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty())).ok()
    });
    matches!(ended, Some(Some((_, status))) if status.exit_status() == Some(0))
}

#[cfg(test)]
#[path = "veil_tests.rs"]
mod tests;
