//! A time namespace whose clocks begin now.

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};

use super::place::is_procfs;
use super::report::Failure;
use crate::sys::clone;

/// Enters a time namespace. It must be set before anybody is in it, and whoever makes
/// it is not: so make, set, enter. Needs the supervisor's `/proc`, and its owner.
pub(super) fn begin() -> Result<(), Failure> {
    clone::unshare(UnshareFlags::NEWTIME)?;
    let open = |path: &'static std::ffi::CStr, flags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
    };
    let offsets = open(c"/proc/self/timens_offsets", OFlags::WRONLY)?;
    is_procfs(&offsets)?;
    // Whole seconds: the result must not be negative.
    let (monotonic, boottime) =
        (clock_gettime(ClockId::Monotonic).tv_sec, clock_gettime(ClockId::Boottime).tv_sec);
    let text = format!("monotonic -{monotonic} 0\nboottime -{boottime} 0\n");
    rustix::io::write(&offsets, text.as_bytes())?;
    let made = open(c"/proc/self/ns/time_for_children", OFlags::RDONLY)?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&made), Some(LinkNameSpaceType::Time))?;
    Ok(())
}
