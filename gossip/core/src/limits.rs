//! What a job says a task may use at most, in Docker's words.
//!
//! Only what holds on every machine is judged here. Whether a device is there, how many
//! processors there are and which control groups, only the node knows that runs it: a job
//! that asks for a limit says so by [`LimitKind`], and a node that lacks one declines.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The most devices with rates of their own: as many as the runtime takes.
pub const IO_DEVICES_MAX: usize = 64;

/// Docker's range of the weight of a task's input and output.
pub const IO_WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

/// The kernel's range of how willingly a process is killed when memory runs out
/// (`proc_pid_oom_score_adj(5)`).
pub const OOM_SCORES: std::ops::RangeInclusive<i32> = -1000..=1000;

/// What a task may use at most; what is not said is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TaskLimits {
    /// Thousandths of a core.
    #[serde(default)]
    pub cpu_milli: Option<u64>,
    /// Bytes of memory.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Processes and threads; 2,048 where none are given.
    #[serde(default)]
    pub pids: Option<u32>,
    /// Bytes of memory that are taken from it last when the node runs short: a wish, not a
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<u64>,
    /// Bytes of swap beside its memory, `u64::MAX` for any number; none where memory is
    /// limited and this is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// On which processors it may run, as the kernel lists them: `0-2,4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Its share of contended disks, 10 to 1000 as Docker's; 100 is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
    /// Rates of disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoSpec>,
}

/// How fast a task may use one disk of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IoSpec {
    /// A whole disk of whichever node runs it: `/dev/sda`, no partition.
    pub device: String,
    /// Bytes read a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bps: Option<u64>,
    /// Bytes written a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bps: Option<u64>,
    /// Reads a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u64>,
    /// Writes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u64>,
}

/// A kind of limit that not every node has the means for. Where it is asked for by name it
/// is not quietly left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitKind {
    /// Which processors.
    Cpuset,
    /// Rates of disks.
    Io,
    /// A share of contended disks.
    IoWeight,
    /// Swap.
    Swap,
    /// Memory that is taken last.
    Reservation,
}

impl LimitKind {
    /// Its field of [`TaskLimits`], as a job writes it.
    pub fn field(self) -> &'static str {
        match self {
            Self::Cpuset => "cpuset-cpus",
            Self::Io => "io",
            Self::IoWeight => "io-weight",
            Self::Swap => "swap-bytes",
            Self::Reservation => "memory-reservation",
        }
    }
}

/// Why limits cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct BadLimit {
    /// Which field of [`TaskLimits`].
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl TaskLimits {
    /// The kinds that a node must have the means for.
    pub fn kinds(&self) -> BTreeSet<LimitKind> {
        let asked = [
            (LimitKind::Cpuset, self.cpuset_cpus.is_some()),
            (LimitKind::Io, !self.io.is_empty()),
            (LimitKind::IoWeight, self.io_weight.is_some()),
            (LimitKind::Swap, self.swap_bytes.is_some()),
            (LimitKind::Reservation, self.memory_reservation.is_some()),
        ];
        asked.into_iter().filter_map(|(kind, is_asked)| is_asked.then_some(kind)).collect()
    }

    pub(crate) fn check(&self) -> Result<(), BadLimit> {
        let bad = |field, why: &str| Err(BadLimit { field, why: why.to_owned() });
        for (field, is_none_left) in [
            ("cpu-milli", self.cpu_milli == Some(0)),
            ("memory-bytes", self.memory_bytes == Some(0)),
            ("pids", self.pids == Some(0)),
            ("memory-reservation", self.memory_reservation == Some(0)),
        ] {
            if is_none_left {
                return bad(field, "a limit of 0 leaves nothing to run with");
            }
        }
        if self.swap_bytes.is_some() && self.memory_bytes.is_none() {
            return bad("swap-bytes", "it needs a limit on memory beside it");
        }
        if let (Some(low), Some(most)) = (self.memory_reservation, self.memory_bytes)
            && low > most
        {
            return bad("memory-reservation", "it is more than the limit on memory");
        }
        if let Some(weight) = self.io_weight.filter(|weight| !IO_WEIGHTS.contains(weight)) {
            return bad("io-weight", &format!("{weight} is not between 10 and 1000"));
        }
        if self.io.len() > IO_DEVICES_MAX {
            return bad("io", &format!("{} devices, and at most 64 are possible", self.io.len()));
        }
        self.io.iter().enumerate().try_for_each(|(at, io)| self.check_io(at, io))
    }

    fn check_io(&self, at: usize, io: &IoSpec) -> Result<(), BadLimit> {
        let bad = |why: String| Err(BadLimit { field: "io", why });
        let IoSpec { device, read_bps, write_bps, read_iops, write_iops } = io;
        if !device.starts_with('/') || device.contains('\0') {
            return bad(format!("{device:?} is not an absolute path"));
        }
        if self.io.iter().take(at).any(|other| other.device == *device) {
            return bad(format!("{device} is there twice"));
        }
        let rates = [read_bps, write_bps, read_iops, write_iops];
        if rates.iter().all(|rate| rate.is_none()) {
            return bad(format!("{device} has no rate"));
        }
        if rates.into_iter().any(|rate| *rate == Some(0)) {
            return bad(format!("a rate of 0 for {device} would let nothing through"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_jobs_limits_are_read_and_written_as_before() {
        let older = r#"{"cpu-milli":500,"memory-bytes":null,"pids":null}"#;
        let limits: TaskLimits = serde_json::from_str(older).expect("read");
        assert_eq!(limits, TaskLimits { cpu_milli: Some(500), ..TaskLimits::default() });
        assert_eq!(serde_json::to_string(&limits).expect("written"), older);
        assert_eq!(limits.kinds(), BTreeSet::new());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_field() {
        let none = TaskLimits::default;
        let disk = |device: &str, rate| IoSpec {
            device: device.to_owned(),
            read_bps: rate,
            ..IoSpec::default()
        };
        for (field, limits) in [
            ("pids", TaskLimits { pids: Some(0), ..none() }),
            ("swap-bytes", TaskLimits { swap_bytes: Some(1), ..none() }),
            (
                "memory-reservation",
                TaskLimits { memory_reservation: Some(2), memory_bytes: Some(1), ..none() },
            ),
            ("io-weight", TaskLimits { io_weight: Some(9), ..none() }),
            ("io", TaskLimits { io: vec![disk("sda", Some(1))], ..none() }),
            ("io", TaskLimits { io: vec![disk("/dev/sda", None)], ..none() }),
            ("io", TaskLimits { io: vec![disk("/dev/sda", Some(0))], ..none() }),
            ("io", TaskLimits { io: vec![disk("/dev/sda", Some(1)); 2], ..none() }),
        ] {
            assert_eq!(limits.check().expect_err(field).field, field, "{limits:?}");
        }
    }
}
