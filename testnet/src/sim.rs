//! The simulator: the shipped cores in virtual time, under every fault at once.
//!
//!     seed ──▶ plan ──▶ hosts ◀── faults
//!                         │ observations
//!                         ▼
//!                       judges ──▶ violations
//!
//! A run is some nodes, several jobs, two minutes of faults and forty healed
//! seconds, and follows from its seed alone. What a violation shows is a bug of
//! a core or of this model; a seed and a commit repeat it. Must never have a
//! switch in a core: flaws on purpose live in the shell around it.

mod air;
mod dice;
mod host;
mod jobs;
mod journal;
mod judges;
mod link;
mod mutant;
mod schedule;
mod tasks;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

pub use self::judges::{Judge, Violation};
pub use self::mutant::{BadMutant, MUTANTS, Mutant};

/// Nothing fails before then, in milliseconds.
pub const WARM_UP: u64 = 8_000;

/// Faults end then: 120 seconds of them.
pub const HEAL_AT: u64 = WARM_UP + 120_000;

/// Healing takes at most this long.
pub const HEAL_MS_MAX: u64 = 15_000;

/// The healed world is watched until then: forty seconds.
pub const STOP_AT: u64 = HEAL_AT + 40_000;

/// Then everything is stopped, and has ended by then.
pub const END_AT: u64 = STOP_AT + 15_000;

/// The most nodes of a run.
pub const NODES_MAX: usize = 16;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// A flaw on purpose.
    pub mutant: Option<Mutant>,
    /// Write down everything that happens.
    pub trace: bool,
}

/// What one run showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many packets arrived.
    pub packets: u64,
    /// How many asks were acknowledged.
    pub promised: usize,
    /// Batch tasks that were started again after they failed.
    pub restarted: usize,
    /// The most copies one slot ever had at once.
    pub worst_copies: usize,
    /// How long after the last fault everything was right for good.
    pub heal_ms: u64,
    /// What was wrong.
    pub violations: Vec<Violation>,
}

/// What many runs showed.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many runs.
    pub seeds: u64,
    /// Their packets.
    pub packets: u64,
    /// Their acknowledged asks.
    pub promised: usize,
    /// The most copies of one slot, and in which run.
    pub worst_copies: (usize, u64),
    /// The longest heal, and in which run.
    pub worst_heal_ms: (u64, u64),
    /// Batch tasks that were started again after they failed.
    pub restarted: usize,
    /// Runs in which something was wrong, in order.
    pub failed: Vec<(u64, Vec<Violation>)>,
}

impl Summary {
    /// Simulated milliseconds.
    pub fn simulated_ms(&self) -> u64 {
        self.seeds * END_AT
    }

    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.packets += outcome.packets;
        self.promised += outcome.promised;
        self.restarted += outcome.restarted;
        self.worst_copies = self.worst_copies.max((outcome.worst_copies, seed));
        self.worst_heal_ms = self.worst_heal_ms.max((outcome.heal_ms, seed));
        if !outcome.violations.is_empty() {
            self.failed.push((seed, outcome.violations));
        }
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    world::World::new(seed, options).run()
}

/// Runs `count` seeds from `first` on, on all cores of this machine.
pub fn run_many(first: u64, count: u64, options: &Options) -> Summary {
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let seed = first.wrapping_add(number);
            let outcome = run(seed, options);
            summary.lock().unwrap_or_else(PoisonError::into_inner).add(seed, outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failed.sort_by_key(|(seed, _)| *seed);
    summary
}
