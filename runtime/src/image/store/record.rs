//! What is written down of layers, images and names, and how it is read at the start.
//!
//! A record that cannot be understood is set aside and named in the log: the rest of the
//! store goes on without it. One that a newer program wrote is left alone, and with it the
//! whole store: to pass over it would be to sweep its layers away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::AtFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::super::documents::CONFIG_BYTES;
use super::super::{Digest, ImageError, Reference};
use super::disk::{self, Disk, INFO, RECORD_BYTES_MAX, TREE, VERSION};
use super::state::State;
use super::{LayerInfo, Origin};

/// Longest config or manifest that is read.
pub(super) const DOCUMENT_BYTES_MAX: u64 = CONFIG_BYTES as u64;

/// Names in one store: a thousand for each image of a large one.
pub(super) const NAMES_MAX: usize = 65_536;

/// Longest file of names: [`NAMES_MAX`] of the longest there are.
const NAMES_BYTES_MAX: u64 = 64 << 20;

pub(super) const CONFIG: &str = "config";
pub(super) const MANIFEST: &str = "manifest";
const NAMES: &str = "names";
const USED: &str = "used";

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    version: u32,
    /// Bytes of its archive.
    pub(super) bytes: u64,
    /// Whether nothing below it is to be seen.
    pub(super) hides_all: bool,
    /// The digest of what it came as.
    pub(super) packed: Digest,
}

impl LayerRecord {
    pub(super) fn new(bytes: u64, hides_all: bool, packed: Digest) -> Self {
        Self { version: VERSION, bytes, hides_all, packed }
    }
}

/// What is known of an image beside its documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) version: u32,
    pub(super) manifest: Option<Digest>,
    pub(super) created: Option<String>,
    pub(super) platform: String,
    pub(super) came_ms: u64,
    pub(super) origin: Origin,
    pub(super) layers: Vec<LayerInfo>,
}

/// The names of a store.
#[derive(Debug, Serialize, Deserialize)]
struct NamesRecord {
    version: u32,
    names: Vec<NameRecord>,
}

/// The first of these images that is here has the name: so a name goes over to an image in
/// the moment in which that appears.
#[derive(Debug, Serialize, Deserialize)]
struct NameRecord {
    name: Reference,
    images: Vec<Digest>,
}

