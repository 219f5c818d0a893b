//! The planner against sources that are slow, lossy, lying and gone, by seeds.

mod layers;
mod swarm;
mod world;

use world::{Kind, World};

use super::*;

const MB: u64 = 1 << 20;

#[test]
fn one_good_source_gives_each_byte_once() {
    let mut world = World::new(1, 40 * MB, &[(Kind::Good, 10 * MB)]);
    let end = world.run();
    assert!(end.complete, "{end:?}");
    assert_eq!(end.asked, end.bytes);
    assert!(end.ms < 4_600, "as fast as the link: {end:?}");
}

#[test]
fn a_slow_source_gets_less_and_keeps_nobody_waiting() {
    let mut world = World::new(2, 40 * MB, &[(Kind::Good, 10 * MB), (Kind::Good, MB / 8)]);
    let end = world.run();
    assert!(end.complete && end.ms < 5_000, "{end:?}");
    assert!(end.asked < end.bytes + 2 * MB, "{end:?}");
}

#[test]
fn a_liar_is_named_and_all_else_comes_from_others() {
    let mut world = World::new(3, 40 * MB, &[(Kind::Good, 5 * MB), (Kind::Lies, 5 * MB)]);
    let end = world.run();
    assert!(end.complete, "{end:?}");
    assert_eq!(end.excluded, [world.node(1)].into());
    assert!(end.asked < end.bytes + 9 * MB, "what was asked of it, no more: {end:?}");
}

#[test]
fn whoever_only_lies_ends_in_a_failure_that_names_it() {
    let mut world = World::new(4, 4 * MB, &[(Kind::Lies, MB)]);
    let end = world.run();
    assert!(!end.complete && end.excluded.len() == 1, "{end:?}");
}

#[test]
fn words_without_bytes_do_not_keep_anybody_waiting_for_ever() {
    let mut world = World::new(4, 4 * MB, &[(Kind::Hums, MB)]);
    let end = world.run();
    assert!(!end.complete && end.ms <= GIVE_UP_AFTER.as_millis() as u64 + 100, "{end:?}");
}

#[test]
fn cuts_cost_what_was_on_its_way_and_no_more() {
    let mut world = World::new(5, 10 * MB, &[(Kind::Cuts(10), MB)]);
    let end = world.run();
    assert!(end.complete, "{end:?}");
    assert!(end.came <= end.bytes + 10, "begun chunks are gone on with: {end:?}");
}

#[test]
fn one_that_vanishes_and_one_that_says_nothing_are_not_waited_for_long() {
    for kind in [Kind::Vanishes(1_000), Kind::Mute, Kind::Hums] {
        let mut world = World::new(6, 40 * MB, &[(Kind::Good, 5 * MB), (kind, 5 * MB)]);
        let end = world.run();
        assert!(end.complete, "{kind:?}: {end:?}");
        assert!(end.ms < 25_000, "{kind:?}: {end:?}");
        assert!(end.asked < end.bytes + 12 * MB, "{kind:?}: {end:?}");
    }
}

#[test]
fn nobody_there_ends_after_a_while() {
    let mut world = World::new(7, 4 * MB, &[(Kind::Mute, MB)]);
    let end = world.run();
    assert!(!end.complete && end.excluded.is_empty(), "{end:?}");
    assert!(end.ms <= GIVE_UP_AFTER.as_millis() as u64 + 1_000, "{end:?}");
}

#[test]
fn whatever_the_sources_are_it_ends_and_little_is_asked_twice() {
    for seed in 0..100 {
        let mut world = World::of_chance(seed);
        let end = world.run();
        let lying = world.kinds().filter(|kind| matches!(kind, Kind::Lies)).count();
        let some_gives = world.kinds().any(Kind::gives);
        let none_can = world.kinds().all(|kind| matches!(kind, Kind::Lies | Kind::Mute));
        assert!(end.complete || !some_gives, "seed {seed}: {end:?} {:?}", world.about());
        assert!(!end.complete || !none_can, "seed {seed}: {end:?}");
        assert!(end.excluded.len() <= lying, "seed {seed}: {end:?}");
        // Two requests of each source that broke, stalled or was overtaken.
        let most = end.bytes + end.breaks * 2 * source::ASK_MAX;
        assert!(end.asked <= most, "seed {seed}: {end:?}");
    }
}
