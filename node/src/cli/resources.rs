//! The words of `run` that say how much of a node a task gets: Docker's, but for what is
//! set aside without being a limit.
//!
//! Pure. Which disks and processors there are, only the node that runs it knows.

use clap::Args;
use gossip_core::limits::{IO_WEIGHTS, IoSpec, OOM_SCORES, TaskLimits};
use gossip_core::resources::{DEFAULT_ASK, Resources, parse_bytes, parse_cpu};

use crate::api::types::Complaint;

/// As many processes as Linux can have: Docker's -1.
const PIDS_ANY: u32 = 1 << 22;

/// What each task gets, and is held to.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceArgs {
    /// Cores each gets and is held to, like 2, 0.5 or 500m
    #[arg(long, value_name = "CORES", value_parser = parse_cpu, allow_hyphen_values = true)]
    cpus: Option<u64>,
    /// Memory each gets and is held to, like 512m or 1GiB
    #[arg(short, long, value_parser = parse_bytes, allow_hyphen_values = true)]
    memory: Option<u64>,
    /// Memory and swap each is held to together; -1 for any swap [default: --memory, no swap]
    #[arg(long, value_name = "MEMORY", value_parser = swap, allow_hyphen_values = true)]
    memory_swap: Option<Swap>,
    /// Memory that is taken from it last when the node runs short
    #[arg(long, value_name = "MEMORY", value_parser = parse_bytes, allow_hyphen_values = true)]
    memory_reservation: Option<u64>,
    /// Cores to set aside for each without holding it to them [default: --cpus or 0.1]
    #[arg(long, value_name = "CORES", value_parser = parse_cpu, allow_hyphen_values = true)]
    reserve_cpu: Option<u64>,
    /// Memory to set aside for each without holding it to that [default: --memory or 64MiB]
    #[arg(long, value_name = "MEMORY", value_parser = parse_bytes, allow_hyphen_values = true)]
    reserve_memory: Option<u64>,
    /// Run on these processors of the node only, like 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Processes and threads each may have; -1 or 0 for any number [default: 2048]
    #[arg(long, value_name = "N", value_parser = pids, allow_hyphen_values = true)]
    pids_limit: Option<u32>,
    /// Its share of contended disks, 10 to 1000 [default: 100]
    #[arg(long, value_name = "WEIGHT",
        value_parser = clap::value_parser!(u16).range(i64::from(*IO_WEIGHTS.start())..=i64::from(*IO_WEIGHTS.end())))]
    blkio_weight: Option<u16>,
    /// Bytes a second read of a disk of the node, like /dev/sda:10m
    #[arg(long, value_name = "DISK:RATE", value_parser = bytes_a_second)]
    device_read_bps: Vec<Rate>,
    /// Bytes a second written to a disk
    #[arg(long, value_name = "DISK:RATE", value_parser = bytes_a_second)]
    device_write_bps: Vec<Rate>,
    /// Reads a second of a disk, like /dev/sda:500
    #[arg(long, value_name = "DISK:RATE", value_parser = a_second)]
    device_read_iops: Vec<Rate>,
    /// Writes a second to a disk
    #[arg(long, value_name = "DISK:RATE", value_parser = a_second)]
    device_write_iops: Vec<Rate>,
    /// How willingly the kernel kills it when the node runs out of memory, -1000 to 1000;
    /// below 0 needs a node with --trust-jobs
    #[arg(long, value_name = "N", allow_hyphen_values = true,
        value_parser = clap::value_parser!(i32).range(i64::from(*OOM_SCORES.start())..=i64::from(*OOM_SCORES.end())))]
    pub(crate) oom_score_adj: Option<i32>,
}

/// How much swap, by Docker's counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swap {
    /// As much as there is.
    Any,
    /// Memory and swap together, bytes.
    Both(u64),
}

/// One disk and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rate {
    device: String,
    rate: u64,
}

impl ResourceArgs {
    /// What is set aside.
    pub(crate) fn ask(&self) -> Resources {
        let cpus = self.reserve_cpu.or(self.cpus);
        let memory = self.reserve_memory.or(self.memory);
        Resources {
            cpu_milli: cpus.unwrap_or(DEFAULT_ASK.cpu_milli),
            memory_bytes: memory.unwrap_or(DEFAULT_ASK.memory_bytes),
        }
    }

    /// What it is held to.
    pub(crate) fn limits(self) -> Result<TaskLimits, Complaint> {
        let swap_bytes = match (self.memory_swap, self.memory) {
            (None, _) => None,
            (Some(_), None) => return Err(refused("--memory-swap needs --memory beside it")),
            (Some(Swap::Any), Some(_)) => Some(u64::MAX),
            (Some(Swap::Both(both)), Some(memory)) => match both.checked_sub(memory) {
                Some(swap) => Some(swap),
                None => {
                    return Err(refused("--memory-swap is less than --memory, which it counts"));
                }
            },
        };
        let mut io = Vec::new();
        put(&mut io, self.device_read_bps, |io| &mut io.read_bps);
        put(&mut io, self.device_write_bps, |io| &mut io.write_bps);
        put(&mut io, self.device_read_iops, |io| &mut io.read_iops);
        put(&mut io, self.device_write_iops, |io| &mut io.write_iops);
        Ok(TaskLimits {
            cpu_milli: self.cpus,
            memory_bytes: self.memory,
            pids: self.pids_limit,
            memory_reservation: self.memory_reservation,
            swap_bytes,
            cpuset_cpus: self.cpuset_cpus,
            io_weight: self.blkio_weight,
            io,
        })
    }
}

