//! Images out of archives: `docker save`, OCI layouts, and roots without an image.
//!
//! ```text
//! tar ──▶ pass: layers are staged   ──▶ contents ──▶ docker, oci: which  ──▶ wanted ──▶ commit
//!         as they come, documents       by name      files are which
//!         kept, all else passed over                 image's
//! ```
//!
//! Archives have their parts in any order, and what says which part is what may come last.
//! So each file is looked at for what it is: what looks like a layer is unpacked at once,
//! and dropped again if no image wants it. The archive is read once, and may be a pipe.
//!
//! Invariant: no image of an archive is seen before all of them are known to be right.

mod budget;
mod contents;
mod docker;
mod import;
mod layout;
mod oci;
mod pass;
mod wanted;

use std::io::Read;

use super::{ImageError, ImageInfo, Images, Origin, Reference, Watcher};
use crate::unpack::Bounds;

pub use import::{Changes, import};
pub use layout::pack_layout;

pub(super) use budget::Budget;
use contents::Contents;
use wanted::Wanted;

/// Most images of one archive.
const IMAGES: usize = 1000;

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What to call the image, beside the names that it has in the archive; only for an
    /// archive of one.
    pub names: Vec<Reference>,
    /// How much each layer may ask of this machine.
    pub bounds: Bounds,
    /// Who wants it.
    pub origin: Origin,
    /// How long the archive is, where that is known: for whoever watches.
    pub bytes: Option<u64>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let (names, bounds) = Default::default();
        Self { names, bounds, origin: Origin::Asked, bytes: None }
    }
}

/// An image that came out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it is now.
    pub info: ImageInfo,
    /// Names it was given by this load.
    pub names: Vec<Reference>,
    /// Whether it was here before.
    pub known: bool,
}

/// Takes all images out of an archive (plain, gzip or zstd; of `docker save`, `podman save`
/// or an OCI layout), which is read to its end. Blocks.
///
/// # Errors
///
/// The first thing wrong with it. Then none of its images is here that was not before, unless
/// the disk failed between two of them.
pub fn load(
    images: &Images,
    from: &mut dyn Read,
    options: &LoadOptions,
    watcher: Watcher,
) -> Result<Vec<Loaded>, ImageError> {
    let mut contents = Contents::read(images, from, options, watcher)?;
    let mut wanted = contents.images()?;
    if !options.names.is_empty() {
        match wanted.as_mut_slice() {
            [only] => only.add_names(&options.names),
            several => {
                let why = format!("it has {} images, and the name fits only one", several.len());
                return Err(bad_archive(why));
            }
        }
        wanted::check_names(&wanted)?;
    }
    for image in &wanted {
        contents.verify(image)?;
    }
    wanted.into_iter().map(|image| commit(images, &mut contents, image, options)).collect()
}

fn commit(
    images: &Images,
    contents: &mut Contents,
    image: Wanted,
    options: &LoadOptions,
) -> Result<Loaded, ImageError> {
    let known = images.get(&image.id).is_some();
    let staged = contents.take_layers(&image);
    let Wanted { config, manifest, names, .. } = image;
    let info = images.commit(&config, manifest.as_deref(), staged, &names, options.origin)?;
    Ok(Loaded { info, names, known })
}

fn bad_archive(why: impl Into<String>) -> ImageError {
    ImageError::Document { what: "the archive".to_owned(), why: why.into() }
}
