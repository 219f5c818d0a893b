//! What follows from the logs held here: members, redemptions, documents.
//!
//! Fed with verified batches in each log's order, from peers, from this node
//! and from the journal alike, so a restart knows what it knew before. A log
//! counts only if its first record proves that its writer is a member; a
//! record that does not hold is skipped and named, and nothing else suffers.

use gossip_core::fact::{Claim, NodeCard, Outcome, Record, Update};
use gossip_core::grant::Role;
use gossip_core::id::{ClusterId, ContentHash, JobId, NodeId};
use gossip_core::invite::Invitation;
use gossip_core::log::{BATCH_BYTES_MAX, Batch, LogId, Vector};
use gossip_core::slot::{COUNTER_MAX, ClaimRank};
use gossip_core::spec::JobSpec;

use crate::document::Resting;
use crate::documents::{self, Documents};
use crate::invitations::Invitations;
use crate::members::Members;

/// The most addresses on a card.
const CARD_ADDRESSES_MAX: usize = 32;

/// The longest text on a card.
const CARD_TEXT_MAX: usize = 256;

/// What a batch brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) updates: Vec<(LogId, Update)>,
    pub(crate) rejected: Vec<(LogId, u64, String)>,
}

/// A record that holds, and what it says.
#[derive(Debug)]
pub(crate) enum Meaning {
    Update(Update),
    /// A change of a job's document; only the document can tell whether that holds.
    Change(JobId, Vec<u8>),
    Redeemed {
        invitation: NodeId,
        subject: NodeId,
    },
    Invited(Invitation),
    Revoked(NodeId),
}

/// Whether a batch may be taken now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// Not before some of its author's changes that wait have found their place.
    Later,
    /// Its log is not a member's, or it is no batch that a member writes.
    No(String),
}

/// Everything derived.
#[derive(Debug)]
pub(crate) struct Knowledge {
    cluster: ClusterId,
    held: Vector,
    members: Members,
    invitations: Invitations,
    documents: Documents,
}

