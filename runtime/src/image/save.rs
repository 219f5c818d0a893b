//! Images into one archive, for whoever reads those of Docker or OCI layouts.
//!
//! It is both: `manifest.json` and `index.json` name the same blobs. Layers go in as they
//! were before anybody packed them, each once, however many images have it. The archive is
//! written as it is made, without a copy on the disk; sizes are known beforehand.
//!
//! The same images under the same names make the same archive, byte by byte, on any machine.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};

use serde::Serialize;

use super::{
    Digest, Held, ImageError, ImageInfo, Images, LayerInfo, Progress, Reference, Stage, Watcher,
};
use crate::inside::timeless;

/// Layers are read in pieces of this many bytes.
const PIECE_BYTES: usize = 256 << 10;

const BLOCK: usize = 512;

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image to write, held so that nobody removes it meanwhile.
#[derive(Debug)]
struct Chosen {
    info: ImageInfo,
    names: Vec<Reference>,
    _held: Held,
}

/// What lies below `blobs/`.
#[derive(Debug)]
enum Blob {
    Document(Vec<u8>),
    Layer(LayerInfo),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Written,
    layers: Vec<Written>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Written>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes images, asked for by names or ids, into an archive. As with `docker save`, one has
/// those names in it by which it was asked for. Blocks.
///
/// # Errors
///
/// If one is not here, or the archive cannot be written; what is written of it is then no
/// archive.
pub fn save(
    images: &Images,
    wanted: &[String],
    to: &mut dyn Write,
    watcher: Watcher,
) -> Result<(), ImageError> {
    let chosen = choose(images, wanted)?;
    let mut blobs = BTreeMap::new();
    let (mut entries, mut rows) = (Vec::new(), Vec::new());
    for image in chosen.values() {
        let config = images.config_bytes(&image.info.id)?;
        let manifest = json(&manifest(&image.info, config.len() as u64))?;
        entries.extend(index_entries(image, &manifest));
        rows.push(row(image));
        for document in [config, manifest] {
            blobs.insert(Digest::of(&document), Blob::Document(document));
        }
        for layer in &image.info.layers {
            blobs.insert(layer.diff_id, Blob::Layer(layer.clone()));
        }
    }
    let index = Index { schema_version: 2, media_type: INDEX_TYPE, manifests: entries };
    let mut archive = Archive { to, watcher };
    archive.file("oci-layout", LAYOUT)?;
    archive.file("index.json", &json(&index)?)?;
    archive.file("manifest.json", &json(&rows)?)?;
    archive.put(&timeless("blobs/", None))?;
    archive.put(&timeless("blobs/sha256/", None))?;
    for (digest, blob) in &blobs {
        match blob {
            Blob::Document(text) => archive.file(&path(digest), text)?,
            Blob::Layer(layer) => archive.layer(images, layer)?,
        }
    }
    archive.end()
}

/// Each image once, in an order that does not depend on how they were asked for.
fn choose(images: &Images, wanted: &[String]) -> Result<BTreeMap<Digest, Chosen>, ImageError> {
    let mut chosen: BTreeMap<Digest, Chosen> = BTreeMap::new();
    for text in wanted {
        let info = images.find(text)?;
        let name = text.parse().ok().filter(|name| info.names.contains(name));
        let image = match chosen.entry(info.id) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let held = images.hold(&info.id)?;
                place.insert(Chosen { info, names: Vec::new(), _held: held })
            }
        };
        // Neither list has a place for a name that is a digest.
        image.names.extend(name.filter(|name: &Reference| name.digest().is_none()));
        image.names.sort_unstable();
        image.names.dedup();
    }
    if chosen.is_empty() {
        return Err(ImageError::Unknown { wanted: "to save".to_owned() });
    }
    Ok(chosen)
}

fn manifest(info: &ImageInfo, config_bytes: u64) -> Manifest {
    let layer = |layer: &LayerInfo| written(LAYER_TYPE, layer.diff_id, layer.bytes);
    Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE,
        config: written(CONFIG_TYPE, info.id, config_bytes),
        layers: info.layers.iter().map(layer).collect(),
    }
}

fn written(media_type: &'static str, digest: Digest, size: u64) -> Written {
    Written { media_type, digest, size, annotations: BTreeMap::new() }
}

/// One for each name, and one for an image without any.
fn index_entries(image: &Chosen, manifest: &[u8]) -> Vec<Written> {
    let plain = || written(MANIFEST_TYPE, Digest::of(manifest), manifest.len() as u64);
    if image.names.is_empty() {
        return vec![plain()];
    }
    let named = |name: &Reference| {
        let tag = name.tag().unwrap_or_default().to_owned();
        let name = name.to_string();
        let annotations = BTreeMap::from([
            ("io.containerd.image.name", name),
            ("org.opencontainers.image.ref.name", tag),
        ]);
        Written { annotations, ..plain() }
    };
    image.names.iter().map(named).collect()
}

fn row(image: &Chosen) -> Row {
    let tags: Vec<String> = image.names.iter().map(Reference::familiar).collect();
    Row {
        config: path(&image.info.id),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: image.info.layers.iter().map(|layer| path(&layer.diff_id)).collect(),
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| unwritten(error.into()))
}

fn unwritten(source: io::Error) -> ImageError {
    ImageError::Write { what: "the archive".to_owned(), source }
}

/// The archive being written.
struct Archive<'a> {
    to: &'a mut dyn Write,
    watcher: Watcher<'a>,
}

impl Archive<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.to.write_all(bytes).map_err(unwritten)
    }

    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        let missing = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.put([0; BLOCK].get(..missing).unwrap_or_default())
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), ImageError> {
        let size = content.len() as u64;
        self.put(&timeless(name, Some(size)))?;
        self.put(content)?;
        self.pad(size)
    }

    /// The reader sums it up: what a failing disk made of it gets no whole archive.
    fn layer(&mut self, images: &Images, layer: &LayerInfo) -> Result<(), ImageError> {
        let label = layer.diff_id.short();
        let unread = |source| ImageError::Read { what: format!("the layer {label}"), source };
        let mut content = images.read_layer(&layer.diff_id)?;
        let size = layer.bytes;
        self.put(&timeless(&path(&layer.diff_id), Some(size)))?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut sent = 0_u64;
        while sent < size {
            let most = usize::try_from(size - sent).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let length = match content.read(piece.get_mut(..most).unwrap_or_default()) {
                Ok(0) => return Err(unread(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(unread)?,
            };
            let read = piece.get(..length).unwrap_or_default();
            self.put(read)?;
            sent += length as u64;
            let (layer, of) = (Some(label.clone()), Some(size));
            if !(self.watcher)(Progress { layer, stage: Stage::Sending, bytes: sent, of }) {
                return Err(ImageError::CalledOff);
            }
        }
        self.pad(size)
    }

    fn end(&mut self) -> Result<(), ImageError> {
        self.put(&[0; 2 * BLOCK])?;
        self.to.flush().map_err(unwritten)
    }
}
