//! Limits as the kernel's files want them: which file, which value, and what
//! makes the file as it was.
//!
//! Pure: it decides what to write and in which order. Values are compared as text
//! with what was written last, never read back, since the kernel rounds.

use std::borrow::Cow;
use std::fmt::Write;

use super::layout::{Controller, Version};
use super::limits::{IoLimit, Limits};

/// Period of a processor quota, microseconds: the kernel's default, and as long as
/// a task may have to wait for its next slice.
const PERIOD_US: u32 = 100_000;

/// Shortest quota that the kernel takes, microseconds. Smaller shares of a
/// processor need a longer period, up to the kernel's longest of a second.
const QUOTA_MIN_US: u32 = 1000;

/// v1's shares of a group without a weight, and the weight they stand for. The
/// kernel itself converts so when v2 is used: `sched_weight_from_cgroup()` in
/// kernel/sched/sched.h; systemd does the same.
const SHARES_DEFAULT: u32 = 1024;
const WEIGHT_DEFAULT: u32 = 100;

/// Highest weight that v1's bfq takes.
const LEGACY_WEIGHT_MAX: u16 = 1000;

/// Docker's range of v1 weights of input and output, and how many steps of v2's each takes:
/// runc's `ConvertBlkIOToIOWeightValue`, the other way round.
const LEGACY_IO_WEIGHTS: std::ops::RangeInclusive<u16> = 10..=LEGACY_WEIGHT_MAX;

/// One value in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The limit's name for people, the field of [`Limits`].
    pub(super) limit: &'static str,
    pub(super) controller: Controller,
    pub(super) file: &'static str,
    /// For files with a line for each device: which.
    pub(super) device: String,
    /// Without the device.
    pub(super) value: Cow<'static, str>,
    /// What means "no limit".
    pub(super) free: &'static str,
    /// Follows from another limit, so a machine that lacks the file is not to blame.
    pub(super) implied: bool,
}

impl Setting {
    /// Whether both are about the same place.
    fn same_place(&self, other: &Self) -> bool {
        self.file == other.file && self.device == other.device
    }

    /// The text to write for a value.
    fn line(&self, value: &str) -> String {
        if self.device.is_empty() { value.to_owned() } else { format!("{} {value}", self.device) }
    }

    /// The text that says this setting.
    pub(super) fn text(&self) -> String {
        self.line(&self.value)
    }

    /// The text that takes it back.
    pub(super) fn free_text(&self) -> String {
        self.line(self.free)
    }
}

/// Which files say these limits, given where each controller is. Second: the limits
/// that nothing here can enforce.
pub(super) fn settings(
    limits: &Limits,
    at: impl Fn(Controller) -> Option<Version>,
) -> (Vec<Setting>, Vec<&'static str>) {
    let mut list = List { settings: Vec::new(), missing: Vec::new() };
    list.cpu(limits, at(Controller::Cpu));
    list.memory(limits, at(Controller::Memory));
    if let Some(pids) = limits.pids_max {
        match at(Controller::Pids) {
            None => list.missing.push("pids_max"),
            Some(_) => list.add("pids_max", Controller::Pids, "pids.max", pids.to_string(), "max"),
        }
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        match at(Controller::Cpuset) {
            None => list.missing.push("cpuset_cpus"),
            Some(_) => {
                // v1 has no text for "as above": who takes it back knows what that is.
                list.add("cpuset_cpus", Controller::Cpuset, "cpuset.cpus", cpus.clone(), "\n");
            }
        }
    }
    if let Some(weight) = limits.io_weight {
        list.io_weight(weight, at(Controller::Io));
    }
    if !limits.io.is_empty() {
        match at(Controller::Io) {
            None => list.missing.push("io"),
            Some(version) => limits.io.iter().for_each(|limit| list.io(limit, version)),
        }
    }
    (list.settings, list.missing)
}

/// The limits that nothing says, where the kernel has no file for some settings and took the
/// others: a weight that only bfq has a file for is still one.
pub(super) fn unsaid(fileless: &[Setting], taken: &[Setting]) -> Vec<&'static str> {
    let stands_in =
        |lost: &&Setting| taken.iter().any(|other| other.implied && other.limit == lost.limit);
    let lost = fileless.iter().filter(|lost| !lost.implied && !stands_in(lost));
    let mut names: Vec<_> = lost.map(|lost| lost.limit).collect();
    names.dedup();
    names
}

struct List {
    settings: Vec<Setting>,
    missing: Vec<&'static str>,
}

impl List {
    fn add(
        &mut self,
        limit: &'static str,
        controller: Controller,
        file: &'static str,
        value: impl Into<Cow<'static, str>>,
        free: &'static str,
    ) {
        let (device, value, implied) = (String::new(), value.into(), false);
        self.settings.push(Setting { limit, controller, file, device, value, free, implied });
    }

    fn implied(&mut self) {
        if let Some(last) = self.settings.last_mut() {
            last.implied = true;
        }
    }

