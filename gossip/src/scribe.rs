//! The scribe: the one thread that writes the journal and what follows from it.
//!
//!     orders ─▶ check, learn ─▶ one commit for all that waited ─▶ reports
//!
//! Slow disks and hostile documents are met here, away from the loop that
//! talks to peers. Nothing is reported, answered or sent on before the commit
//! that holds it has returned; a commit that fails ends the thread, because
//! what the disk holds is not known any more.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use gossip_core::fact::{Record, Update};
use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, NodeId, Signature};
use gossip_core::invite::Invitation;
use gossip_core::log::{Batch, LogId};
use gossip_core::moment::WallTime;
use gossip_core::removal::Removal;
use gossip_core::sign::Key;
use gossip_core::wire::gate::Refusal;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::api::{Entry, Failure, Invited};
use crate::journal::{Journal, Writes};
use crate::journal_error::JournalError;
use crate::knowledge::{Knowledge, News};
use crate::members::{Notice, Ruling};

mod draft;
mod orders;
mod removing;

/// Orders that wait; the agent's appends are told `Busy` beyond it.
pub(crate) const ORDERS_MAX: usize = 1024;

/// Reports that wait for the loop.
pub(crate) const REPORTS_MAX: usize = 64;

/// The most orders and bytes of one commit.
const ROUND_ORDERS_MAX: usize = 256;
const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the scribe is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Append to this start's log.
    Append { ticket: u64, entries: Vec<Entry> },
    /// Take what a peer sent; signatures hold already.
    Take { from: NodeId, batches: Vec<Batch>, permit: OwnedSemaphorePermit },
    /// Admit `joiner`, if the invitation allows it.
    Redeem {
        invitation: Box<Invitation>,
        proof: Signature,
        joiner: NodeId,
        now: WallTime,
        answer: oneshot::Sender<Result<Chain, Refusal>>,
    },
    /// Say that an invitation was made, or take one back; answered once that is on the disk,
    /// or with `false`.
    Note { record: Record, answer: oneshot::Sender<bool> },
    /// All invitations that are known here.
    Invitations(oneshot::Sender<Vec<Invited>>),
    /// Whom a member admitted, nodes and operators, as far as known here.
    AdmittedBy { member: NodeId, answer: oneshot::Sender<Vec<NodeId>> },
    /// Take removals, whose signatures hold, where they are news.
    Heed { removals: Vec<Removal>, answer: Option<oneshot::Sender<bool>> },
    /// Read what a peer wants.
    Read { to: NodeId, wants: Vec<(LogId, u64)> },
    /// End, after everything before this.
    Stop,
}

/// What the scribe did.
#[derive(Debug)]
pub(crate) enum Report {
    Committed(Committed),
    /// A frame of records for that peer; `None` where nothing is to be had.
    Chunk {
        to: NodeId,
        frame: Option<Bytes>,
    },
    Failed(Failure),
}

/// What one commit put on the disk.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) updates: Vec<(LogId, Update)>,
    /// Fresh batches: who sent them, `None` for this node's own.
    pub(crate) fresh: Vec<(Option<NodeId>, Batch)>,
    /// Logs that were offered again, and how far they are held.
    pub(crate) known: Vec<(LogId, u64)>,
    /// Appends, and the number after their last record; or why nothing of them was written.
    pub(crate) appends: Vec<(u64, Result<u64, String>)>,
    pub(crate) rejected: Vec<(NodeId, String)>,
    /// Logs that are not to be pulled again for a while.
    pub(crate) refused: Vec<LogId>,
    /// Who sent records, and of which logs they were the next ones wanted, or known already.
    pub(crate) done: Vec<(NodeId, Vec<LogId>)>,
    /// Who is kept out from now on, where that changed.
    pub(crate) ruling: Option<Arc<Ruling>>,
}

/// Who writes.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) key: Key,
    pub(crate) cluster: ClusterId,
    pub(crate) chain: Chain,
    pub(crate) log: LogId,
}

#[derive(Debug)]
pub(crate) struct Scribe {
    author: Author,
    journal: Journal,
    knowledge: Knowledge,
    /// The greatest start counter of this node's key that was seen.
    start: u64,
    /// The ruling that was told last, and where.
    told: Arc<Ruling>,
    notice: Notice,
}

/// One commit in the making.
#[derive(Debug, Default)]
struct Round {
    writes: Writes,
    /// Who sent each of the batches to write; `None` for this node's own.
    sources: Vec<Option<NodeId>>,
    news: News,
    committed: Committed,
    admitted: Vec<(oneshot::Sender<Result<Chain, Refusal>>, Chain)>,
    noted: Vec<oneshot::Sender<bool>>,
    chunks: Vec<(NodeId, Option<Bytes>)>,
    permits: Vec<OwnedSemaphorePermit>,
    orders: usize,
    bytes: usize,
    stop: bool,
}

impl Scribe {
    pub(crate) fn new(
        author: Author,
        journal: Journal,
        knowledge: Knowledge,
        notice: Notice,
    ) -> Self {
        let (start, told) = (author.log.start, Arc::clone(knowledge.members().ruling()));
        notice.post(&told);
        Self { author, journal, knowledge, start, told, notice }
    }

