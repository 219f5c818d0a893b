//! The names of resource limits, and setting them.

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit as Limit, getrlimit, prlimit, setrlimit};

use crate::launch::Rlimit;

/// Docker's names for what the kernel limits per process.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// The largest number stands for "no limit", as in the kernel.
fn bound(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

/// Sets a limit of this process. Allocates nothing.
pub(super) fn set(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    setrlimit(resource, Limit { current: bound(soft), maximum: bound(hard) })
}

/// Lets another process set a higher limit than it could: what this one may raise,
/// one in a user namespace may not.
pub(super) fn raise(process: Pid, limit: &Rlimit) -> Result<(), Errno> {
    let Some(resource) = resource(&limit.name) else { return Err(Errno::INVAL) };
    let now = getrlimit(resource);
    match now.maximum {
        Some(most) if most < limit.hard => {
            let raised = Limit { current: now.current, maximum: bound(limit.hard) };
            prlimit(Some(process), resource, raised).map(drop)
        }
        _ => Ok(()),
    }
}
