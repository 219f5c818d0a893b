//! Tables for the merged view: order between logs must not matter.

use super::*;
use crate::fact::ClaimState;
use crate::grant::Chain;
use crate::intent::Edit;
use crate::moment::WallTime;
use crate::resources::Resources;
use crate::sign::Key;
use crate::slot::{Epoch, GroupName};
use crate::spec::{Program, TaskSpec};

fn node(n: u8) -> NodeId {
    Key::from_seed([n; 32]).id()
}

fn log(n: u8, start: u64) -> LogId {
    LogId { node: node(n), start, nonce: 0 }
}

fn card(n: u8) -> NodeCard {
    NodeCard {
        name: format!("n{n}"),
        addresses: vec![],
        capacity: Resources::default(),
        chain: Chain::found(&Key::from_seed([n; 32]), 0).1,
        version: String::new(),
        enforces_limits: false,
        trusts_jobs: false,
    }
}

fn slot(index: u32) -> SlotId {
    SlotId { job: JobId::new([1; 16]), group: GroupName::main(), index }
}

fn generation() -> Generation {
    Generation { counter: 1, spec: ContentHash::of(b"spec") }
}

fn claim(index: u32, counter: u64) -> Claim {
    Claim {
        slot: slot(index),
        generation: generation(),
        epoch: Epoch { counter, tender: 0 },
        state: ClaimState::Running,
        since: WallTime(0),
        restarts: 0,
        paused: false,
        health: None,
    }
}

fn outcome(index: u32, counter: u64, end: TaskEnd) -> Outcome {
    let claim = claim(index, counter);
    let (slot, generation, epoch) = (claim.slot, claim.generation, claim.epoch);
    Outcome { slot, generation, epoch, end, at: WallTime(0), restarts: 0 }
}

#[test]
fn a_greater_log_replaces_older_holdings_whole_but_keeps_outcomes() {
    let old = [
        Update::Opened { card: card(1), holdings: vec![] },
        Update::Claim(claim(1, 1)),
        Update::Claim(claim(2, 1)),
        Update::Outcome(outcome(2, 1, TaskEnd::Exited { code: 0 })),
    ];
    let new = [Update::Opened { card: card(1), holdings: vec![claim(3, 1)] }];
    let mut in_order = State::default();
    let mut reversed = State::default();
    for update in &old {
        in_order.apply(log(1, 1), update.clone());
    }
    for update in &new {
        in_order.apply(log(1, 2), update.clone());
        reversed.apply(log(1, 2), update.clone());
    }
    for update in &old {
        reversed.apply(log(1, 1), update.clone());
    }
    assert_eq!(in_order, reversed);
    assert_eq!(in_order.holdings(&node(1)), [claim(3, 1)]);
    assert_eq!(in_order.all_outcomes().count(), 1);
}

#[test]
fn an_outcome_ends_its_claim_and_not_a_later_one() {
    let mut state = State::default();
    state.apply(log(1, 1), Update::Claim(claim(1, 2)));
    state.apply(log(1, 1), Update::Outcome(outcome(1, 1, TaskEnd::Stopped)));
    assert_eq!(state.claims(&slot(1)).count(), 1);
    state.apply(log(1, 1), Update::Outcome(outcome(1, 2, TaskEnd::Stopped)));
    assert_eq!(state.claims(&slot(1)).count(), 0);
    assert_eq!(state.epoch_counter(&slot(1)), 2);
}

#[test]
fn an_outcome_of_an_older_log_ends_no_claim_of_a_newer_one() {
    let opened = || Update::Opened { card: card(1), holdings: vec![] };
    let superseded = Update::Outcome(outcome(1, 5, TaskEnd::Superseded));
    let old = [opened(), Update::Claim(claim(1, 5)), superseded].map(|it| (log(1, 1), it));
    // Called by a driver that had not heard of epoch 5.
    let new = [opened(), Update::Claim(claim(1, 3))].map(|it| (log(1, 2), it));
    let merged = |updates: Vec<&(LogId, Update)>| {
        let mut state = State::default();
        for (log, update) in updates {
            state.apply(*log, update.clone());
        }
        state
    };
    let in_order = merged(old.iter().chain(&new).collect());
    assert_eq!(in_order, merged(new.iter().chain(&old).collect()));
    assert_eq!(in_order.holdings(&node(1)), [claim(1, 3)]);
}

