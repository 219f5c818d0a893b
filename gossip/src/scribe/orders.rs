//! What the scribe does for each order, before anything of it is committed.
//!
//! Handlers check, learn and collect into a round; none of them writes to the
//! disk or answers anybody. An append or a batch that does not hold is left out
//! whole and named.

use bytes::Bytes;
use gossip_core::fact::Record;
use gossip_core::grant::Chain;
use gossip_core::id::{NodeId, Signature};
use gossip_core::invite::{Invitation, Refused};
use gossip_core::log::{Batch, LogId, Place, place};
use gossip_core::moment::WallTime;
use gossip_core::wire::Frame;
use gossip_core::wire::gate::Refusal;
use rand::RngExt as _;

use crate::api::Entry;
use crate::journal_error::JournalError;
use crate::knowledge::Admission;

use super::draft::Draft;
use super::{Author, Round, Scribe};

/// The most bytes sent in answer to one pull.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

impl Scribe {
    /// This node's own entries, all of them or none.
    pub(super) fn append(&mut self, ticket: u64, entries: Vec<Entry>, round: &mut Round) {
        let draft = Draft::of(entries, &self.author, &self.knowledge);
        let written = draft.map(|draft| {
            for records in draft.learn(&mut self.knowledge, &mut round.news) {
                self.write(records, round);
            }
            self.next()
        });
        round.committed.appends.push((ticket, written));
    }

    /// Signs records of this node that were learned already.
    fn write(&mut self, records: Vec<Vec<u8>>, round: &mut Round) {
        let Author { key, cluster, log, .. } = &self.author;
        let batch = Batch::sign(key, cluster, *log, self.next(), records);
        self.knowledge.advance(&batch);
        keep(None, batch, round);
    }

    /// A batch of another node, or of an earlier life of this one; answers its log unless
    /// it is to be pulled again a moment later.
    pub(super) fn take(&mut self, from: NodeId, batch: Batch, round: &mut Round) -> Option<LogId> {
        let log = batch.log;
        if log == self.author.log {
            return Some(log);
        }
        match place(self.knowledge.held(), &batch) {
            Place::Next => {}
            Place::Known => {
                let next = self.knowledge.held().get(&log).copied().unwrap_or(0);
                round.committed.known.push((log, next));
                return Some(log);
            }
            // Anti-entropy pulls what is missing.
            Place::Gap(_) => return None,
        }
        match self.knowledge.admits(&batch) {
            Admission::Yes => {}
            Admission::Later => return None,
            Admission::No(reason) => {
                round.committed.rejected.push((log.node, reason));
                round.committed.refused.push(log);
                return Some(log);
            }
        }
        if log.node == self.author.log.node && log.start >= self.start {
            // A copied or rolled-back disk wrote in this node's name: never use its numbers.
            let reason = "holds a later log of this node's key than this node does; \
                          was its disk copied or restored? Start the agent again";
            round.committed.rejected.push((log.node, reason.to_owned()));
            self.start = log.start;
            round.writes.start = Some(log.start);
        }
        self.knowledge.learn(&batch, |_| false, &mut round.news);
        keep(Some(from), batch, round);
        Some(log)
    }

    pub(super) fn redeem(
        &mut self,
        invitation: &Invitation,
        proof: &Signature,
        joiner: NodeId,
        now: WallTime,
        round: &mut Round,
    ) -> Result<Chain, Refusal> {
        if self.next() == 0 {
            return Err(Refusal::NotReady);
        }
        let me = self.author.key.id();
        if self.knowledge.members().ruling().removals.of(&joiner).is_some() {
            return Err(Refusal::NotAMember);
        }
        let known = self.knowledge.invitations().get(&invitation.id);
        let is_here = known.is_some_and(|known| known.redeemed.contains(&joiner));
        let others = known.map_or(0, |known| known.redeemed.len() - usize::from(is_here));
        let is_revoked = known.is_some_and(|known| known.revoked.is_some());
        let members = self.knowledge.members();
        let issuer_known = invitation.issuer == me || members.is_member(&invitation.issuer);
        let place = (&self.author.cluster, issuer_known);
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        invitation.check(proof, &joiner, &me, place, now, others).map_err(Refusal::Invitation)?;
        if is_revoked {
            return Err(Refusal::Invitation(Refused::Revoked));
        }
        let Author { key, cluster, chain, .. } = &self.author;
        let nonce = rand::rng().random();
        let chain = chain
            .extend(key, cluster, joiner, invitation.role, nonce)
            .map_err(|_too_long| Refusal::NotReady)?;
        if !is_here {
            let record = Record::Redeemed { invitation: invitation.id, subject: joiner };
            if !self.note(record, round) {
                return Err(Refusal::Disk);
            }
        }
        Ok(chain)
    }

    /// Writes one record of this node that no agent wrote; whether it holds.
    pub(super) fn note(&mut self, record: Record, round: &mut Round) -> bool {
        let Ok(bytes) = record.encode() else { return false };
        let (log, number) = (self.author.log, self.next());
        match self.knowledge.learn_record(log, number, record, &mut round.news) {
            Ok(()) => self.write(vec![bytes], round),
            Err(reason) => {
                tracing::warn!(reason, "a record of this node does not hold");
                return false;
            }
        }
        true
    }

    /// Makes an invitation known, or takes one back; only a log that is open can say so.
    pub(super) fn note_invitation(&mut self, record: Record, round: &mut Round) -> bool {
        self.next() > 0 && self.note(record, round)
    }

    /// One frame of what is wanted.
    pub(super) fn read(&self, wants: &[(LogId, u64)]) -> Result<Option<Bytes>, JournalError> {
        let mut batches = Vec::new();
        let mut budget = CHUNK_BYTES_MAX;
        for (log, first) in wants {
            if self.knowledge.held().get(log).is_none_or(|next| next <= first) {
                continue;
            }
            let found = self.journal.read(log, *first, budget)?;
            for batch in found {
                let bytes = batch.payload_bytes() + batch.hashes.len() * 40;
                if bytes > budget && !batches.is_empty() {
                    return Ok(encode(batches));
                }
                budget = budget.saturating_sub(bytes);
                batches.push(batch);
            }
        }
        Ok(encode(batches))
    }
}

fn encode(batches: Vec<Batch>) -> Option<Bytes> {
    if batches.is_empty() {
        return None;
    }
    Frame::Batches(batches).encode().ok().map(Bytes::from)
}

fn keep(from: Option<NodeId>, batch: Batch, round: &mut Round) {
    round.bytes += batch.payload_bytes();
    round.sources.push(from);
    round.writes.batches.push(batch);
}
