//! The address book: where members listen, and when to dial whom again.
//!
//! Every known member that is not connected is dialed for as long as it is
//! known, over QUIC and then over TCP, with a jittered pause that doubles up
//! to a bound. Addresses come from cards, and before there are any from the
//! token that this node joined with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip_core::id::NodeId;
use libp2p::Multiaddr;
use rand::{Rng, RngExt as _};

use crate::address;
use crate::api::Transport;

/// The pause after the first failure, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Between dials of a host that was removed, and does not answer: somebody ought to tell it.
const PAUSE_REMOVED: Duration = Duration::from_secs(300);

/// Of two members that learn of each other at once, one waits this long for the other's dial.
const COURTESY: Duration = Duration::from_millis(400);

/// A dial that never came back is forgotten.
const DIAL_LOST: Duration = Duration::from_secs(20);

/// The most addresses of one member.
const ADDRESSES_MAX: usize = 32;

/// One attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    /// Whom; `None` for whoever answers at an address from a token.
    pub(crate) node: Option<NodeId>,
    pub(crate) addresses: Vec<Multiaddr>,
}

#[derive(Debug)]
struct Entry {
    quic: Vec<Multiaddr>,
    tcp: Vec<Multiaddr>,
    over: Transport,
    failures: u32,
    next: Instant,
}

/// All known members but this one.
#[derive(Debug)]
pub(crate) struct Book {
    me: NodeId,
    entries: BTreeMap<NodeId, Entry>,
    /// Who is no member any more.
    out: BTreeSet<NodeId>,
    bootstrap: Vec<Multiaddr>,
    bootstrap_failures: u32,
    bootstrap_next: Instant,
}

/// A pause between half of and all of the doubled minimum.
fn pause(failures: u32, rng: &mut impl Rng) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.min(10));
    doubled.min(PAUSE_MAX).mul_f64(rng.random_range(0.5..1.0))
}

impl Book {
    pub(crate) fn new(me: NodeId, bootstrap: Vec<Multiaddr>, now: Instant) -> Self {
        let (entries, out) = (BTreeMap::new(), BTreeSet::new());
        Self { me, entries, out, bootstrap, bootstrap_failures: 0, bootstrap_next: now }
    }

    /// A member's card says where it listens.
    pub(crate) fn learn(&mut self, node: NodeId, addresses: &[String], now: Instant) {
        if node == self.me {
            return;
        }
        let (mut quic, mut tcp) = (Vec::new(), Vec::new());
        for address in addresses.iter().take(ADDRESSES_MAX) {
            let Ok(address) = address.parse::<Multiaddr>() else { continue };
            match address::transport_of(&address) {
                Some(Transport::Quic) => quic.push(address),
                Some(Transport::Tcp) => tcp.push(address),
                None => {}
            }
        }
        let over = if quic.is_empty() { Transport::Tcp } else { Transport::Quic };
        let first = if self.me < node { now } else { now + COURTESY };
        let old = self.entries.get(&node);
        if old.is_some_and(|old| old.quic == quic && old.tcp == tcp) {
            return;
        }
        self.entries.insert(node, Entry { quic, tcp, over, failures: 0, next: first });
    }

    /// Whether `node` is a member that opened a log.
    pub(crate) fn knows(&self, node: &NodeId) -> bool {
        self.entries.contains_key(node)
    }

    /// Where `node` listens, as far as known.
    pub(crate) fn addresses(&self, node: &NodeId) -> impl Iterator<Item = &Multiaddr> {
        self.entries.get(node).into_iter().flat_map(|entry| entry.quic.iter().chain(&entry.tcp))
    }

    /// Whom to dial now; remembers that it was tried.
    pub(crate) fn due(
        &mut self,
        now: Instant,
        is_connected: impl Fn(&NodeId) -> bool,
        rng: &mut impl Rng,
    ) -> Vec<Dial> {
        let mut dials = Vec::new();
        let mut is_alone = true;
        for (node, entry) in &mut self.entries {
            if is_connected(node) {
                is_alone &= self.out.contains(node);
                continue;
            }
            let addresses = match entry.over {
                Transport::Quic => &entry.quic,
                Transport::Tcp => &entry.tcp,
            };
            if entry.next <= now && !addresses.is_empty() {
                entry.next = now + DIAL_LOST;
                dials.push(Dial { node: Some(*node), addresses: addresses.clone() });
            }
        }
        if is_alone && self.bootstrap_next <= now {
            self.bootstrap_next = now + PAUSE_MIN + pause(self.bootstrap_failures, rng);
            self.bootstrap_failures += 1;
            let each = self.bootstrap.iter();
            dials.extend(each.map(|at| Dial { node: None, addresses: vec![at.clone()] }));
        }
        dials
    }

    /// A dial failed: the other transport at once, the next round after a pause.
    pub(crate) fn failed(&mut self, node: &NodeId, now: Instant, rng: &mut impl Rng) {
        let Some(entry) = self.entries.get_mut(node) else { return };
        if entry.over == Transport::Quic && !entry.tcp.is_empty() {
            entry.over = Transport::Tcp;
            entry.next = now;
            return;
        }
        entry.over = if entry.quic.is_empty() { Transport::Tcp } else { Transport::Quic };
        let is_out = self.out.contains(node);
        entry.next = now + if is_out { PAUSE_REMOVED } else { pause(entry.failures, rng) };
        entry.failures = entry.failures.saturating_add(1);
    }

    /// Who is no member any more is dialed rarely, and nobody is told where it listens.
    pub(crate) fn keep_out(&mut self, out: &BTreeSet<NodeId>) {
        self.out.clone_from(out);
    }

    /// The connection is gone, or was made: start over gently.
    pub(crate) fn reset(&mut self, node: &NodeId, now: Instant, rng: &mut impl Rng) {
        let Some(entry) = self.entries.get_mut(node) else { return };
        entry.over = if entry.quic.is_empty() { Transport::Tcp } else { Transport::Quic };
        entry.failures = 0;
        entry.next = now + pause(0, rng);
        self.bootstrap_failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn quic_is_tried_first_then_tcp_then_after_a_growing_pause() {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let (me, other) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let now = Instant::now();
        let mut book = Book::new(me, vec![], now);
        let addresses = ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/dns4/x/tcp/1", "x"];
        book.learn(other, &addresses.map(String::from), now);
        let mut due = |book: &mut Book, at| book.due(at, |_| false, &mut rng);
        let dial = |address: &str| {
            let addresses = vec![address.parse().expect("multiaddr")];
            vec![Dial { node: Some(other), addresses }]
        };
        assert_eq!(due(&mut book, now), dial("/ip4/1.2.3.4/udp/1/quic-v1"));
        assert_eq!(due(&mut book, now), [], "under way");
        let mut rng = rand::rngs::SmallRng::seed_from_u64(2);
        book.failed(&other, now, &mut rng);
        assert_eq!(due(&mut book, now), dial("/ip4/1.2.3.4/tcp/1"));
        book.failed(&other, now, &mut rng);
        assert_eq!(due(&mut book, now), []);
        assert_eq!(due(&mut book, now + PAUSE_MIN), dial("/ip4/1.2.3.4/udp/1/quic-v1"));
        for failures in 0..40 {
            let pause = pause(failures, &mut rng);
            assert!((PAUSE_MIN / 2..=PAUSE_MAX).contains(&pause), "{failures}: {pause:?}");
        }
    }
}
