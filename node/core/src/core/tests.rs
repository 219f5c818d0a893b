//! A few cores joined by perfect wires: the whole path in tables.
//!
//! Faults belong to the simulator; here every message arrives at once, so that
//! what is said can be read line by line.

mod keeping;
mod parting;
mod wires;

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::fact::{Claim, ClaimState, TaskEnd, Update};
use gossip_core::id::{ContentHash, JobId, NodeId};
use gossip_core::market::{Call, Message};
use gossip_core::moment::WallTime;
use gossip_core::resources::Resources;
use gossip_core::slot::{Epoch, Generation, GroupName, SlotId};
use gossip_core::spec::{JobKind, JobSpec, Program, TaskSpec};

use super::Found;
use crate::allocation::{Allocation, Phase};
use crate::effect::{Ask, Effect, Input, Now, Reply};
use crate::ledger::AllocationId;

use wires::{Cluster, Count};

pub(crate) const DRIVER: NodeId = NodeId::new([1; 32]);

pub(crate) fn spec(cpu_milli: u64) -> JobSpec {
    let run = Program::process(vec!["true".into()], None);
    let resources = Resources { cpu_milli, memory_bytes: 1 << 20 };
    let task = TaskSpec { resources, ..TaskSpec::of(run) };
    JobSpec::of_task("web".into(), JobKind::Service, 3, task)
}

pub(crate) fn call(counter: u64, tender: u64, indices: &[u32], cpu_milli: u64) -> Call {
    let (hash, blob) = spec(cpu_milli).to_blob().expect("encodes");
    Call {
        epoch: Epoch { counter, tender },
        job: JobId::new([1; 16]),
        generation: Generation { counter: 1, spec: hash },
        spec: blob,
        group: GroupName::main(),
        indices: indices.to_vec(),
        hold_ms: 1000,
    }
}

pub(crate) fn allocation() -> Allocation {
    let slot = SlotId { job: JobId::new([1; 16]), group: GroupName::main(), index: 1 };
    let epoch = Epoch { counter: 1, tender: 1 };
    let generation = Generation { counter: 1, spec: ContentHash::of(b"") };
    let (state, since) = (ClaimState::Starting, WallTime(0));
    let claim = Claim {
        slot: slot.clone(),
        generation,
        epoch,
        state,
        since,
        restarts: 0,
        paused: false,
        health: None,
    };
    Allocation {
        id: AllocationId { slot, epoch },
        generation,
        phase: Phase::Starting,
        stop: None,
        restarts: 0,
        streak: 0,
        task: None,
        claim,
        probe: None,
    }
}

fn job() -> JobId {
    JobId::new([5; 16])
}

fn submit(cpu_milli: u64) -> Ask {
    Ask::Submit { job: job(), spec: Box::new(spec(cpu_milli)) }
}

#[test]
fn a_job_given_to_any_node_is_spread_over_all_of_them() {
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    cluster.ask(1, submit(100));
    let mut nodes: Vec<_> = cluster.places().into_iter().map(|(node, _)| node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [0, 1, 2]);
    assert!(matches!(cluster.replies[..], [Reply::Accepted { replicated: Some(_), .. }]));
    let view = cluster.cores[2].job_view(&job()).expect("known everywhere");
    assert_eq!((view.running, view.wanted), (3, 3));
}

#[test]
fn stop_ends_every_copy_and_frees_every_ledger() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    cluster.ask(0, submit(100));
    cluster.ask(1, Ask::Stop(job()));
    assert_eq!(cluster.places(), []);
    for core in &cluster.cores {
        assert_eq!(core.ledger().free(), core.ledger().capacity());
    }
    cluster.ask(1, Ask::Stop(JobId::new([9; 16])));
    assert!(matches!(cluster.replies[2], Reply::NoSuchJob { .. }));
    cluster.ask(0, submit(100));
    assert!(
        matches!(cluster.replies[3], Reply::StoppedBefore { job: stopped } if stopped == job())
    );
    assert_eq!(cluster.places(), [], "it never comes back");
}

#[test]
fn what_does_not_fit_waits_and_is_placed_when_room_is_freed() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    cluster.ask(0, submit(600));
    cluster.run(2000);
    assert_eq!(cluster.places().len(), 2);
    let mut second = spec(600);
    second.name = "other".into();
    second.groups[0].count = 1;
    let ask = Ask::Submit { job: JobId::new([6; 16]), spec: Box::new(second) };
    cluster.ask(1, ask);
    assert_eq!(cluster.places().len(), 2, "full");
    cluster.ask(0, Ask::Stop(job()));
    cluster.run(300);
    assert_eq!(cluster.places().len(), 1);
}

