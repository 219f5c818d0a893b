//! Tables for one tender: who wins, who is released, what silence costs.

use super::*;
use gossip_core::id::ContentHash;
use gossip_core::market::Decline;

const A: NodeId = NodeId::new([1; 32]);
const B: NodeId = NodeId::new([2; 32]);

fn epoch() -> Epoch {
    Epoch { counter: 1, tender: 7 }
}

fn lot(indices: &[u32]) -> Lot {
    Lot {
        job: JobId::new([1; 16]),
        generation: Generation { counter: 1, spec: ContentHash::of(b"") },
        spec: vec![],
        group: GroupName::main(),
        indices: indices.to_vec(),
    }
}

fn bid(prices: &[u64]) -> Heard {
    Heard::Answer(Answer { epoch: epoch(), prices: prices.to_vec(), decline: None, held: vec![] })
}

fn open(indices: &[u32]) -> Tender {
    let mut out = Vec::new();
    let tender = Tender::open(Moment(0), epoch(), lot(indices), BTreeSet::from([A, B]), &mut out);
    let calls = out.iter().filter(|step| matches!(step, Step::Send(_, Message::Call(_)))).count();
    assert_eq!(calls, 2);
    tender
}

fn sent(out: &[Step]) -> Vec<(NodeId, Message)> {
    out.iter()
        .filter_map(|step| match step {
            Step::Send(to, message) => Some((*to, message.clone())),
            _ => None,
        })
        .collect()
}

fn closed(out: &[Step]) -> Option<Closed> {
    out.iter().find_map(|step| match step {
        Step::Closed(closed) => Some(closed.clone()),
        _ => None,
    })
}

#[test]
fn each_slot_goes_to_the_best_next_price_as_soon_as_all_have_answered() {
    let mut tender = open(&[1, 2, 3]);
    let mut out = Vec::new();
    tender.hear(Moment(5), A, bid(&[10, 30, 50]), &mut out);
    assert_eq!(sent(&out), []);
    tender.hear(Moment(6), B, bid(&[20, 60]), &mut out);
    let award = |indices: &[u32]| Message::Award { epoch: epoch(), indices: indices.to_vec() };
    assert_eq!(sent(&out), [(A, award(&[1, 3])), (B, award(&[2]))]);
    out.clear();
    tender.hear(Moment(7), A, Heard::Claimed(vec![1, 3, 3, 9]), &mut out);
    assert_eq!(closed(&out), None);
    tender.hear(Moment(8), B, Heard::Claimed(vec![2]), &mut out);
    let all = closed(&out).expect("closed");
    assert_eq!(all.claimed, [(1, A), (3, A), (2, B)]);
    assert!(all.open.is_empty() && all.unanswered.is_empty());
    assert_eq!(tender.deadline(), None);
}

#[test]
fn losers_are_released_and_what_nobody_took_is_said() {
    let mut tender = open(&[1, 2]);
    let mut out = Vec::new();
    tender.hear(Moment(1), A, bid(&[10]), &mut out);
    let decline = Some(Decline::Full { lacks: "cpu".into() });
    let no = Answer { epoch: epoch(), prices: vec![], decline, held: vec![] };
    tender.hear(Moment(2), B, Heard::Answer(no), &mut out);
    assert!(sent(&out).contains(&(B, Message::Release { epoch: epoch() })));
    tender.hear(Moment(3), A, Heard::Claimed(vec![1]), &mut out);
    assert_eq!(closed(&out).expect("closed").open, [2]);
}

#[test]
fn a_silent_candidate_costs_one_deadline_and_a_silent_winner_counts_as_holding() {
    let mut tender = open(&[1]);
    let mut out = Vec::new();
    tender.hear(Moment(1), A, bid(&[10]), &mut out);
    tender.step(Moment(599), &mut out);
    assert_eq!(sent(&out), []);
    tender.step(Moment(600), &mut out);
    assert_eq!(sent(&out).len(), 2, "an award, and a release for the silent one");
    tender.hear(Moment(601), B, bid(&[1]), &mut out);
    tender.step(Moment(2599), &mut out);
    assert_eq!(closed(&out), None);
    tender.step(Moment(2600), &mut out);
    assert_eq!(closed(&out).expect("closed").unanswered, [(1, A)]);
}

#[test]
fn a_slot_that_somebody_holds_is_not_awarded_again() {
    let mut tender = open(&[1, 2]);
    let mut out = Vec::new();
    let rank = ClaimRank { generation: lot(&[]).generation, epoch: epoch(), node: B };
    let held = Answer { epoch: epoch(), prices: vec![], decline: None, held: vec![(1, rank)] };
    tender.hear(Moment(1), B, Heard::Answer(held), &mut out);
    tender.hear(Moment(1), A, bid(&[10, 11]), &mut out);
    let award = Message::Award { epoch: epoch(), indices: vec![2] };
    assert!(sent(&out).contains(&(A, award)));
    tender.hear(Moment(3), A, Heard::Claimed(vec![2]), &mut out);
    assert_eq!(closed(&out).expect("closed").held, [(1, rank)]);
}

#[test]
fn a_tender_learns_from_declines_how_far_bidders_are() {
    let mut tender = open(&[1]);
    let mut out = Vec::new();
    for (node, answered) in [(A, 9), (B, 4)] {
        let decline = Some(Decline::Outdated { answered });
        let no = Answer { epoch: epoch(), prices: vec![], decline, held: vec![] };
        tender.hear(Moment(1), node, Heard::Answer(no), &mut out);
    }
    let closed = closed(&out).expect("closed");
    assert_eq!((closed.open, closed.outdated), (vec![1], Some(9)));
}

#[test]
fn standing_down_releases_everybody_before_the_award_only() {
    let mut tender = open(&[1]);
    let mut out = Vec::new();
    assert!(tender.clone().stand_down(&mut out));
    assert_eq!(sent(&out).len(), 2);
    tender.hear(Moment(1), A, bid(&[10]), &mut out);
    tender.hear(Moment(1), B, bid(&[10]), &mut out);
    assert!(!tender.stand_down(&mut out));
}
