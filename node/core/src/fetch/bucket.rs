//! How many bytes may be sent now under a budget of bytes a second.
//!
//! Must never let a pause be made up for by more than a moment's burst: whoever set a budget
//! wants the link free for others.

use std::time::Duration;

use gossip_core::moment::Moment;

/// How much may be sent at once after a pause, in milliseconds of the budget.
const BURST_MS: u64 = 100;

/// A bucket of tokens: a byte each.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes a second; 0 is no budget at all.
    rate: u64,
    /// In thousandths of a byte; below zero is what was sent ahead.
    tokens: i64,
    filled: Moment,
}

impl Bucket {
    /// Of that many bytes a second; `None` is without end.
    pub fn new(rate: Option<u64>, now: Moment) -> Self {
        Self { rate: rate.unwrap_or(0), tokens: 0, filled: now }
    }

    /// Sends so many bytes; how long to wait after them before the next are sent.
    pub fn spend(&mut self, now: Moment, bytes: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let rate = i64::try_from(self.rate).unwrap_or(i64::MAX);
        let passed = i64::try_from(now.since(self.filled).as_millis()).unwrap_or(i64::MAX);
        // Bytes a second are thousandths of a byte a millisecond.
        let burst = rate.saturating_mul(BURST_MS as i64);
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(rate)).min(burst);
        self.filled = now;
        let spent = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(1000);
        self.tokens = self.tokens.saturating_sub(spent);
        let owed = u64::try_from(self.tokens.saturating_neg()).unwrap_or(0);
        Duration::from_millis(owed.div_ceil(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent in so many milliseconds in pieces of that size.
    fn sent(bucket: &mut Bucket, from: u64, ms: u64, piece: u64) -> u64 {
        let (mut now, mut sent) = (Moment(from), 0);
        while now.0 < from + ms {
            sent += piece;
            now = now + bucket.spend(now, piece);
        }
        sent
    }

    #[test]
    fn what_is_sent_keeps_to_the_budget_whatever_the_pieces() {
        for piece in [1000, 64_000, 3_000_000] {
            let mut bucket = Bucket::new(Some(1_000_000), Moment(0));
            let all = sent(&mut bucket, 0, 60_000, piece);
            let most = 60_000_000 + piece + 1_000_000 * BURST_MS / 1000;
            assert!((59_000_000..=most).contains(&all), "{piece}: {all}");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut bucket = Bucket::new(Some(1_000_000), Moment(0));
        let all = sent(&mut bucket, 3_600_000, 1000, 10_000);
        assert!(all <= 1_000_000 + 100_000 + 10_000, "{all}");
    }

    #[test]
    fn without_a_budget_nothing_waits() {
        let mut bucket = Bucket::new(None, Moment(0));
        assert_eq!(bucket.spend(Moment(0), u64::MAX), Duration::ZERO);
        let mut least = Bucket::new(Some(1), Moment(0));
        assert!(least.spend(Moment(0), u64::MAX) > Duration::from_secs(1));
    }
}
