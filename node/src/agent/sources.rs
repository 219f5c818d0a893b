//! Where images come from and go to outside of the cluster: archives and registries, in the
//! runtime's words.

use std::io::{self, Write};
use std::path::Path;

use runtime::image::{Digest, ImageError, ImageInfo, Images, Origin, Progress, Reference, Watcher};

use super::Doors;
use super::images::Outlet;

/// Takes an archive of `docker save` or an OCI layout in. Blocks.
pub(crate) fn load(
    images: &Images,
    from: Outlet,
    watcher: Watcher,
) -> Result<Vec<ImageInfo>, ImageError> {
    let _ = (images, from, watcher);
    Err(unknown())
}

/// Makes an image of an archive of plain files. Blocks.
pub(crate) fn import(
    images: &Images,
    from: Outlet,
    name: Option<Reference>,
    watcher: Watcher,
) -> Result<Vec<ImageInfo>, ImageError> {
    let _ = (images, from, name, watcher);
    Err(unknown())
}

/// Writes images as one archive, each under the name that it was asked for by. Blocks.
pub(crate) fn save(
    images: &Images,
    wanted: &[(Digest, Option<Reference>)],
    to: &mut dyn Write,
    watcher: Watcher,
) -> Result<(), ImageError> {
    let _ = (images, wanted, to, watcher);
    Err(unknown())
}

/// Writes a directory that holds an OCI layout, or what `docker save` packs, as an archive.
/// Blocks.
pub(crate) fn pack_directory(path: &Path, to: &mut dyn Write) -> io::Result<()> {
    let _ = (path, to);
    Err(io::ErrorKind::Unsupported.into())
}

fn unknown() -> ImageError {
    ImageError::Unknown { wanted: "not yet".to_owned() }
}

/// Pulls an image from its registry into this node's store.
pub(crate) async fn pull(
    doors: &Doors,
    name: Reference,
    origin: Origin,
) -> Result<ImageInfo, ImageError> {
    pull_told(doors, name, origin, |_| true).await
}

/// The same, and tells how far it is.
pub(crate) async fn pull_told(
    doors: &Doors,
    name: Reference,
    origin: Origin,
    watch: impl Fn(Progress) -> bool + Send + Sync + 'static,
) -> Result<ImageInfo, ImageError> {
    let _ = (doors, origin, watch);
    Err(ImageError::Unknown { wanted: name.familiar() })
}

/// Pushes an image of this node to a registry.
pub(crate) async fn push(
    doors: &Doors,
    id: Digest,
    to: Reference,
    watch: impl Fn(Progress) -> bool + Send + Sync + 'static,
) -> Result<ImageInfo, ImageError> {
    let _ = (doors, id, watch);
    Err(ImageError::Unknown { wanted: to.familiar() })
}
