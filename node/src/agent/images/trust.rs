//! Who sent something else than an image's bytes lately: such a one is asked last.
//!
//! It is no verdict for ever: a disk may have been mended since, and a member that alone has
//! an image is asked whatever it did before, for all that it sends is verified.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gossip_core::id::NodeId;

/// How long others are asked instead: a few tries of a task to start elsewhere, and less than
/// somebody takes who looks at what is wrong there.
const LEFT_OUT_FOR: Duration = Duration::from_secs(10 * 60);

/// The most that are remembered; the one that lied longest ago goes first.
const LIARS_MAX: usize = 64;

/// When each lied last.
#[derive(Debug, Default)]
pub(super) struct Liars(BTreeMap<NodeId, Instant>);

impl Liars {
    pub(super) fn add(&mut self, node: NodeId, now: Instant) {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < LEFT_OUT_FOR);
        self.0.insert(node, now);
        let oldest = self.0.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
        if let Some(oldest) = oldest.filter(|_| self.0.len() > LIARS_MAX) {
            self.0.remove(&oldest);
        }
    }

    /// Without those that are to be left out now, unless it is all of them.
    pub(super) fn left_out<T>(
        &self,
        holders: Vec<T>,
        node: impl Fn(&T) -> NodeId,
        now: Instant,
    ) -> Vec<T> {
        let lied = |holder: &T| {
            let at = self.0.get(&node(holder));
            at.is_some_and(|at| now.saturating_duration_since(*at) < LEFT_OUT_FOR)
        };
        let (liars, others): (Vec<T>, Vec<T>) = holders.into_iter().partition(lied);
        if others.is_empty() { liars } else { others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_lied_is_asked_again_later_or_where_nobody_else_has_it() {
        let now = Instant::now();
        let node = |number: u8| NodeId::new([number; 32]);
        let mut liars = Liars::default();
        liars.add(node(1), now);
        let left =
            |liars: &Liars, of: &[u8], at| liars.left_out(of.to_vec(), |number| node(*number), at);
        assert_eq!(left(&liars, &[1, 2, 3], now), [2, 3]);
        assert_eq!(left(&liars, &[1], now), [1]);
        assert_eq!(left(&liars, &[1, 2], now + LEFT_OUT_FOR), [1, 2]);
        for number in 2..200 {
            liars.add(node(number), now + Duration::from_secs(number.into()));
        }
        assert_eq!(liars.0.len(), LIARS_MAX);
        assert_eq!(left(&liars, &[1, 199], now), [1], "the oldest is forgotten");
    }
}
