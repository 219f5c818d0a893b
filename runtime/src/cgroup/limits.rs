//! What a task may use.

use serde::{Deserialize, Serialize};

/// What a task may use; what is not said is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Share under contention, 1 to 10,000; 100 is everybody's.
    pub cpu_weight: Option<u16>,
    /// Thousandths of a core, at most.
    pub cpu_quota_milli: Option<u32>,
    /// Bytes of memory, at most.
    pub memory_max: Option<u64>,
    /// Bytes of memory above which it is slowed down and reclaimed.
    pub memory_high: Option<u64>,
    /// Processes and threads, at most.
    pub pids_max: Option<u32>,
    /// The cores it may run on: `0-2,4`.
    pub cpuset_cpus: Option<String>,
}