#[test]
fn the_work_of_a_dead_node_runs_elsewhere_after_lost_after() {
    for dead in 0..3 {
        let mut cluster = Cluster::new(&[1000, 1000, 1000]);
        cluster.ask(0, submit(100));
        cluster.dead.push(dead);
        cluster.run(4500);
        assert_eq!(cluster.places().len(), 2, "not before its time");
        cluster.run(4000);
        let mut slots: Vec<_> = cluster.places().into_iter().map(|(_, slot)| slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, [1, 2, 3], "node {dead} died");
    }
}

#[test]
fn a_node_that_returns_with_its_copy_gives_it_up_and_exactly_one_stays() {
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    cluster.ask(0, submit(100));
    // Node 2 is cut off: nothing from or to it, its task runs on.
    cluster.dead.push(2);
    cluster.run(9000);
    cluster.dead.clear();
    let past = cluster.past();
    for (log, update) in past {
        if log.node != cluster.logs[2].node {
            cluster.mail.push_back((2, Input::Updates(vec![(log, update)])));
        }
    }
    assert_eq!(cluster.places().len(), 4, "two copies of one slot");
    cluster.run(3000);
    let mut slots: Vec<_> = cluster.places().into_iter().map(|(_, slot)| slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [1, 2, 3]);
}

#[test]
fn a_restarted_agent_keeps_its_tasks_and_starts_again_only_what_is_gone() {
    let mut cluster = Cluster::new(&[1000]);
    cluster.ask(0, submit(100));
    let past = cluster.past();
    let mut found: BTreeMap<_, _> =
        cluster.tasks.keys().map(|(_, id)| (id.clone(), Found::Running)).collect();
    let (gone, _) = found.pop_first().expect("three run");
    cluster.tasks.remove(&(0, gone.clone()));
    let kept: Vec<_> = cluster.tasks.keys().cloned().collect();
    cluster.mail.clear();
    cluster.add(0, 1000, 2, past, &found);
    cluster.run(100);
    assert!(kept.iter().all(|task| cluster.tasks.contains_key(task)));
    assert!(cluster.tasks.contains_key(&(0, gone)), "started again under the same claim");
    assert_eq!(cluster.cores[0].ledger().used().cpu_milli, 300);
}

#[test]
fn a_service_that_ends_is_started_again_and_a_batch_task_is_not() {
    let mut cluster = Cluster::new(&[1000]);
    cluster.ask(0, submit(100));
    let (_, id) = cluster.tasks.keys().next().expect("runs").clone();
    cluster.tasks.remove(&(0, id.clone()));
    let end = TaskEnd::Exited { code: 3 };
    cluster.mail.push_back((0, Input::Ended { id: id.clone(), end: end.clone() }));
    cluster.run(100);
    assert_eq!(cluster.tasks.len(), 2);
    cluster.run(400);
    assert!(cluster.tasks.contains_key(&(0, id)));

    let mut batch = spec(100);
    batch.name = "batch".into();
    batch.kind = JobKind::Batch;
    batch.groups[0].count = 1;
    let job = JobId::new([7; 16]);
    cluster.ask(0, Ask::Submit { job, spec: Box::new(batch) });
    let (_, id) = cluster.tasks.keys().find(|(_, id)| id.slot.job == job).expect("runs").clone();
    cluster.tasks.remove(&(0, id.clone()));
    cluster.mail.push_back((0, Input::Ended { id, end }));
    cluster.run(2000);
    let view = cluster.cores[0].job_view(&job).expect("known");
    assert_eq!((view.state, view.exit_code), (crate::view::JobState::Failed, Some(3)));
    assert_eq!(cluster.tasks.len(), 3, "only the service");
}

#[test]
fn a_name_that_a_live_job_has_is_refused_and_a_retry_is_not() {
    let mut cluster = Cluster::new(&[1000]);
    cluster.ask(0, submit(100));
    cluster.ask(0, submit(100));
    let other = Ask::Submit { job: JobId::new([8; 16]), spec: Box::new(spec(100)) };
    cluster.ask(0, other);
    assert!(matches!(cluster.replies[1], Reply::Accepted { .. }));
    assert!(matches!(cluster.replies[2], Reply::NameTaken { job: taken } if taken == job()));
}

