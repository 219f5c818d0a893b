//! Calls of the small, single-threaded instruments: new namespaces, a bare clone,
//! and the system calls that a probe tries where no wrapper would.
//!
//! Must never be used by a process with threads: a clone copies only the caller.
#![allow(unsafe_code, reason = "clone3, unshare and forbidden calls have no safe wrapper")]

use std::ffi::{CStr, c_int, c_long};
use std::io;
use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::thread::UnshareFlags;

/// Which side of a [`clone_with`] this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller, and the child's pid.
    Parent(i32),
    /// The new process.
    Child,
}

/// `clone3` with these flags and SIGCHLD: a fork into new namespaces.
pub fn clone_with(flags: u64) -> io::Result<Side> {
    // SAFETY: an all-zero clone_args is valid, and means "as fork does".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `args` is initialised and passed with its own size. No CLONE_VM and
    // no stack: the child has a copy of this single-threaded process.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match outcome(pid)? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

/// The older `clone` with these flags, as a fork: where `clone3` is not there to be
/// filtered by its flags.
pub fn clone_plainly(flags: c_int) -> io::Result<Side> {
    let flags = c_long::from(flags | libc::SIGCHLD);
    // SAFETY: no CLONE_VM and no stack, so the child has a copy of this
    // single-threaded process; no flag asks for the other arguments.
    match outcome(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

/// Reads another process's memory at this address; how much came.
pub fn read_memory(pid: i32, address: usize) -> io::Result<usize> {
    let mut space = [0u8; 16];
    let here = libc::iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
    let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: space.len() };
    // SAFETY: `here` leads to 16 bytes of this frame; `there` is an address of the
    // other process, checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(read).map_err(|_negative| io::Error::last_os_error())
}

/// `PTRACE_ATTACH`, and at once let go again.
pub fn trace(pid: i32) -> io::Result<()> {
    // SAFETY: attaching and detaching take no addresses.
    outcome(unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0) })?;
    // SAFETY: as above.
    let _ = unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
    Ok(())
}

/// Adds a key to this session's keyring; its serial number.
pub fn add_key(name: &CStr) -> io::Result<i64> {
    // The session's keyring, by its reserved number.
    const SESSION: c_long = -3;
    // SAFETY: all texts are NUL-terminated, the payload has the length told.
    let key = unsafe {
        libc::syscall(libc::SYS_add_key, c"user".as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, SESSION)
    };
    outcome(key)
}

/// Ignores a signal from now on.
pub fn ignore(signal: c_int) {
    // SAFETY: SIG_IGN is a valid disposition for any signal; a bad number fails.
    let _ = unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Parts this process, which has no other thread, from some namespaces.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: CLONE_FILES, the one flag that endangers descriptors, would part
    // this thread from others, and the module forbids them.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Ends this process at once, with nothing flushed and nothing unwound.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(code) }
}

/// Any socket.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::socket(domain, kind, protocol) })
}

/// Connects to an abstract UNIX name.
pub fn connect_abstract(name: &[u8]) -> io::Result<()> {
    let address = rustix::net::SocketAddrUnix::new_abstract_name(name)?;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )?;
    Ok(rustix::net::connect(&socket, &address)?)
}

/// `ioctl` that reads one byte: TIOCSTI and its like, the request in all its 64 bits.
pub fn ioctl_byte(fd: RawFd, request: u64, byte: u8) -> io::Result<()> {
    let space = [byte; 16];
    // SAFETY: the requests a probe makes read at most 16 bytes from the pointer,
    // which leads to that many of this frame.
    let done = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, space.as_ptr()) };
    outcome(done).map(drop)
}

/// One system call that a container has no business making, with arguments that
/// do nothing even where it is allowed: only numbers, none of them an address of
/// this process, so memory is never read or written through them.
#[derive(Clone, Copy, Debug)]
pub struct Forbidden {
    /// Its name.
    pub name: &'static str,
    number: c_long,
    args: [c_long; 5],
}

