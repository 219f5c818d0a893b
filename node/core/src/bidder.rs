//! The bidder: answers calls with what the ledger can really hold.
//!
//! A bid is firm because room is set aside before it is said. Having answered
//! a call at epoch e, a bidder refuses awards and calls below e for that
//! group, so that two drivers never both fill one slot from here.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::id::{JobId, NodeId};
use gossip_core::limits::LimitKind;
use gossip_core::market::{Answer, CALL_SLOTS_MAX, Call, Decline};
use gossip_core::moment::Moment;
use gossip_core::slot::{COUNTER_MAX, ClaimRank, Epoch, GroupName};
use gossip_core::spec::{GroupSpec, JobSpec};

use crate::ledger::{Hold, Ledger};
use crate::stock::Stock;

/// The longest hold a driver may ask for.
pub const HOLD_MAX: Duration = Duration::from_secs(10);

/// For how many groups the last answered epoch is remembered; the oldest id goes first.
pub const ANSWERED_MAX: usize = 65_536;

/// What one copy of the same group here adds to the price of another: more
/// than being completely full does, so that copies spread before they stack.
const SPREAD_PRICE: u64 = 1500;

/// Whether a node takes jobs that could take the node over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Given,
    /// It declines them.
    Withheld,
}

/// The kinds of limits that a node cannot enforce, each with the reason.
pub type Lacks = BTreeMap<LimitKind, String>;

/// Answers calls.
#[derive(Clone, Debug)]
pub struct Bidder {
    /// What this node has.
    pub ledger: Ledger,
    trust: Trust,
    lacks: Lacks,
    /// What it has of images.
    pub stock: Stock,
    answered: BTreeMap<(JobId, GroupName), Epoch>,
}

impl Bidder {
    /// A bidder over an empty ledger.
    pub fn new(ledger: Ledger, trust: Trust, lacks: Lacks) -> Self {
        Self { ledger, trust, lacks, stock: Stock::default(), answered: BTreeMap::new() }
    }

    /// Answers a call. `held` are the called indices that this node holds already.
    pub fn answer(
        &mut self,
        now: Moment,
        driver: NodeId,
        call: &Call,
        spec: &JobSpec,
        held: Vec<(u32, ClaimRank)>,
    ) -> Answer {
        let epoch = call.epoch;
        // Whatever it thinks of the call, what it holds it says: nobody else should take it.
        let decline =
            |decline, held| Answer { epoch, prices: vec![], decline: Some(decline), held };
        let Some(group) = spec.group(&call.group) else {
            return decline(Decline::Unfit { reason: format!("no group {}", call.group) }, held);
        };
        if let Some(unfit) = self.unfit(group) {
            return decline(unfit, held);
        }
        let absurd = epoch.counter.max(call.generation.counter) > COUNTER_MAX;
        if absurd || call.indices.len() > CALL_SLOTS_MAX {
            return decline(Decline::Unfit { reason: "an absurd call".to_owned() }, held);
        }
        if let Err(answered) = self.may_answer(call) {
            return decline(Decline::Outdated { answered: answered.counter }, held);
        }
        let each = group.ask();
        let open =
            call.indices.iter().filter(|i| !held.iter().any(|(index, _)| index == *i)).count();
        let used_before = self.ledger.used();
        let hold = Hold {
            driver,
            job: call.job,
            group: call.group.clone(),
            each,
            count: u32::try_from(open).unwrap_or(u32::MAX),
            until: now + Duration::from_millis(call.hold_ms.into()).min(HOLD_MAX),
        };
        let count = self.ledger.hold(epoch, hold);
        let copies = self.ledger.copies(&call.job, &call.group);
        let capacity = self.ledger.capacity();
        // What is fetched for one copy is there for the next.
        let fetching = self.stock.price(group);
        let prices = (1..=u64::from(count))
            .map(|taken| {
                let fullness = |used: u64, each: u64, of: u64| {
                    let after = used.saturating_add(each.saturating_mul(taken));
                    after.saturating_mul(1000).checked_div(of).unwrap_or(1000)
                };
                let cpu = fullness(used_before.cpu_milli, each.cpu_milli, capacity.cpu_milli);
                let memory =
                    fullness(used_before.memory_bytes, each.memory_bytes, capacity.memory_bytes);
                let once = if taken == 1 { fetching } else { 0 };
                cpu.max(memory) + SPREAD_PRICE * (copies + taken - 1) + once
            })
            .collect();
        let short = u64::from(count) < open as u64;
        let decline = short.then(|| match capacity.lacking(&each) {
            Some(lacks) => Decline::TooLarge { lacks },
            None => Decline::Full {
                lacks: self.ledger.free().lacking(&each).unwrap_or_else(|| "too many holds".into()),
            },
        });
        Answer { epoch, prices, decline, held }
    }

