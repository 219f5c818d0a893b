//! The gate's part about removals: what is shown, what is believed, who leaves.
//!
//!     dialer ── what the listener may not know ──▶ listener
//!            ◀── proof that one of the two is out ──
//!
//! A removal reaches those whom nobody else would tell: the removed, who has no
//! connection any more, and whoever believes in a removal that is void. What is
//! shown is believed for its signatures alone, and goes through the scribe.

use gossip_core::codec;
use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::removal::{Removal, Standing};
use gossip_core::wire::gate::{SHOWN_BYTES_MAX, SHOWN_MAX};
use tokio::sync::oneshot;

use crate::scribe::Order;

use super::{GateError, Gatekeeper, lock};

/// The most members whose proofs are remembered while they are connected.
const PASSED_MAX: usize = 8192;

/// The most removed nodes that are remembered to know it; others are told again.
const TOLD_MAX: usize = 4096;

impl Gatekeeper {
    /// Whether a key's membership ended.
    pub(crate) fn is_out(&self, node: &NodeId) -> bool {
        self.notice.read().out.contains(node)
    }

    /// Whether what a node showed as it passed still holds; where it left meanwhile, what it
    /// last wrote in its log.
    pub(crate) fn still_admits(&self, node: &NodeId) -> bool {
        let ruling = self.notice.read();
        match lock(&self.passed).get(node) {
            Some(chain) => ruling.removals.standing(chain) == Standing::Good,
            None => !ruling.out.contains(node),
        }
    }

    /// A node has no connection any more.
    pub(crate) fn left(&self, node: &NodeId) {
        lock(&self.passed).remove(node);
    }

    /// A node passes with this proof; not if too many did.
    pub(super) fn remember(&self, node: NodeId, chain: Chain) -> bool {
        let mut passed = lock(&self.passed);
        let has_room = passed.len() < PASSED_MAX || passed.contains_key(&node);
        if has_room {
            passed.insert(node, chain);
        }
        has_room
    }

    /// Whether that removed node need not be dialed to be told.
    pub(crate) fn is_told(&self, node: &NodeId) -> bool {
        lock(&self.told).contains(node) && self.notice.read().out.contains(node)
    }

    /// The removal that stands in the way of this node.
    pub(super) fn against_me(&self, chain: &Chain) -> Option<Removal> {
        self.notice.read().removals.standing(chain).against().cloned()
    }

    /// What to show to `asked` before it judges.
    pub(super) fn evidence(&self, asked: &NodeId) -> Vec<Removal> {
        let ruling = self.notice.read();
        let theirs = ruling.removals.of(asked);
        let mine = ruling.removals.defence_of(&self.me, SHOWN_MAX);
        let mut bytes = 0;
        let fits = |(at, removal): &(usize, &Removal)| {
            bytes += codec::to_cbor(removal).map_or(SHOWN_BYTES_MAX, |it| it.len());
            *at == 0 || (*at < SHOWN_MAX && bytes <= SHOWN_BYTES_MAX)
        };
        let shown = theirs.into_iter().chain(mine).enumerate().take_while(fits);
        shown.map(|(_, removal)| removal.clone()).collect()
    }

    /// Hands what somebody showed to the scribe; a full queue means that it is shown again.
    pub(super) fn heed(&self, removals: Vec<Removal>, answer: Option<oneshot::Sender<bool>>) {
        if let Some(orders) = lock(&self.orders).as_ref() {
            let _shown_again = orders.try_send(Order::Heed { removals, answer });
        }
    }

    /// `asked` showed a removal instead of its own proof: what that says, if it holds.
    pub(super) fn shown(
        &self,
        asked: &NodeId,
        cluster: &ClusterId,
        proof: Removal,
    ) -> Result<GateError, GateError> {
        proof.verify(cluster).map_err(|_proves_nothing| GateError::OutOfTurn)?;
        let by = proof.issuer().ok_or(GateError::OutOfTurn)?;
        let subject = proof.subject;
        if self.notice.read().out.contains(asked) {
            let mut told = lock(&self.told);
            if told.len() < TOLD_MAX {
                told.insert(*asked);
            }
        }
        let known = &self.notice.read().removals;
        if !known.is_known(&by, &subject) || known.would_change(&proof) {
            self.heed(vec![proof], None);
        }
        Ok(GateError::Removed(subject, by))
    }

    /// Whether no removal stands in the way of a chain that verified.
    pub(super) fn check_standing(&self, chain: &Chain, node: &NodeId) -> Result<(), GateError> {
        match self.notice.read().removals.standing(chain).against() {
            Some(removal) => {
                Err(GateError::Removed(*node, removal.issuer().unwrap_or(removal.subject)))
            }
            None => Ok(()),
        }
    }

    /// Waits until what a member showed is on this disk, where it holds and says something new.
    pub(super) async fn listen_to(&self, cluster: &ClusterId, shown: Vec<Removal>) {
        let held = |removal: &Removal| removal.verify(cluster).is_ok();
        let removals: Vec<_> = shown.into_iter().take(SHOWN_MAX).filter(held).collect();
        let ruling = self.notice.read();
        if !removals.iter().any(|removal| ruling.removals.would_change(removal)) {
            return;
        }
        let (answer, answered) = oneshot::channel();
        self.heed(removals, Some(answer));
        let _not_now = answered.await;
    }
}
