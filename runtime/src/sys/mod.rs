//! Every unsafe line of this crate: the few calls that rustix does not offer.
//!
//! All of them serve the keeper and its forks, which have one thread each.
//! What runs between fork and exec must be async-signal-safe, so nothing here
//! that a child calls allocates, locks or unwinds.

#![allow(
    unsafe_code,
    reason = "fork, exec and signal masks have no safe form; each block argues its case"
)]

pub(crate) mod capability;
pub(crate) mod cgroup;
pub(crate) mod clone;
#[cfg(test)]
pub(crate) mod forked;
pub(crate) mod landlock;
pub(crate) mod mount;
mod readable;
mod seats;
pub(crate) mod seccomp;
mod title;
mod vfork;

pub(crate) use readable::Readable;
pub(crate) use seats::{Seat, Seats};
pub(crate) use title::set_title;
pub(crate) use vfork::vfork;

use std::ffi::{CString, c_char, c_int, c_uint, c_ulong};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Pid, Signal};

/// Highest signal number of Linux on the machines we support.
const LAST_SIGNAL: c_int = 64;

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent(Pid),
}

/// Forks a process that has one thread. With more the child could find any lock
/// held for ever, so the keeper checks this when it starts.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: fork has no memory preconditions. The caller has one thread, so the
    // child finds the allocator and all locks in a consistent state.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Ends this process without the exit handlers of the image it was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives the kernel back what is kept of memory that nobody uses now.
pub(crate) fn give_memory_back() {
    clone::give_stack_back();
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; what is in use is not touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Strings as `execve` wants them: pointers with a null behind.
#[derive(Debug)]
pub(crate) struct CStrings {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// Replaces this process; returns only the error.
pub(crate) fn exec(path: &CString, argv: &CStrings, env: &CStrings) -> rustix::io::Errno {
    // SAFETY: all three are null-terminated and live for the whole call: the
    // pointers of a `CStrings` point into heap blocks that it owns and never
    // changes.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    let code = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    rustix::io::Errno::from_raw_os_error(code)
}

/// Closes everything above the standard streams.
pub(crate) fn close_all() -> io::Result<()> {
    close_range(0)
}

/// Marks everything above the standard streams to be closed by exec.
pub(crate) fn close_all_on_exec() -> io::Result<()> {
    close_range(libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes everything above the standard streams but these. Whatever owned the rest
/// must not use or drop it: the caller ends without unwinding.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<c_uint> = keep.iter().filter_map(|fd| c_uint::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from: c_uint = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > from {
            close_between(from, fd - 1, 0)?;
        }
        from = fd + 1;
    }
    close_between(from, c_uint::MAX, 0)
}

fn close_range(flags: c_uint) -> io::Result<()> {
    close_between(3, c_uint::MAX, flags)
}

fn close_between(first: c_uint, last: c_uint, flags: c_uint) -> io::Result<()> {
    // SAFETY: no memory is passed. The callers own no descriptor in that range
    // that they use afterwards: the keeper closes before it opens anything, the
    // child only marks, and a visitor of a task keeps what it uses and ends without
    // dropping the rest.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mask(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set it is given; sigaddset is
    // called on an initialised set and fails harmlessly on a bad number.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        set.assume_init()
    }
}

/// Blocks exactly these signals.
pub(crate) fn block_only(signals: &[Signal]) {
    // SAFETY: the set is initialised; a null old set is allowed; the only failure
    // is a wrong first argument.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &mask(signals), ptr::null_mut()) };
}

/// What the kernel takes for a disposition: all zeros is "default, no flags".
#[repr(C)]
struct Disposition {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// Gives every signal its default disposition, as a fresh program expects.
pub(crate) fn default_dispositions() {
    for signal in 1..=LAST_SIGNAL {
        dispose(signal, libc::SIG_DFL);
    }
}

/// Gives a signal its default disposition.
pub(crate) fn heed(signal: Signal) {
    dispose(signal.as_raw(), libc::SIG_DFL);
}

/// Forgets what this process was sent and has blocked.
pub(crate) fn forget_signals() {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a set of zeros is an empty one, and the kernel fills it in.
    let pending = unsafe {
        libc::sigpending(pending.as_mut_ptr());
        pending.assume_init()
    };
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: reads the set that was filled in.
        if unsafe { libc::sigismember(&raw const pending, signal) } == 1 {
            // To ignore one takes it out of what is pending.
            dispose(signal, libc::SIG_IGN);
            dispose(signal, libc::SIG_DFL);
        }
    }
}

/// Ignores a signal.
pub(crate) fn ignore(signal: Signal) {
    dispose(signal.as_raw(), libc::SIG_IGN);
}

/// Straight to the kernel: the C library keeps two signals to itself, and whoever
/// started the agent may have them ignored.
fn dispose(signal: c_int, handler: usize) {
    let wanted = Disposition { handler, flags: 0, restorer: 0, mask: 0 };
    let old: *mut Disposition = ptr::null_mut();
    // SAFETY: the handler is one of the two constants, so no code is installed and
    // no restorer needed; the structure has the kernel's layout, with its 8 bytes of
    // mask; a null old one is allowed. Signals that cannot be changed are refused.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, &raw const wanted, old, size_of::<u64>())
    };
}

/// A descriptor from which these (blocked) signals are read.
pub(crate) fn signal_fd(signals: &[Signal]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &mask(signals), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes all pending signals from a signal descriptor; true for those that `of` names.
pub(crate) fn take_signals<const N: usize>(fd: BorrowedFd<'_>, of: [Signal; N]) -> [bool; N] {
    let mut seen = [false; N];
    loop {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        // SAFETY: the buffer is as long as said, and the kernel writes whole records.
        let got = unsafe {
            libc::read(
                fd.as_raw_fd(),
                info.as_mut_ptr().cast(),
                size_of::<libc::signalfd_siginfo>(),
            )
        };
        if usize::try_from(got) != Ok(size_of::<libc::signalfd_siginfo>()) {
            return seen;
        }
        // SAFETY: the record was written in full, and it was zeroed before: plain
        // integers, valid either way.
        let number = unsafe { info.assume_init() }.ssi_signo;
        for (slot, signal) in seen.iter_mut().zip(of) {
            *slot |= u32::try_from(signal.as_raw()) == Ok(number);
        }
    }
}