    /// Why this node never runs a group that others might.
    pub fn unfit(&self, group: &GroupSpec) -> Option<Decline> {
        let distrust = group.needs_trust().filter(|_| self.trust == Trust::Withheld);
        let distrust = distrust.map(|asks| format!("{asks}, and this node has no --trust-jobs"));
        let lack = || {
            let kinds = group.limit_kinds();
            let (kind, why) = self.lacks.iter().find(|(kind, _)| kinds.contains(kind))?;
            Some(format!("it asks for {}, which this node cannot enforce: {why}", kind.field()))
        };
        Some(Decline::Unfit { reason: distrust.or_else(lack)? })
    }

    /// Whether no greater call of that group was answered; else the epoch of that one.
    fn may_answer(&mut self, call: &Call) -> Result<(), Epoch> {
        let key = (call.job, call.group.clone());
        let last = self.answered.get(&key);
        if let Some(answered) = last.filter(|answered| **answered > call.epoch) {
            return Err(*answered);
        }
        if self.answered.len() >= ANSWERED_MAX && last.is_none() {
            self.answered.pop_first();
        }
        self.answered.insert(key, call.epoch);
        Ok(())
    }

    /// The hold that an award of `driver` may turn into claims, if there is one.
    pub fn awardable(&self, driver: &NodeId, epoch: &Epoch) -> Option<&Hold> {
        let hold = self.ledger.held(epoch).filter(|hold| hold.driver == *driver)?;
        let key = (hold.job, hold.group.clone());
        let outdated = self.answered.get(&key).is_some_and(|answered| answered > epoch);
        (!outdated).then_some(hold)
    }

