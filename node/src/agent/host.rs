//! What this host has, as far as it can be told without asking anybody.

use std::fs;
use std::thread;

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

/// What this host cannot do, each in a sentence.
pub(super) fn warnings() -> Vec<String> {
    vec![
        "limits are counted but not enforced: a task may use more CPU and memory than it asked for"
            .to_owned(),
    ]
}
