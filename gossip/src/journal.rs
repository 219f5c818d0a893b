//! The journal: what survives this process, in one transactional file.
//!
//!     format, node, cluster and chain, start counter   │ meta
//!     (log, first) ─▶ batch as signed                  │ batches
//!     (log, number) ─▶ why                             │ rejected records
//!
//! Batches are kept raw, also those with a record that was rejected: they are
//! what is relayed and what everything else is derived from. A commit has
//! reached the disk when it returns, or it is an error that ends the agent.
//!
//! A journal that is damaged, too new or another node's is refused and left as
//! it was, byte for byte: it is read through an overlay before it is opened.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use gossip_core::codec::{self};
use gossip_core::grant::Chain;
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::log::{Batch, LogId};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::journal_error::{Failed, JournalError};
use crate::stored;

/// The format that this code writes.
pub(crate) const FORMAT: u32 = 1;

/// The file's name within the data directory.
pub(crate) const FILE: &str = "journal.redb";
const DRAFT: &str = "journal.draft";
const LOCK: &str = "lock";

/// Memory for pages of the journal: batches are read once and relayed rarely.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The longest reason kept for a rejected record.
const REASON_CHARS_MAX: usize = 400;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const BATCHES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("batches");
const REJECTED: TableDefinition<'_, &[u8], &str> = TableDefinition::new("rejected");

/// To which cluster this node belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) cluster: ClusterId,
    pub(crate) chain: Chain,
    /// Where members listened when this node joined: until it has heard of their cards.
    pub(crate) bootstrap: Vec<String>,
}

/// Everything that was in the journal.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) membership: Option<Membership>,
    pub(crate) start: u64,
    /// Ordered by log and number.
    pub(crate) batches: Vec<Batch>,
    pub(crate) rejected: BTreeMap<(LogId, u64), String>,
}

/// What one commit adds.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) batches: Vec<Batch>,
    pub(crate) rejected: Vec<(LogId, u64, String)>,
    /// The greatest start counter seen for this node's key, where it rose.
    pub(crate) start: Option<u64>,
}

impl Writes {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.rejected.is_empty() && self.start.is_none()
    }
}

/// The open journal, and the lock that keeps a second agent out.
#[derive(Debug)]
pub(crate) struct Journal {
    store: Database,
    path: PathBuf,
    _lock: File,
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

impl Journal {
    /// Opens the journal of `node` in `data`, or makes one.
    pub(crate) fn open(data: &Path, node: NodeId) -> Result<(Self, Contents), JournalError> {
        let lock = lock(data)?;
        let path = data.join(FILE);
        if !path.try_exists().map_err(|source| JournalError::Io { path: path.clone(), source })? {
            create(data, &path, node)?;
        }
        let contents = inspect(&path, node)?;
        let store = builder().open(&path).map_err(|error| Failed::from(error).at(&path))?;
        Ok((Self { store, path, _lock: lock }, contents))
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), Failed>,
    ) -> Result<(), JournalError> {
        let run = || -> Result<(), Failed> {
            let mut transaction = self.store.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        run().map_err(|failed| failed.at(&self.path))
    }

    /// Makes this node a member.
    pub(crate) fn set_membership(&self, membership: &Membership) -> Result<(), JournalError> {
        let bytes = codec::to_cbor(membership)?;
        self.write(|transaction| {
            transaction.open_table(META)?.insert("membership", bytes.as_slice())?;
            Ok(())
        })
    }

    /// Notes that starts up to `start` were used.
    pub(crate) fn set_start(&self, start: u64) -> Result<(), JournalError> {
        self.commit(&Writes { start: Some(start), ..Writes::default() })
    }

    /// Puts all of it on the disk, or fails for good.
    pub(crate) fn commit(&self, writes: &Writes) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BATCHES)?;
            for batch in &writes.batches {
                let value = stored::encode(batch)?;
                table.insert(stored::key(&batch.log, batch.first).as_slice(), value.as_slice())?;
            }
            let mut table = transaction.open_table(REJECTED)?;
            for (log, number, reason) in &writes.rejected {
                let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
                table.insert(stored::key(log, *number).as_slice(), reason.as_str())?;
            }
            if let Some(start) = writes.start {
                let start = start.to_be_bytes();
                transaction.open_table(META)?.insert("start", start.as_slice())?;
            }
            Ok(())
        })
    }

    /// Batches of `log` from number `first` on, at least one if there is any, up to `budget` bytes.
    pub(crate) fn read(
        &self,
        log: &LogId,
        first: u64,
        budget: usize,
    ) -> Result<Vec<Batch>, JournalError> {
        let run = || -> Result<Vec<Batch>, Failed> {
            let transaction = self.store.begin_read()?;
            let table = transaction.open_table(BATCHES)?;
            let (from, to) = (stored::key(log, first), stored::key(log, u64::MAX));
            let mut batches = Vec::new();
            let mut bytes = 0;
            for entry in table.range(from.as_slice()..to.as_slice())? {
                let (key, value) = entry?;
                bytes += value.value().len();
                if !batches.is_empty() && bytes > budget {
                    break;
                }
                batches.push(stored::decode(key.value(), value.value())?);
            }
            Ok(batches)
        };
        run().map_err(|failed| failed.at(&self.path))
    }
}