fn refused(why: &str) -> Complaint {
    Complaint::new("bad_spec", "this cannot be a job")
        .because(why)
        .hint("-m 512m --memory-swap 1g   is 512m of memory and 512m of swap; -1 any swap")
}

/// Adds rates of one kind; of a disk that is named twice the last counts, as in Docker.
fn put(io: &mut Vec<IoSpec>, rates: Vec<Rate>, slot: fn(&mut IoSpec) -> &mut Option<u64>) {
    for Rate { device, rate } in rates {
        let at = io.iter().position(|io| io.device == device).unwrap_or_else(|| {
            io.push(IoSpec { device, ..IoSpec::default() });
            io.len() - 1
        });
        if let Some(io) = io.get_mut(at) {
            *slot(io) = Some(rate);
        }
    }
}

fn swap(text: &str) -> Result<Swap, String> {
    match text {
        "-1" => Ok(Swap::Any),
        _ => parse_bytes(text).map(Swap::Both).map_err(|bad| format!("{bad}, or -1 for any swap")),
    }
}

fn pids(text: &str) -> Result<u32, String> {
    match text {
        "-1" | "0" => Ok(PIDS_ANY),
        _ => text
            .parse()
            .ok()
            .filter(|pids| *pids <= PIDS_ANY)
            .ok_or_else(|| format!("write 1 to {PIDS_ANY}, or -1 or 0 for any number")),
    }
}

fn disk_and<T>(
    text: &str,
    read: impl Fn(&str) -> Option<T>,
    like: &str,
) -> Result<(String, T), String> {
    let bad = || format!("write it like {like}: a whole disk of the node that runs it, and a rate");
    let (device, rate) = text.rsplit_once(':').ok_or_else(bad)?;
    let rate = read(rate).ok_or_else(bad)?;
    if device.starts_with('/') { Ok((device.to_owned(), rate)) } else { Err(bad()) }
}

fn bytes_a_second(text: &str) -> Result<Rate, String> {
    let read = |rate: &str| parse_bytes(rate).ok().filter(|rate| *rate > 0);
    disk_and(text, read, "/dev/sda:10m").map(|(device, rate)| Rate { device, rate })
}

fn a_second(text: &str) -> Result<Rate, String> {
    let read = |rate: &str| rate.parse().ok().filter(|rate| *rate > 0);
    disk_and(text, read, "/dev/sda:500").map(|(device, rate)| Rate { device, rate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        of: ResourceArgs,
    }

    fn read(words: &str) -> Result<TaskLimits, String> {
        let words = words.split(' ').filter(|word| !word.is_empty());
        let words = Words::try_parse_from(std::iter::once("run").chain(words));
        let limits = words.map_err(|e| e.to_string())?.of.limits();
        limits.map_err(|complaint| complaint.why.join(" "))
    }

    #[test]
    fn rates_of_one_disk_are_one_entry() {
        let words = "--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:7 \
                     --device-read-bps /dev/sdb:5";
        let io = read(words).expect("limits").io;
        assert_eq!(io.len(), 2);
        assert_eq!((io[0].read_bps, io[0].write_iops), (Some(1 << 20), Some(7)));
        assert_eq!((io[1].device.as_str(), io[1].read_bps), ("/dev/sdb", Some(5)));
        for bad in ["sda:1", "/dev/sda", "/dev/sda:", "/dev/sda:0", "/dev/sda:x"] {
            assert!(read(&format!("--device-read-bps {bad}")).is_err(), "{bad}");
        }
        assert!(read("--device-read-iops /dev/sda:1m").is_err(), "a number, no bytes");
    }

    #[test]
    fn swap_is_counted_as_docker_counts_it() {
        let swap = |words: &str| read(words).map(|limits| limits.swap_bytes);
        assert_eq!(swap("-m 1g"), Ok(None));
        assert_eq!(swap("-m 1g --memory-swap 3g"), Ok(Some(2 << 30)));
        assert_eq!(swap("-m 1g --memory-swap 1g"), Ok(Some(0)));
        assert_eq!(swap("-m 1g --memory-swap -1"), Ok(Some(u64::MAX)));
        assert!(swap("--memory-swap 1g").is_err_and(|why| why.contains("--memory")));
        assert!(swap("-m 2g --memory-swap 1g").is_err_and(|why| why.contains("less")));
    }

    #[test]
    fn numbers_are_within_dockers_ranges() {
        assert_eq!(read("--pids-limit -1").map(|limits| limits.pids), Ok(Some(PIDS_ANY)));
        assert_eq!(read("--blkio-weight 500").map(|limits| limits.io_weight), Ok(Some(500)));
        assert_eq!(read("--pids-limit 0").map(|limits| limits.pids), Ok(Some(PIDS_ANY)));
        for bad in ["--blkio-weight 9", "--pids-limit -2", "--oom-score-adj 1001"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
