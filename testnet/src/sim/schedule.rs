//! The plan of a run: what breaks when, and what users ask meanwhile.
//!
//!     warm-up ──▶ faults ──▶ heal ──▶ judged ──▶ all stopped ──▶ judged
//!
//! Drawn whole from the seed before the run begins. Faults overlap freely; each
//! ends by itself, and at `HEAL_AT` all of them do. Must never look at what the
//! cores did.

use super::dice::Seeded;
use super::link::{Pairs, between};
use super::{HEAL_AT, STOP_AT, WARM_UP};
use starling_core::effect::Dice;

/// One line of the plan.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// The network turns foul.
    Spoil,
    /// Nothing passes any more in these directions.
    Cut(Pairs),
    /// One such cut ends.
    Mend(Pairs),
    /// The agent dies; its tasks go on.
    KillAgent(usize),
    /// Everything on the host dies.
    KillHost(usize),
    /// The agent starts again, if it does not run.
    Start(usize),
    /// The agent is stopped as by SIGSTOP.
    Freeze(usize),
    /// It goes on.
    Thaw(usize),
    /// Writes to the host's disk take long.
    Clog(usize),
    /// They do not any more.
    Unclog(usize),
    /// The agent says that it goes away for a while, and does.
    Leave(usize),
    /// A user submits this job.
    Submit(usize),
    /// A user changes this job's spec.
    Change(usize),
    /// A user stops this job.
    Stop(usize),
    /// Everything is whole and up.
    Heal,
    /// Users stop every job.
    StopAll,
}

/// All acts with their times, in no order.
pub(super) fn draw(dice: &mut Seeded, hosts: usize, jobs: usize) -> Vec<(u64, Act)> {
    let mut plan = vec![(WARM_UP, Act::Spoil), (HEAL_AT, Act::Heal), (STOP_AT, Act::StopAll)];
    for job in 0..jobs {
        let early = dice.chance(400);
        let (low, high) = if early { (500, WARM_UP - 4000) } else { (WARM_UP, HEAL_AT - 5000) };
        let at = dice.range(low, high);
        plan.push((at, Act::Submit(job)));
        if dice.chance(250) {
            let soon = if dice.chance(300) { 3000 } else { 40_000 };
            plan.push((at.max(WARM_UP) + dice.range(10, soon), Act::Stop(job)));
        }
        if dice.chance(300) {
            let soon = if dice.chance(500) { 3000 } else { 40_000 };
            plan.push((at.max(WARM_UP) + dice.range(10, soon), Act::Change(job)));
        }
    }
    plan.retain(|(at, act)| *at < HEAL_AT || matches!(act, Act::Heal | Act::StopAll));
    for _ in 0..dice.range(6, 22) {
        fault(dice, hosts, &mut plan);
    }
    plan
}

fn fault(dice: &mut Seeded, hosts: usize, plan: &mut Vec<(u64, Act)>) {
    let at = dice.range(WARM_UP, HEAL_AT - 1000);
    let host = dice.index(hosts);
    let (begin, end, low, high) = match dice.below(14) {
        0 | 1 => cut(sides(dice, hosts, 2), 1000, 30_000),
        2 => cut(sides(dice, hosts, 3), 1000, 30_000),
        3 => cut(one_way(dice, hosts), 1000, 20_000),
        4 => return flap(dice, at, hosts, plan),
        5 | 6 => (Act::KillAgent(host), Act::Start(host), 500, 20_000),
        7 | 8 => (Act::KillHost(host), Act::Start(host), 1000, 25_000),
        9 | 10 => (Act::Freeze(host), Act::Thaw(host), 300, 12_000),
        11 | 12 => (Act::Clog(host), Act::Unclog(host), 2000, 25_000),
        _ => (Act::Leave(host), Act::Start(host), 300, 10_000),
    };
    plan.push((at, begin));
    plan.push(((at + dice.range(low, high)).min(HEAL_AT - 1), end));
}

fn cut(pairs: Pairs, low: u64, high: u64) -> (Act, Act, u64, u64) {
    (Act::Cut(pairs.clone()), Act::Mend(pairs), low, high)
}

/// The hosts fall apart into so many sides, some of them perhaps empty.
fn sides(dice: &mut Seeded, hosts: usize, count: usize) -> Pairs {
    let sides: Vec<_> = (0..hosts).map(|_| dice.index(count)).collect();
    between(&sides)
}

/// One host is heard by nobody, or hears nobody, or does not reach one other.
fn one_way(dice: &mut Seeded, hosts: usize) -> Pairs {
    let (host, other) = (dice.index(hosts), dice.index(hosts));
    let others = (0..hosts).filter(|it| *it != host);
    match dice.below(3) {
        0 => others.map(|it| (host, it)).collect(),
        1 => others.map(|it| (it, host)).collect(),
        _ => vec![(host, other)],
    }
}

/// A cut that comes and goes.
fn flap(dice: &mut Seeded, mut at: u64, hosts: usize, plan: &mut Vec<(u64, Act)>) {
    let until = (at + dice.range(5000, 20_000)).min(HEAL_AT - 1);
    while at < until {
        let count = 2 + dice.index(2);
        let pairs = sides(dice, hosts, count);
        plan.push((at, Act::Cut(pairs.clone())));
        at += dice.range(200, 8000);
        plan.push((at.min(HEAL_AT - 1), Act::Mend(pairs)));
        at += dice.range(200, 2000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_ends_before_everything_is_healed() {
        for seed in 0..50 {
            let plan = draw(&mut Seeded::new(seed), 5, 6);
            let count = |is: fn(&Act) -> bool| plan.iter().filter(|(_, act)| is(act)).count();
            assert_eq!(
                count(|act| matches!(act, Act::Cut(_) | Act::Freeze(_) | Act::Clog(_))),
                count(|act| matches!(act, Act::Mend(_) | Act::Thaw(_) | Act::Unclog(_))),
            );
            let late = plan.iter().filter(|(at, _)| *at >= HEAL_AT).count();
            assert_eq!(late, 2, "only the healing and the last stop");
        }
    }
}
