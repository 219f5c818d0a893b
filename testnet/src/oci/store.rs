//! What we remember of each container between two invocations.
//!
//! ```text
//! ROOT/runtime/            the runtime's: tasks, their records, its keeper
//! ROOT/containers/ID/      ours: config.json as it was at create, container.json
//! ```
//!
//! Making a container's directory is the claim on its id. Whether it runs is the
//! runtime's to know, never written here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::groups::Groups;

const CONTAINERS: &str = "containers";
const CONFIG: &str = "config.json";
const RECORD: &str = "container.json";

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its bundle, absolute.
    pub(super) bundle: PathBuf,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) groups: Groups,
}

/// The containers of a root directory.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

impl Store {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let store = Self { root: root.to_owned() };
        for dir in [store.root.clone(), store.root.join(CONTAINERS)] {
            fs::DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        }
        Ok(store)
    }

    /// Where the runtime works.
    pub(super) fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.root.join(CONTAINERS).join(id)
    }

    /// Claims an id; [`io::ErrorKind::AlreadyExists`] if somebody has it.
    pub(super) fn claim(&self, id: &str, config: &str) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(self.dir(id))?;
        fs::write(self.dir(id).join(CONFIG), config)
    }

    pub(super) fn write(&self, id: &str, record: &Record) -> io::Result<()> {
        // Never seen half written.
        let part = self.dir(id).join("part");
        fs::write(&part, serde_json::to_vec(record)?)?;
        fs::rename(part, self.dir(id).join(RECORD))
    }

    /// A container's record; none if there is no such container.
    pub(super) fn read(&self, id: &str) -> io::Result<Option<Record>> {
        match fs::read(self.dir(id).join(RECORD)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its configuration, as it was when it was created.
    pub(super) fn config(&self, id: &str) -> io::Result<String> {
        fs::read_to_string(self.dir(id).join(CONFIG))
    }

    pub(super) fn forget(&self, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.dir(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Whether there is no container at all.
    pub(super) fn is_empty(&self) -> bool {
        fs::read_dir(self.root.join(CONTAINERS)).is_ok_and(|mut entries| entries.next().is_none())
    }
}
