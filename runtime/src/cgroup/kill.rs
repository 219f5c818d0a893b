//! Ends, awaits and freezes all that is in a slot.
//!
//! v2 kills a whole subtree in one write, also while it forks and while it is frozen.
//! Elsewhere the processes are held still (frozen, and forbidden to fork) while they
//! are killed one by one. A v1-frozen process dies only when it is thawed.
//!
//! Invariant: nobody outside the slot is signalled. A number read from the group may
//! be somebody else's by now, so a process is opened first, and signalled only if the
//! number is still in the group after that.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::group::{Group, entry, read_small};
use super::layout::Controller;
use super::{CgroupError, Slot};

/// How long processes may take to die of SIGKILL: one may sleep in the kernel, in a
/// dead file system perhaps.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a freeze may take before what runs is killed as it is: freezing waits for
/// every process to leave the kernel.
const HOLD_PATIENCE: Duration = Duration::from_millis(100);

/// How long [`Slot::freeze`] waits.
const FREEZE_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks where nothing wakes us, or late: the kernel holds changes of
/// `cgroup.events` back for up to 10 ms (`CGROUP_FILE_NOTIFY_MIN_INTV`).
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(20);

/// Processes opened at a time.
const BATCH: usize = 128;

impl Slot {
    /// Whether nothing lives in the slot.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        let group = self.tracked()?;
        if let Some(populated) = group.entry(EVENTS, "populated") {
            return Ok(populated == 0);
        }
        let mut empty = true;
        group.visit(&mut |group| {
            empty &= group.has_no_process();
            Ok(())
        })?;
        Ok(empty)
    }

    /// Waits until nothing lives in the slot; false if something does when the time
    /// is up.
    pub fn wait_empty(&self, until: Instant) -> Result<bool, CgroupError> {
        let group = self.tracked()?;
        if let Ok(events) = group.open_file(EVENTS, OFlags::RDONLY) {
            return Ok(wait_event(&events, "populated", 0, until));
        }
        let mut pause = LOOK_FIRST;
        while !self.is_empty()? {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(false);
            }
            match first_process(group)? {
                Some(process) => wait_for(&process, PollFlags::IN, rest.min(LOOK_LAST)),
                None => sleep(pause.min(rest)),
            }
            pause = (pause * 2).min(LOOK_LAST);
        }
        Ok(true)
    }

    /// Kills everything in the slot and in groups below it; true when nothing is left,
    /// false if something did not die within ten seconds.
    pub fn kill(&self) -> Result<bool, CgroupError> {
        let until = Instant::now() + KILL_PATIENCE;
        let group = self.tracked()?;
        match group.try_write("cgroup.kill", "1") {
            Ok(()) => {
                self.forbid_births();
                self.wait_empty(until)
            }
            // v1, or v2 before Linux 5.14.
            Err(Errno::NOENT) => self.kill_one_by_one(until),
            Err(errno) => Err(group.unwritten("cgroup.kill", "1", errno)),
        }
    }

    /// Kills where the kernel cannot kill a group.
    pub(super) fn kill_one_by_one(&self, until: Instant) -> Result<bool, CgroupError> {
        if self.is_empty()? {
            return Ok(true);
        }
        let quiet = self.quieten();
        let killed = self.hunt(self.tracked()?, until);
        self.disquieten(quiet);
        killed
    }

    /// Forbids the task to fork; returns what was written.
    fn quieten(&self) -> Option<&Group> {
        let (_, pids) = self.joined(Controller::Pids)?;
        pids.try_write("pids.max", "0").ok().map(|()| pids)
    }

    fn disquieten(&self, pids: Option<&Group>) {
        if let Some(pids) = pids {
            // The slot may serve another task.
            let _ = pids.try_write("pids.max", &self.pids_max());
        }
    }

    fn hunt(&self, group: &Group, until: Instant) -> Result<bool, CgroupError> {
        let mut pause = LOOK_FIRST;
        loop {
            let frozen = self.set_frozen("1", "FROZEN").is_ok();
            if frozen {
                self.await_frozen(until.min(Instant::now() + HOLD_PATIENCE), true);
            }
            let struck = strike(group);
            if frozen {
                self.set_frozen("0", "THAWED")?;
            }
            if let Some(process) = struck? {
                wait_for(&process, PollFlags::IN, LOOK_LAST);
            } else {
                sleep(pause);
                pause = (pause * 2).min(LOOK_LAST);
            }
            if self.is_empty()? {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
        }
    }

    /// Holds everything in the slot still; false if something still ran after two
    /// seconds, which then freezes when it can.
    pub fn freeze(&self) -> Result<bool, CgroupError> {
        self.set_frozen("1", "FROZEN")?;
        Ok(self.await_frozen(Instant::now() + FREEZE_PATIENCE, true))
    }

    /// Lets it run on.
    pub fn thaw(&self) -> Result<bool, CgroupError> {
        self.set_frozen("0", "THAWED")?;
        Ok(self.await_frozen(Instant::now() + FREEZE_PATIENCE, false))
    }

    fn set_frozen(&self, unified: &str, legacy: &str) -> Result<(), CgroupError> {
        if let Some(group) = self.unified() {
            match group.try_write("cgroup.freeze", unified) {
                Ok(()) => return Ok(()),
                // Before Linux 5.2.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(group.unwritten("cgroup.freeze", unified, errno)),
            }
        }
        match self.joined(Controller::Freezer) {
            Some((_, group)) => group.write("freezer.state", legacy),
            None => Err(CgroupError::NoFreezer { slot: self.name.clone() }),
        }
    }

    fn await_frozen(&self, until: Instant, frozen: bool) -> bool {
        let events = self.unified().and_then(|group| group.open_file(EVENTS, OFlags::RDONLY).ok());
        if let Some(events) = events.filter(|events| event(events, "frozen").is_some()) {
            return wait_event(&events, "frozen", u64::from(frozen), until);
        }
        let Some((_, group)) = self.joined(Controller::Freezer) else { return false };
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let mut pause = LOOK_FIRST;
        loop {
            let reached = group.small("freezer.state", |text| Some(text.trim_ascii() == wanted));
            if reached == Some(true) {
                return true;
            }
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return false;
            }
            if frozen {
                // A group that forks while it freezes needs to be told again.
                let _ = group.try_write("freezer.state", wanted);
            }
            sleep(pause.min(rest));
            pause = (pause * 2).min(LOOK_LAST);
        }
    }
}

