//! One image of an archive, put together from its documents.

use std::sync::Arc;

use crate::image::documents::LAYERS;
use crate::image::{Digest, ImageConfig, ImageError, Reference};

use super::bad_archive;

/// Names that one archive may give: the store has room for sixteen such.
const NAMES: usize = 4096;

/// What its documents say of an image, before its layers are looked at.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The digest of its config.
    pub(super) id: Digest,
    /// The bytes of its config.
    pub(super) config: Arc<[u8]>,
    /// The bytes of its manifest, if it has one.
    pub(super) manifest: Option<Arc<[u8]>>,
    pub(super) names: Vec<Reference>,
    /// Lowest first.
    pub(super) layers: Vec<WantedLayer>,
}

#[derive(Debug)]
pub(super) struct WantedLayer {
    pub(super) file: LayerFile,
    /// What it must unpack to.
    pub(super) diff_id: Digest,
}

/// Where a layer lies.
#[derive(Debug)]
pub(super) struct LayerFile {
    /// Its name in the archive.
    pub(super) name: Vec<u8>,
    /// What its manifest says of the file, if it does: its digest and its length.
    pub(super) promised: Option<(Digest, u64)>,
}

impl Wanted {
    pub(super) fn new(
        config: Arc<[u8]>,
        manifest: Option<Arc<[u8]>>,
        names: Vec<Reference>,
        files: Vec<LayerFile>,
    ) -> Result<Self, ImageError> {
        let diff_ids = ImageConfig::parse(&config)?.layers;
        if diff_ids.len() != files.len() || files.len() > LAYERS {
            let why = format!(
                "an image has {} layers by its config and {} by its manifest",
                diff_ids.len(),
                files.len()
            );
            return Err(bad_archive(why));
        }
        if diff_ids.is_empty() {
            return Err(bad_archive("an image of it has no layers"));
        }
        let layers = files.into_iter().zip(diff_ids);
        let layers = layers.map(|(file, diff_id)| WantedLayer { file, diff_id }).collect();
        let id = Digest::of(&config);
        let mut image = Self { id, config, manifest, names: Vec::new(), layers };
        image.add_names(&names);
        Ok(image)
    }

    pub(super) fn add_names(&mut self, names: &[Reference]) {
        self.names.extend_from_slice(names);
        self.names.sort_unstable();
        self.names.dedup();
    }
}

/// Puts the images of both lists of an archive together: one that is in both is one.
pub(super) fn merge(first: Vec<Wanted>, second: Vec<Wanted>) -> Result<Vec<Wanted>, ImageError> {
    let mut all: Vec<Wanted> = Vec::new();
    for image in first.into_iter().chain(second) {
        match all.iter_mut().find(|other| other.id == image.id) {
            Some(known) => known.add_names(&image.names),
            None => all.push(image),
        }
    }
    if all.iter().map(|image| image.names.len()).sum::<usize>() > NAMES {
        return Err(bad_archive(format!("it has more than {NAMES} names for its images")));
    }
    check_names(&all)?;
    Ok(all)
}

/// Fails if two images are called the same.
pub(super) fn check_names(images: &[Wanted]) -> Result<(), ImageError> {
    let mut names: Vec<&Reference> = images.iter().flat_map(|image| &image.names).collect();
    names.sort_unstable();
    match names.windows(2).find_map(|pair| match pair {
        [one, other] if one == other => Some(one),
        _ => None,
    }) {
        Some(name) => Err(bad_archive(format!("it has two images called {name}"))),
        None => Ok(()),
    }
}
