//! A child that borrows its parent's memory until it runs a program, so that
//! nothing is copied: the cheap half of what `posix_spawn` does.

#![allow(unsafe_code, reason = "a shared-memory clone has no safe form; the block argues its case")]

use std::ffi::{c_int, c_void};
use std::io;

use rustix::process::Pid;

use super::exit_now;

/// Stack of the child: a few system calls deep, in a build without optimisation.
const STACK_BYTES: usize = 64 << 10;

/// Runs `child` in a new process while this one waits until it has exec'd or exited.
/// A child that returns exits with 127.
///
/// The child must only make system calls and write to what it was lent: no
/// allocation, no lock, no panic. All signals that have handlers must be blocked;
/// this crate installs none.
pub(crate) fn vfork(child: &mut dyn FnMut()) -> io::Result<Pid> {
    extern "C" fn run(argument: *mut c_void) -> c_int {
        // SAFETY: the argument is the reference below, alive because the parent sleeps.
        let child = unsafe { &mut *argument.cast::<&mut dyn FnMut()>() };
        child();
        exit_now(127)
    }
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let mut child = child;
    // SAFETY: the stack is aligned, its top is one past the end of the allocation as
    // clone wants it, and it outlives the child's use of it: with CLONE_VFORK the
    // parent sleeps until the child has another memory or none. The memory is shared
    // for that time with nobody but the sleeping parent, which has one thread. No
    // CLONE_FS, FILES or SIGHAND: what the child changes of these is its own.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(STACK_BYTES / size_of::<u128>());
        let argument: *mut &mut dyn FnMut() = &raw mut child;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(run, top.cast(), flags, argument.cast())
    };
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    #[test]
    fn what_the_child_writes_is_the_parents_when_it_is_back() {
        let mut seen = 0;
        let pid = vfork(&mut || seen = 7).expect("a child");
        assert_eq!(seen, 7);
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).expect("waited").expect("ended");
        assert_eq!(status.exit_status(), Some(127));
    }
}