/// Any record, for the one thing that all versions have.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why a record is not taken.
enum Bad {
    Newer(u32),
    Damaged(String),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A record as it is written.
pub(super) fn text<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(io::Error::other)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Bad> {
    let damaged = |error: serde_json::Error| Bad::Damaged(error.to_string());
    let Versioned { version } = serde_json::from_slice(text).map_err(damaged)?;
    if version > VERSION {
        return Err(Bad::Newer(version));
    }
    serde_json::from_slice(text).map_err(damaged)
}

/// Reads all that a store has.
pub(super) fn read_all(disk: &Disk) -> Result<State, ImageError> {
    let mut state = State::default();
    let layers = disk::digests(disk.layers.as_fd()).map_err(disk.failed("list the layers"))?;
    for (name, digest) in layers {
        match read_layer(disk, &name) {
            Ok(record) => {
                state.layers.insert(digest, record);
                if disk.is_marked(&name) {
                    state.damaged.insert(digest);
                }
            }
            Err(Bad::Newer(version)) => return Err(disk.newer(version)),
            Err(Bad::Damaged(why)) => disk.set_aside(disk.layers.as_fd(), &name, &why),
        }
    }
    state.replaced = disk.replaced().map_err(disk.failed("list replaced layers"))?;
    let images = disk::digests(disk.images.as_fd()).map_err(disk.failed("list the images"))?;
    for (name, digest) in images {
        match read_image(disk, &name, &digest, &state) {
            Ok(record) => drop(state.images.insert(digest, record)),
            Err(Bad::Newer(version)) => return Err(disk.newer(version)),
            Err(Bad::Damaged(why)) => disk.set_aside(disk.images.as_fd(), &name, &why),
        }
    }
    match read_names(disk) {
        Ok(record) => {
            for NameRecord { name, images } in record.names.into_iter().take(NAMES_MAX) {
                if let Some(id) = images.into_iter().find(|id| state.images.contains_key(id)) {
                    state.names.insert(name, id);
                }
            }
        }
        Err(Bad::Newer(version)) => return Err(disk.newer(version)),
        Err(Bad::Damaged(why)) => disk.set_aside(disk.root.as_fd(), NAMES, &why),
    }
    state.used = read_used(disk);
    Ok(state)
}

fn read_layer(disk: &Disk, name: &str) -> Result<LayerRecord, Bad> {
    let record =
        parse(&disk::read(disk.layers.as_fd(), &format!("{name}/{INFO}"), RECORD_BYTES_MAX)?)?;
    for part in [TREE, "recipe"] {
        let path = format!("{name}/{part}");
        rustix::fs::statat(&disk.layers, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)?;
    }
    Ok(record)
}

fn read_image(disk: &Disk, name: &str, id: &Digest, state: &State) -> Result<ImageRecord, Bad> {
    let record: ImageRecord =
        parse(&disk::read(disk.images.as_fd(), &format!("{name}/{INFO}"), RECORD_BYTES_MAX)?)?;
    let missing = record.layers.iter().find(|layer| !state.layers.contains_key(&layer.diff_id));
    if let Some(layer) = missing {
        return Err(Bad::Damaged(format!("its layer {} is not here", layer.diff_id)));
    }
    if Digest::of(&document(disk, id, CONFIG)?) != *id {
        return Err(Bad::Damaged("its config is not what it was".to_owned()));
    }
    Ok(record)
}

fn read_names(disk: &Disk) -> Result<NamesRecord, Bad> {
    match disk::read(disk.root.as_fd(), NAMES, NAMES_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(NamesRecord { version: VERSION, names: Vec::new() })
        }
        text => parse(&text?),
    }
}

/// A document of an image.
pub(super) fn document(disk: &Disk, id: &Digest, name: &str) -> io::Result<Vec<u8>> {
    disk::read(disk.images.as_fd(), &format!("{}/{name}", id.hex()), DOCUMENT_BYTES_MAX)
}

/// Writes the names down; `ahead` are those that an image gets once it is here. On the disk
/// when this returns.
pub(super) fn write_names(
    disk: &Disk,
    names: &BTreeMap<Reference, Digest>,
    ahead: Option<(&BTreeSet<Reference>, Digest)>,
) -> io::Result<()> {
    let (coming, to) = match ahead {
        Some((coming, to)) => (coming.clone(), Some(to)),
        None => (BTreeSet::new(), None),
    };
    let all: BTreeSet<&Reference> = names.keys().chain(&coming).collect();
    if all.len() > NAMES_MAX {
        return Err(io::Error::other(format!("more than {NAMES_MAX} names")));
    }
    let entry = |name: &Reference| {
        let first = to.filter(|_| coming.contains(name));
        let images = first.into_iter().chain(names.get(name).copied()).collect();
        NameRecord { name: name.clone(), images }
    };
    let names = all.into_iter().map(entry).collect();
    disk::replace(disk.root.as_fd(), NAMES, &text(&NamesRecord { version: VERSION, names })?)
}

/// Writes down when images were used. Only a hint: it may be lost.
pub(super) fn write_used(disk: &Disk, used: &BTreeMap<Digest, u64>) {
    let written = text(used).and_then(|text| disk::replace_lazily(disk.root.as_fd(), USED, &text));
    if let Err(error) = written {
        warn!(store = %disk.path.display(), %error, "when images were used is not written down");
    }
}

fn read_used(disk: &Disk) -> BTreeMap<Digest, u64> {
    let read = |dir: BorrowedFd| disk::read(dir, USED, NAMES_BYTES_MAX).ok();
    read(disk.root.as_fd()).and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}
