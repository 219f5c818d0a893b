//! Invariant 1: no node ever has more claimed plus held than it has, and the
//! tasks that exist on it never ask for more together.

use gossip_core::resources::Resources;

/// Keeps the first excess of each kind until the bench is asked.
#[derive(Debug, Default)]
pub(crate) struct Capacity {
    excess: Vec<(u64, String)>,
}

impl Capacity {
    /// A core was stepped.
    pub(crate) fn ledger(&mut self, at: u64, host: usize, used: Resources, capacity: Resources) {
        self.check(at, host, "claimed and held", used, capacity);
    }

    /// A task was launched.
    pub(crate) fn tasks(&mut self, at: u64, host: usize, used: Resources, capacity: Resources) {
        self.check(at, host, "asked for by tasks", used, capacity);
    }

    fn check(&mut self, at: u64, host: usize, what: &str, used: Resources, capacity: Resources) {
        if !capacity.fits(&used) && self.excess.len() < 4 {
            let words = format!("h{}: {used} {what}, of {capacity}", host + 1);
            self.excess.push((at, words));
        }
    }

    pub(crate) fn take(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.excess)
    }
}
