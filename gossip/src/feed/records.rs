//! The loop's half that is about records: what the scribe stored, what peers say they hold.
//!
//! A commit is told to the agent first, then confirmed to its author, then
//! pushed on. What peers hold is only ever learned from what they say.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use gossip_core::fact::Update;
use gossip_core::id::NodeId;
use gossip_core::log::{Batch, LogId};
use gossip_core::wire::Frame;

use crate::api::{Event, Failure};
use crate::link::Heard;
use crate::scribe::{Committed, Order, Report};

use super::{Feed, HEARD_EVERY};

impl Feed {
    pub(super) fn on_report(&mut self, report: Option<Report>) {
        let failure = match report {
            Some(Report::Committed(committed)) => return self.on_committed(committed),
            Some(Report::Chunk { to, frame }) => {
                if let Some(connection) = self.connections.get_mut(&to) {
                    connection.is_reading = false;
                    if let Some(frame) = frame {
                        connection.link.send(frame);
                    }
                }
                return;
            }
            Some(Report::Failed(failure)) => failure,
            None => Failure::Writer,
        };
        self.failed = true;
        self.outbox.push_back(Event::Failed(failure));
    }

    fn on_committed(&mut self, committed: Committed) {
        let now = Instant::now();
        for (log, update) in &committed.updates {
            if let Update::Opened { card, .. } | Update::Card(card) = update {
                self.book.learn(log.node, &card.addresses, now);
            }
        }
        self.ruled |= committed.ruling.is_some();
        if !committed.updates.is_empty() {
            self.outbox.push_back(Event::Updates(committed.updates));
        }
        for (peer, logs) in &committed.done {
            self.sync.answered(peer, logs);
        }
        for log in committed.refused {
            self.sync.refused(log, now);
        }
        let mut own = Vec::new();
        let mut stored: BTreeMap<LogId, u64> = BTreeMap::new();
        for (from, batch) in committed.fresh {
            let (log, end) = (batch.log, batch.end());
            self.sync.committed(log, end);
            match from {
                None => own.push(batch),
                Some(_) => {
                    stored.insert(log, end);
                }
            }
        }
        for (log, next) in committed.known {
            let end = stored.entry(log).or_default();
            *end = next.max(*end);
        }
        for (ticket, written) in committed.appends {
            match written {
                Ok(end) => {
                    self.outbox.push_back(Event::Durable { ticket });
                    self.receipts.expect(ticket, end);
                    let confirmed = self.receipts.confirmed(ticket, end);
                    self.outbox.extend(confirmed);
                }
                Err(reason) => self.outbox.push_back(Event::Refused { ticket, reason }),
            }
        }
        for (log, end) in stored {
            self.send(&log.node, &Frame::Persisted(log, end));
        }
        self.push(own);
        for (author, reason) in committed.rejected {
            tracing::warn!(author = %author.short(), reason, "rejected");
            self.tell_softly(Event::Rejected { author, reason });
        }
        for (peer, _) in committed.done {
            self.pull(peer, now);
        }
    }

    /// This node's own fresh records, to everybody at once.
    fn push(&self, own: Vec<Batch>) {
        for batch in own {
            match Frame::Batches(vec![batch]).encode() {
                Ok(bytes) => {
                    let bytes = Bytes::from(bytes);
                    self.connections.values().for_each(|peer| peer.link.send(bytes.clone()));
                }
                Err(error) => tracing::warn!(%error, "a batch cannot be sent"),
            }
        }
    }

    pub(super) fn pull(&mut self, from: NodeId, now: Instant) {
        if let Some(frame) = self.sync.wanted(from, now) {
            self.send(&from, &frame);
        }
    }

    pub(super) fn on_heard(&mut self, from: NodeId, heard: Heard) {
        let now = Instant::now();
        let Some(connection) = self.connections.get_mut(&from) else {
            // Who says goodbye may be gone before its last words are taken.
            if let Heard::Frame(Frame::Market(message)) = heard {
                self.tell_softly(Event::Market { from, message });
            }
            return;
        };
        connection.heard = now;
        if connection.told.is_none_or(|told| now.duration_since(told) >= HEARD_EVERY) {
            connection.told = Some(now);
            self.tell_softly(Event::Heard(from));
        }
        match heard {
            Heard::Alive => {}
            Heard::Bad(reason) => self.tell_softly(Event::Rejected { author: from, reason }),
            Heard::Frame(frame) => self.on_frame(from, frame, now),
        }
    }

    fn on_frame(&mut self, from: NodeId, frame: Frame, now: Instant) {
        match frame {
            Frame::Vector(logs) => {
                // Whoever holds records of this log has them on its disk.
                let mine = logs.iter().find(|(log, _)| *log == self.log).copied();
                if let Some((log, next)) = mine {
                    self.on_persisted(from, log, next);
                }
                self.sync.told(from, logs);
                self.pull(from, now);
            }
            Frame::Pull(wants) => {
                let Some(connection) = self.connections.get_mut(&from) else { return };
                // One answer at a time; what is not answered is asked again.
                if !connection.is_reading {
                    let order = Order::Read { to: from, wants };
                    connection.is_reading = self.orders.try_send(order).is_ok();
                }
            }
            // Readers bring records to the scribe themselves.
            Frame::Batches(_) => {}
            Frame::Persisted(log, next) => {
                self.sync.told(from, [(log, next)]);
                self.on_persisted(from, log, next);
            }
            Frame::Market(message) => self.tell_softly(Event::Market { from, message }),
        }
    }

    fn on_persisted(&mut self, by: NodeId, log: LogId, next: u64) {
        if log == self.log && next <= self.sync.held(&log) {
            self.outbox.extend(self.receipts.persisted(by, next));
        }
    }
}
