//! What a peer's change must survive before a document sees it.
//!
//!     bytes ─▶ bounds, chunk kind ─▶ actor, deps, operations ─▶ scratch copy:
//!     apply, read, save, load, compare ─▶ the new document, to be swapped in
//!
//! Automerge panics on some malformed input, and a document that went through
//! a caught panic may save bytes that never load again. So every change is
//! applied to a copy made from verified bytes, and only bytes that were proven
//! to load are kept. A verdict depends on the change and what it builds on,
//! never on what else has arrived: all nodes agree on it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::legacy::{Key, ObjectId, Op, OpType};
use automerge::{ActorId, Automerge, Change, ChangeHash, ReadDoc as _};
use gossip_core::id::JobId;

use crate::document::{self, CONTAINERS, Resting};

/// The largest change: user edits are a few hundred bytes.
pub(crate) const CHANGE_BYTES_MAX: usize = 64 * 1024;

/// The most operations of one change.
const OPERATIONS_MAX: usize = 1024;

/// The most changes that one builds on directly.
const DEPS_MAX: usize = 256;

/// The largest document: far more edits than people make.
const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const CHECKSUM_BYTES: usize = 4;
const CHUNK_UNCOMPRESSED_CHANGE: u8 = 1;

/// What becomes of a change.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The document with it.
    Accepted(Resting),
    /// It was applied before.
    Known,
    /// It builds on changes that are not here yet.
    Waits,
    /// Never.
    Refused(String),
}

/// Tries `bytes`, by the writer named `actor`, on a copy of `job`'s document.
pub(crate) fn judge(job: &JobId, resting: &Resting, actor: &ActorId, bytes: &[u8]) -> Verdict {
    if let Err(reason) = check_chunk(bytes) {
        return Verdict::Refused(reason.to_owned());
    }
    // What was half done when it panicked is dropped whole, so nothing is seen unwound.
    catch_unwind(AssertUnwindSafe(|| attempt(job, resting, actor, bytes)))
        .unwrap_or_else(|_panic| Err("it breaks the document library".to_owned()))
        .unwrap_or_else(Verdict::Refused)
}

/// One uncompressed change and nothing after it: a compressed one could unfold without bound.
fn check_chunk(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() > CHANGE_BYTES_MAX {
        return Err("it is too large");
    }
    let rest = bytes.strip_prefix(&MAGIC).ok_or("it is no change")?;
    let [kind, rest @ ..] = rest.get(CHECKSUM_BYTES..).unwrap_or_default() else {
        return Err("it is cut off");
    };
    if *kind != CHUNK_UNCOMPRESSED_CHANGE {
        return Err("it is not an uncompressed change");
    }
    let (mut length, mut shift) = (0_usize, 0);
    for (at, byte) in rest.iter().enumerate() {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let body = rest.len() - at - 1;
            return if body == length { Ok(()) } else { Err("its length is wrong") };
        }
        if shift > 28 {
            break;
        }
    }
    Err("its length is wrong")
}

fn attempt(
    job: &JobId,
    resting: &Resting,
    actor: &ActorId,
    bytes: &[u8],
) -> Result<Verdict, String> {
    let change = Change::from_bytes(bytes.to_vec()).map_err(|error| error.to_string())?;
    check_change(job, actor, &change)?;
    let mut scratch = Automerge::load(&resting.bytes).map_err(|error| error.to_string())?;
    let held = |hash: &ChangeHash| scratch.get_change_by_hash(hash).is_some();
    let hash = change.hash();
    if held(&hash) {
        return Ok(Verdict::Known);
    }
    if !change.deps().iter().all(held) {
        return Ok(Verdict::Waits);
    }
    scratch.apply_changes([change]).map_err(|error| error.to_string())?;
    if !scratch.get_heads().contains(&hash) {
        return Err("it does not apply".to_owned());
    }
    let after = document::rest(&scratch).map_err(|error| error.to_string())?;
    if after.bytes.len() > DOCUMENT_BYTES_MAX {
        return Err("the document would be too large".to_owned());
    }
    let loaded = Automerge::load(&after.bytes).map_err(|error| error.to_string())?;
    let again = document::rest(&loaded).map_err(|error| error.to_string())?;
    if again.heads != after.heads || again.intent != after.intent {
        return Err("the document would not survive being saved".to_owned());
    }
    Ok(Verdict::Accepted(after))
}

fn check_change(job: &JobId, actor: &ActorId, change: &Change) -> Result<(), String> {
    if change.actor_id() != actor {
        return Err("it is written in another's name".to_owned());
    }
    if change.deps().is_empty() || change.deps().len() > DEPS_MAX {
        return Err(format!("it builds on {} changes", change.deps().len()));
    }
    if change.len() > OPERATIONS_MAX {
        return Err(format!("it has {} operations", change.len()));
    }
    if change.message().is_some() || !change.extra_bytes().is_empty() || change.author().is_some() {
        return Err("it carries more than its operations".to_owned());
    }
    let genesis = document::genesis_actor(job);
    let expanded = change.decode();
    if expanded.operations.iter().all(|operation| is_allowed(&genesis, operation)) {
        Ok(())
    } else {
        Err("it does what no edit of a job does".to_owned())
    }
}

/// An edit puts a value into one of the containers, and does nothing else.
fn is_allowed(genesis: &ActorId, operation: &Op) -> bool {
    let (ObjectId::Id(id), Key::Map(key), OpType::Put(value)) =
        (&operation.obj, &operation.key, &operation.action)
    else {
        return false;
    };
    // Genesis created the containers as its operations 1, 2, 3 and so on.
    let at = usize::try_from(id.0).ok().and_then(|number| number.checked_sub(1));
    let container = at.and_then(|at| CONTAINERS.get(at));
    id.1 == *genesis
        && !operation.insert
        && container.is_some_and(|container| document::may_set(container, key, value))
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
