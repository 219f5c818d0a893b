//! The processes of a task, as its supervisor finds them: all of them are its
//! children, or children of those, for it takes every orphan of theirs. But for those that
//! entered it: they are other supervisors', and found by the group.
//!
//! Unreaped children cannot change their number, so a plain kill of them is safe.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, kill_process, pidfd_send_signal, wait};

use super::group::Group;
use super::pump::Pump;
use super::signals::Signals;
use crate::proc::{self, ProcessMark, Stat};

/// How long a process may take to die of SIGKILL before the end is told without
/// it: one that sleeps in the kernel, in a dead file system perhaps. The keeper
/// inherits it and kills it again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks: a child killed reports itself, but one that is inherited
/// from a dying child does not.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Kills what is left. Returns when nothing is left; false if something would not die.
pub(super) fn kill_children(signals: &mut Signals, pump: &mut Pump, group: &Group) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        let reaped = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(Errno::INTR) => {}
                Err(_) => break true,
            }
        };
        if reaped {
            // Few are entered, so only then is a look at the group worth its time.
            return !signals.adopted || group.kill();
        }
        if Instant::now() > until {
            complain!("starling supervisor: some process does not die of SIGKILL");
            return false;
        }
        group.kill();
        for child in proc::own_children().unwrap_or_default() {
            let _ = kill_process(child, Signal::KILL);
        }
        pump.wait(signals, LOOK_AGAIN);
        signals.take();
    }
}

/// Sends a signal to every process of the task that is found.
pub(super) fn signal_all(own: ProcessMark, signal: Signal) -> io::Result<()> {
    for mark in descendants(own.pid, &proc::all()?) {
        if let Some(process) = mark.open()? {
            // One that died meanwhile needs no signal.
            let _ = pidfd_send_signal(&process, signal);
        }
    }
    Ok(())
}

fn descendants(of: i32, all: &[Stat]) -> Vec<ProcessMark> {
    let mut family = BTreeSet::from([of]);
    loop {
        let before = family.len();
        let children = all.iter().filter(|stat| family.contains(&stat.parent)).map(|stat| stat.pid);
        let children: Vec<i32> = children.collect();
        family.extend(children);
        if family.len() == before {
            break;
        }
    }
    let found = all.iter().filter(|stat| stat.pid != of && family.contains(&stat.pid));
    found.map(|stat| ProcessMark { pid: stat.pid, start: stat.start }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_in_whatever_order_they_are_listed() {
        let stat = |pid, parent| Stat { pid, parent, group: 0, session: 0, start: 1 };
        let all = [stat(13, 12), stat(10, 1), stat(12, 10), stat(20, 1)];
        let pids: Vec<i32> = descendants(10, &all).iter().map(|mark| mark.pid).collect();
        assert_eq!(pids, [13, 12]);
    }
}
