//! What all hosts of a run share: time, the queue of what will happen, chance,
//! the network, and the judges' bench.
//!
//! Must never hold anything that belongs to one host.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use gossip_core::advert::Advert;
use gossip_core::fact::TaskEnd;
use gossip_core::log::{LogId, Vector};
use gossip_core::market::Message;

use super::dice::Seeded;
use super::journal::Run;
use super::judges::Bench;
use super::link::Links;
use super::mutant::Mutant;
use super::tasks::TaskName;

/// What hosts send each other.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    /// Records, unasked or because they were missing.
    Push(Rc<Run>),
    /// "This is what I hold"; a question wants the same back.
    Vector { held: Rc<Vector>, question: bool },
    /// "That log is on my disk so far."
    Stored { log: LogId, next: u64 },
    /// About placing work.
    Market(Message),
    /// What is free somewhere, handed on by whoever heard it first.
    Advert(Advert),
}

/// What happens to one host's agent. Dropped if that start of it is over.
#[derive(Clone, Debug)]
pub(super) enum Mail {
    /// Its core wanted to be woken.
    Wake,
    /// Its oldest write ended.
    Written,
    /// A mutant's lie about a write.
    Lie(u64),
    /// It is time to compare logs with somebody.
    Compare,
    /// Somebody sent something.
    Packet { from: usize, packet: Packet },
    /// A task started.
    Started(TaskName),
    /// A task ended.
    Ended(TaskName, TaskEnd),
    /// A user asks.
    Ask(usize),
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// To the agent of a host, in the start that has this number; any if `None`.
    Agent { host: usize, start: Option<u64>, mail: Mail },
    /// A launch comes to its end.
    Launched { host: usize, boot: u64, name: TaskName, fails: bool, service: bool },
    /// A task ends by itself, or because it was told to.
    Exits { host: usize, boot: u64, name: TaskName, end: TaskEnd },
    /// The next act of the plan.
    Act(usize),
    /// A user waited long enough for an answer.
    Impatient { ask: usize, tries: u32 },
    /// The judges look.
    Look,
}

#[derive(Debug)]
struct Timed {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Shared by all hosts.
#[derive(Debug)]
pub(super) struct Air {
    /// Milliseconds since the run began.
    pub(super) now: u64,
    pub(super) dice: Seeded,
    pub(super) links: Links,
    pub(super) bench: Bench,
    pub(super) mutant: Option<Mutant>,
    /// How many packets arrived.
    pub(super) packets: u64,
    trace: bool,
    queue: BinaryHeap<Reverse<Timed>>,
    number: u64,
}

impl Air {
    pub(super) fn new(
        dice: Seeded,
        hosts: usize,
        bench: Bench,
        mutant: Option<Mutant>,
        trace: bool,
    ) -> Self {
        let links = Links::new(hosts);
        let queue = BinaryHeap::new();
        Self { now: 0, dice, links, bench, mutant, packets: 0, trace, queue, number: 0 }
    }

    /// Lets `event` happen after `delay`.
    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Timed { at: self.now + delay, number: self.number, event }));
    }

    /// The next thing that happens; time moves there.
    pub(super) fn next(&mut self, until: u64) -> Option<Event> {
        if self.queue.peek().is_none_or(|Reverse(next)| next.at > until) {
            self.now = until;
            return None;
        }
        let Reverse(next) = self.queue.pop()?;
        self.now = next.at;
        Some(next.event)
    }

    /// Sends a packet over whatever the network is now.
    pub(super) fn send(&mut self, from: usize, to: usize, packet: Packet) {
        let delays = self.links.delays(&mut self.dice, from, to);
        for delay in delays {
            let mail = Mail::Packet { from, packet: packet.clone() };
            self.after(delay, Event::Agent { host: to, start: None, mail });
        }
    }

    /// Writes a line of the trace.
    pub(super) fn note(&self, host: Option<usize>, text: impl FnOnce() -> String) {
        if self.trace {
            let who = host.map_or_else(|| "    ".to_owned(), |host| format!("h{:<3}", host + 1));
            eprintln!("{:>8.3} {who} {}", self.now as f64 / 1000.0, text());
        }
    }
}
