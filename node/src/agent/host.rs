//! What this host has, as far as it can be told without asking anybody.

use std::fs;
use std::thread;

use gossip_core::limits::LimitKind;
use runtime::doctor::{self, Finding, Ground, State};
use starling_core::bidder::Lacks;

/// Kept back for the host itself, as a part of its memory.
const MEMORY_KEPT_PERCENT: u64 = 10;

/// What is offered where the host does not say how much memory it has.
const MEMORY_UNKNOWN: u64 = 512 << 20;

/// All cores this process may use, in thousandths.
pub(super) fn cpu_milli() -> u64 {
    thread::available_parallelism().map_or(1000, |cores| cores.get() as u64 * 1000)
}

/// Memory to offer: all but a tenth.
pub(super) fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(MEMORY_UNKNOWN, |kib| kib.saturating_mul(1024));
    total / 100 * (100 - MEMORY_KEPT_PERCENT)
}

/// The processors that are switched on, as the kernel lists them.
pub(super) fn show_processors() -> String {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    text.trim().to_owned()
}

/// The same, one by one.
pub(super) fn processors() -> Vec<u32> {
    runtime::cgroup::processors(&show_processors()).collect()
}

/// What of the finer limits this host has no controller for, each with the reason. Whether
/// the kernel has each file is seen when a task starts.
pub(super) fn lacks() -> Lacks {
    let held = runtime::cgroup::Layout::probe().unwrap_or_default().enforces();
    let kinds = [
        (LimitKind::Cpuset, held.cpuset),
        (LimitKind::Io, held.io.clone()),
        (LimitKind::IoWeight, held.io),
        (LimitKind::Swap, held.memory.clone()),
        (LimitKind::Reservation, held.memory),
    ];
    kinds
        .into_iter()
        .filter(|(_, held)| !held.holds())
        .map(|(kind, held)| (kind, held.why))
        .collect()
}

/// The limits that a job may ask for and this host may fail to enforce, by the doctor's names.
const LIMITS: [&str; 4] = ["cpu limit", "memory limit", "pids limit", "tracking"];

/// What this host cannot enforce of a job's limits, and what its tasks can do to the
/// agent, each in a sentence.
pub(super) fn warnings() -> Vec<String> {
    let open = doctor::processes(&runtime::Facts::probe(), &Ground::probe());
    let open = open.into_iter().filter(|finding| finding.state != State::Ok);
    unenforced().into_iter().chain(open).map(|finding| finding.what).collect()
}

/// Whether CPU, memory and number of processes of each task are held to their limits.
pub(super) fn enforces_limits() -> bool {
    unenforced().iter().all(|finding| finding.name == "tracking")
}

fn unenforced() -> Vec<Finding> {
    let layout = runtime::cgroup::Layout::probe().unwrap_or_default();
    let mut found = doctor::limits(&layout, &Ground::probe());
    found.retain(|finding| finding.state != State::Ok && LIMITS.contains(&finding.name));
    found
}

/// A user of this host, as `USER[:GROUP]` by name or number; the user's own group where none
/// is said. None if there is no such user or group.
pub(super) fn user(text: &str) -> Option<runtime::User> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    user_in(text, &passwd, &group)
}

fn user_in(text: &str, passwd: &str, groups: &str) -> Option<runtime::User> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let field = |line: &str, at: usize| line.split(':').nth(at)?.parse::<u32>().ok();
    let named = |file: &str, name: &str| {
        file.lines().find(|line| line.split(':').next() == Some(name)).map(str::to_owned)
    };
    let numbered =
        |uid: u32| passwd.lines().find(|line| field(line, 2) == Some(uid)).map(str::to_owned);
    // A name goes before a number, as for chown.
    let line = named(passwd, user);
    let uid = match &line {
        Some(line) => field(line, 2)?,
        None => user.parse().ok()?,
    };
    let gid = match group {
        Some(group) => match named(groups, group) {
            Some(line) => field(&line, 2)?,
            None => group.parse().ok()?,
        },
        None => line.or_else(|| numbered(uid)).and_then(|line| field(&line, 3))?,
    };
    // The kernel takes the greatest number for "as it is".
    (uid != u32::MAX && gid != u32::MAX).then_some(runtime::User { uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_or_numbered_and_never_guessed() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n7777777777:x:0:0::/:/bin/sh\n";
        let groups = "root:x:0:\ndata:x:60:\n";
        for (text, wanted) in [
            ("web", Some((33, 34))),
            ("33", Some((33, 34))),
            ("web:data", Some((33, 60))),
            ("4000:4000", Some((4000, 4000))),
            ("4000", None),
            ("nobody-here", None),
            ("web:nogroup", None),
            ("4294967295:0", None),
            ("4294967296:0", None),
            ("-1:0", None),
        ] {
            let found = user_in(text, passwd, groups).map(|user| (user.uid, user.gid));
            assert_eq!(found, wanted, "{text}");
        }
    }
}
