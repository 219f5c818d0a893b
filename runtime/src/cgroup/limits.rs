//! What a task may use, as the user says it, checked before anything is done.
//!
//! The values are those of v2 (kernel: Documentation/admin-guide/cgroup-v2.rst);
//! [`settings`](super::settings) knows how either version is told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Range of weights, as in v2; a task without one has 100.
const WEIGHTS: std::ops::RangeInclusive<u16> = 1..=10_000;

/// Most of a quota: 8,192 processors, as many as Linux can be built for.
const QUOTA_MILLI_MAX: u32 = 8_192_000;

/// Below this not even a small program starts: the kernel charges its page tables,
/// stacks and buffers too.
const MEMORY_MIN: u64 = 512 << 10;

/// The kernel counts memory in pages, in a signed number of bytes.
const BYTES_MAX: u64 = 1 << 62;

/// The kernel's highest process number.
const PIDS_MAX: u64 = 1 << 22;

/// Highest processor number that Linux can be built for.
const CPU_MAX: u32 = 8191;

/// Longest list of processors, so that it fits in one write.
const LIST_BYTES: usize = 2048;

/// Most devices with limits of their own.
const DEVICES_MAX: usize = 64;

/// Limits of one task. What is `None` is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Share of the processors when they are contended, 1 to 10000; 100 is usual.
    pub cpu_weight: Option<u16>,
    /// Most processor time, in thousandths of one processor.
    pub cpu_quota_milli: Option<u32>,
    /// Most memory, bytes; what exceeds it is reclaimed or killed.
    pub memory_max: Option<u64>,
    /// Memory from which on the task is slowed down and reclaimed, bytes. v2 only.
    pub memory_high: Option<u64>,
    /// Memory that is taken from it last when the machine runs short, bytes: a wish.
    pub memory_low: Option<u64>,
    /// Most swap, bytes. With `memory_max` and without this: none.
    pub swap: Option<u64>,
    /// Most processes and threads together; dead ones count until they are reaped.
    pub pids_max: Option<u64>,
    /// Which processors, as the kernel lists them: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Share of contended block devices, 1 to 10000; 100 is usual.
    pub io_weight: Option<u16>,
    /// Limits on block devices, at most one entry each.
    pub io: Vec<IoLimit>,
}

/// A device by its numbers, printed `8:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Limits on one block device: a whole disk, not a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoLimit {
    /// Which.
    pub device: Device,
    /// Share of the device when it is contended, 1 to 10000 (v1: to 1000).
    #[serde(default)]
    pub weight: Option<u16>,
    /// Bytes a second read.
    #[serde(default)]
    pub read_bps: Option<u64>,
    /// Bytes a second written.
    #[serde(default)]
    pub write_bps: Option<u64>,
    /// Reads a second.
    #[serde(default)]
    pub read_iops: Option<u64>,
    /// Writes a second.
    #[serde(default)]
    pub write_iops: Option<u64>,
}

/// What nobody asks for by accident, and not every machine has: a task that asks for one of
/// these does not run without it. The others are told of before anything runs, by
/// [`Layout::enforces`](super::Layout::enforces).
const INSISTED: [&str; 5] = ["memory_low", "swap", "cpuset_cpus", "io_weight", "io"];

/// What is wrong with [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {given}; {wanted}")]
pub struct LimitFlaw {
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub given: String,
    /// What it may hold.
    pub wanted: &'static str,
}

fn flaw(field: &'static str, given: impl fmt::Display, wanted: &'static str) -> LimitFlaw {
    LimitFlaw { field, given: given.to_string(), wanted }
}

impl Limits {
    /// Refuses what no machine could enforce. Whether this one can is for
    /// [`Layout::enforces`](super::Layout::enforces).
    pub fn check(&self) -> Result<(), LimitFlaw> {
        if let Some(weight) = self.cpu_weight.filter(|weight| !WEIGHTS.contains(weight)) {
            return Err(flaw("cpu_weight", weight, "it may be 1 to 10000"));
        }
        let quota = self.cpu_quota_milli;
        if let Some(quota) = quota.filter(|quota| !(1..=QUOTA_MILLI_MAX).contains(quota)) {
            return Err(flaw("cpu_quota_milli", quota, "it may be 1 to 8192000"));
        }
        self.check_memory()?;
        if let Some(pids) = self.pids_max.filter(|pids| !(1..=PIDS_MAX).contains(pids)) {
            return Err(flaw("pids_max", pids, "it may be 1 to 4194304"));
        }
        if let Some(cpus) = &self.cpuset_cpus
            && !is_cpu_list(cpus)
        {
            let shown: String = cpus.chars().take(80).collect();
            return Err(flaw("cpuset_cpus", format!("{shown:?}"), "it may be a list as 0-2,4"));
        }
        self.check_io()
    }

