//! What each fault does to a frame, as tables. Pure: no sockets, no clock.

use super::*;

const MS: Nanos = 1_000_000;

fn chance(percent: u32) -> Chance {
    Chance::of_ppm(percent * 10_000).expect("a percentage")
}

fn millis(millis: u64) -> Span {
    Span::of_micros(millis * 1_000).expect("a short span")
}

/// The arrivals of one frame of 1000 bytes at `now`.
fn offer(link: &mut Link, now: Nanos) -> Vec<Arrival> {
    let mut dice = Dice::seeded(7);
    link.offer(now, &mut dice, 1_000, 24).into_iter().flatten().collect()
}

#[test]
fn each_fault_does_its_own_thing() {
    let plain = Faults::default();
    for (faults, arrivals, name) in [
        (plain, vec![5 * MS], "a perfect wire adds nothing"),
        (Faults { cut: true, ..plain }, vec![], "a cut takes it"),
        (Faults { loss: chance(100), ..plain }, vec![], "certain loss takes it"),
        (Faults { delay: millis(20), ..plain }, vec![25 * MS], "delay moves it"),
        (Faults { duplicate: chance(100), ..plain }, vec![5 * MS, 5 * MS], "twice"),
        (Faults { rate: Rate::of_kbit(8_000), ..plain }, vec![6 * MS], "1000 bytes at 1 MB/s"),
        (
            Faults { delay: millis(3), rate: Rate::of_kbit(8_000), ..plain },
            vec![9 * MS],
            "rate and delay add up",
        ),
    ] {
        let mut link = Link::new(faults);
        let times: Vec<_> = offer(&mut link, 5 * MS).iter().map(|one| one.at).collect();
        assert_eq!(times, arrivals, "{name}");
    }
}

#[test]
fn the_same_seed_gives_the_same_fates() {
    let faults = Faults {
        loss: chance(30),
        jitter: millis(5),
        duplicate: chance(10),
        corrupt: chance(10),
        ..Faults::default()
    };
    let run = |seed| {
        let (mut link, mut dice) = (Link::new(faults), Dice::seeded(seed));
        (0..200).map(|now| link.offer(now, &mut dice, 100, 24)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn loss_is_about_as_frequent_as_asked() {
    let mut link = Link::new(Faults { loss: chance(30), ..Faults::default() });
    let mut dice = Dice::seeded(3);
    for now in 0..10_000 {
        let _ = link.offer(now, &mut dice, 100, 24);
    }
    assert!((2_800..3_200).contains(&link.tally().lost), "{:?}", link.tally());
}

#[test]
fn jitter_stays_within_its_bounds_and_reorders() {
    let mut link = Link::new(Faults { delay: millis(10), jitter: millis(4), ..Faults::default() });
    let mut dice = Dice::seeded(11);
    let times: Vec<_> =
        (0..100).filter_map(|_| link.offer(0, &mut dice, 100, 24)[0]).map(|one| one.at).collect();
    assert!(times.iter().all(|at| (10 * MS..14 * MS).contains(at)));
    assert!(!times.is_sorted());
}

#[test]
fn corruption_spares_the_front_and_hits_within_the_frame() {
    let mut link = Link::new(Faults { corrupt: chance(100), ..Faults::default() });
    let mut dice = Dice::seeded(5);
    for _ in 0..1_000 {
        let [first, _] = link.offer(0, &mut dice, 60, 24);
        let bit = first.and_then(|one| one.flip).expect("a bit is turned over");
        assert!((24 * 8..60 * 8).contains(&bit));
    }
    let [tiny, _] = link.offer(0, &mut dice, 24, 24);
    assert_eq!(tiny.and_then(|one| one.flip), None, "nothing to corrupt");
}

#[test]
fn a_rate_queues_frames_behind_each_other_then_drops() {
    // 1000 bytes take 100 ms: five fit into the backlog, the sixth does not.
    let mut link = Link::new(Faults { rate: Rate::of_kbit(80), ..Faults::default() });
    let times: Vec<_> = (0..6).flat_map(|_| offer(&mut link, 0)).map(|one| one.at / MS).collect();
    assert_eq!(times, [100, 200, 300, 400, 500]);
    assert_eq!(link.tally().overflowed, 1);
    assert_eq!(offer(&mut link, 100 * MS).len(), 1, "time makes room again");
}

#[test]
fn the_queue_is_bounded() {
    let mut link = Link::new(Faults { delay: millis(10), ..Faults::default() });
    for _ in 0..LINK_FRAMES_MAX {
        assert_eq!(offer(&mut link, 0).len(), 1);
        link.hold();
    }
    assert!(offer(&mut link, 0).is_empty());
    assert!(link.release(0));
    assert_eq!(offer(&mut link, 0).len(), 1);
}

#[test]
fn a_cut_takes_what_is_under_way_even_if_it_heals_first() {
    let delayed = Faults { delay: millis(10), ..Faults::default() };
    let mut link = Link::new(delayed);
    let departed = link.severed();
    link.hold();
    link.set(Change::CUT.applied_to(delayed));
    link.set(Change::JOIN.applied_to(link.faults()));
    assert!(!link.release(departed));
    assert_eq!(link.tally().cut, 1);
    assert_eq!(link.faults(), delayed, "joining again keeps the delay");
}

#[test]
fn a_change_touches_only_what_it_names() {
    let before = Faults { loss: chance(5), delay: millis(20), ..Faults::default() };
    let change = Change { loss: Some(chance(50)), ..Change::default() };
    assert_eq!(change.applied_to(before), Faults { loss: chance(50), ..before });
    assert_eq!(Change::default().applied_to(before), before);
}