const EVENTS: &str = "cgroup.events";

fn event(events: &OwnedFd, key: &str) -> Option<u64> {
    use std::os::fd::AsFd;
    read_small(events.as_fd(), |text| entry(text, key))
}

/// Waits for a value in `cgroup.events`; true when it is there, or the group is gone.
fn wait_event(events: &OwnedFd, key: &str, wanted: u64, until: Instant) -> bool {
    let mut pause = LOOK_FIRST;
    loop {
        if event(events, key).is_none_or(|value| value == wanted) {
            return true;
        }
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        wait_for(events, PollFlags::PRI, rest.min(pause));
        pause = (pause * 2).min(LOOK_LAST);
    }
}

fn wait_for(fd: &OwnedFd, flags: PollFlags, longest: Duration) {
    let timeout = Timespec::try_from(longest).ok();
    // An error or a signal is a reason to look.
    let _ = poll(&mut [PollFd::new(fd, flags)], timeout.as_ref());
}

fn open_process(number: i32) -> Option<OwnedFd> {
    let pid = if number > 0 { Pid::from_raw(number) } else { None };
    pidfd_open(pid?, PidfdFlags::empty()).ok()
}

fn first_process(group: &Group) -> Result<Option<OwnedFd>, CgroupError> {
    let mut first = None;
    group.visit(&mut |group| {
        if first.is_none() {
            first = group.processes()?.into_iter().find_map(open_process);
        }
        Ok(())
    })?;
    Ok(first)
}

/// Kills each process that is in the groups now; returns one of them to wait for.
fn strike(group: &Group) -> Result<Option<OwnedFd>, CgroupError> {
    let mut last = None;
    group.visit(&mut |group| {
        for batch in group.processes()?.chunks(BATCH) {
            let open = |number: &i32| Some((*number, open_process(*number)?));
            let opened: Vec<_> = batch.iter().filter_map(open).collect();
            let mut still = group.processes()?;
            still.sort_unstable();
            for (number, process) in opened {
                if still.binary_search(&number).is_ok() {
                    // One that died meanwhile is as good as killed.
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                    last = Some(process);
                }
            }
        }
        Ok(())
    })?;
    Ok(last)
}