#[cfg(test)]
impl Journal {
    /// A journal of `node` on a store of the test's own.
    pub(crate) fn on(backend: impl redb::StorageBackend, data: &Path) -> Self {
        let store = builder().create_with_backend(backend).expect("a store");
        let lock = lock(data).expect("a lock");
        Self { store, path: data.join(FILE), _lock: lock }
    }
}

fn lock(data: &Path) -> Result<File, JournalError> {
    let path = data.join(LOCK);
    let io = |source| JournalError::Io { path: path.clone(), source };
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { data: data.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Makes an empty journal, whole or not at all.
fn create(data: &Path, path: &Path, node: NodeId) -> Result<(), JournalError> {
    let draft = data.join(DRAFT);
    let io = |source| JournalError::Io { path: draft.clone(), source };
    let _left_by_a_crash = fs::remove_file(&draft);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
    let run = || -> Result<(), Failed> {
        let store = builder().create(&draft)?;
        let transaction = store.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
            meta.insert("node", node.as_bytes().as_slice())?;
            transaction.open_table(BATCHES)?;
            transaction.open_table(REJECTED)?;
        }
        transaction.commit()?;
        Ok(())
    };
    run().map_err(|failed| failed.at(&draft))?;
    File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&draft, path).map_err(io)?;
    File::open(data).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Reads and checks everything without changing a byte.
fn inspect(path: &Path, node: NodeId) -> Result<Contents, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(Failed::Corrupt("it is empty".into()).at(path));
    }
    let overlay = crate::overlay::Overlay::new(file).map_err(io)?;
    // The store may panic on a file that it did not write.
    catch_unwind(AssertUnwindSafe(|| {
        let store = builder().set_check_integrity_on_open(true).create_with_backend(overlay)?;
        contents(&store, node)
    }))
    .unwrap_or_else(|_panic| Err(Failed::Corrupt("the store cannot make sense of it".into())))
    .map_err(|failed| failed.at(path))
}

fn contents(store: &Database, node: NodeId) -> Result<Contents, Failed> {
    let transaction = store.begin_read()?;
    let meta = transaction.open_table(META)?;
    let missing = |what: &str| Failed::Corrupt(format!("its {what} is missing"));
    let format = meta.get("format")?.ok_or_else(|| missing("format"))?;
    let format = format.value().try_into().map(u32::from_be_bytes);
    match format {
        Ok(FORMAT) => {}
        Ok(newer) if newer > FORMAT => return Err(Failed::Newer(newer)),
        _ => return Err(missing("format")),
    }
    let owner = meta.get("node")?.ok_or_else(|| missing("node"))?;
    let owner = owner.value().try_into().map(NodeId::new).map_err(|_length| missing("node"))?;
    if owner != node {
        return Err(Failed::OtherNode { theirs: owner, ours: node });
    }
    let mut contents = Contents::default();
    if let Some(start) = meta.get("start")? {
        let start = start.value().try_into().map_err(|_length| missing("start counter"))?;
        contents.start = u64::from_be_bytes(start);
    }
    if let Some(membership) = meta.get("membership")? {
        contents.membership = Some(codec::from_cbor(membership.value())?);
    }
    for entry in transaction.open_table(BATCHES)?.iter()? {
        let (key, value) = entry?;
        contents.batches.push(stored::decode(key.value(), value.value())?);
    }
    for entry in transaction.open_table(REJECTED)?.iter()? {
        let (key, reason) = entry?;
        let name = stored::parse_key(key.value()).ok_or_else(|| missing("key"))?;
        contents.rejected.insert(name, reason.value().to_owned());
    }
    Ok(contents)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
