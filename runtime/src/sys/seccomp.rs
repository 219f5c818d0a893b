//! Hands a filter to the kernel. For good: a filter can only be tightened.
//!
//! Runs in the child, after its user has changed and as the last step before exec;
//! nothing is allocated. The program was built before the fork.

use std::ptr;

use rustix::io::Errno;

use crate::seccomp::Program;

/// Leaves the processor's store bypass as it is. Without it kernels before 5.16 switch
/// a mitigation on for every filtered process, which slows interpreters to half; runc
/// and crun set it too.
const FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// Filters this process, and all that come of it, from now on. A program without
/// instructions is no filter.
///
/// EACCES without no-new-privileges or CAP_SYS_ADMIN; EINVAL for a program that the
/// kernel does not accept, or where it was built without filters.
pub(crate) fn install(program: &Program) -> Result<(), Errno> {
    let words = program.words();
    if words.is_empty() {
        return Ok(());
    }
    match load(words, FLAGS) {
        // Before 4.17 the flag is unknown.
        Err(Errno::INVAL) => load(words, 0),
        result => result,
    }
}

fn load(words: &[u64], flags: libc::c_ulong) -> Result<(), Errno> {
    let Ok(len) = libc::c_ushort::try_from(words.len()) else { return Err(Errno::TOOBIG) };
    let program =
        libc::sock_fprog { len, filter: words.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: the words outlive the call and are `len` times 8 bytes, the size of a
    // sock_filter, whose alignment is less; the kernel copies and checks them and
    // writes nothing, so the lost const is not used.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            flags,
            ptr::from_ref(&program),
        )
    };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// For tests: a system call by its number.
#[cfg(test)]
pub(crate) fn call(number: libc::c_long, args: [u64; 6]) -> Result<libc::c_long, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the tests pass numbers only, no addresses but null and -1, at which the
    // kernel fails; of what succeeds nothing touches this process's memory.
    let done = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if done >= 0 { Ok(done) } else { Err(last_error()) }
}

/// For tests: a call without arguments as 32-bit x86 makes it; 0 if it succeeded.
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) fn call_as_i386(number: u32) -> i32 {
    let result: i32;
    // SAFETY: the interrupt changes the result register, and r8 to r11 on old kernels;
    // the tests ask for nothing that touches memory.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") number => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i32::from(result < 0)
}
