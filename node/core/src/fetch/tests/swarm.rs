//! Several that lack a layer, one that has it, and links between all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::chunks;
use super::*;

const STEP_MS: u64 = 5;

/// How late a receiver hears what another has.
const NEWS_MS: u64 = 100;

struct Receiver {
    node: NodeId,
    plan: Plan,
    here: Vec<bool>,
    began: Moment,
    done: Option<Moment>,
    /// Requests to whom, what is left, and how much of the first came.
    asked: BTreeMap<(NodeId, RequestId), (Vec<Part>, u32)>,
}

/// What the source sent, and when each was done.
struct Outcome {
    sent: u64,
    done_ms: Vec<u64>,
}

/// `rates`: from the source to each, and from any receiver to any other, in bytes a second.
/// The source's own line carries `uplink` in all.
fn swarm(
    bytes: u64,
    uplink: u64,
    between: u64,
    starts: &[u64],
    dies: Option<(usize, u64)>,
) -> Outcome {
    let source = NodeId::new([9; 32]);
    let chunks = chunks(7, bytes);
    let mut receivers: Vec<Receiver> = starts
        .iter()
        .enumerate()
        .map(|(at, start)| {
            let (node, began) = (NodeId::new([at as u8 + 1; 32]), Moment(1_000 + start));
            let mut plan = Plan::new(node, began);
            chunks.iter().for_each(|bytes| plan.chunk(began, *bytes, false));
            plan.listed();
            plan.holder(began, source, Has::Whole);
            let here = vec![false; chunks.len()];
            Receiver { node, plan, here, began, done: None, asked: BTreeMap::new() }
        })
        .collect();
    let mut now = Moment(1_000);
    let mut sent = 0;
    let dead =
        |at: usize, now: Moment| dies.is_some_and(|(who, ms)| who == at && now.0 > 1_000 + ms);
    let expected = |at: usize| dies.is_none_or(|(who, _)| who != at);
    while receivers.iter().enumerate().any(|(at, r)| expected(at) && r.done.is_none()) {
        assert!(now.0 < 600_000, "it ends");
        let running = |at: usize, r: &Receiver, now: Moment| r.began <= now && !dead(at, now);
        if now.0.is_multiple_of(NEWS_MS) {
            let told: Vec<_> = receivers
                .iter()
                .enumerate()
                .filter(|(at, r)| running(*at, r, now))
                .map(|(_, r)| (r.node, r.here.clone()))
                .collect();
            for receiver in &mut receivers {
                let others = told.iter().filter(|(node, _)| *node != receiver.node);
                receiver.plan.fetchers(others.clone().map(|(node, _)| *node).collect());
                for (node, has) in others {
                    receiver.plan.holder(now, *node, Has::Some(has.clone()));
                }
            }
        }
        for (at, receiver) in receivers.iter_mut().enumerate() {
            if receiver.began > now || dead(at, now) || receiver.done.is_some() {
                continue;
            }
            for action in receiver.plan.step(now) {
                match action {
                    Action::Ask { id, to, parts } => {
                        let skip = parts[0].skip;
                        receiver.asked.insert((to, id), (parts, skip));
                    }
                    Action::CallOff(off) => receiver.asked.retain(|(_, id), _| *id != off),
                }
            }
        }
        let taking = |receivers: &[Receiver]| {
            let of = |r: &Receiver| r.asked.keys().any(|(to, _)| *to == source);
            receivers.iter().filter(|r| of(r)).count() as u64
        };
        let share = uplink / taking(&receivers).max(1);
        for at in 0..receivers.len() {
            if dead(at, now) {
                continue;
            }
            let from: BTreeSet<NodeId> = receivers[at].asked.keys().map(|(to, _)| *to).collect();
            for node in from {
                let peer = receivers.iter().position(|r| r.node == node);
                if peer.is_some_and(|peer| dead(peer, now)) {
                    continue;
                }
                let rate = if node == source { share } else { between };
                let came = carry(&mut receivers[at], node, rate * STEP_MS / 1000, &chunks, now);
                sent += if node == source { came } else { 0 };
            }
            let receiver = &mut receivers[at];
            if receiver.done.is_none() && receiver.plan.is_complete() {
                receiver.done = Some(now);
            }
        }
        now = now + Duration::from_millis(STEP_MS);
    }
    let done_ms = receivers.iter().filter_map(|r| r.done.map(|done| done.since(r.began)));
    Outcome { sent, done_ms: done_ms.map(|took| took.as_millis() as u64).collect() }
}

fn carry(to: &mut Receiver, from: NodeId, mut budget: u64, chunks: &[u32], now: Moment) -> u64 {
    let mut carried = 0;
    while budget > 0 {
        let Some((&key, (parts, have))) = to.asked.iter_mut().find(|((node, _), _)| *node == from)
        else {
            break;
        };
        let Some(part) = parts.first().copied() else {
            to.asked.remove(&key);
            to.plan.ended(now, key.1, Ended::Done);
            continue;
        };
        let left = u64::from(chunks[part.chunk as usize] - *have);
        let piece = left.min(budget);
        *have += piece as u32;
        (budget, carried) = (budget - piece, carried + piece);
        to.plan.bytes(now, key.1, piece);
        if piece == left {
            parts.remove(0);
            *have = parts.first().map_or(0, |part| part.skip);
            to.here[part.chunk as usize] = true;
            to.plan.chunk_came(now, key.1, part.chunk, Came::Good);
        }
    }
    carried
}

#[test]
fn two_receivers_take_each_byte_of_the_source_about_once() {
    for mbs in [1, 12, 60] {
        let (bytes, rate) = (mbs * 12 * MB, mbs * MB);
        let end = swarm(bytes, rate, rate, &[0, 0], None);
        let raw_ms = 12_000;
        assert!(end.sent * 100 <= bytes * 110, "{mbs} MB/s: {} of {bytes}", end.sent);
        for ms in end.done_ms {
            assert!(ms * 100 <= raw_ms * 130, "{mbs} MB/s: {ms} ms for {raw_ms}");
        }
    }
}

#[test]
fn one_that_comes_later_takes_what_is_there_from_the_first() {
    let bytes = 60 * MB;
    let end = swarm(bytes, 5 * MB, 5 * MB, &[0, 4_000], None);
    assert!(end.sent * 100 <= bytes * 110, "{} of {bytes}", end.sent);
    assert!(end.done_ms.iter().all(|ms| *ms < 15_600), "{:?}", end.done_ms);
}

#[test]
fn six_receivers_share_as_two_do() {
    let bytes = 60 * MB;
    let end = swarm(bytes, 5 * MB, 5 * MB, &[0, 50, 100, 150, 200, 250], None);
    assert!(end.sent * 100 <= bytes * 112, "{} of {bytes}", end.sent);
    assert!(end.done_ms.iter().all(|ms| *ms < 18_000), "{:?}", end.done_ms);
}

#[test]
fn one_that_dies_takes_nobody_with_it() {
    let bytes = 60 * MB;
    let end = swarm(bytes, 5 * MB, 5 * MB, &[0, 0], Some((1, 5_000)));
    assert_eq!(end.done_ms.len(), 1);
    assert!(end.done_ms[0] < 24_000, "{:?}", end.done_ms);
}

#[test]
fn a_bad_link_between_receivers_is_not_waited_for() {
    let bytes = 30 * MB;
    let end = swarm(bytes, 5 * MB, 64 * 1024, &[0, 0], None);
    // Both then come to all of it from the source.
    assert!(end.done_ms.iter().all(|ms| *ms < 18_000), "{:?}", end.done_ms);
}
