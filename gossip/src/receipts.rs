//! Which appends are on whose disk: told once for each append and member.

use std::collections::BTreeMap;

use gossip_core::id::NodeId;

use crate::api::Event;

/// The most appends whose copies are still followed; the oldest are let go first.
const FOLLOWED_MAX: usize = 16_384;

/// Appends by the number after their last record.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    tickets: BTreeMap<u64, Vec<u64>>,
    count: usize,
    stored: BTreeMap<NodeId, u64>,
}

impl Receipts {
    /// The append `ticket` ends before `end` and is on this disk.
    pub(crate) fn expect(&mut self, ticket: u64, end: u64) {
        self.tickets.entry(end).or_default().push(ticket);
        self.count += 1;
        while self.count > FOLLOWED_MAX {
            let Some((_, oldest)) = self.tickets.pop_first() else { return };
            self.count -= oldest.len();
        }
    }

    /// Who is known to hold everything before `end` already.
    pub(crate) fn confirmed(&self, ticket: u64, end: u64) -> Vec<Event> {
        let holders = self.stored.iter().filter(|(_, next)| **next >= end && end > 0);
        holders.map(|(by, _)| Event::Persisted { ticket, by: *by }).collect()
    }

    /// `by` holds everything before `next`; answers the appends of which that is news.
    pub(crate) fn persisted(&mut self, by: NodeId, next: u64) -> Vec<Event> {
        let before = self.stored.insert(by, next).unwrap_or(0);
        if next <= before {
            self.stored.insert(by, before);
            return Vec::new();
        }
        let fresh = self.tickets.range(before + 1..=next);
        fresh.flat_map(|(_, all)| all).map(|&ticket| Event::Persisted { ticket, by }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_confirms_each_append_once() {
        let (a, b) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let tickets = |events: Vec<Event>| -> Vec<u64> {
            let ticket = |event| match event {
                Event::Persisted { ticket, .. } => ticket,
                other => panic!("{other:?}"),
            };
            events.into_iter().map(ticket).collect()
        };
        let mut receipts = Receipts::default();
        for (ticket, end) in [(10, 1), (11, 3), (12, 3), (13, 9)] {
            receipts.expect(ticket, end);
        }
        assert_eq!(tickets(receipts.persisted(a, 3)), [10, 11, 12]);
        assert_eq!(tickets(receipts.persisted(a, 2)), []);
        assert_eq!(tickets(receipts.persisted(b, 9)), [10, 11, 12, 13]);
        assert_eq!(tickets(receipts.persisted(a, 9)), [13]);
        assert_eq!(tickets(receipts.confirmed(14, 9)), [14, 14], "nothing new was written");
    }
}
