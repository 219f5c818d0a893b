//! Kills what a task left behind: by then all of it are the supervisor's children,
//! or children of those.
//!
//! Unreaped children cannot change their number, so a plain kill is safe here.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, kill_process, wait};

use super::TAKEN;
use super::pump::Pump;
use crate::{proc, sys};

/// How long a process may take to die of SIGKILL before the end is told without
/// it: one that sleeps in the kernel, in a dead file system perhaps. The keeper
/// inherits it and kills it again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks: a child killed reports itself, but one that is inherited
/// from a dying child does not.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Returns when no child is left; false if some would not die.
pub(super) fn kill_children(signals: &OwnedFd, pump: &mut Pump) -> bool {
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
            return true;
        }
        if Instant::now() > until {
            eprintln!("starling supervisor: some process does not die of SIGKILL");
            return false;
        }
        for child in proc::own_children().unwrap_or_default() {
            let _ = kill_process(child, Signal::KILL);
        }
        pump.wait(signals, Some(LOOK_AGAIN));
        sys::take_signals(signals.as_fd(), TAKEN);
    }
}
