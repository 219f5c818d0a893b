//! What an errand has made, or left: all of it is this process's child, or becomes it.
//!
//! Unreaped children cannot change their number, so a plain kill of them is safe.
//! Orphans of a container's process are the container's own, and never come here.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use crate::proc;

/// How long they may take to die of SIGKILL before the keeper is left to look for them:
/// one may sleep in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks: one that is inherited from a dying child does not report itself.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What came of killing.
#[derive(Debug)]
pub(crate) struct Killed {
    /// How the process that was asked for ended, if it was reaped here.
    pub(crate) main: Option<WaitStatus>,
    /// No child is left.
    pub(crate) is_all: bool,
}

/// Kills and reaps every child of this process, and what becomes its child by that.
/// Blocks; `main` is the one whose end somebody wants to know.
pub(crate) fn kill(main: Option<Pid>) -> Killed {
    let mut killed = Killed { main: None, is_all: false };
    let until = Instant::now() + PATIENCE;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if Some(pid) == main {
                    killed.main = Some(status);
                }
                continue;
            }
            Err(Errno::INTR) => continue,
            Ok(None) if Instant::now() > until => return killed,
            Ok(None) => {}
            Err(_) => {
                killed.is_all = true;
                return killed;
            }
        }
        for child in proc::own_children().unwrap_or_default() {
            let _ = kill_process(child, Signal::KILL);
        }
        sleep(LOOK_AGAIN);
    }
}