impl Knowledge {
    pub(crate) fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            held: Vector::new(),
            members: Members::default(),
            invitations: Invitations::default(),
            documents: Documents::default(),
        }
    }

    pub(crate) fn held(&self) -> &Vector {
        &self.held
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Who wrote a log that proved its membership, and who was removed since.
    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    /// All invitations, as far as known here.
    pub(crate) fn invitations(&self) -> &Invitations {
        &self.invitations
    }

    /// Whether a batch that verifies and follows what is held may be taken.
    pub(crate) fn admits(&self, batch: &Batch) -> Admission {
        let no = |reason: &str| Admission::No(reason.to_owned());
        if batch.payload_bytes() > BATCH_BYTES_MAX {
            return no("the batch is too large");
        }
        // This version supersedes nothing, so whoever leaves a record out hides it.
        if batch.records.iter().any(Option::is_none) {
            return no("the batch lacks records");
        }
        if batch.first == 0 {
            let Some(Some(first)) = batch.records.first() else {
                return no("the log is empty");
            };
            let Ok(Some(Record::Open { card, holdings })) = Record::decode(first) else {
                return no("the log does not open with its writer's card");
            };
            let holds = self.check_card(&batch.log, &card).and_then(|()| check_claims(&holdings));
            if let Err(reason) = holds {
                return Admission::No(reason);
            }
        }
        if self.documents.is_overloaded(&batch.log.node) {
            return Admission::Later;
        }
        Admission::Yes
    }

    /// Takes a batch that was admitted, or was before it was journaled.
    /// `is_rejected` tells which records were found wanting already.
    pub(crate) fn learn(
        &mut self,
        batch: &Batch,
        is_rejected: impl Fn(u64) -> bool,
        news: &mut News,
    ) {
        for (number, record) in (batch.first..).zip(&batch.records) {
            if is_rejected(number) {
                continue;
            }
            let read = record.as_ref().map(|bytes| Record::decode(bytes));
            let learned = match read {
                Some(Ok(Some(record))) => self.learn_record(batch.log, number, record, news),
                // Only newer versions know what it says.
                Some(Ok(None)) | None => Ok(()),
                Some(Err(error)) => Err(error.to_string()),
            };
            if let Err(reason) = learned {
                news.rejected.push((batch.log, number, reason));
            }
        }
        self.held.insert(batch.log, batch.end());
    }

    /// Notes how far a log is held whose records were learned one by one.
    pub(crate) fn advance(&mut self, batch: &Batch) {
        self.held.insert(batch.log, batch.end());
    }

    /// Takes one record; an error says why it does not hold, and nothing changed.
    pub(crate) fn learn_record(
        &mut self,
        log: LogId,
        number: u64,
        record: Record,
        news: &mut News,
    ) -> Result<(), String> {
        let meaning = self.read(&log, number, record)?;
        self.accept(log, number, meaning, news)
    }

    /// What record `number` of `log` says, or why it does not hold.
    pub(crate) fn read(&self, log: &LogId, number: u64, record: Record) -> Result<Meaning, String> {
        let update = match record {
            Record::Open { card, holdings } => {
                if number != 0 {
                    return Err("a log opens once".to_owned());
                }
                self.check_card(log, &card)?;
                check_claims(&holdings)?;
                Update::Opened { card, holdings }
            }
            Record::Card(card) => {
                self.check_card(log, &card)?;
                Update::Card(card)
            }
            Record::Claim(claim) => {
                check_rank(&claim.rank(log.node))?;
                Update::Claim(claim)
            }
            Record::Outcome(outcome) => {
                check_outcome(log, &outcome)?;
                Update::Outcome(outcome)
            }
            Record::Spec(blob) => {
                let spec = JobSpec::from_blob(&blob).map_err(|error| error.to_string())?;
                Update::Spec { hash: ContentHash::of(&blob), spec }
            }
            Record::Intent { job, change } => return Ok(Meaning::Change(job, change)),
            Record::Redeemed { invitation, subject } => {
                return Ok(Meaning::Redeemed { invitation, subject });
            }
            Record::Invited(invitation) => {
                if invitation.issuer != log.node || !invitation.is_genuine(&self.cluster) {
                    return Err("an invitation in another's name".to_owned());
                }
                return Ok(Meaning::Invited(invitation));
            }
            Record::Revoked { invitation } => return Ok(Meaning::Revoked(invitation)),
            Record::Removal(removal) => {
                removal.verify(&self.cluster).map_err(|bad| bad.to_string())?;
                Update::Removal(removal)
            }
        };
        Ok(Meaning::Update(update))
    }

    /// Takes what record `number` of `log` says; of what was read only a change may be refused.
    pub(crate) fn accept(
        &mut self,
        log: LogId,
        number: u64,
        meaning: Meaning,
        news: &mut News,
    ) -> Result<(), String> {
        match meaning {
            Meaning::Update(update) => {
                self.note_member(&log, &update);
                news.updates.push((log, update));
            }
            Meaning::Change(job, change) => {
                let outcomes = self.documents.offer((log, number), job, change);
                return self.note(job, Some((log, number)), outcomes, news);
            }
            Meaning::Redeemed { invitation, subject } => {
                self.invitations.redeemed(log.node, invitation, subject);
            }
            Meaning::Invited(invitation) => self.invitations.made(invitation),
            Meaning::Revoked(invitation) => self.invitations.revoke(invitation, log.node),
        }
        Ok(())
    }

    fn note_member(&mut self, log: &LogId, update: &Update) {
        match update {
            Update::Opened { card, .. } | Update::Card(card) => {
                self.members.learn(*log, &card.chain);
            }
            Update::Removal(removal) => self.members.remove(removal.clone()),
            _ => {}
        }
    }

    /// Takes a job's document that changes of `log` were tried on.
    pub(crate) fn adopt(&mut self, log: LogId, job: JobId, tried: Resting, news: &mut News) {
        let outcomes = self.documents.adopt(log, job, tried);
        if let Err(reason) = self.note(job, None, outcomes, news) {
            tracing::error!(reason, "a change that was tried is refused");
        }
    }

    /// Notes what came of changes; an error is about `this` record.
    fn note(
        &self,
        job: JobId,
        this: Option<(LogId, u64)>,
        outcomes: Vec<documents::Outcome>,
        news: &mut News,
    ) -> Result<(), String> {
        let mut result = Ok(());
        let mut by = None;
        for outcome in outcomes {
            match outcome {
                documents::Outcome::Applied(log) => by = Some(log),
                documents::Outcome::Refused(log, number, reason) if Some((log, number)) == this => {
                    result = Err(reason);
                }
                documents::Outcome::Refused(log, number, reason) => {
                    news.rejected.push((log, number, reason));
                }
            }
        }
        // However many changes fitted: the intent is told once, and whole.
        if let (Some(log), Some(intent)) = (by, self.documents.intent(&job)) {
            news.updates.push((log, Update::Intent { job, intent: intent.clone() }));
        }
        result
    }

    fn check_card(&self, log: &LogId, card: &NodeCard) -> Result<(), String> {
        let role = card.chain.verify(&self.cluster, &log.node).map_err(|bad| bad.to_string())?;
        if role != Role::Member {
            return Err("an operator's key writes no log".to_owned());
        }
        let texts = card.addresses.iter().chain([&card.name, &card.version]);
        let is_sane = card.addresses.len() <= CARD_ADDRESSES_MAX
            && texts.into_iter().all(|text| text.len() <= CARD_TEXT_MAX);
        if is_sane { Ok(()) } else { Err("the card is too large".to_owned()) }
    }
}

fn check_rank(rank: &ClaimRank) -> Result<(), String> {
    if rank.generation.counter.max(rank.epoch.counter) > COUNTER_MAX {
        return Err("an absurd number".to_owned());
    }
    Ok(())
}

fn check_claims(claims: &[Claim]) -> Result<(), String> {
    let nobody = NodeId::new([0; NodeId::LENGTH]);
    claims.iter().try_for_each(|claim| check_rank(&claim.rank(nobody)))
}

fn check_outcome(log: &LogId, outcome: &Outcome) -> Result<(), String> {
    check_rank(&outcome.rank(log.node))
}
