//! The escapes that take no more than a few seconds, on containers of ours, and
//! what a default container sees. `testnet escape` tries them all.
//!
//! One test after the other: each has a runtime of its own, and looks at the host.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use testnet::escape::{Ground, ROWS, Row, Scope, Verdict, Which, golden};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `play` says what went wrong; the ground is cleared first, whatever that is.
fn on_ground(play: impl FnOnce(&mut Ground) -> Vec<String>) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: escapes need root to set their canaries");
        return;
    }
    let (probe, keeper) = (env!("CARGO_BIN_EXE_probe"), env!("CARGO_BIN_EXE_testnet"));
    let mut ground =
        Ground::lay(Which::Ours, Path::new(probe), Path::new(keeper)).expect("a ground");
    let broken = play(&mut ground);
    let cleared = ground.clear();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    cleared.expect("nothing is left");
}

fn holds(wanted: impl Fn(&Row) -> bool) {
    on_ground(|ground| {
        let mut broken = Vec::new();
        for row in ROWS.iter().filter(|row| row.scope != Scope::OursSlowly && wanted(row)) {
            if let Verdict::Broken(what) = row.play(ground) {
                broken.push(format!("{} {}:\n  {}", row.id, row.name, what.join("\n  ")));
            }
        }
        broken
    });
}

fn number(row: &Row) -> u32 {
    let digits: String = row.id.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

#[test]
fn no_path_of_an_image_or_a_launch_leads_out() {
    holds(|row| number(row) <= 7);
}

#[test]
fn nothing_the_kernel_offers_leads_out() {
    holds(|row| (8..=16).contains(&number(row)));
}

#[test]
fn no_archive_user_or_environment_leads_out() {
    holds(|row| (17..=24).contains(&number(row)));
}

#[test]
fn what_takes_all_it_can_get_is_bounded_and_ends() {
    holds(|row| number(row) == 25);
}

#[test]
fn a_plain_process_does_not_get_what_is_the_agents() {
    holds(|row| number(row) == 26);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_default_container_sees_what_is_written_down() {
    on_ground(|ground| {
        let seen = golden::take(ground).expect("a container");
        let committed = std::fs::read_to_string(golden::path()).unwrap_or_default();
        let mut differences = golden::differences(&committed, &seen);
        if !differences.is_empty() {
            differences.push("if this is meant: `cargo testnet escape --bless`".to_owned());
        }
        differences
    });
}

#[test]
fn a_runtime_in_which_nothing_ran_leaves_nothing() {
    // What is left of it, clearing the ground tells.
    on_ground(|_nothing| Vec::new());
}

#[test]
fn every_row_has_a_number_of_its_own() {
    for (at, row) in ROWS.iter().enumerate() {
        assert!(!ROWS.iter().skip(at + 1).any(|other| other.id == row.id), "{}", row.id);
    }
}