    fn cpu(&mut self, limits: &Limits, version: Option<Version>) {
        let cpu = Controller::Cpu;
        if let Some(weight) = limits.cpu_weight {
            match version {
                Some(Version::V2) => {
                    self.add("cpu_weight", cpu, "cpu.weight", weight.to_string(), "100");
                }
                Some(Version::V1) => {
                    let shares = shares(weight).to_string();
                    self.add("cpu_weight", cpu, "cpu.shares", shares, "1024");
                }
                None => self.missing.push("cpu_weight"),
            }
        }
        let Some(milli) = limits.cpu_quota_milli else { return };
        let (quota, period) = quota(milli);
        match version {
            Some(Version::V2) => {
                let value = format!("{quota} {period}");
                self.add("cpu_quota_milli", cpu, "cpu.max", value, "max 100000");
            }
            Some(Version::V1) => {
                if period != PERIOD_US {
                    let period = period.to_string();
                    self.add("cpu_quota_milli", cpu, "cpu.cfs_period_us", period, "100000");
                }
                let quota = quota.to_string();
                self.add("cpu_quota_milli", cpu, "cpu.cfs_quota_us", quota, "-1");
            }
            None => self.missing.push("cpu_quota_milli"),
        }
    }

    fn memory(&mut self, limits: &Limits, version: Option<Version>) {
        let memory = Controller::Memory;
        if let Some(high) = limits.memory_high {
            match version {
                Some(Version::V2) => {
                    self.add("memory_high", memory, "memory.high", high.to_string(), "max");
                }
                // v1's soft limit is another thing.
                _ => self.missing.push("memory_high"),
            }
        }
        if let Some(low) = limits.memory_low {
            // As runc does: v2 protects up to it, v1 takes what is beyond it first.
            let (file, free) = match version {
                Some(Version::V2) => ("memory.low", "0"),
                _ => (SOFT, "-1"),
            };
            match version {
                Some(_) => self.add("memory_low", memory, file, low.to_string(), free),
                None => self.missing.push("memory_low"),
            }
        }
        let Some(max) = limits.memory_max else { return };
        let swap = limits.swap.unwrap_or(0);
        match version {
            Some(Version::V2) => {
                self.add("memory_max", memory, "memory.max", max.to_string(), "max");
                self.add("swap", memory, "memory.swap.max", swap.to_string(), "max");
                self.settings
                    .last_mut()
                    .into_iter()
                    .for_each(|s| s.implied = limits.swap.is_none());
                self.add("memory_max", memory, "memory.oom.group", "1", "0");
                self.implied();
            }
            Some(Version::V1) => {
                self.add("memory_max", memory, MEMORY, max.to_string(), "-1");
                let both = max.saturating_add(swap).min(i64::MAX.unsigned_abs()).to_string();
                self.add("swap", memory, MEMORY_AND_SWAP, both, "-1");
                self.settings
                    .last_mut()
                    .into_iter()
                    .for_each(|s| s.implied = limits.swap.is_none());
            }
            None => {
                self.missing.push("memory_max");
                self.missing.extend(limits.swap.map(|_| "swap"));
            }
        }
    }

    fn io_weight(&mut self, weight: u16, version: Option<Version>) {
        let io = Controller::Io;
        match version {
            Some(Version::V2) => {
                let value = format!("default {weight}");
                self.add("io_weight", io, "io.weight", value, "default 100");
                // Where the disks' scheduler is bfq it has a file of its own, with v1's weights.
                let value = legacy_io_weight(weight).to_string();
                self.add("io_weight", io, "io.bfq.weight", value, "100");
                self.implied();
            }
            Some(Version::V1) => {
                let value = legacy_io_weight(weight).to_string();
                self.add("io_weight", io, "blkio.bfq.weight", value, "100");
            }
            None => self.missing.push("io_weight"),
        }
    }

    fn io(&mut self, limit: &IoLimit, version: Version) {
        let rates = [
            ("rbps", "blkio.throttle.read_bps_device", limit.read_bps),
            ("wbps", "blkio.throttle.write_bps_device", limit.write_bps),
            ("riops", "blkio.throttle.read_iops_device", limit.read_iops),
            ("wiops", "blkio.throttle.write_iops_device", limit.write_iops),
        ];
        let mut add = |file, value: String, free| {
            self.add("io", Controller::Io, file, value, free);
            if let Some(last) = self.settings.last_mut() {
                last.device = limit.device.to_string();
            }
        };
        match version {
            Version::V2 => {
                let mut value = String::new();
                for (name, _, rate) in rates {
                    // Writing to a string cannot fail.
                    let _ = match rate {
                        Some(rate) => write!(value, "{name}={rate} "),
                        None => write!(value, "{name}=max "),
                    };
                }
                if rates.iter().any(|(.., rate)| rate.is_some()) {
                    let value = value.trim_end().to_owned();
                    add("io.max", value, "rbps=max wbps=max riops=max wiops=max");
                }
                if let Some(weight) = limit.weight {
                    add("io.weight", weight.to_string(), "default");
                }
            }
            Version::V1 => {
                for (_, file, rate) in rates {
                    if let Some(rate) = rate {
                        add(file, rate.to_string(), "0");
                    }
                }
                if let Some(weight) = limit.weight {
                    let weight = weight.min(LEGACY_WEIGHT_MAX).to_string();
                    add("blkio.bfq.weight_device", weight, "default");
                }
            }
        }
    }
}

