//! One job's document at rest: verified bytes beside what they say.
//!
//! Every document starts with the same genesis change, recomputed from the
//! job's id, that creates all containers; no later change may create, delete
//! or overwrite one. So documents that were made apart merge instead of
//! hiding one side, and what a document says only ever grows.
//!
//!     root ─┬─ flags        stopped, removed: true
//!           ├─ generations  "counter-spec": true
//!           ├─ info         submitted: milliseconds
//!           └─ scales       group: copies
//!
//! An actor names one log of one node: nobody can edit in another's name, and
//! no number of an actor is ever used twice, because no log is.

use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{
    ActorId, Automerge, AutomergeError, ChangeHash, ObjId, ObjType, ROOT, ReadDoc as _,
    ScalarValue, Value,
};
use gossip_core::id::{ContentHash, JobId};
use gossip_core::intent::{Edit, JobIntent};
use gossip_core::log::LogId;
use gossip_core::moment::WallTime;
use gossip_core::slot::{COUNTER_MAX, Generation};
use gossip_core::spec::COUNT_MAX;

/// The containers, in the order in which genesis creates them.
pub(crate) const CONTAINERS: [&str; 4] = ["flags", "generations", "info", "scales"];

const ACTOR_BYTES: usize = 16;

/// Digits of the greatest counter there is.
const COUNTER_DIGITS: usize = 20;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error(transparent)]
    Automerge(#[from] AutomergeError),
    #[error("the document's {0} is not what it should be")]
    Schema(String),
}

/// A document that was proven to load, with what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resting {
    pub(crate) bytes: Vec<u8>,
    pub(crate) heads: Vec<ChangeHash>,
    pub(crate) intent: JobIntent,
}

fn actor(parts: &[&[u8]]) -> ActorId {
    let hash = ContentHash::of(&parts.concat());
    ActorId::from(&hash.as_bytes()[..ACTOR_BYTES])
}

/// In whose name the writer of `log` edits.
pub(crate) fn actor_of(log: &LogId) -> ActorId {
    let (start, nonce) = (log.start.to_be_bytes(), log.nonce.to_be_bytes());
    actor(&[b"starling actor 1\0", log.node.as_bytes(), &start, &nonce])
}

/// Whose change creates the containers of `job`.
pub(crate) fn genesis_actor(job: &JobId) -> ActorId {
    actor(&[b"starling genesis 1\0", job.as_bytes()])
}

/// The document of a job of which nothing is known.
pub(crate) fn genesis(job: &JobId) -> Result<Resting, DocumentError> {
    let mut document = Automerge::new().with_actor(genesis_actor(job));
    let mut transaction = document.transaction();
    for container in CONTAINERS {
        transaction.put_object(ROOT, container, ObjType::Map)?;
    }
    transaction.commit_with(CommitOptions::default().with_time(0));
    rest(&document)
}

/// Saves and reads `document`.
pub(crate) fn rest(document: &Automerge) -> Result<Resting, DocumentError> {
    let mut heads = document.get_heads();
    heads.sort_unstable();
    Ok(Resting { bytes: document.save(), heads, intent: read(document)? })
}

/// The change that `edit` makes in the name of `actor`; `None` if the document says so already.
pub(crate) fn edit(
    resting: &Resting,
    actor: &ActorId,
    edit: &Edit,
) -> Result<Option<Vec<u8>>, DocumentError> {
    let mut document = Automerge::load(&resting.bytes)?.with_actor(actor.clone());
    let [flags, generations, info, _scales] = containers(&document)?;
    let mut transaction = document.transaction();
    match edit {
        Edit::Submit { generation, at } => {
            if !resting.intent.generations.contains(generation) {
                transaction.put(&generations, key(generation), true)?;
            }
            if resting.intent.submitted == WallTime::default() {
                transaction.put(&info, "submitted", ScalarValue::Uint(at.0))?;
            }
        }
        Edit::Stop => set(&mut transaction, &flags, "stopped", resting.intent.stopped)?,
        Edit::Remove => {
            set(&mut transaction, &flags, "stopped", resting.intent.stopped)?;
            set(&mut transaction, &flags, "removed", resting.intent.removed)?;
        }
    }
    let (hash, _patches) = transaction.commit_with(CommitOptions::default().with_time(0));
    let change = hash.and_then(|hash| document.get_change_by_hash(&hash));
    Ok(change.map(|change| change.raw_bytes().to_vec()))
}