#[test]
fn a_tender_that_came_to_nothing_does_not_block_those_after_it() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    for at in 0..2 {
        // Called far ahead by a driver that then died: no claim tells of it.
        let mut call = call(50, 7, &[1, 2, 3], 100);
        call.job = job();
        let input = Input::Market { from: cluster.logs[1 - at].node, message: Message::Call(call) };
        cluster.mail.push_back((at, input));
    }
    cluster.run(10);
    cluster.ask(0, submit(100));
    cluster.run(100);
    assert_eq!(cluster.places().len(), 3);
}

#[test]
fn a_batch_larger_than_the_cluster_goes_on_after_slots_were_tendered_twice() {
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    let mut batch = spec(400);
    batch.kind = JobKind::Batch;
    batch.groups[0].count = 14;
    cluster.ask(0, Ask::Submit { job: job(), spec: Box::new(batch) });
    assert_eq!(cluster.places().len(), 6);
    // A node dies: its slots are called at a greater epoch than those never called.
    cluster.dead.push(2);
    cluster.tasks.retain(|(at, _), ()| *at != 2);
    cluster.run(8000);
    for _ in 0..20 {
        if let Some((at, id)) = cluster.tasks.keys().next().cloned() {
            cluster.tasks.remove(&(at, id.clone()));
            let end = TaskEnd::Exited { code: 0 };
            cluster.mail.push_back((at, Input::Ended { id, end }));
        }
        cluster.run(500);
    }
    let view = cluster.cores[0].job_view(&job()).expect("known");
    assert_eq!(view.succeeded, 14);
}

#[test]
fn a_restarted_agent_says_of_its_claims_what_is_true_now() {
    let mut cluster = Cluster::new(&[1000]);
    cluster.ask(0, submit(100));
    let mut past = cluster.past();
    let mut found: BTreeMap<_, _> =
        cluster.tasks.keys().map(|(_, id)| (id.clone(), Found::Running)).collect();
    // The records of the starts never reached the disk; one task went with its host.
    for (_, update) in &mut past {
        if let Update::Opened { holdings, .. } = update {
            holdings.iter_mut().for_each(|claim| claim.state = ClaimState::Starting);
            holdings[0].state = ClaimState::Running;
        }
    }
    found.pop_first();
    cluster.mail.clear();
    cluster.add(0, 1000, 2, past, &found);
    let Some((_, Input::Updates(opened))) = cluster.mail.front() else { panic!("it opens a log") };
    let Update::Opened { holdings, .. } = &opened[0].1 else { panic!("first of all") };
    let states: Vec<_> = holdings.iter().map(|claim| claim.state.clone()).collect();
    assert_eq!(states, [ClaimState::Starting, ClaimState::Running, ClaimState::Running]);
}

#[test]
fn a_node_claims_a_slot_anew_only_when_its_last_copy_is_gone() {
    let mut cluster = Cluster::new(&[1000]);
    cluster.starts_wait = true;
    cluster.ask(0, submit(100));
    let mut changed = spec(100);
    changed.groups[0].tasks[0].env.insert("A".into(), "1".into());
    cluster.starts_wait = false;
    cluster.ask(0, Ask::Submit { job: job(), spec: Box::new(changed) });
    let running = |cluster: &Cluster| cluster.cores[0].job_view(&job()).expect("known").running;
    assert_eq!(running(&cluster), 0, "a second claim would hide the first");
    let late = std::mem::take(&mut cluster.late);
    cluster.mail.extend(late);
    cluster.run(100);
    assert_eq!((running(&cluster), cluster.tasks.len()), (3, 3), "of the second generation");
}

#[test]
fn of_two_jobs_in_one_the_claim_of_the_loser_does_not_hide_the_winners() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    cluster.ask(0, submit(100));
    let (at, id) = cluster.tasks.keys().next().expect("runs").clone();
    let from = cluster.logs[1 - at].node;
    // Made apart: another spec under the same id, not known here yet.
    let mut other = call(9, 9, &[id.slot.index], 200);
    other.job = job();
    let award = Message::Award { epoch: other.epoch, indices: vec![id.slot.index] };
    for message in [Message::Call(other), award] {
        cluster.mail.push_back((at, Input::Market { from, message }));
    }
    cluster.run(100);
    let claims: Vec<_> = cluster.cores[at].state().holdings(&cluster.logs[at].node);
    assert!(claims.iter().any(|claim| claim.epoch == id.epoch && claim.slot == id.slot));
}

