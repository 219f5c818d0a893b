//! New processes beyond what `fork` can do: in new namespaces, born inside a
//! control group, or on the parent's memory for the shortest way to an exec.
//!
//! A kernel without `clone3` (or a filter that hides it) answers ENOSYS, and the
//! caller falls back to [`super::fork`] and joins groups by hand.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::cell::Cell;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::Fork;

/// Stack of a child on its parent's memory: it formats nothing and calls no more
/// than a few frames deep; debug builds are the hungry ones.
const STACK_BYTES: usize = 64 << 10;

/// `CLONE_INTO_CGROUP`; the C library's has too few bits.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of `linux/sched.h`, second version: the one with `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl CloneArgs {
    fn new(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Self {
        let into = if cgroup.is_some() { INTO_CGROUP } else { 0 };
        let cgroup = cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
        let exit_signal = libc::SIGCHLD as u64;
        Self { flags: flags | into, exit_signal, cgroup, ..Self::default() }
    }
}

/// Forks a process that has one thread into new namespaces (`CLONE_NEW*`) and, if
/// one is given, into the control group (version 2) behind a directory handle. Says
/// also whether the child was born there: a kernel that lacks the call, or hides it,
/// gives a child that has to join by itself.
pub(crate) fn fork_into(
    namespaces: u32,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<(Fork, Birth)> {
    let mut args = CloneArgs::new(u64::from(namespaces), cgroup);
    // SAFETY: the structure is as long as said and lives for the call. Without
    // CLONE_VM the child has its own copy of memory and stack, and as the caller
    // has one thread, finds every lock in it free.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    let mut birth = if cgroup.is_some() { Birth::InGroup } else { Birth::Outside };
    if pid < 0 {
        match io::Error::last_os_error().raw_os_error() {
            // E2BIG: a kernel whose structure has no group yet.
            Some(libc::ENOSYS | libc::E2BIG) => {}
            _ => return Err(io::Error::last_os_error()),
        }
        birth = Birth::Outside;
        let flags = u64::from(namespaces) | libc::SIGCHLD as u64;
        // SAFETY: as above; a null stack means a copy of this one, and the order of
        // the further arguments, all zero, does not matter.
        pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0u64, 0u64, 0u64, 0u64) };
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let side = i32::try_from(pid).ok().and_then(Pid::from_raw).map_or(Fork::Child, Fork::Parent);
    Ok((side, birth))
}

/// Forks a process that has one thread into a child of its own parent, which will
/// wait for it: so a process that entered other namespaces can leave at once.
pub(crate) fn fork_sibling() -> io::Result<Fork> {
    let flags = libc::CLONE_PARENT as u64;
    // SAFETY: as a plain fork: no CLONE_VM, so the child has its own copy of memory and
    // stack, and one thread to find every lock free. The signal at its end is that of
    // the caller's own, as the kernel demands.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0u64, 0u64, 0u64, 0u64) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw).map_or(Fork::Child, Fork::Parent))
}

/// Where a child begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// In the control group that was given.
    InGroup,
    /// In its parent's.
    Outside,
}

/// Runs `child` in a new process on this one's memory and in new namespaces
/// (`CLONE_NEW*`), while this one waits until the child has exec'd or ended. `child` must not allocate, lock or unwind into
/// the caller's state; what it writes through its captures is seen here afterwards.
///
/// # Errors
/// The kernel's, ENOSYS where this cannot be done.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn spawn_sharing<F: FnMut() -> i32>(
    cgroup: Option<BorrowedFd<'_>>,
    namespaces: u32,
    mut child: F,
) -> io::Result<Pid> {
    extern "C" fn begin<F: FnMut() -> i32>(child: *mut F) -> ! {
        // SAFETY: the pointer is to the closure in the suspended parent's frame.
        let child = unsafe { &mut *child };
        let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(libc::EXIT_FAILURE);
        super::exit_now(status)
    }
    let sharing = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    let mut args = CloneArgs::new(sharing | u64::from(namespaces), cgroup);
    // Taken out, so that a child that clones another does not get its own.
    let stack = match STACK.take() {
        Some(stack) => stack,
        None => Stack::new()?,
    };
    args.stack = stack.0 as u64;
    args.stack_size = STACK_BYTES as u64;
    let code = clone_and_call(&mut args, begin::<F> as *const (), (&raw mut child).cast());
    STACK.set(Some(stack));
    if code < 0 {
        let number = i32::try_from(-code).unwrap_or(libc::EIO);
        return Err(io::Error::from_raw_os_error(number));
    }
    let pid = i32::try_from(code).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn spawn_sharing<F: FnMut() -> i32>(
    _cgroup: Option<BorrowedFd<'_>>,
    _namespaces: u32,
    _child: F,
) -> io::Result<Pid> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

#[cfg(target_arch = "x86_64")]
fn clone_and_call(args: &mut CloneArgs, begin: *const (), of: *mut ()) -> i64 {
    let code: i64;
    // SAFETY: in the parent this is one system call, which clobbers rax, rcx and
    // r11. The child starts behind it with the same registers on its own, 16 byte
    // aligned stack and calls a function that never returns, so it never touches
    // this frame; the parent is suspended meanwhile.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => code,
            in("rdi") std::ptr::from_mut(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") begin,
            in("r13") of,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    code
}

#[cfg(target_arch = "aarch64")]
fn clone_and_call(args: &mut CloneArgs, begin: *const (), of: *mut ()) -> i64 {
    let code: i64;
    // SAFETY: as on the other architecture; the call clobbers only x0.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "brk 1",
            "2:",
            inlateout("x0") std::ptr::from_mut(args) => code,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") begin,
            in("x21") of,
        );
    }
    code
}

/// Memory for a child's stack.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Stack(*mut libc::c_void);

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
thread_local! {
    /// The last child's, which is done with it: the next one needs no new memory.
    static STACK: Cell<Option<Stack>> = const { Cell::new(None) };
}

/// Returns to the kernel what is kept for the next child of [`spawn_sharing`].
pub(crate) fn give_stack_back() {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    STACK.set(None);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Stack {
    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), STACK_BYTES, rights, flags, -1, 0) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(base)) }
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made above; the child that ran on it has its
        // own memory by now, or none.
        unsafe { libc::munmap(self.0, STACK_BYTES) };
    }
}

/// Gives this process, which has one thread, namespaces of its own.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: the danger is a descriptor table of one's own beside other threads;
    // no caller asks for that, and none has other threads.
    unsafe { rustix::thread::unshare_unsafe(flags - UnshareFlags::FILES) }
}

/// Joins a session keyring that nobody else has. Without it a task would share its
/// supervisor's, hence every other task's.
pub(crate) fn own_keyring() -> io::Result<()> {
    /// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
    const JOIN: libc::c_ulong = 1;
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring; no other memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN, name) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps all but the host's root from looking into this process, until it executes
/// another program.
pub(crate) fn hide_memory() -> io::Result<()> {
    set_dumpable(0)
}

/// Undoes it. For tests: a change of user hides too.
#[cfg(test)]
pub(crate) fn show_memory() -> io::Result<()> {
    set_dumpable(1)
}

fn set_dumpable(value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: passes numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, value, 0, 0, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
