//! An image from the store into a registry.
//!
//! Layers first, then the config, then the manifest, which makes it all visible. Layers that
//! the registry has already are not sent, if it is known what they were packed to: by the
//! manifest that the image came with. An image all of whose layers are there goes with that
//! very manifest, so that its digest stays what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::crew::all;
use super::line::Lines;
use super::session::{Ask, Session, Wish};
use super::watch::{SharedWatcher, Watch};
use super::{PushOptions, upload};
use crate::image::{
    ACCEPTED, Descriptor, Digest, Document, ImageConfig, ImageError, Images, Packing, Progress,
    Reference, Stage,
};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Pushes an image to where the reference says; gives the digest of its manifest there.
///
/// The watcher is asked as in a pull.
///
/// # Errors
///
/// If there is no such image here, the registry does not take it, or the watcher said no.
pub async fn push(
    images: &Images,
    id: &Digest,
    reference: &Reference,
    options: &PushOptions,
    watcher: SharedWatcher,
) -> Result<Digest, ImageError> {
    let watch = Watch::new(watcher);
    let work = async {
        let lines = Arc::new(Lines::new(&options.registry));
        let (host, path) = (reference.host(), reference.path());
        let session = Session::new(&lines, host, path, Wish::Push, &options.registry)?;
        let source = Source::read(images, id)?;
        let session = Arc::new(session);
        let layers = layers(images, &session, &source, options.packing, &watch).await?;
        watch.unless_off(finish(&session, &source, reference, &layers)).await?
    };
    watch.over(work).await
}

/// The image as it is here.
struct Source {
    config: Arc<ImageConfig>,
    config_bytes: Vec<u8>,
    /// The manifest that it came with, and what that says of its layers.
    manifest_bytes: Option<Vec<u8>>,
    packed: BTreeMap<Digest, Descriptor>,
}

impl Source {
    fn read(images: &Images, id: &Digest) -> Result<Self, ImageError> {
        let config = images.config(id)?;
        let config_bytes = images.config_bytes(id)?;
        let manifest_bytes = images.manifest_bytes(id)?;
        let parse = |bytes: &Vec<u8>| Document::parse(bytes, None).ok();
        let packed = match manifest_bytes.as_ref().and_then(parse) {
            Some(Document::Manifest(manifest)) => {
                config.layers.iter().copied().zip(manifest.layers).collect()
            }
            _ => BTreeMap::new(),
        };
        Ok(Self { config, config_bytes, manifest_bytes, packed })
    }
}

/// A layer in the registry: as its manifest is to say it.
#[derive(Clone, Debug)]
struct Layer {
    media_type: String,
    digest: Digest,
    bytes: u64,
    /// Whether it is there as it once came.
    as_it_came: bool,
}

/// Sends all layers, each once.
async fn layers(
    images: &Images,
    session: &Arc<Session>,
    source: &Source,
    packing: Packing,
    watch: &Arc<Watch>,
) -> Result<BTreeMap<Digest, Layer>, ImageError> {
    let mut seen = BTreeSet::new();
    let each = source.config.layers.iter().filter(|diff_id| seen.insert(**diff_id));
    let each = each.map(|diff_id| {
        let (images, session, watch) = (images.clone(), Arc::clone(session), Arc::clone(watch));
        let (diff_id, known) = (*diff_id, source.packed.get(diff_id).cloned());
        async move {
            let sending = layer(&images, &session, &diff_id, known, packing, &watch);
            Ok((diff_id, watch.unless_off(sending).await??))
        }
    });
    Ok(all(each, watch).await?.into_iter().collect())
}

async fn layer(
    images: &Images,
    session: &Session,
    diff_id: &Digest,
    known: Option<Descriptor>,
    packing: Packing,
    watch: &Arc<Watch>,
) -> Result<Layer, ImageError> {
    if let Some(Descriptor { media_type, digest, size: bytes, .. }) = known
        && upload::has(session, &digest).await?
    {
        let short = Some(diff_id.short());
        watch.tell(Progress { layer: short, stage: Stage::Known, bytes, of: Some(bytes) });
        return Ok(Layer { media_type, digest, bytes, as_it_came: true });
    }
    let packed = upload::layer(session, images, diff_id, packing, watch).await?;
    let (short, bytes) = (Some(diff_id.short()), packed.bytes);
    watch.tell(Progress { layer: short, stage: Stage::Done, bytes, of: Some(bytes) });
    let media_type = OCI_LAYER.to_owned() + suffix(packing);
    Ok(Layer { media_type, digest: packed.digest, bytes, as_it_came: false })
}

const fn suffix(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "",
        Packing::Gzip => "+gzip",
        Packing::Zstd => "+zstd",
    }
}

/// Sends the config and the manifest.
async fn finish(
    session: &Session,
    source: &Source,
    reference: &Reference,
    layers: &BTreeMap<Digest, Layer>,
) -> Result<Digest, ImageError> {
    let config = Digest::of(&source.config_bytes);
    upload::bytes(session, &source.config_bytes, &config).await?;
    let came =
        source.manifest_bytes.as_deref().filter(|_| layers.values().all(|layer| layer.as_it_came));
    let (bytes, media_type) = match came {
        Some(bytes) => (bytes.to_vec(), own_type(bytes)),
        None => (manifest(source, config, layers), OCI_MANIFEST),
    };
    let found = Digest::of(&bytes);
    if let Some(wanted) = reference.digest().filter(|wanted| **wanted != found) {
        let what = format!("the manifest of {reference}");
        return Err(ImageError::Mismatch { what, wanted: *wanted, found });
    }
    let name = reference.tag().map_or_else(|| found.to_string(), str::to_owned);
    let mut ask = Ask::new(Method::PUT, session.at(&format!("manifests/{name}")));
    ask.content = Some(Bytes::from(bytes));
    session.persist(&ask.with(CONTENT_TYPE, media_type), &name).await?;
    Ok(found)
}

/// The type that a manifest says it has.
fn own_type(bytes: &[u8]) -> &'static str {
    let value: Option<Value> = serde_json::from_slice(bytes).ok();
    let said = value.as_ref().and_then(|value| value.get("mediaType")?.as_str());
    ACCEPTED.into_iter().find(|known| Some(*known) == said).unwrap_or(OCI_MANIFEST)
}

fn manifest(source: &Source, config: Digest, layers: &BTreeMap<Digest, Layer>) -> Vec<u8> {
    let layers = source.config.layers.iter().filter_map(|diff_id| layers.get(diff_id));
    let layers: Vec<Value> = layers
        .map(|layer| {
            let Layer { media_type, digest, bytes, .. } = layer;
            json!({ "mediaType": oci(media_type), "digest": digest, "size": bytes })
        })
        .collect();
    let config_bytes = source.config_bytes.len();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": config, "size": config_bytes },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// The same layer's type in OCI's words: some registries take no mixture.
fn oci(media_type: &str) -> String {
    let packing = media_type.rsplit_once(".tar").map_or("", |(_, packing)| packing);
    match packing {
        "+gzip" | ".gzip" => format!("{OCI_LAYER}+gzip"),
        "+zstd" | ".zstd" => format!("{OCI_LAYER}+zstd"),
        _ => OCI_LAYER.to_owned(),
    }
}
