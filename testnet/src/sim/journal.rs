//! One host's disk: every log it holds, and what is on its way there.
//!
//! Writes end in order after a small and sometimes a long while. A crash keeps
//! a random part of those that had not ended: on the disk or not, nobody was
//! told. What was told to be durable is never lost here, and nothing leaves
//! the host before it is durable. Must never decide anything: it stores.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use gossip_core::fact::Update;
use gossip_core::id::JobId;
use gossip_core::intent::{Edit, JobIntent};
use gossip_core::log::{LogId, Vector, missing};
use gossip_core::moment::WallTime;
use gossip_core::state::State;

use super::dice::Seeded;

/// One record.
#[derive(Debug)]
pub(super) enum Item {
    /// A fact, as the cores read it.
    Fact(Update),
    /// A change of one job's intent, to be merged.
    Edit { job: JobId, edit: Edit },
}

/// Consecutive records of one log.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) log: LogId,
    pub(super) first: u64,
    pub(super) items: Vec<Rc<Item>>,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.first + self.items.len() as u64
    }
}

/// A write that has not ended.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) run: Run,
    /// Of an append of this host.
    pub(super) ticket: Option<u64>,
    /// Who sent it.
    pub(super) from: Option<usize>,
}

/// Where records that arrived stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// They are being written.
    Taken,
    /// They were held already.
    Known,
    /// Something before them is missing.
    Gap,
}

/// The most records sent at once.
const RUN_MAX: usize = 128;

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Journal {
    logs: BTreeMap<LogId, Vec<Rc<Item>>>,
    intents: BTreeMap<JobId, JobIntent>,
    /// What is held, counting what is being written.
    reserved: Vector,
    writes: VecDeque<Write>,
    busy_until: u64,
    next_until: u64,
}

impl Journal {
    /// Starts to write an append; answers when it ends.
    pub(super) fn append(
        &mut self,
        at: u64,
        log: LogId,
        items: Vec<Item>,
        ticket: u64,
        takes: u64,
    ) -> u64 {
        let first = self.reserved(&log);
        let run = Run { log, first, items: items.into_iter().map(Rc::new).collect() };
        self.write(at, Write { run, ticket: Some(ticket), from: None }, takes)
    }

    /// Starts to write what arrived, if it follows what is held; answers when it ends.
    pub(super) fn take(&mut self, at: u64, mut run: Run, from: usize, takes: u64) -> (Place, u64) {
        let next = self.reserved(&run.log);
        if run.end() <= next {
            return (Place::Known, at);
        }
        if run.first > next {
            return (Place::Gap, at);
        }
        let known = usize::try_from(next - run.first).unwrap_or(usize::MAX);
        run.items.drain(..known.min(run.items.len()));
        run.first = next;
        let write = Write { run, ticket: None, from: Some(from) };
        (Place::Taken, self.write(at, write, takes))
    }

    fn write(&mut self, at: u64, write: Write, takes: u64) -> u64 {
        self.reserved.insert(write.run.log, write.run.end());
        self.writes.push_back(write);
        if self.busy_until <= at {
            (self.busy_until, self.next_until) = (self.next_until, 0);
        }
        if self.busy_until <= at {
            self.busy_until = at + takes;
            return self.busy_until;
        }
        // A commit is under way: whatever comes meanwhile goes together into the next.
        if self.next_until == 0 {
            self.next_until = self.busy_until + takes;
        }
        self.next_until
    }

    /// The oldest write ended: what it was, and what a core is told of it.
    pub(super) fn written(&mut self) -> Option<(Write, Vec<(LogId, Update)>)> {
        let write = self.writes.pop_front()?;
        let updates = self.store(&write.run);
        Some((write, updates))
    }

    fn store(&mut self, run: &Run) -> Vec<(LogId, Update)> {
        self.logs.entry(run.log).or_default().extend(run.items.iter().cloned());
        let update = |item: &Rc<Item>| match &**item {
            Item::Fact(update) => update.clone(),
            Item::Edit { job, edit } => {
                let intent = self.intents.entry(*job).or_default();
                merge(intent, edit);
                Update::Intent { job: *job, intent: intent.clone() }
            }
        };
        run.items.iter().map(update).map(|update| (run.log, update)).collect()
    }

    /// The writer is gone: some of what it was writing got there.
    pub(super) fn crash(&mut self, dice: &mut Seeded) {
        let writes = std::mem::take(&mut self.writes);
        let mut reached = dice.index(2 * writes.len() + 1).saturating_sub(writes.len());
        for write in writes {
            if reached > 0 {
                reached -= 1;
                self.store(&write.run);
            }
        }
        self.reserved = self.vector();
        (self.busy_until, self.next_until) = (0, 0);
    }

    /// How much of each log is on the disk.
    pub(super) fn vector(&self) -> Vector {
        self.logs.iter().map(|(log, items)| (*log, items.len() as u64)).collect()
    }

