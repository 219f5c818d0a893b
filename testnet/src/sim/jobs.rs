//! The jobs of a run: what is submitted, and how its tasks behave.
//!
//! Some services with several copies and some batch arrays; services fall over
//! now and then while there are faults, and a part of the batch tasks fails.
//! Most runs leave plenty of room, every eighth wants more than there is.

use gossip_core::fact::TaskEnd;
use gossip_core::id::JobId;
use gossip_core::resources::Resources;
use gossip_core::restart::Restart;
use gossip_core::spec::{JobKind, JobSpec, Program, TaskSpec};
use starling_core::effect::Dice;

use super::HEAL_AT;
use super::dice::Seeded;

/// A batch task runs at most this long.
pub(super) const BATCH_MS_MAX: u64 = 8000;

/// Every second batch starts again what failed, at most this often.
const RESTARTS_MAX: u32 = 2;

/// What users submit.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) spec: JobSpec,
}

/// What each host offers.
pub(super) fn capacities(dice: &mut Seeded, hosts: usize) -> Vec<Resources> {
    let mut capacity =
        || Resources { cpu_milli: 1000 * dice.range(1, 5), memory_bytes: dice.range(1, 5) << 30 };
    (0..hosts).map(|_| capacity()).collect()
}

/// The jobs of a run on hosts of these capacities.
pub(super) fn draw(dice: &mut Seeded, capacities: &[Resources]) -> Vec<Job> {
    let crowded = dice.chance(125);
    let total: u64 = capacities.iter().map(|capacity| capacity.cpu_milli).sum();
    let mut room = if crowded { total * 2 } else { total / 2 };
    let mut jobs = Vec::new();
    for number in 0..dice.range(4, 8) {
        let kind = if number % 2 == 0 { JobKind::Service } else { JobKind::Batch };
        let ask =
            Resources { cpu_milli: 50 * dice.range(1, 7), memory_bytes: dice.range(1, 9) << 25 };
        let most = if kind == JobKind::Service { 5 } else { 12 };
        let count = dice.range(1, most).min(room / ask.cpu_milli);
        if count == 0 {
            continue;
        }
        room -= count * ask.cpu_milli;
        let count = u32::try_from(count).unwrap_or(1);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&dice.roll().to_be_bytes());
        id[8] = u8::try_from(number).unwrap_or(0);
        let grace = dice.range(200, 3000);
        let spec = spec(number, kind, count, ask, grace);
        jobs.push(Job { id: JobId::new(id), spec });
    }
    jobs
}

/// The same job with another spec, for a second generation.
pub(super) fn changed(dice: &mut Seeded, spec: &JobSpec) -> JobSpec {
    let mut spec = spec.clone();
    for group in &mut spec.groups {
        group.count = (group.count + 1).saturating_sub(u32::from(dice.chance(500)) * 2).max(1);
        for task in &mut group.tasks {
            task.env.insert("CHANGED".to_owned(), dice.roll().to_string());
        }
    }
    spec
}

fn spec(number: u64, kind: JobKind, count: u32, ask: Resources, stop_grace_ms: u64) -> JobSpec {
    let run = Program::process(vec!["simulated".to_owned()], None);
    let restart = (kind == JobKind::Batch && number % 4 == 3)
        .then_some(Restart::OnFailure { most: Some(RESTARTS_MAX) });
    let task = TaskSpec { resources: ask, stop_grace_ms, restart, ..TaskSpec::of(run) };
    JobSpec::of_task(format!("job-{number}"), kind, count, task)
}

/// After how long a task that starts now ends by itself, and how; `None` if never.
pub(super) fn life(dice: &mut Seeded, now: u64, service: bool) -> Option<(u64, TaskEnd)> {
    if service {
        let falls = dice.chance(400);
        let after = dice.range(1000, 40_000);
        let end = TaskEnd::Exited { code: 1 };
        // After the faults ended, services do not fall over any more.
        return (falls && now + after < HEAL_AT).then_some((after, end));
    }
    let end = match dice.below(20) {
        0 => TaskEnd::Signalled { signal: 11 },
        1..=3 => TaskEnd::Exited { code: 1 },
        _ => TaskEnd::Exited { code: 0 },
    };
    Some((dice.range(200, BATCH_MS_MAX), end))
}
