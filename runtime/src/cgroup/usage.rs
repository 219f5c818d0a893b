//! What the task in a slot has used, of either version's files.
//!
//! The kernel counts for the life of a group, and groups outlive tasks: what is told
//! is the difference to a baseline taken when the task began. Highest memory is no
//! sum; it is reset where the kernel can (v1; v2 since Linux 6.12, for one open file
//! alone) and told only where it is certain.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::OFlags;
use rustix::io::{retry_on_intr, write};
use serde::{Deserialize, Serialize};

use super::Slot;
use super::group::{Group, entry, read_small};
use super::layout::{Controller, Version};

/// What a task has used. `None`: the kernel does not tell here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of all threads, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Time for which threads had to wait for the quota, nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Periods in which the quota ran out.
    pub throttled_periods: Option<u64>,
    /// Memory now, bytes, page cache included.
    pub memory_bytes: Option<u64>,
    /// Most memory at any moment, bytes.
    pub memory_peak: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Bytes read from block devices.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub write_bytes: Option<u64>,
    /// Processes killed for want of memory; see [`Slot::oom_kills`].
    pub oom_kills: Option<u64>,
}

impl Usage {
    /// What was used since `base`.
    #[must_use]
    pub fn since(&self, base: &Self) -> Self {
        let rest = |now: Option<u64>, then: Option<u64>| {
            now.map(|now| now.saturating_sub(then.unwrap_or(0)))
        };
        Self {
            cpu_ns: rest(self.cpu_ns, base.cpu_ns),
            throttled_ns: rest(self.throttled_ns, base.throttled_ns),
            throttled_periods: rest(self.throttled_periods, base.throttled_periods),
            memory_bytes: self.memory_bytes,
            // A peak no higher than before is the former task's.
            memory_peak: match base.memory_peak {
                Some(before) => self.memory_peak.filter(|peak| *peak > before),
                None => self.memory_peak,
            },
            pids: self.pids,
            read_bytes: rest(self.read_bytes, base.read_bytes),
            write_bytes: rest(self.write_bytes, base.write_bytes),
            oom_kills: rest(self.oom_kills, base.oom_kills),
        }
    }
}

/// Files that stay open between tasks.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// The highest memory, once it was reset: v2 resets it for one open file alone.
    peak: Option<OwnedFd>,
    /// What counts kills for want of memory; looked at after every task.
    kills: OnceLock<OwnedFd>,
}

/// Which group of a slot has a controller.
type Find = fn(&Slot, Controller) -> Option<(Version, &Group)>;

impl Slot {
    /// What the present task has used.
    pub fn usage(&self) -> Usage {
        self.total().since(&self.baseline)
    }

    /// How many processes of the present task were killed for want of memory; none
    /// where the kernel does not count them. One file is read. Where a group dies as one
    /// the kernel may count its first victim twice, so only "none" and "some" are exact.
    pub fn oom_kills(&self) -> Option<u64> {
        let now = self.oom_kills_total(self.joined(Controller::Memory))?;
        Some(now.saturating_sub(self.baseline.oom_kills.unwrap_or(0)))
    }

    /// Begins to count anew: the next task is about to start. Reads every counter, so
    /// it is best done after the last task's end is told.
    pub fn renew(&mut self) {
        let reset = self.reset_peak();
        // What there is now of memory and processes says nothing of what comes. Groups that
        // the last task was not in may be the next one's.
        self.baseline = self.counted(Self::of);
        if !reset {
            self.baseline.memory_peak = self.of(Controller::Memory).and_then(|of| self.peak(of));
        }
    }

    /// What the counters stood at when the present task began, for whoever opens the
    /// slot by name.
    pub fn baseline(&self) -> Usage {
        let mut baseline = self.baseline;
        // What was reset for the file that is open here is as it was for everybody else.
        if let (Some((Version::V2, group)), Some(_)) =
            (self.of(Controller::Memory), &self.gauges.peak)
        {
            baseline.memory_peak = group.number(peak_file(Version::V2));
        }
        baseline
    }

    /// Counts from another's baseline.
    pub fn resume(&mut self, baseline: Usage) {
        self.baseline = baseline;
    }

    fn reset_peak(&mut self) -> bool {
        let Some((version, group)) = self.of(Controller::Memory) else { return true };
        if self.gauges.peak.is_none() {
            self.gauges.peak = group.open_file(peak_file(version), OFlags::RDWR).ok();
        }
        let Some(fd) = &self.gauges.peak else { return false };
        let word: &[u8] = if version == Version::V1 { b"0" } else { b"reset" };
        let done = retry_on_intr(|| write(fd, word)).is_ok();
        if !done {
            self.gauges.peak = None;
        }
        done
    }

    fn peak(&self, (version, group): (Version, &Group)) -> Option<u64> {
        match &self.gauges.peak {
            Some(fd) => read_small(fd.as_fd(), |text| text.trim_ascii().parse().ok()),
            None => group.number(peak_file(version)),
        }
    }

