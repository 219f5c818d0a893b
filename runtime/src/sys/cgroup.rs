//! bpf(2), as far as it decides on the devices of a control group: load a program,
//! attach it, detach it. rustix has no form of it.
//!
//! Layouts and numbers: the kernel's `include/uapi/linux/bpf.h`.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const PROG_LOAD: c_int = 5;
const PROG_ATTACH: c_int = 8;
const PROG_DETACH: c_int = 9;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// Several programs may be attached, here and below, and all must agree.
const ALLOW_MULTI: u32 = 2;

/// One instruction. Registers are 0 to 10.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Instruction(u64);

impl Instruction {
    /// `struct bpf_insn` of a little-endian machine: code, two registers of four bits,
    /// offset, value.
    const fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        let registers = (to & 0xf) | (from << 4);
        Self(
            code as u64
                | (registers as u64) << 8
                | (offset.cast_unsigned() as u64) << 16
                | (value.cast_unsigned() as u64) << 32,
        )
    }

    /// `to = *(u32 *)(from + offset)`
    pub(crate) const fn load(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    /// `to &= value`
    pub(crate) const fn and(to: u8, value: i32) -> Self {
        Self::new(0x57, to, 0, 0, value)
    }

    /// `to >>= value`
    pub(crate) const fn shift_right(to: u8, value: i32) -> Self {
        Self::new(0x77, to, 0, 0, value)
    }

    /// `to = from`
    pub(crate) const fn copy(to: u8, from: u8) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    /// `to = value`
    pub(crate) const fn set(to: u8, value: i32) -> Self {
        Self::new(0xb7, to, 0, 0, value)
    }

    /// Skips `offset` instructions unless `to == value`.
    pub(crate) const fn unless_equal(to: u8, value: i32, offset: i16) -> Self {
        Self::new(0x55, to, 0, offset, value)
    }

    /// Skips `offset` instructions unless `to == from`.
    pub(crate) const fn unless_same(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x5d, to, from, offset, 0)
    }

    /// Ends with what register 0 holds.
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }

    #[cfg(test)]
    pub(crate) const fn encoded(self) -> u64 {
        self.0
    }
}

/// The part of `union bpf_attr` that loading reads.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: *const Instruction,
    license: *const u8,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The part of `union bpf_attr` that attaching and detaching read.
#[repr(C)]
struct Attach {
    target: RawFd,
    program: RawFd,
    attach_type: u32,
    flags: u32,
}

/// # Safety
///
/// Every pointer in the attributes must be valid for what the command reads.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes there and takes the rest for
    // zero; the pointers within are the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Loads a program that decides on devices.
pub(crate) fn load_device_program(code: &[Instruction]) -> io::Result<OwnedFd> {
    let count = u32::try_from(code.len());
    let attributes = Load {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: count.map_err(|_long| io::ErrorKind::InvalidInput)?,
        instructions: code.as_ptr(),
        license: c"Apache-2.0".as_ptr().cast(),
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: `code` lives through the call and is as long as said; an `Instruction`
    // has the layout of `struct bpf_insn`; the license ends in a zero; no log is asked
    // for. The kernel verifies the program itself.
    let fd = unsafe { bpf(PROG_LOAD, &attributes) }?;
    let fd = RawFd::try_from(fd).map_err(|_large| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel just made it (it closes on exec), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a program decide for a group and all below it, beside those that do already.
pub(crate) fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    change(PROG_ATTACH, group, program, ALLOW_MULTI)
}

/// Takes an attached program away.
pub(crate) fn detach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    change(PROG_DETACH, group, program, 0)
}

fn change(
    command: c_int,
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let attributes = Attach {
        target: group.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags,
    };
    // SAFETY: these attributes hold no pointers, and both descriptors are open.
    unsafe { bpf(command, &attributes) }.map(drop)
}
