//! For tests: what a child sees, without exec.
//!
//! The tests' own process has threads, so a child may only make system calls and
//! touch memory that is there already: no allocation, no printing, no panic.

use std::io;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use rustix::process::{WaitOptions, waitpid};

use super::{Fork, exit_now, fork};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Runs this in a forked child; its result is the child's exit code.
pub(crate) fn run(child: impl FnOnce() -> i32) -> Outcome {
    let pid = match fork().expect("fork") {
        // A panic must not reach the copied test runner: the copy would end well.
        Fork::Child => exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(101)),
        Fork::Parent(pid) => pid,
    };
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).expect("wait").expect("an end");
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (_, Some(signal)) => Outcome::Killed(signal),
        other => panic!("{other:?}"),
    }
}

/// Has this called between fork and exec of the command. It may only make system calls.
pub(crate) fn before_exec(
    command: &mut Command,
    act: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the tests pass closures that make system calls and allocate nothing.
    unsafe { command.pre_exec(act) };
}