    fn oom_kills_total(&self, of: Option<(Version, &Group)>) -> Option<u64> {
        let (version, group) = of?;
        let kills = &self.gauges.kills;
        if kills.get().is_none() {
            let file = match version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            let _ = kills.set(group.open_file(file, OFlags::RDONLY).ok()?);
        }
        read_small(kills.get()?.as_fd(), |text| entry(text, "oom_kill"))
    }

    fn total(&self) -> Usage {
        let memory = self.joined(Controller::Memory);
        let memory_bytes = memory.and_then(|(version, group)| {
            group.number(match version {
                Version::V1 => "memory.usage_in_bytes",
                Version::V2 => "memory.current",
            })
        });
        let memory_peak = memory.and_then(|of| self.peak(of));
        let pids = self.joined(Controller::Pids).and_then(|(_, g)| g.number("pids.current"));
        Usage { memory_bytes, memory_peak, pids, ..self.counted(Self::joined) }
    }

    /// What only ever grows, in the groups that `find` finds.
    fn counted(&self, find: Find) -> Usage {
        let oom_kills = self.oom_kills_total(find(self, Controller::Memory));
        let mut usage = Usage { oom_kills, ..Usage::default() };
        self.total_cpu(&mut usage, find);
        if let Some((version, group)) = find(self, Controller::Io) {
            let (read, write) = transferred(version, group);
            (usage.read_bytes, usage.write_bytes) = (read, write);
        }
        usage
    }

    fn total_cpu(&self, usage: &mut Usage, find: Find) {
        let us_to_ns = |us: u64| us.saturating_mul(1000);
        if let Some(group) = self.unified() {
            group.small("cpu.stat", |text| {
                usage.cpu_ns = entry(text, "usage_usec").map(us_to_ns);
                usage.throttled_ns = entry(text, "throttled_usec").map(us_to_ns);
                usage.throttled_periods = entry(text, "nr_throttled");
                Some(())
            });
        }
        if let Some((Version::V1, group)) = find(self, Controller::Cpu) {
            group.small("cpu.stat", |text| {
                usage.throttled_ns = entry(text, "throttled_time");
                usage.throttled_periods = entry(text, "nr_throttled");
                Some(())
            });
        }
        if let Some((Version::V1, group)) = find(self, Controller::Cpuacct)
            && usage.cpu_ns.is_none()
        {
            usage.cpu_ns = group.number("cpuacct.usage");
        }
    }
}

fn peak_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.max_usage_in_bytes",
        Version::V2 => "memory.peak",
    }
}

/// Bytes read and written, of all devices.
fn transferred(version: Version, group: &Group) -> (Option<u64>, Option<u64>) {
    let file = match version {
        Version::V1 => "blkio.throttle.io_service_bytes_recursive",
        Version::V2 => "io.stat",
    };
    let Ok(Some(text)) = group.text(file) else { return (None, None) };
    let (read, written) = match version {
        Version::V1 => sums(&text, "Read ", "Write "),
        Version::V2 => sums(&text, "rbytes=", "wbytes="),
    };
    (Some(read), Some(written))
}

/// The sums over all lines of the numbers that follow two words.
fn sums(text: &str, read: &str, written: &str) -> (u64, u64) {
    let sum = |word: &str| {
        let numbers = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once(word)?;
            rest.split(' ').next()?.parse::<u64>().ok()
        });
        numbers.fold(0, u64::saturating_add)
    };
    (sum(read), sum(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tables_of_devices_are_summed() {
        let v2 = "8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n\
                  8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n";
        assert_eq!(sums(v2, "rbytes=", "wbytes="), (11, 22));
        let v1 = "8:0 Read 5\n8:0 Write 6\n8:0 Sync 11\n8:0 Total 11\n8:16 Read 1\nTotal 12\n";
        assert_eq!(sums(v1, "Read ", "Write "), (6, 6));
        assert_eq!(sums("", "Read ", "Write "), (0, 0));
    }

    #[test]
    fn a_task_is_charged_only_what_came_after_its_baseline() {
        let base = Usage {
            cpu_ns: Some(100),
            memory_peak: Some(50),
            oom_kills: Some(2),
            ..Usage::default()
        };
        let total = Usage {
            cpu_ns: Some(130),
            memory_bytes: Some(40),
            memory_peak: Some(50),
            oom_kills: Some(3),
            read_bytes: Some(7),
            ..Usage::default()
        };
        let used = total.since(&base);
        let wanted = Usage {
            cpu_ns: Some(30),
            memory_bytes: Some(40),
            oom_kills: Some(1),
            read_bytes: Some(7),
            ..Usage::default()
        };
        assert_eq!(used, wanted);
        // A higher peak, or one that was reset, is the task's own.
        let higher = Usage { memory_peak: Some(51), ..total };
        assert_eq!(higher.since(&base).memory_peak, Some(51));
        let reset = Usage { memory_peak: None, ..base };
        assert_eq!(total.since(&reset).memory_peak, Some(50));
    }
}
