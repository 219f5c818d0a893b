//! Ends what a dead supervisor's task left running, as the agent can find it.
//!
//! The supervisor's death handed its children to the keeper, which kills them.
//! This is for when the keeper is dead too: it finds the task's session, its
//! group, and what descends from them. A process that left its session and
//! whose parents are all dead can only be found by the keeper.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use crate::proc::{self, ProcessMark, Stat};

/// How long processes may take to die of SIGKILL before we give up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Blocks until nothing of the task is found running. False if something stays.
pub(crate) fn kill(task: ProcessMark) -> io::Result<bool> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = alive(&of_task(task, &proc::all()?))?;
        if left.is_empty() {
            return Ok(true);
        }
        for process in &left {
            // One that died meanwhile is as good as killed.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        for process in &left {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec::try_from(rest).ok();
            poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref())?;
        }
    }
}

fn alive(marks: &[ProcessMark]) -> io::Result<Vec<OwnedFd>> {
    marks.iter().filter_map(|mark| mark.open().transpose()).collect()
}

pub(crate) fn of_task(task: ProcessMark, all: &[Stat]) -> Vec<ProcessMark> {
    // A session's number is not given away while the session has members; if a
    // stranger has it, the session is gone.
    if all.iter().any(|stat| stat.pid == task.pid && stat.start != task.start) {
        return Vec::new();
    }
    let mut ours: BTreeSet<i32> = BTreeSet::new();
    loop {
        let before = ours.len();
        for stat in all.iter().filter(|stat| stat.start >= task.start) {
            if [stat.pid, stat.group, stat.session].contains(&task.pid)
                || ours.contains(&stat.parent)
            {
                ours.insert(stat.pid);
            }
        }
        if ours.len() == before {
            break;
        }
    }
    let ours = all.iter().filter(|stat| ours.contains(&stat.pid));
    ours.map(|stat| ProcessMark { pid: stat.pid, start: stat.start }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32, session: i32, start: u64) -> Stat {
        Stat { pid, parent, group: session, session, start }
    }

    #[test]
    fn the_session_and_its_descendants_are_ours_and_nobody_else() {
        let task = ProcessMark { pid: 10, start: 100 };
        let all = [
            stat(1, 0, 1, 0),
            stat(13, 12, 13, 120), // Listed before its parent.
            stat(10, 1, 10, 100),
            stat(11, 1, 10, 110),
            stat(12, 11, 12, 115),
            stat(20, 1, 20, 130),
        ];
        let pids =
            |all: &[Stat]| of_task(task, all).iter().map(|mark| mark.pid).collect::<Vec<_>>();
        assert_eq!(pids(&all), [13, 10, 11, 12]);
        // The number was given to somebody else.
        assert_eq!(pids(&[stat(10, 1, 10, 500), stat(11, 10, 10, 501)]), [0; 0]);
    }
}
