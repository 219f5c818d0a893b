//! What a task uses now, as the agent can see it.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::param::{clock_ticks_per_second, page_size};

use crate::cgroup::{Slot, Usage};
use crate::launch::TaskId;
use crate::proc::{self, ProcessMark};
use crate::record::{self, RecordError, State};
use crate::refusal::ControlError;
use crate::watch::Shared;
use crate::{leftovers, spare};

/// Reads a running task's counters. Blocks.
pub(crate) fn of(shared: &Shared, id: &TaskId) -> Result<Usage, ControlError> {
    let failed = |source| ControlError::Io { id: id.clone(), source };
    let dir = match spare::hold(&shared.tasks, id) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ControlError::Unknown { id: id.clone() });
        }
        dir => dir.map_err(failed)?,
    };
    let running = || match record::read(dir.as_fd()) {
        Ok(State { claim, task: Some(task), end: None }) => Ok((claim, task)),
        Ok(_) => Err(ControlError::NotRunning { id: id.clone() }),
        Err(RecordError::Io(source)) => Err(failed(source)),
        Err(error) => Err(failed(io::Error::other(error))),
    };
    let (claim, task) = running()?;
    let slot = shared.host.tree.as_ref().zip(claim.slot.as_deref());
    let slot = slot.and_then(|(tree, name)| Slot::open(tree, name).ok().flatten());
    let mut usage = slot.map_or_else(Usage::default, |mut slot| {
        slot.resume(claim.baseline.unwrap_or_default());
        slot.usage()
    });
    if usage.cpu_ns.is_none() || usage.memory_bytes.unwrap_or(0) == 0 {
        let seen = of_processes(task).map_err(failed)?;
        usage.cpu_ns = usage.cpu_ns.or(seen.cpu_ns);
        usage.memory_bytes = usage.memory_bytes.filter(|bytes| *bytes > 0).or(seen.memory_bytes);
        usage.pids = usage.pids.filter(|pids| *pids > 0).or(seen.pids);
    }
    // The supervisor may have taken another task meanwhile.
    running().map(|_| usage)
}

/// The sum over a task's living processes.
fn of_processes(task: ProcessMark) -> io::Result<Usage> {
    let (mut ticks, mut pages, mut pids) = (0_u64, 0_u64, 0_u64);
    for mark in leftovers::of_task(task, &proc::all()?) {
        let read = |file| fs::read_to_string(format!("/proc/{}/{file}", mark.pid));
        // One that died meanwhile does not count.
        let (Ok(stat), Ok(statm)) = (read("stat"), read("statm")) else { continue };
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        // User and system time, fields 14 and 15; two are gone, and the first is empty.
        let times = fields.split_ascii_whitespace().skip(11).take(2);
        ticks += times.filter_map(|text| text.parse::<u64>().ok()).sum::<u64>();
        let resident = statm.split_ascii_whitespace().nth(1).and_then(|text| text.parse().ok());
        pages += resident.unwrap_or(0_u64);
        pids += 1;
    }
    Ok(Usage {
        cpu_ns: Some(ticks.saturating_mul(1_000_000_000 / clock_ticks_per_second().max(1))),
        memory_bytes: Some(pages.saturating_mul(page_size() as u64)),
        pids: Some(pids),
        ..Usage::default()
    })
}
