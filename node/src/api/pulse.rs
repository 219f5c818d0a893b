//! When somebody who waits for the state to change looks at it again.
//!
//! Not more often than the agent can bear, however much changes; and now and
//! then although nothing did, because who is thought lost moves with the clock.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::agent::{Doors, Gone};

/// In the long run there are twenty looks a second.
const LOOK_GAP: Duration = Duration::from_millis(50);

/// The first twenty come at once, so that whoever waits for a short job is told at once.
const LOOKS_AHEAD: Duration = LOOK_GAP.saturating_mul(20);

/// And one when nothing changed for so long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One waiter's pulse.
#[derive(Debug)]
pub(super) struct Pulse {
    changes: watch::Receiver<u64>,
    due: Instant,
}

impl Pulse {
    pub(super) fn new(doors: &Doors) -> Self {
        Self { changes: doors.agent.changes(), due: Instant::now() }
    }

    /// Waits for the next look's turn. What changes from now on is a reason for another.
    pub(super) async fn turn(&mut self) {
        tokio::time::sleep(self.wait(Instant::now())).await;
        self.changes.mark_unchanged();
    }

    fn wait(&mut self, now: Instant) -> Duration {
        let wait = self.due.saturating_duration_since(now + LOOKS_AHEAD);
        self.due = self.due.max(now) + LOOK_GAP;
        wait
    }

    /// Waits for a reason to look again.
    pub(super) async fn changed(&mut self) -> Result<(), Gone> {
        match timeout(LOOK_EVERY, self.changes.changed()).await {
            Ok(Err(_closed)) => Err(Gone),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_looks_come_at_once_and_then_twenty_a_second() {
        let start = Instant::now();
        let (_sender, changes) = watch::channel(0);
        let mut pulse = Pulse { changes, due: start };
        let mut now = start;
        let mut at_once = 0;
        for _ in 0..100 {
            let wait = pulse.wait(now);
            at_once += u32::from(wait.is_zero());
            now += wait;
        }
        assert_eq!(at_once, 21);
        assert_eq!(now - start, LOOK_GAP * 79);
    }
}
