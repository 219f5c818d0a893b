//! An image from a registry into the store.
//!
//! ```text
//! name ─▶ index ─▶ manifest ─▶ config ─▶ which layers are missing
//!                                          │ three at a time
//!                      network ─▶ channel ─▶ stage (thread) ─▶ commit
//! ```
//!
//! The config comes before any layer, so what is here already is not fetched, whatever it is
//! packed like there. A registry's mirrors are asked before it; where one fails or lies, the
//! next one goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::blob::pipe;
use super::crew::{all, blocking};
use super::line::Lines;
use super::manifest::{Found, find};
use super::session::{Session, Wish};
use super::watch::{SharedWatcher, Watch};
use super::{PullOptions, RegistryError};
use crate::image::{
    Descriptor, Digest, ImageError, ImageInfo, Images, Platform, Progress, Reference, Stage, Staged,
};
use crate::unpack::Bounds;

/// Pulls an image and gives it its name. What is here of it already is not fetched.
///
/// The watcher is asked about every layer's bytes, and several times a second whatever
/// happens, so that one that says no ends it at once.
///
/// # Errors
///
/// If no registry gives it, it is not what it says, it is not for this machine, it cannot be
/// unpacked or kept, or the watcher said no. The store is then as it was before.
pub async fn pull(
    images: &Images,
    reference: &Reference,
    options: &PullOptions,
    watcher: SharedWatcher,
) -> Result<ImageInfo, ImageError> {
    let watch = Watch::new(watcher);
    let work = async {
        let lines = Arc::new(Lines::new(&options.registry));
        let sources = sources(&lines, reference, options)?;
        let here = options.platform.clone().unwrap_or_else(Platform::here);
        let looking = look_up(&sources, reference, &here, images);
        let (from, found) = watch.unless_off(looking).await??;
        let sources = sources.into_iter().skip(from).collect();
        let staged = layers(images, sources, &found, &options.bounds, &watch).await?;
        if !watch.go_on() {
            return Err(ImageError::CalledOff);
        }
        let (images, name, origin) = (images.clone(), reference.clone(), options.origin);
        blocking(move || {
            let Found { config_bytes, manifest_bytes, .. } = &found;
            images.commit(config_bytes, Some(manifest_bytes), staged, &[name], origin)
        })
        .await
    };
    watch.over(work).await
}

/// The mirrors of the reference's host, in their order, and the host itself.
fn sources(
    lines: &Arc<Lines>,
    reference: &Reference,
    options: &PullOptions,
) -> Result<Vec<Arc<Session>>, RegistryError> {
    let registry = &options.registry;
    let mut places = Vec::new();
    for mirror in registry.mirrors.get(reference.host()).into_iter().flatten() {
        let mirrored: Reference = format!("{mirror}/{}", reference.path())
            .parse()
            .ok()
            .filter(|name: &Reference| mirror.split('/').next() == Some(name.host()))
            .ok_or_else(|| RegistryError::Nonsense {
                host: mirror.clone(),
                why: "cannot be a mirror: write its host, and its port if it has one".to_owned(),
            })?;
        places.push(mirrored);
    }
    places.push(reference.clone());
    let session = |place: &Reference| {
        Session::new(lines, place.host(), place.path(), Wish::Pull, registry).map(Arc::new)
    };
    places.iter().map(session).collect()
}

/// The first source that knows the image, and the image.
async fn look_up(
    sources: &[Arc<Session>],
    reference: &Reference,
    here: &Platform,
    images: &Images,
) -> Result<(usize, Found), ImageError> {
    let mut rest = sources.len();
    for (at, session) in sources.iter().enumerate() {
        rest -= 1;
        match find(session, reference, here, images).await {
            Ok(found) => return Ok((at, found)),
            Err(error) if rest == 0 => return Err(error),
            Err(error) => tracing::warn!(mirror = session.host, %error, "a mirror is passed over"),
        }
    }
    Err(ImageError::Unknown { wanted: reference.to_string() })
}

/// Stages all layers, each once.
async fn layers(
    images: &Images,
    sources: Vec<Arc<Session>>,
    found: &Found,
    bounds: &Bounds,
    watch: &Arc<Watch>,
) -> Result<Vec<Staged>, ImageError> {
    let sources: Arc<[Arc<Session>]> = sources.into();
    // Whoever waits sees from the beginning how much it is.
    for packed in &found.manifest.layers {
        let layer = Some(packed.digest.short());
        watch.tell(Progress { layer, stage: Stage::Working, bytes: 0, of: Some(packed.size) });
    }
    let mut seen = BTreeSet::new();
    let pairs = found.manifest.layers.iter().zip(&found.config.layers);
    let each = pairs.filter(|(_, diff_id)| seen.insert(**diff_id)).map(|(packed, diff_id)| {
        get(Layer {
            images: images.clone(),
            sources: Arc::clone(&sources),
            packed: packed.clone(),
            diff_id: *diff_id,
            bounds: bounds.clone(),
            watch: Arc::clone(watch),
        })
    });
    all(each, watch).await
}

/// One layer, and all that getting it takes.
struct Layer {
    images: Images,
    sources: Arc<[Arc<Session>]>,
    packed: Descriptor,
    diff_id: Digest,
    bounds: Bounds,
    watch: Arc<Watch>,
}

/// Gets a layer; from the next source, if one gave something else than the layer.
async fn get(layer: Layer) -> Result<Staged, ImageError> {
    let layer = Arc::new(layer);
    let mut skip = 0;
    loop {
        let error = match get_from(&layer, skip).await {
            Ok(staged) => return Ok(staged),
            Err(error) => error,
        };
        skip += 1;
        let lied = matches!(error, ImageError::Mismatch { .. } | ImageError::Layer { .. });
        if !lied || skip >= layer.sources.len() {
            return Err(error);
        }
        tracing::warn!(layer = layer.packed.digest.short(), %error, "a mirror is passed over");
    }
}

async fn get_from(layer: &Arc<Layer>, skip: usize) -> Result<Staged, ImageError> {
    let (inlet, mut outlet) = pipe();
    let of_thread = Arc::clone(layer);
    let staging = blocking(move || {
        let Layer { images, packed, diff_id, bounds, watch, .. } = &*of_thread;
        let tell = |mut progress: Progress| {
            progress.of = Some(packed.size);
            if progress.stage == Stage::Known {
                progress.bytes = packed.size;
            }
            watch.tell(progress)
        };
        images.stage(&mut outlet, &packed.digest.short(), Some(diff_id), bounds, &tell)
    });
    let sources = layer.sources.get(skip..).unwrap_or_default();
    let feeding = layer.watch.unless_off(inlet.feed(sources, &layer.packed));
    // Whichever ends first, the other one sees the end of the pipe.
    let (fed, staged) = tokio::join!(feeding, staging);
    fed??;
    let staged = staged?;
    let wanted = layer.packed.digest;
    // One that was here was not read, and may have come packed in another way.
    let was_read = staged.packed_bytes() > 0;
    if was_read && staged.packed() != wanted {
        let found = staged.packed();
        let what = format!("layer {}", wanted.short());
        return Err(ImageError::Mismatch { what, wanted, found });
    }
    Ok(staged)
}
