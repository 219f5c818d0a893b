//! The first process of a container whose program does not want to be it.
//!
//! It passes on to the program's process group what it is sent, reaps what it
//! inherits, and ends with the program's status; a program that a signal ended shows
//! as 128 and the signal, as in a shell. With it ends all else in the container.
//!
//! It is a fork and not a program of its own, so `/proc/1/exe` is the supervisor's
//! file. Nobody inside can open that: its memory is not dumpable and belongs to the
//! host's user namespace, so only a process with CAP_SYS_PTRACE on the host may look.
//!
//! Invariant: it holds no descriptor of the supervisor's, and of root's powers only
//! that to signal.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use crate::sys;

/// What is passed on: all that a program may handle and that is not about the
/// process that gets it.
const PASSED: [Signal; 9] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::ALARM,
    Signal::CONT,
];

/// Of them and of a child's end.
const TAKEN: [Signal; 10] = {
    let mut taken = [Signal::CHILD; 10];
    let mut at = 0;
    while at < PASSED.len() {
        taken[at] = PASSED[at];
        at += 1;
    }
    taken
};

/// What it is called inside, where its own words would be the supervisor's.
pub(super) const TITLE: &CStr = c"starling-init";

/// Serves until the program ends. Returns never.
pub(super) fn serve(program: Pid) -> ! {
    if sys::close_all().is_err() || renounce().is_err() {
        sys::exit_now(125);
    }
    sys::block_only(&TAKEN);
    let Ok(signals) = sys::signal_fd(&TAKEN) else { sys::exit_now(125) };
    loop {
        // The program may have ended before the signals were blocked.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == program {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                sys::exit_now(status.exit_status().or(signal).unwrap_or(125));
            }
        }
        let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], None);
        let taken = sys::take_signals(signals.as_fd(), TAKEN);
        for (signal, _) in PASSED.into_iter().zip(taken).filter(|(_, taken)| *taken) {
            let _ = kill_process_group(program, signal);
        }
    }
}

fn renounce() -> rustix::io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    set_no_new_privs(true)?;
    let kill = CapabilitySet::KILL;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kill, permitted: kill, inheritable: none })
}