    /// Starts the thread; it ends at `Stop`, at a failure, or when nobody can order any more.
    pub(crate) fn spawn(
        self,
        orders: mpsc::Receiver<Order>,
        reports: mpsc::Sender<Report>,
    ) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new().name("scribe".into()).spawn(move || self.run(orders, &reports))
    }

    fn run(mut self, mut orders: mpsc::Receiver<Order>, reports: &mpsc::Sender<Report>) {
        while let Some(first) = orders.blocking_recv() {
            let mut round = Round::default();
            let handled = self.collect(first, &mut orders, &mut round);
            let stop = round.stop;
            if let Err(error) = handled.and_then(|()| self.finish(round, reports)) {
                let reason = describe(&error);
                let _nobody_listens =
                    reports.blocking_send(Report::Failed(Failure::Journal { reason }));
                return;
            }
            if stop {
                return;
            }
        }
    }

    /// Handles `first` and what waits behind it.
    fn collect(
        &mut self,
        first: Order,
        orders: &mut mpsc::Receiver<Order>,
        round: &mut Round,
    ) -> Result<(), JournalError> {
        let mut next = Some(first);
        while let Some(order) = next {
            round.orders += 1;
            self.handle(order, round)?;
            let is_full = round.orders >= ROUND_ORDERS_MAX || round.bytes >= ROUND_BYTES_MAX;
            next = if round.stop || is_full { None } else { orders.try_recv().ok() };
        }
        Ok(())
    }

    fn handle(&mut self, order: Order, round: &mut Round) -> Result<(), JournalError> {
        match order {
            Order::Append { ticket, entries } => self.append(ticket, entries, round),
            Order::Take { from, batches, permit } => {
                let mut fitting = Vec::new();
                for batch in batches {
                    fitting.extend(self.take(from, batch, round));
                }
                round.committed.done.push((from, fitting));
                round.permits.push(permit);
            }
            Order::Redeem { invitation, proof, joiner, now, answer } => {
                match self.redeem(&invitation, &proof, joiner, now, round) {
                    Ok(chain) => round.admitted.push((answer, chain)),
                    Err(refusal) => {
                        let _joiner_is_gone = answer.send(Err(refusal));
                    }
                }
            }
            Order::Note { record, answer } => {
                if self.note_invitation(record, round) {
                    round.noted.push(answer);
                } else {
                    let _asker_is_gone = answer.send(false);
                }
            }
            Order::Invitations(answer) => {
                let _asker_is_gone = answer.send(self.invited());
            }
            Order::AdmittedBy { member, answer } => {
                let _asker_is_gone = answer.send(self.admitted_by(&member));
            }
            Order::Heed { removals, answer } => {
                self.heed(removals, round);
                round.noted.extend(answer);
            }
            Order::Read { to, wants } => {
                let frame = self.read(&wants)?;
                round.chunks.push((to, frame));
            }
            Order::Stop => round.stop = true,
        }
        Ok(())
    }

    /// Commits, then tells.
    fn finish(&mut self, round: Round, reports: &mpsc::Sender<Report>) -> Result<(), JournalError> {
        let Round { mut writes, sources, news, mut committed, admitted, noted, .. } = round;
        let (chunks, permits) = (round.chunks, round.permits);
        for (log, number, reason) in news.rejected {
            committed.rejected.push((log.node, format!("record {number}: {reason}")));
            writes.rejected.push((log, number, reason));
        }
        if !writes.is_empty() {
            self.journal.commit(&writes)?;
        }
        committed.updates = news.updates;
        committed.fresh = sources.into_iter().zip(writes.batches).collect();
        drop(permits);
        let ruling = self.knowledge.members().ruling();
        if !Arc::ptr_eq(ruling, &self.told) {
            self.told = Arc::clone(ruling);
            self.notice.post(ruling);
            committed.ruling = Some(Arc::clone(ruling));
        }
        for (answer, chain) in admitted {
            let _joiner_is_gone = answer.send(Ok(chain));
        }
        for answer in noted {
            let _asker_is_gone = answer.send(true);
        }
        for (to, frame) in chunks {
            let _ended = reports.blocking_send(Report::Chunk { to, frame });
        }
        let _ended = reports.blocking_send(Report::Committed(committed));
        Ok(())
    }

    fn invited(&self) -> Vec<Invited> {
        let all = self.knowledge.invitations().all();
        let ruling = self.knowledge.members().ruling();
        all.map(|(id, known)| Invited {
            id: *id,
            invitation: known.invitation.clone(),
            redeemed: known.redeemed.iter().copied().collect(),
            revoked: known.revoked,
            is_void: known.invitation.as_ref().is_some_and(|it| ruling.out.contains(&it.issuer)),
        })
        .collect()
    }

    fn admitted_by(&self, member: &NodeId) -> Vec<NodeId> {
        let members = self.knowledge.members();
        let invited = self.knowledge.invitations().admitted_by(member);
        let mut all: Vec<_> = members.granted_by(member).chain(invited).collect();
        all.retain(|node| members.ruling().removals.of(node).is_none());
        all.sort_unstable();
        all.dedup();
        all
    }

    fn next(&self) -> u64 {
        self.knowledge.held().get(&self.author.log).copied().unwrap_or(0)
    }
}

fn describe(error: &JournalError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
#[path = "scribe_tests.rs"]
mod tests;