    /// Refuses to go without a limit that was asked for by name. `missing` are those that
    /// this machine cannot enforce; on one without control groups, all.
    pub(crate) fn insist(&self, missing: Option<&[&'static str]>) -> Result<(), LimitFlaw> {
        let asked = [
            self.memory_low.is_some(),
            self.swap.is_some(),
            self.cpuset_cpus.is_some(),
            self.io_weight.is_some(),
            !self.io.is_empty(),
        ];
        let is_missing = |field: &&str| missing.is_none_or(|missing| missing.contains(field));
        let mut lacking =
            INSISTED.iter().zip(asked).filter(|(field, asked)| *asked && is_missing(field));
        lacking.next().map_or(Ok(()), |(field, _)| {
            Err(flaw(field, "asked for", "this machine's control groups have nothing for it"))
        })
    }

    fn check_memory(&self) -> Result<(), LimitFlaw> {
        for (field, bytes) in [("memory_max", self.memory_max), ("memory_high", self.memory_high)] {
            if let Some(bytes) = bytes.filter(|bytes| !(MEMORY_MIN..=BYTES_MAX).contains(bytes)) {
                return Err(flaw(field, bytes, "it may be 512 KiB to 4 EiB"));
            }
        }
        match (self.memory_high, self.memory_max) {
            (Some(high), Some(max)) if high > max => {
                return Err(flaw("memory_high", high, "it may be as much as memory_max"));
            }
            _ => {}
        }
        if let Some(low) = self.memory_low.filter(|low| !(1..=BYTES_MAX).contains(low)) {
            return Err(flaw("memory_low", low, "it may be 1 byte to 4 EiB"));
        }
        match (self.memory_low, self.memory_max) {
            (Some(low), Some(max)) if low > max => {
                return Err(flaw("memory_low", low, "it may be as much as memory_max"));
            }
            _ => {}
        }
        match self.swap {
            Some(swap) if self.memory_max.is_none() => {
                Err(flaw("swap", swap, "it needs a memory_max beside it"))
            }
            Some(swap) if swap > BYTES_MAX => Err(flaw("swap", swap, "it may be up to 4 EiB")),
            _ => Ok(()),
        }
    }

    fn check_io(&self) -> Result<(), LimitFlaw> {
        if let Some(weight) = self.io_weight.filter(|weight| !WEIGHTS.contains(weight)) {
            return Err(flaw("io_weight", weight, "it may be 1 to 10000"));
        }
        if self.io.len() > DEVICES_MAX {
            return Err(flaw("io", format!("{} entries", self.io.len()), "it may have up to 64"));
        }
        for (at, limit) in self.io.iter().enumerate() {
            let before = self.io.iter().take(at);
            if before.into_iter().any(|other| other.device == limit.device) {
                return Err(flaw("io", limit.device, "each device may have one entry"));
            }
            if let Some(weight) = limit.weight.filter(|weight| !WEIGHTS.contains(weight)) {
                return Err(flaw("io.weight", weight, "it may be 1 to 10000"));
            }
            for (field, rate) in [
                ("io.read_bps", limit.read_bps),
                ("io.write_bps", limit.write_bps),
                ("io.read_iops", limit.read_iops),
                ("io.write_iops", limit.write_iops),
            ] {
                // Zero would mean "no limit" to v1 and is refused by v2.
                if let Some(rate) = rate.filter(|rate| *rate == 0 || *rate > BYTES_MAX) {
                    return Err(flaw(field, rate, "it may be 1 to 2^62 a second"));
                }
            }
        }
        Ok(())
    }
}

/// The processors of a list as the kernel writes them; none of a text that is no list.
pub fn processors(list: &str) -> impl Iterator<Item = u32> {
    let parts = if is_cpu_list(list) { list } else { "" }.split(',');
    parts
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
        })
        .flatten()
}

