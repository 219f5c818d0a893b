//! What neighbours that take all they can get leave to a container beside them, and to
//! whoever started them.
//!
//! The neighbour sleeps for short whiles and says how late it was woken, alone and in
//! company. A host that is busy with other things wakes it late as well, so the bounds
//! are those of a neighbour that is starved, and not those of a quiet machine.

use std::fs;
use std::io;

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::{Ask, Running};

/// Those that make noise: processors, processes, memory, output.
const NOISES: [&str; 4] = ["spin", "fork", "eat", "flood"];

/// In microseconds: most that one in a hundred wakes may be late, beyond what it is when
/// alone. Sixteen that never sleep share what is left among themselves, in a group that
/// weighs as much as the neighbour's; without groups this is over a second on two cores.
const LATE_MAX: u64 = 250_000;

/// Most that the agent, here this process, may grow by; and most that the supervisor of
/// a flood may hold, since it keeps nothing of what passes.
const GROWTH_MAX: u64 = 32 << 20;
const SUPERVISOR_MAX: u64 = 16 << 20;

pub(super) fn noise(ground: &mut Ground) -> io::Result<Vec<String>> {
    let root = ground.root()?;
    let quiet = Ask::probe(&root, &["beat"]);
    let alone = ground.run(&quiet)?;
    let before = resident(std::process::id()).unwrap_or(0);
    let mut broken = ran(&alone);
    let mut noisy: Vec<Running> = Vec::new();
    for kind in NOISES {
        let ask = Ask::probe(ground.root()?, &["bomb", kind]);
        match ground.start(&ask)? {
            Ok(running) => noisy.push(running),
            Err(reason) => broken.push(format!("{kind} did not run: {reason}")),
        }
    }
    let beside = ground.run(&quiet);
    let agent = resident(std::process::id()).unwrap_or(0);
    let supervisors: Vec<u64> = if ground.is_ours() {
        noisy.iter().filter_map(|running| resident(parent(running.pid)?)).collect()
    } else {
        Vec::new()
    };
    for running in &noisy {
        ground.isolator().stop(running)?;
    }
    let beside = beside?;
    broken.extend(ran(&beside));
    match (late(alone.value("late")), late(beside.value("late"))) {
        (Some(alone), Some(beside)) if beside > alone + LATE_MAX => {
            broken.push(format!("one wake in a hundred is {beside} us late, alone {alone}"));
        }
        (Some(_), Some(_)) => {}
        _ => broken.push(format!("the neighbour does not say how late it was: {beside:?}")),
    }
    if agent > before + GROWTH_MAX {
        broken.push(format!("the agent grew from {before} to {agent} bytes"));
    }
    let fat = supervisors.iter().filter(|bytes| **bytes > SUPERVISOR_MAX);
    broken.extend(fat.map(|bytes| format!("a supervisor holds {bytes} bytes")));
    Ok(broken)
}

/// The second of its numbers: all but one wake in a hundred were sooner.
fn late(said: Option<&str>) -> Option<u64> {
    said?.split(' ').nth(1)?.parse().ok()
}

/// Bytes of memory that a process holds.
fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