fn set(
    transaction: &mut automerge::transaction::Transaction<'_>,
    flags: &ObjId,
    flag: &str,
    is_set: bool,
) -> Result<(), AutomergeError> {
    if is_set { Ok(()) } else { transaction.put(flags, flag, true) }
}

/// A generation as a key that sorts.
fn key(generation: &Generation) -> String {
    format!("{:0COUNTER_DIGITS$}-{}", generation.counter, generation.spec)
}

/// Reads a key back; one printed form only.
pub(crate) fn parse_key(text: &str) -> Option<Generation> {
    let (counter, spec) = text.split_once('-')?;
    let generation = Generation { counter: counter.parse().ok()?, spec: spec.parse().ok()? };
    (generation.counter <= COUNTER_MAX && key(&generation) == text).then_some(generation)
}

/// Whether a change may set `key` of `container` to `value`: what this version
/// knows only grows, and what it does not know is left alone.
pub(crate) fn may_set(container: &str, key: &str, value: &ScalarValue) -> bool {
    match (container, key) {
        ("flags", "stopped" | "removed") => *value == ScalarValue::Boolean(true),
        ("flags", _) => matches!(value, ScalarValue::Boolean(_)),
        ("generations", _) => *value == ScalarValue::Boolean(true) && parse_key(key).is_some(),
        ("info", "submitted") => matches!(value, ScalarValue::Uint(_)),
        ("info", _) => true,
        ("scales", group) => {
            gossip_core::slot::check_name(group).is_ok()
                && matches!(value, ScalarValue::Uint(count) if *count <= u64::from(COUNT_MAX))
        }
        _ => false,
    }
}

fn containers(document: &Automerge) -> Result<[ObjId; 4], DocumentError> {
    let mut found = [const { ObjId::Root }; 4];
    for (name, slot) in CONTAINERS.iter().zip(&mut found) {
        match document.get_all(ROOT, *name)?.as_slice() {
            [(Value::Object(ObjType::Map), id)] => *slot = id.clone(),
            _ => return Err(DocumentError::Schema((*name).to_owned())),
        }
    }
    Ok(found)
}

/// All values that concurrent edits gave `key`.
fn values(
    document: &Automerge,
    map: &ObjId,
    key: &str,
) -> Result<Vec<ScalarValue>, AutomergeError> {
    let all = document.get_all(map, key)?;
    Ok(all.into_iter().filter_map(|(value, _)| value.as_scalar().cloned()).collect())
}

fn uints(values: Vec<ScalarValue>) -> impl Iterator<Item = u64> {
    values.into_iter().filter_map(|value| match value {
        ScalarValue::Uint(number) => Some(number),
        _ => None,
    })
}

fn read(document: &Automerge) -> Result<JobIntent, DocumentError> {
    let [flags, generations, info, scales] = containers(document)?;
    let flag = |name| -> Result<bool, DocumentError> {
        Ok(values(document, &flags, name)?.contains(&ScalarValue::Boolean(true)))
    };
    let mut intent = JobIntent::default();
    for key in document.keys(&generations) {
        let generation = parse_key(&key);
        intent.generations.insert(generation.ok_or_else(|| DocumentError::Schema(key))?);
    }
    for key in document.keys(&scales) {
        let group = key.parse().map_err(|_bad_name| DocumentError::Schema(key.clone()))?;
        let counts = uints(values(document, &scales, &key)?);
        let counts = counts.filter_map(|count| u32::try_from(count).ok()).collect();
        intent.scales.insert(group, counts);
    }
    intent.removed = flag("removed")?;
    intent.stopped = flag("stopped")? || intent.removed;
    // Submitted twice, apart: the earlier counts, and on every node the same.
    let submitted = uints(values(document, &info, "submitted")?).min();
    intent.submitted = WallTime(submitted.unwrap_or_default());
    Ok(intent)
}