#[test]
fn a_winners_word_counts_only_for_a_while() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    cluster.ask(0, submit(100));
    let (at, id) = cluster.tasks.keys().next().expect("runs").clone();
    let other = cluster.logs[1 - at].node;
    let mut better = cluster.cores[at].allocations()[&id].claim.clone();
    better.epoch.counter += 1;
    let rank = better.rank(other);
    let updates = vec![(cluster.logs[1 - at], Update::Claim(better))];
    let mut out = Vec::new();
    let now = cluster.clock();
    cluster.cores[at].handle(now, &mut cluster.dice, Input::Updates(updates), &mut out);
    let nonce = out.iter().find_map(|effect| match effect {
        Effect::Send { message: Message::Probe { nonce, .. }, .. } => Some(*nonce),
        _ => None,
    });
    let nonce = nonce.expect("it asks");
    for (ms, heeded) in [(1500, false), (0, true)] {
        let late = Now { moment: now.moment + Duration::from_millis(ms), ..now };
        // The node was away since it asked: this is the first thing that it sees.
        let mut out = Vec::new();
        cluster.cores[at].winner_ready(late, other, &id.slot, rank, nonce, &mut out);
        let stops = out.iter().any(|effect| matches!(effect, Effect::Stop { .. }));
        assert_eq!(stops, heeded, "after {ms} ms");
    }
}

#[test]
fn a_job_that_never_fits_does_not_keep_others_from_being_placed() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    let mut huge = spec(64_000);
    huge.name = "huge".into();
    cluster.ask(0, Ask::Submit { job: JobId::new([9; 16]), spec: Box::new(huge) });
    // Hundreds of calls, each above the last.
    for tender in 0..400 {
        let message = Message::Call(call(1000 + tender, tender, &[1], 64_000));
        cluster.mail.push_back((1, Input::Market { from: cluster.logs[0].node, message }));
    }
    cluster.ask(0, submit(100));
    cluster.run(500);
    assert_eq!(cluster.places().len(), 3);
}

#[test]
fn a_group_that_fits_nowhere_leaves_the_others_their_turn() {
    let mut cluster = Cluster::new(&[1000]);
    let mut two = spec(64_000);
    let mut small = spec(100).groups.remove(0);
    small.name = "small".parse().expect("a name");
    two.groups.push(small);
    cluster.ask(0, Ask::Submit { job: job(), spec: Box::new(two) });
    cluster.run(2000);
    assert_eq!(cluster.places().len(), 3);
}

#[test]
fn a_draining_node_takes_no_award_and_ends_empty() {
    let mut cluster = Cluster::new(&[1000, 1000]);
    cluster.ask(0, submit(100));
    let driver = cluster.logs[1].node;
    let other = call(7, 77, &[1], 100);
    let epoch = other.epoch;
    let message = Message::Call(other);
    cluster.mail.push_back((0, Input::Market { from: driver, message }));
    cluster.mail.push_back((0, Input::Drain));
    let message = Message::Award { epoch, indices: vec![1] };
    cluster.mail.push_back((0, Input::Market { from: driver, message }));
    cluster.run(3000);
    assert!(cluster.cores[0].is_drained());
    assert!(cluster.places().iter().all(|(at, _)| *at == 1));
    assert_eq!(cluster.places().len(), 3, "the other took over");
}

#[test]
fn an_append_that_is_refused_claims_nothing_and_answers_the_user() {
    let mut cluster = Cluster::new(&[1000]);
    let mut out = Vec::new();
    let now = cluster.clock();
    let ask = Input::Asked { request: 3, ask: submit(100) };
    cluster.cores[0].handle(now, &mut Count(0), ask, &mut out);
    let ticket = out.iter().find_map(|effect| match effect {
        Effect::Append { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let reason = "no room in the document".to_owned();
    let refused = Input::Refused { ticket: ticket.expect("appended"), reason };
    out.clear();
    cluster.cores[0].handle(now, &mut Count(0), refused, &mut out);
    let bad = |effect: &Effect| {
        matches!(effect, Effect::Reply { request: 3, reply: Reply::BadSpec { .. } })
    };
    assert!(out.iter().any(bad), "{out:?}");
}

#[test]
fn an_award_of_somebody_who_did_not_call_spoils_nothing() {
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    let (driver, stranger) = (cluster.logs[1].node, cluster.logs[2].node);
    let called = call(1, 5, &[1], 100);
    let epoch = called.epoch;
    cluster.mail.push_back((0, Input::Market { from: driver, message: Message::Call(called) }));
    for from in [stranger, driver] {
        let message = Message::Award { epoch, indices: vec![1] };
        cluster.mail.push_back((0, Input::Market { from, message }));
    }
    cluster.run(0);
    assert_eq!(cluster.places(), [(0, 1)]);
}
