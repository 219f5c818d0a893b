//! The simulator as part of every test run: no violation without a flaw, and
//! every judge complains about the flaw that it is there for.
//!
//! Long runs are `cargo testnet sim --seeds 2000`; these are short enough for
//! the debug profile.

use testnet::sim::{self, MUTANTS, Mutant, Options};

/// Seeds of the unharmed run.
const SEEDS: u64 = 30;

/// A flaw must be caught within so many seeds.
const FLAWED_SEEDS_MAX: u64 = 80;

fn options(mutant: Option<Mutant>) -> Options {
    Options { nodes: 5, mutant, trace: false }
}

#[test]
fn faults_break_no_invariant_and_heal_within_the_bound() {
    let summary = sim::run_many(1, SEEDS, &options(None));
    assert_eq!(summary.failed, []);
    assert!(summary.promised > 0 && summary.worst_copies.0 > 1, "the runs are too tame");
    assert!(summary.restarted > 10, "nothing that failed was started again");
    assert!(summary.worst_heal_ms.0 <= sim::HEAL_MS_MAX);
}

#[test]
fn clusters_of_other_sizes_hold_too() {
    for nodes in [1, 2, 3, 8] {
        let summary = sim::run_many(1, 4, &Options { nodes, ..options(None) });
        assert_eq!(summary.failed, [], "{nodes} nodes");
    }
}

#[test]
fn every_judge_catches_its_mutant() {
    for (name, mutant, judge) in MUTANTS {
        let caught = (1..=FLAWED_SEEDS_MAX).any(|seed| {
            let outcome = sim::run(seed, &options(Some(mutant)));
            outcome.violations.iter().any(|violation| violation.judge == judge)
        });
        assert!(caught, "{name} went past `{judge}` in {FLAWED_SEEDS_MAX} seeds");
    }
}

#[test]
fn a_seed_repeats_its_run() {
    let once = sim::run(7, &options(None));
    let again = sim::run(7, &options(None));
    assert_eq!((once.packets, once.heal_ms), (again.packets, again.heal_ms));
    assert_ne!(once.packets, sim::run(8, &options(None)).packets);
}