/// Numbers and rising ranges of numbers, each within what Linux can have. The
/// kernel's other notations (`0-15:1/4`, `all`) are not taken.
fn is_cpu_list(text: &str) -> bool {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<u32>().ok()).flatten().filter(|number| *number <= CPU_MAX)
    };
    let is_range = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
    };
    text.len() <= LIST_BYTES && text.split(',').all(is_range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_make_sense_pass() {
        let all = Limits {
            cpu_weight: Some(10_000),
            cpu_quota_milli: Some(1),
            memory_max: Some(64 << 20),
            memory_high: Some(64 << 20),
            memory_low: Some(1 << 20),
            swap: Some(0),
            pids_max: Some(1),
            cpuset_cpus: Some("0-2,4".into()),
            io_weight: Some(1),
            io: vec![IoLimit {
                device: Device { major: 8, minor: 0 },
                weight: Some(100),
                read_bps: Some(1),
                write_bps: None,
                read_iops: None,
                write_iops: None,
            }],
        };
        for limits in [Limits::default(), all.clone()] {
            assert_eq!(limits.check(), Ok(()));
            let text = serde_json::to_string(&limits).expect("written");
            assert_eq!(serde_json::from_str::<Limits>(&text).expect("read"), limits);
        }
        assert!(serde_json::from_str::<Limits>(r#"{"memory":1}"#).is_err());
        let sparse = r#"{"io":[{"device":{"major":8,"minor":0},"read_bps":5}]}"#;
        assert_eq!(serde_json::from_str::<Limits>(sparse).expect("read").io[0].read_bps, Some(5));
    }

    #[test]
    fn a_flaw_names_its_field() {
        let io = |device: u32, read: u64| IoLimit {
            device: Device { major: 8, minor: device },
            weight: None,
            read_bps: Some(read),
            write_bps: None,
            read_iops: None,
            write_iops: None,
        };
        let none = Limits::default;
        for (field, limits) in [
            ("cpu_weight", Limits { cpu_weight: Some(0), ..none() }),
            ("cpu_weight", Limits { cpu_weight: Some(10_001), ..none() }),
            ("cpu_quota_milli", Limits { cpu_quota_milli: Some(0), ..none() }),
            ("cpu_quota_milli", Limits { cpu_quota_milli: Some(u32::MAX), ..none() }),
            ("memory_max", Limits { memory_max: Some(4096), ..none() }),
            ("memory_max", Limits { memory_max: Some(u64::MAX), ..none() }),
            (
                "memory_high",
                Limits { memory_high: Some(2 << 20), memory_max: Some(1 << 20), ..none() },
            ),
            ("memory_low", Limits { memory_low: Some(0), ..none() }),
            (
                "memory_low",
                Limits { memory_low: Some(2 << 20), memory_max: Some(1 << 20), ..none() },
            ),
            ("swap", Limits { swap: Some(1), ..none() }),
            ("io_weight", Limits { io_weight: Some(10_001), ..none() }),
            ("pids_max", Limits { pids_max: Some(0), ..none() }),
            ("io", Limits { io: vec![io(0, 1), io(0, 2)], ..none() }),
            ("io", Limits { io: (0..65).map(|minor| io(minor, 1)).collect(), ..none() }),
            ("io.read_bps", Limits { io: vec![io(0, 0)], ..none() }),
        ] {
            let found = limits.check().expect_err(field);
            assert_eq!(found.field, field, "{limits:?}");
        }
    }

    #[test]
    fn what_was_asked_for_by_name_is_not_left_out() {
        let limits = Limits { io_weight: Some(1), pids_max: Some(1), ..Limits::default() };
        assert_eq!(limits.insist(Some(&["pids_max", "io"])), Ok(()));
        let lacking = limits.insist(Some(&["pids_max", "io_weight"])).expect_err("lacking");
        assert_eq!(lacking.field, "io_weight");
        assert_eq!(limits.insist(None).expect_err("no groups").field, "io_weight");
        assert_eq!(Limits { io_weight: None, ..limits }.insist(None), Ok(()));
    }

    #[test]
    fn processor_lists_are_numbers_and_rising_ranges() {
        for good in ["0", "0-0", "0-2,4", "8191"] {
            assert!(is_cpu_list(good), "{good}");
        }
        assert_eq!(processors("0-2,4").collect::<Vec<_>>(), [0, 1, 2, 4]);
        assert_eq!(processors("2-1").count(), 0);
        for bad in
            ["", ",", "0,", "-1", "2-1", "1-", "8192", "0-3:1/2", "all", "0\n1", " 0", "+1", "0x1"]
        {
            assert!(!is_cpu_list(bad), "{bad:?}");
        }
    }
}
