//! Manifests and indexes, of OCI and Docker: pure, from bytes to what there is to fetch.
//!
//! ```text
//! index ──choose(platform)──▶ manifest ──▶ config, layers
//!   └───────▶ index, a few deep at most
//! ```
//!
//! Own types and no `oci-spec`, for the reasons in `config`. Annotations are kept only where
//! they name an image; nothing they say decides what a task may do. The `urls` of a foreign
//! layer are not even read: whoever follows them hands his credentials to strangers.
//!
//! A document that could be read as two things is refused, since whoever looked it through
//! before us may have seen the other one (CVE-2021-41190).

mod descriptor;
mod index;
mod platform;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ImageError;

pub use descriptor::{Descriptor, Packing};
pub use index::Index;
pub(super) use index::choose;
pub use platform::Platform;

use descriptor::Written;

/// Longest manifest or index: what registries take at most.
pub const MANIFEST_BYTES: usize = 4 << 20;

/// Longest config: a hundred times the longest in common use, and as much as the store keeps.
pub const CONFIG_BYTES: usize = 4 << 20;

/// Most layers of one image: as many as Docker can mount.
pub const LAYERS: usize = 127;

/// Indexes within indexes, at most. Honest ones have two, the list of an archive included.
pub const INDEX_DEPTH: usize = 4;

/// Most entries of an index: forty times as many as there are platforms.
const INDEX_ENTRIES: usize = 2048;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Begins the type of what Docker wrote before 2016, signed or not.
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// What a registry is to be asked for: all that [`Document::parse`] reads.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// What a name in a registry or an archive stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, for several platforms.
    Index(Index),
}

/// What one image consists of. Its id is the digest of its config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The config's.
    pub config: Descriptor,
    /// The layers', lowest first, as they come: most are compressed.
    pub layers: Vec<Descriptor>,
}

/// The two kinds of document there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Written>,
    layers: Option<Vec<Written>>,
    manifests: Option<Vec<Written>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads one. `declared` is the type it came with: of the registry's answer or of the
    /// entry that named it.
    ///
    /// # Errors
    ///
    /// If it is neither, or claims to be something else than it is.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, ImageError> {
        parse(bytes, declared).map_err(in_document("the image's manifest"))
    }
}

fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Document, String> {
    let declared = declared.map(kind_of).transpose()?.flatten();
    let whole: Whole = from_json(bytes, MANIFEST_BYTES)?;
    let own = whole.media_type.as_deref().map(kind_of).transpose()?.flatten();
    if whole.schema_version == Some(1) || whole.fs_layers.is_some() {
        return Err(too_old());
    }
    if whole.schema_version.is_some_and(|version| version != 2) {
        return Err("it is of a version that is not known here".to_owned());
    }
    let shape = match (whole.config, whole.layers, whole.manifests) {
        (Some(config), Some(layers), None) => Document::Manifest(manifest(config, layers)?),
        (None, None, Some(entries)) => Document::Index(index(entries)?),
        (None, None, None) => return Err("it names neither layers nor manifests".to_owned()),
        (_, _, None) => return Err("it lacks its config or its layers".to_owned()),
        (_, _, Some(_)) => return Err("it is a manifest and an index at once".to_owned()),
    };
    let kind = match shape {
        Document::Manifest(_) => Kind::Manifest,
        Document::Index(_) => Kind::Index,
    };
    if [declared, own].into_iter().flatten().any(|said| said != kind) {
        return Err("it is not of the type that it is said to be".to_owned());
    }
    Ok(shape)
}

fn manifest(config: Written, layers: Vec<Written>) -> Result<Manifest, String> {
    if layers.len() > LAYERS {
        return Err(format!("it has {} layers; {LAYERS} are allowed", layers.len()));
    }
    let config = config.read()?;
    config.check_config()?;
    let layers = layers.into_iter().map(|layer| {
        let layer = layer.read()?;
        layer.packing()?;
        Ok(layer)
    });
    Ok(Manifest { config, layers: layers.collect::<Result<_, String>>()? })
}

fn index(entries: Vec<Written>) -> Result<Index, String> {
    if entries.len() > INDEX_ENTRIES {
        return Err(format!("it has {} entries; {INDEX_ENTRIES} are allowed", entries.len()));
    }
    let entries = entries.into_iter().map(Written::read).collect::<Result<_, _>>()?;
    Ok(Index { entries })
}

/// What a media type says, parameters aside. None if it says nothing, as that of a server
/// that knows files and no images.
fn kind_of(media_type: &str) -> Result<Option<Kind>, String> {
    let plain = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match plain.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => Ok(Some(Kind::Manifest)),
        OCI_INDEX | DOCKER_LIST => Ok(Some(Kind::Index)),
        "" | "application/json" | "text/plain" | "application/octet-stream" => Ok(None),
        old if old.starts_with(SCHEMA_1) => Err(too_old()),
        _ => Err(format!("it is {}, which is no image", shown(media_type))),
    }
}

fn too_old() -> String {
    "it is of Docker's schema 1, given up since 2016: it has no digests of what its layers \
     unpack to, so nobody can verify them; push the image again with a newer tool"
        .to_owned()
}

/// For `map_err`: says which document it was.
pub(super) fn in_document(what: impl Into<String>) -> impl FnOnce(String) -> ImageError {
    move |why| ImageError::Document { what: what.into(), why }
}

/// Reads JSON of a stranger. Depth is bounded by the parser: what is taken by its stack,
/// what is passed over by the length.
pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<T, String> {
    if bytes.len() > most {
        return Err(format!("it has {} bytes; {most} are allowed", bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // The parser's words hold those of the document.
        let words: String = error.to_string().chars().take(SHOWN * 2).collect();
        format!("it is not the JSON that it should be: {}", words.escape_debug())
    })
}

/// Characters of a stranger's text in an error.
const SHOWN: usize = 100;

/// A stranger's text, safe to print.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    if cut.len() < text.len() { format!("{cut:?}...") } else { format!("{cut:?}") }
}

/// Of the sort that platforms are named by.
pub(super) fn is_word(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(sound)
}

#[cfg(test)]
mod tests;