    /// How much of one log is on the disk.
    pub(super) fn next(&self, log: &LogId) -> u64 {
        self.logs.get(log).map_or(0, |items| items.len() as u64)
    }

    /// How much of one log there will be once everything is written.
    pub(super) fn reserved(&self, log: &LogId) -> u64 {
        self.reserved.get(log).copied().unwrap_or(0)
    }

    /// What somebody who holds `theirs` lacks.
    pub(super) fn lacking(&self, theirs: &Vector) -> Vec<Run> {
        let ours = self.vector();
        let run = |(log, first): (LogId, u64)| {
            let items = self.logs.get(&log)?;
            let from = usize::try_from(first).ok()?;
            let items = items.iter().skip(from).take(RUN_MAX).cloned().collect();
            Some(Run { log, first, items })
        };
        missing(theirs, &ours).into_iter().filter_map(run).collect()
    }

    /// Everything on the disk, as a starting core is told of it.
    pub(super) fn past(&self) -> Vec<(LogId, Update)> {
        let mut past = Vec::new();
        for (log, items) in &self.logs {
            for item in items {
                past.push(match &**item {
                    Item::Fact(update) => (*log, update.clone()),
                    Item::Edit { job, .. } => {
                        let intent = self.intents.get(job).cloned().unwrap_or_default();
                        (*log, Update::Intent { job: *job, intent })
                    }
                });
            }
        }
        past
    }

    /// What is merged from everything on the disk, logs taken in the order of
    /// `key` and each log in its own.
    pub(super) fn merged<K: Ord>(&self, key: impl Fn(&LogId) -> K) -> State {
        let mut logs: Vec<_> = self.logs.iter().collect();
        logs.sort_by_key(|(log, _)| key(log));
        let mut state = State::default();
        for (log, item) in
            logs.into_iter().flat_map(|(log, items)| items.iter().map(move |it| (log, it)))
        {
            if let Item::Fact(update) = &**item {
                state.apply(*log, update.clone());
            }
        }
        state
    }

    /// Every record on the disk, and those on their way there.
    pub(super) fn items(&self) -> impl Iterator<Item = &Rc<Item>> {
        let writing = self.writes.iter().flat_map(|write| &write.run.items);
        self.logs.values().flatten().chain(writing)
    }

    /// The greatest start of `node` that is on the disk.
    pub(super) fn starts(&self, node: &gossip_core::id::NodeId) -> u64 {
        self.logs.keys().filter(|log| log.node == *node).map(|log| log.start).max().unwrap_or(0)
    }
}

/// What an intent says after one more edit, in whatever order edits come.
pub(super) fn merge(intent: &mut JobIntent, edit: &Edit) {
    let before = intent.submitted;
    intent.apply(edit);
    if let Edit::Submit { at, .. } = edit {
        let earlier = if before == WallTime::default() { *at } else { before.min(*at) };
        intent.submitted = earlier;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::id::NodeId;

    const LOG: LogId = LogId { node: NodeId::new([1; 32]), start: 1, nonce: 1 };

    fn stop() -> Item {
        Item::Edit { job: JobId::new([1; 16]), edit: Edit::Stop }
    }

    fn run(first: u64, count: usize) -> Run {
        Run { log: LOG, first, items: (0..count).map(|_| Rc::new(stop())).collect() }
    }

    #[test]
    fn records_are_taken_in_order_and_once() {
        let mut journal = Journal::default();
        assert_eq!(journal.take(0, run(1, 1), 0, 5).0, Place::Gap);
        assert_eq!(journal.take(0, run(0, 2), 0, 5), (Place::Taken, 5));
        assert_eq!(journal.take(0, run(0, 2), 0, 5).0, Place::Known);
        assert_eq!(journal.take(0, run(1, 2), 0, 5), (Place::Taken, 10));
        assert_eq!(journal.take(0, run(3, 1), 0, 5), (Place::Taken, 10), "in one commit");
        assert_eq!(journal.next(&LOG), 0, "nothing is on the disk yet");
        while journal.written().is_some() {}
        assert_eq!(journal.next(&LOG), 4);
        assert_eq!(journal.lacking(&Vector::from([(LOG, 2)]))[0].first, 2);
    }

    #[test]
    fn a_crash_keeps_what_was_written_and_a_part_of_the_rest_in_order() {
        for seed in 0..50 {
            let mut journal = Journal::default();
            journal.append(0, LOG, vec![stop()], 1, 1);
            journal.written();
            for ticket in 2..6 {
                journal.append(0, LOG, vec![stop()], ticket, 1);
            }
            journal.crash(&mut Seeded::new(seed));
            assert!((1..=5).contains(&journal.next(&LOG)));
            assert!(journal.written().is_none());
        }
    }
}
