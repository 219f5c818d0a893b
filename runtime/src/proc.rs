//! Who a process is: its number and its start time, since numbers come round again.
//!
//! Invariant: nobody in this crate signals a process that is not its own unreaped
//! child unless [`ProcessMark::open`] or [`leftovers`](crate::leftovers) verified
//! it through a pidfd first.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// More than the longest line of `/proc/PID/stat`: fifty numbers of 20 digits and a name.
const STAT_BYTES: usize = 2 << 10;

/// Length of a tick in that file: the kernel shows 100 a second on every machine.
const TICK_NS: u64 = 10_000_000;

/// One process of this boot, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessMark {
    pub(crate) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub(crate) start: u64,
}

impl ProcessMark {
    /// The mark of this process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(getpid())
    }

    /// The mark of a process that the caller keeps from being recycled.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        Ok(Self { pid, start: stat(pid)?.start })
    }

    /// Makes a child, and its mark. The file is asked only if a tick passed meanwhile.
    pub(crate) fn of_new<E>(
        make: impl FnOnce() -> Result<Pid, E>,
    ) -> Result<(Pid, io::Result<Self>), E> {
        let before = tick();
        let pid = make()?;
        let mark = match before == tick() {
            true => Ok(Self { pid: pid.as_raw_nonzero().get(), start: before }),
            false => Self::of(pid),
        };
        Ok((pid, mark))
    }

    /// A handle to exactly this process; none if it is gone.
    pub(crate) fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = pid(self.pid) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            // EINVAL: the number now names a thread.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The handle came first: if the process had gone since, the number would
        // show another start time, or none.
        match stat(self.pid) {
            Ok(stat) if stat.start != self.start => Ok(None),
            // Dead, but nobody has asked for its status yet. The state in `stat` would
            // not do: it is that of the first thread.
            Ok(_) => Ok((!has_ended(&handle)?).then_some(handle)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The tick of now, as a process that is made now is marked with.
fn tick() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let rest = u64::try_from(now.tv_nsec).unwrap_or_default();
    (seconds * 1_000_000_000 + rest) / TICK_NS
}

/// A number from outside as a process id. Zero and less mean groups to the kernel.
fn pid(number: i32) -> Option<Pid> {
    if number > 0 { Pid::from_raw(number) } else { None }
}

/// Whether the process behind a handle is dead, reaped or not.
pub(crate) fn has_ended(handle: &OwnedFd) -> io::Result<bool> {
    let mut watched = [PollFd::new(handle, PollFlags::IN)];
    Ok(poll(&mut watched, Some(&Timespec::default()))? > 0)
}

/// What we read of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) start: u64,
}

pub(crate) fn stat(pid: i32) -> io::Result<Stat> {
    // One read: the kernel puts the line together anew for each.
    let mut text = [0; STAT_BYTES];
    let length = fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut text)?;
    parse_stat(pid, &String::from_utf8_lossy(text.get(..length).unwrap_or_default()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
}

fn parse_stat(pid: i32, text: &str) -> Option<Stat> {
    // The name may hold anything, closing brackets too; the last one ends it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let _state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    // Field 22; six are gone.
    let start = fields.nth(15)?.parse().ok()?;
    Some(Stat { pid, parent, group, session, start })
}

/// Every process there is, as far as it can be read.
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        found.extend(pid.and_then(|pid| stat(pid).ok()));
    }
    Ok(found)
}

/// The children of this one-threaded process, dead ones included.
pub(crate) fn own_children() -> io::Result<Vec<Pid>> {
    let own = getpid().as_raw_nonzero().get();
    let numbers: Vec<i32> = match fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(text) => text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect(),
        // The kernel may be built without that file.
        Err(_) => all()?.iter().filter(|stat| stat.parent == own).map(|stat| stat.pid).collect(),
    };
    Ok(numbers.into_iter().filter_map(pid).collect())
}

/// Whether a read below `/proc/PID` failed because the process is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// What tells this boot from every other.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_does_not_shift_the_fields() {
        let text = "7 (a) R 1 (b)) S 3 4 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 999 1 2";
        let stat = parse_stat(7, text).expect("a line");
        let wanted = Stat { pid: 7, parent: 3, group: 4, session: 5, start: 999 };
        assert_eq!(stat, wanted);
        assert_eq!(parse_stat(7, "7 (a) S 3"), None);
    }

    #[test]
    fn the_mark_of_a_new_child_is_the_one_it_is_found_by() {
        for _ in 0..50 {
            let mut program = std::process::Command::new("/bin/sleep");
            let mut child = program.arg("60").spawn().expect("a child");
            let pid = Pid::from_child(&child);
            drop(child.kill());
            let own = ProcessMark::of(pid).expect("its mark");
            child.wait().expect("reaped");
            let made = || {
                let child = std::process::Command::new("/bin/true").spawn()?;
                io::Result::Ok(Pid::from_child(&child))
            };
            let (pid, mark) = ProcessMark::of_new(made).expect("a child");
            assert_eq!(mark.expect("a mark"), ProcessMark::of(pid).expect("its mark"));
            assert!(own.open().expect("looked").is_none());
        }
    }

    #[test]
    fn a_mark_opens_only_the_process_it_was_made_of() {
        let own = ProcessMark::own().expect("own mark");
        assert!(own.open().expect("opened").is_some());
        let other = ProcessMark { start: own.start + 1, ..own };
        assert!(other.open().expect("looked").is_none());
        assert!(ProcessMark { pid: -1, start: 0 }.open().expect("looked").is_none());
    }
}
