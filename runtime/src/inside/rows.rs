//! The processes of a task, as the agent finds them: all in its control groups, in
//! its process namespace, or descended from its supervisor.
//!
//! It only looks. A process that ends meanwhile is left out.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::groups::Groups;
use crate::proc::{self, ProcessMark, Stat};
use crate::record::State;
use crate::session::ProcessRow;

/// Longest command shown: a screen's worth.
const COMMAND_BYTES: usize = 4 << 10;

/// The main process of a task that runs; none if it does not.
fn main(state: &State, boot: &str) -> io::Result<Option<ProcessMark>> {
    let Some(task) = state.task.filter(|_| state.end.is_none() && state.claim.boot == boot) else {
        return Ok(None);
    };
    Ok(task.open()?.map(|_alive| task))
}

/// All of a task's processes, its first one first.
pub(crate) fn processes(state: State, boot: &str) -> io::Result<Option<Vec<ProcessRow>>> {
    let Some(task) = main(&state, boot)? else { return Ok(None) };
    let groups = Groups::of(task.pid).unwrap_or_default();
    let supervisor = state.claim.supervisor.map_or(0, |supervisor| supervisor.pid);
    let pids = members(task.pid, supervisor, &groups)?;
    Ok(Some(pids.into_iter().filter_map(row).collect()))
}

/// Whether a task is held still.
pub(crate) fn is_paused(state: State, boot: &str) -> io::Result<Option<bool>> {
    let Some(task) = main(&state, boot)? else { return Ok(None) };
    Ok(Some(Groups::of(task.pid)?.is_frozen()))
}

fn members(first: i32, supervisor: i32, groups: &Groups) -> io::Result<Vec<i32>> {
    let all = proc::all()?;
    let mut found = BTreeSet::new();
    descend(supervisor, &all, &mut found);
    found.remove(&supervisor);
    let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = fs::read_link("/proc/self/ns/pid").ok();
    let theirs = space(first).filter(|space| Some(space) != own.as_ref());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for Stat { pid, .. } in &all {
        let is_near = theirs.is_some() && space(*pid) == theirs;
        let is_member = !groups.is_empty()
            && fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| groups.hold(&text, &mounts));
        if is_near || is_member {
            found.insert(*pid);
        }
    }
    found.remove(&first);
    Ok([first].into_iter().chain(found).collect())
}

fn descend(from: i32, all: &[Stat], found: &mut BTreeSet<i32>) {
    if from > 0 && found.insert(from) {
        all.iter().filter(|stat| stat.parent == from).for_each(|s| descend(s.pid, all, found));
    }
}

fn row(pid: i32) -> Option<ProcessRow> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields 14, 15 and 24 of proc(5); two are gone, and it counts from one.
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.saturating_add(number(15)?);
    let pages = number(24)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uid = uid.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = words.strip_suffix(&[0]).unwrap_or(&words);
    let words = words.get(..COMMAND_BYTES).unwrap_or(words);
    let command = String::from_utf8_lossy(words).replace('\0', " ");
    // Of a zombie the kernel keeps no more than the name.
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    let second = rustix::param::clock_ticks_per_second().max(1);
    Some(ProcessRow {
        pid,
        uid,
        state: (*fields.first()?).to_owned(),
        cpu_ms: ticks.saturating_mul(1000) / second,
        memory_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let row = row(std::process::id().cast_signed()).expect("a row");
        assert_eq!(row.uid, rustix::process::geteuid().as_raw());
        assert!(row.memory_bytes > 0 && !row.command.starts_with('['), "{row:?}");
    }
}