    /// Forgets a hold that `driver` called for.
    pub fn release(&mut self, driver: &NodeId, epoch: &Epoch) {
        if self.ledger.held(epoch).is_some_and(|hold| hold.driver == *driver) {
            self.ledger.release(epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::{DRIVER, call, spec};
    use gossip_core::container::{self, ContainerSpec, ImageSpec, RootSpec};
    use gossip_core::id::ContentHash;
    use gossip_core::resources::Resources;
    use gossip_core::spec::Program;

    fn bidder() -> Bidder {
        let ledger = Ledger::new(Resources { cpu_milli: 1000, memory_bytes: 1 << 30 });
        Bidder::new(ledger, Trust::Withheld, Lacks::new())
    }

    #[test]
    fn who_could_take_the_node_over_is_declined_unless_the_node_trusts_its_jobs() {
        let mut spec = spec(100);
        let root = RootSpec::Path("/srv/root".to_owned());
        let mut container = ContainerSpec::new(root, vec!["true".to_owned()]);
        container.trust.insert(container::Trust::HostIds);
        spec.groups[0].tasks[0].run = Program::Container(Box::new(container));
        let mut bidder = bidder();
        let answer = bidder.answer(Moment(0), DRIVER, &call(1, 1, &[1], 100), &spec, vec![]);
        assert!(matches!(answer.decline, Some(Decline::Unfit { .. })), "{answer:?}");
        bidder.trust = Trust::Given;
        let answer = bidder.answer(Moment(0), DRIVER, &call(1, 2, &[1], 100), &spec, vec![]);
        assert_eq!((answer.prices.len(), answer.decline), (1, None));
    }

    #[test]
    fn a_limit_that_this_node_lacks_is_declined_and_the_others_are_not() {
        let mut bidder = bidder();
        bidder.lacks.insert(LimitKind::Cpuset, "no such controller".to_owned());
        let mut spec = spec(100);
        spec.groups[0].tasks[0].limits.io_weight = Some(100);
        let answer = bidder.answer(Moment(0), DRIVER, &call(1, 1, &[1], 100), &spec, vec![]);
        assert_eq!(answer.decline, None);
        spec.groups[0].tasks[0].limits.cpuset_cpus = Some("0".to_owned());
        let answer = bidder.answer(Moment(0), DRIVER, &call(1, 2, &[1], 100), &spec, vec![]);
        let Some(Decline::Unfit { reason }) = answer.decline else { panic!("{answer:?}") };
        assert!(reason.contains("cpuset-cpus") && reason.contains("no such"), "{reason}");
    }

    #[test]
    fn a_bid_is_backed_by_a_hold_and_later_slots_cost_more() {
        let mut bidder = bidder();
        let answer =
            bidder.answer(Moment(0), DRIVER, &call(1, 1, &[1, 2, 3], 400), &spec(400), vec![]);
        assert_eq!(answer.prices.len(), 2);
        assert!(answer.prices[0] < answer.prices[1]);
        assert!(matches!(answer.decline, Some(Decline::Full { .. })), "for the third");
        assert_eq!(bidder.ledger.free().cpu_milli, 200);
    }

    #[test]
    fn an_image_that_is_not_here_is_paid_for_once_and_never_makes_copies_stack() {
        let mut spec = spec(100);
        let mut image = ImageSpec::named("app".to_owned());
        image.id = Some(ContentHash::of(b"x"));
        let container = ContainerSpec::new(RootSpec::Image(image), Vec::new());
        spec.groups[0].tasks[0].run = Program::Container(Box::new(container));
        let prices = |bidder: &mut Bidder, epoch| {
            bidder.answer(Moment(0), DRIVER, &call(1, epoch, &[1, 2], 100), &spec, vec![]).prices
        };
        let mut lacking = bidder();
        let mut having = bidder();
        having.stock.held.insert(ContentHash::of(b"x"));
        let (fetches, has) = (prices(&mut lacking, 1), prices(&mut having, 1));
        assert!(has[0] < fetches[0] && fetches[0] < has[1], "{has:?} {fetches:?}");
        assert_eq!(has[1], fetches[1]);
    }

    #[test]
    fn a_call_below_an_answered_epoch_is_outdated_and_its_award_too() {
        let mut bidder = bidder();
        bidder.answer(Moment(0), DRIVER, &call(2, 1, &[1], 100), &spec(100), vec![]);
        bidder.answer(Moment(0), DRIVER, &call(3, 2, &[1], 100), &spec(100), vec![]);
        let answer = bidder.answer(Moment(0), DRIVER, &call(2, 9, &[1], 100), &spec(100), vec![]);
        assert_eq!(answer.decline, Some(Decline::Outdated { answered: 3 }));
        assert!(bidder.awardable(&DRIVER, &Epoch { counter: 2, tender: 1 }).is_none());
        assert!(bidder.awardable(&DRIVER, &Epoch { counter: 3, tender: 2 }).is_some());
        let stranger = NodeId::new([9; 32]);
        assert!(bidder.awardable(&stranger, &Epoch { counter: 3, tender: 2 }).is_none());
    }

    #[test]
    fn what_can_never_fit_is_told_apart_from_what_does_not_fit_now() {
        let mut bidder = bidder();
        let large = bidder.answer(Moment(0), DRIVER, &call(1, 1, &[1], 4000), &spec(4000), vec![]);
        assert!(matches!(large.decline, Some(Decline::TooLarge { .. })));
        let mut bad = call(1, 2, &[1], 100);
        bad.epoch.counter = COUNTER_MAX + 1;
        let unfit = bidder.answer(Moment(0), DRIVER, &bad, &spec(100), vec![]);
        assert!(matches!(unfit.decline, Some(Decline::Unfit { .. })));
    }

    #[test]
    fn slots_held_here_are_named_and_not_bid_for() {
        let mut bidder = bidder();
        let call = call(1, 1, &[1, 2], 100);
        let rank = ClaimRank { generation: call.generation, epoch: call.epoch, node: DRIVER };
        let answer = bidder.answer(Moment(0), DRIVER, &call, &spec(100), vec![(1, rank)]);
        assert_eq!((answer.prices.len(), answer.held.len()), (1, 1));
        // A stale driver hears of it too, or it would place a second copy elsewhere.
        let stale = crate::core::tests::call(0, 1, &[1, 2], 100);
        let answer = bidder.answer(Moment(0), DRIVER, &stale, &spec(100), vec![(1, rank)]);
        assert_eq!((answer.prices.len(), answer.held.len()), (0, 1));
    }
}