#[test]
fn a_success_is_absorbing_and_a_lost_run_settles_nothing() {
    let mut state = State::default();
    let lost = TaskEnd::Lost { reason: "host died".into() };
    state.apply(log(1, 1), Update::Outcome(outcome(1, 1, lost)));
    assert_eq!(state.settled(&slot(1), &generation()), None);
    state.apply(log(1, 1), Update::Outcome(outcome(1, 2, TaskEnd::Exited { code: 0 })));
    state.apply(log(2, 1), Update::Outcome(outcome(1, 3, TaskEnd::Exited { code: 1 })));
    let settled = state.settled(&slot(1), &generation()).expect("settled");
    assert!(settled.end.is_success());
}

#[test]
fn stop_is_final_and_of_two_scales_the_lower_counts() {
    let mut intent = JobIntent::default();
    let at = WallTime(5);
    intent.apply(&Edit::Submit { generation: generation(), at });
    intent.scales.insert(GroupName::main(), BTreeSet::from([5, 2]));
    let task = TaskSpec::of(Program::process(vec!["true".into()], None));
    let spec = JobSpec::of_task("a".into(), JobKind::Service, 9, task);
    assert_eq!(intent.count(&spec, &GroupName::main()), 2);
    intent.apply(&Edit::Stop);
    intent.apply(&Edit::Submit { generation: generation(), at });
    assert_eq!(intent.count(&spec, &GroupName::main()), 0);
}

#[test]
fn a_removed_node_has_no_say_in_any_order_and_may_turn_out_to_be_one_still() {
    let keys = [1, 2, 3].map(|n| Key::from_seed([n; 32]));
    let (cluster, founder) = Chain::found(&keys[0], 0);
    let admit = |n: u8| {
        let subject = Key::from_seed([n; 32]).id();
        founder.extend(&keys[0], &cluster, subject, crate::grant::Role::Member, n.into())
    };
    let chains = [founder.clone(), admit(2).expect("room"), admit(3).expect("room")];
    let opened = |n: u8| {
        let card = NodeCard { chain: chains[usize::from(n) - 1].clone(), ..card(n) };
        (log(n, 1), Update::Opened { card, holdings: vec![claim(n.into(), n.into())] })
    };
    let removal = |by: u8, of: u8| {
        let at = usize::from(by) - 1;
        let about = (node(of), chains[at].clone());
        let keeps = vec![node(2), node(3)];
        let removal = Removal::sign(&keys[at], &cluster, about, keeps, WallTime(0));
        (log(by, 1), Update::Removal(removal))
    };
    let told = [opened(1), opened(2), opened(3), removal(2, 1)];
    let mut seen = Vec::new();
    for turn in 0..told.len() {
        let mut order = told.clone();
        order.rotate_left(turn);
        let mut state = State::default();
        for (log, update) in order {
            state.apply(log, update);
        }
        seen.push(state);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    let mut state = seen.remove(0);
    let members = |state: &State| state.nodes().map(|(id, _)| *id).collect::<BTreeSet<_>>();
    assert_eq!(members(&state), BTreeSet::from([node(2), node(3)]), "3 was kept");
    assert_eq!(state.claims(&slot(1)).count(), 0);
    assert_eq!(state.holdings(&node(1)).len(), 1, "its own are still known");
    assert_eq!(state.epoch_counter(&slot(1)), 1, "and outranked");
    assert!(state.node(&node(1)).is_some(), "it has a name");
    let (log, update) = removal(1, 2);
    let gone_and_back = state.apply(log, update.clone());
    let expected =
        Touched::Members { gone: BTreeSet::from([node(2)]), back: BTreeSet::from([node(1)]) };
    assert_eq!(gone_and_back, expected, "the founder's counts");
    assert_eq!(state.apply(log, update), Touched::Nothing, "said twice");
    assert_eq!(state.claims(&slot(1)).count(), 1);
}