/// The number and the error, 0 for none, of each call that was tried.
pub fn try_forbidden(call: Forbidden) -> i32 {
    let [a, b, c, d, e] = call.args;
    // SAFETY: `FORBIDDEN` is the only source of these values; see its entries: all
    // pointers are null or -1, which the kernel refuses with EFAULT or ignores.
    let done = unsafe { libc::syscall(call.number, a, b, c, d, e) };
    match outcome(done) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

const fn call(name: &'static str, number: c_long, args: [c_long; 5]) -> Forbidden {
    Forbidden { name, number, args }
}

/// Asked of every container, in this order.
pub const FORBIDDEN: [Forbidden; 60] = [
    call("acct", libc::SYS_acct, [-1, 0, 0, 0, 0]),
    call("add_key", libc::SYS_add_key, [0, 0, 0, 0, 0]),
    call("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
    call("chroot", libc::SYS_chroot, [0, 0, 0, 0, 0]),
    call("clock_adjtime", libc::SYS_clock_adjtime, [0, 0, 0, 0, 0]),
    call("clock_settime", libc::SYS_clock_settime, [0, 0, 0, 0, 0]),
    call("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0]),
    call("delete_module", libc::SYS_delete_module, [0, 0, 0, 0, 0]),
    call("fanotify_init", libc::SYS_fanotify_init, [0, 0, 0, 0, 0]),
    call("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
    call("fsconfig", libc::SYS_fsconfig, [-1, 0, 0, 0, 0]),
    call("fsmount", libc::SYS_fsmount, [-1, 0, 0, 0, 0]),
    call("fsopen", libc::SYS_fsopen, [0, 0, 0, 0, 0]),
    call("fspick", libc::SYS_fspick, [-1, 0, 0, 0, 0]),
    call("get_mempolicy", libc::SYS_get_mempolicy, [0, 0, 0, 0, 0]),
    call("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
    call("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
    call("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0, 0]),
    call("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]),
    call("kcmp", libc::SYS_kcmp, [1, 1, 99, 0, 0]),
    call("kexec_file_load", libc::SYS_kexec_file_load, [-1, -1, 0, 0, 99]),
    call("kexec_load", libc::SYS_kexec_load, [0, 99, 0, 0, 0]),
    call("keyctl", libc::SYS_keyctl, [0, -1, 0, 0, 0]),
    call("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0]),
    call("lookup_dcookie", libc::SYS_lookup_dcookie, [0, 0, 0, 0, 0]),
    call("mbind", libc::SYS_mbind, [0, 0, 99, 0, 0]),
    call("memfd_secret", libc::SYS_memfd_secret, [99, 0, 0, 0, 0]),
    call("migrate_pages", libc::SYS_migrate_pages, [0, 0, 0, 0, 0]),
    call("mount", libc::SYS_mount, [0, 0, 0, 0, 0]),
    call("mount_setattr", libc::SYS_mount_setattr, [-1, 0, 0, 0, 0]),
    call("move_mount", libc::SYS_move_mount, [-1, 0, -1, 0, 0]),
    call("move_pages", libc::SYS_move_pages, [0, 0, 0, 0, 0]),
    call("name_to_handle_at", libc::SYS_name_to_handle_at, [-1, 0, 0, 0, 0]),
    call("nfsservctl", libc::SYS_nfsservctl, [0, 0, 0, 0, 0]),
    call("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
    call("open_tree", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
    call("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
    call("personality", libc::SYS_personality, [0x0200_0000, 0, 0, 0, 0]),
    call("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
    call("pivot_root", libc::SYS_pivot_root, [0, 0, 0, 0, 0]),
    call("process_madvise", libc::SYS_process_madvise, [-1, 0, 0, 0, 0]),
    call("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
    call("process_vm_writev", libc::SYS_process_vm_writev, [1, 0, 0, 0, 0]),
    call("ptrace", libc::SYS_ptrace, [16, -1, 0, 0, 0]),
    call("quotactl", libc::SYS_quotactl, [0, 0, 0, 0, 0]),
    call("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
    call("request_key", libc::SYS_request_key, [0, 0, 0, 0, 0]),
    call("set_mempolicy", libc::SYS_set_mempolicy, [99, 0, 0, 0, 0]),
    call("setdomainname", libc::SYS_setdomainname, [0, -1, 0, 0, 0]),
    call("sethostname", libc::SYS_sethostname, [0, -1, 0, 0, 0]),
    call("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
    call("settimeofday", libc::SYS_settimeofday, [-1, 0, 0, 0, 0]),
    call("swapoff", libc::SYS_swapoff, [0, 0, 0, 0, 0]),
    call("swapon", libc::SYS_swapon, [0, 0, 0, 0, 0]),
    call("syslog", libc::SYS_syslog, [99, 0, 0, 0, 0]),
    call("umount2", libc::SYS_umount2, [0, 0, 0, 0, 0]),
    call(
        "unshare: a user namespace",
        libc::SYS_unshare,
        [libc::CLONE_NEWUSER as c_long | 1, 0, 0, 0, 0],
    ),
    call(
        "unshare: a mount namespace",
        libc::SYS_unshare,
        [libc::CLONE_NEWNS as c_long | 1, 0, 0, 0, 0],
    ),
    call("userfaultfd", libc::SYS_userfaultfd, [99, 0, 0, 0, 0]),
    call("vhangup", libc::SYS_vhangup, [0, 0, 0, 0, 0]),
];

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    outcome(c_long::from(fd))?;
    // SAFETY: the kernel just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn outcome(done: c_long) -> io::Result<c_long> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}