const SOFT: &str = "memory.soft_limit_in_bytes";
pub(super) const MEMORY: &str = "memory.limit_in_bytes";
pub(super) const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// Every file we may have written, with what frees it: for a slot of which nobody
/// knows what was written. v1's cpuset has no "as above", and is not joined without a
/// list.
pub(super) const FREE: [(Version, Controller, &str, &str); 19] = [
    (Version::V2, Controller::Cpu, "cpu.weight", "100"),
    (Version::V2, Controller::Cpu, "cpu.max", "max 100000"),
    (Version::V2, Controller::Io, "io.weight", "default 100"),
    (Version::V2, Controller::Io, "io.bfq.weight", "100"),
    (Version::V2, Controller::Memory, "memory.low", "0"),
    (Version::V2, Controller::Memory, "memory.high", "max"),
    (Version::V2, Controller::Memory, "memory.max", "max"),
    (Version::V2, Controller::Memory, "memory.swap.max", "max"),
    (Version::V2, Controller::Memory, "memory.oom.group", "0"),
    (Version::V2, Controller::Cpuset, "cpuset.cpus", "\n"),
    (Version::V2, Controller::Pids, "pids.max", "max"),
    (Version::V1, Controller::Cpu, "cpu.shares", "1024"),
    (Version::V1, Controller::Cpu, "cpu.cfs_quota_us", "-1"),
    (Version::V1, Controller::Cpu, "cpu.cfs_period_us", "100000"),
    (Version::V1, Controller::Io, "blkio.bfq.weight", "100"),
    (Version::V1, Controller::Memory, SOFT, "-1"),
    (Version::V1, Controller::Memory, MEMORY_AND_SWAP, "-1"),
    (Version::V1, Controller::Memory, MEMORY, "-1"),
    (Version::V1, Controller::Pids, "pids.max", "max"),
];

/// The same for files with a line for each device.
pub(super) const FREE_DEVICES: [(Version, &str, &str); 7] = [
    (Version::V2, "io.max", "rbps=max wbps=max riops=max wiops=max"),
    (Version::V2, "io.weight", "default"),
    (Version::V1, "blkio.throttle.read_bps_device", "0"),
    (Version::V1, "blkio.throttle.write_bps_device", "0"),
    (Version::V1, "blkio.throttle.read_iops_device", "0"),
    (Version::V1, "blkio.throttle.write_iops_device", "0"),
    (Version::V1, "blkio.bfq.weight_device", "default"),
];

/// Quota and period in microseconds.
fn quota(milli: u32) -> (u64, u32) {
    let milli = milli.max(1);
    let period = PERIOD_US.max(QUOTA_MIN_US.saturating_mul(1000).div_ceil(milli));
    (u64::from(milli) * u64::from(period) / 1000, period)
}

fn shares(weight: u16) -> u32 {
    (u32::from(weight) * SHARES_DEFAULT + WEIGHT_DEFAULT / 2) / WEIGHT_DEFAULT
}

/// A weight of 1 to 10000 as one of 10 to 1000.
fn legacy_io_weight(weight: u16) -> u32 {
    let (least, most) = (u32::from(*LEGACY_IO_WEIGHTS.start()), u32::from(LEGACY_WEIGHT_MAX));
    least + ((u32::from(weight).max(1) - 1) * (most - least) + 9999 / 2) / 9999
}

/// What to write so that a slot which has `now` gets `wanted`: each is a setting,
/// and whether it is set or taken back.
pub(super) fn changes<'a>(now: &'a [Setting], wanted: &'a [Setting]) -> Vec<(&'a Setting, bool)> {
    let gone = |old: &&Setting| !wanted.iter().any(|new| new.same_place(old));
    let mut list: Vec<_> = now.iter().filter(gone).map(|old| (old, false)).collect();
    // A shorter period under an old quota could exceed the parent's share.
    list.sort_by_key(|(old, _)| old.file != "cpu.cfs_quota_us");
    list.extend(wanted.iter().filter(|new| !now.contains(new)).map(|new| (new, true)));
    // v1 refuses at any moment a limit on memory above that on memory and swap: what
    // grows moves the upper one first, what shrinks the lower one.
    if let Some(at) = list.iter().position(|(setting, _)| setting.file == MEMORY_AND_SWAP) {
        let bytes = |setting: Option<&Setting>| {
            setting.and_then(|setting| setting.value.parse().ok()).unwrap_or(u64::MAX)
        };
        let of = |list: &'a [Setting]| list.iter().find(|s| s.file == MEMORY_AND_SWAP);
        let entry = list.remove(at);
        let grows = bytes(of(wanted)) >= bytes(of(now));
        list.insert(if grows { 0 } else { list.len() }, entry);
    }
    list
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
