//! Where images come from and go to outside of the cluster: archives and registries, in the
//! runtime's words.

mod pulls;
mod registries;

use std::io::{self, Write};
use std::path::Path;

use runtime::image::{
    self, Changes, Digest, ImageError, ImageInfo, Images, LoadOptions, Loaded, Origin, PushOptions,
    Reference, RegistryOptions, SharedWatcher, Watcher,
};

use super::images::{Outlet, in_store};
use super::{Doors, chain};
pub(crate) use pulls::{Pull, Pulled, Pulls, pull};

/// Takes an archive of `docker save` or an OCI layout in. Blocks.
pub(crate) fn load(
    images: &Images,
    mut from: Outlet,
    watcher: Watcher,
) -> Result<Vec<ImageInfo>, ImageError> {
    let loaded = image::load(images, &mut from, &LoadOptions::default(), watcher)?;
    Ok(loaded.into_iter().map(told).collect())
}

/// Makes an image of an archive of plain files. Blocks.
pub(crate) fn import(
    images: &Images,
    mut from: Outlet,
    name: Option<&Reference>,
    changes: &Changes,
    origin: Origin,
    watcher: Watcher,
) -> Result<Vec<ImageInfo>, ImageError> {
    let options = LoadOptions { origin, ..LoadOptions::default() };
    let loaded = image::import(images, &mut from, name, changes, &options, watcher)?;
    Ok(vec![told(loaded)])
}

/// The image, with the names that it was given just now; with all, where it was given none.
fn told(loaded: Loaded) -> ImageInfo {
    let Loaded { info, names, .. } = loaded;
    if names.is_empty() { info } else { ImageInfo { names, ..info } }
}

/// Writes images as one archive, each under the name that it was asked for by, where that
/// means the same on this node. Blocks.
pub(crate) fn save(
    images: &Images,
    wanted: &[(Digest, String)],
    to: &mut dyn Write,
    watcher: Watcher,
) -> Result<(), ImageError> {
    let meant = |(id, text): &(Digest, String)| match images.find(text) {
        Ok(info) if info.id == *id => text.clone(),
        _ => id.to_string(),
    };
    let wanted: Vec<_> = wanted.iter().map(meant).collect();
    image::save(images, &wanted, to, watcher)
}

/// Writes a directory that holds an OCI layout, or what `docker save` packs, as an archive.
/// Blocks.
pub(crate) fn pack_directory(path: &Path, to: &mut dyn Write) -> io::Result<()> {
    image::pack_layout(path, to).map_err(|error| io::Error::other(chain(&error)))
}

/// How registries are reached from this node.
async fn options(doors: &Doors) -> Result<RegistryOptions, ImageError> {
    let data = doors.facts.data.clone();
    in_store(doors, move |_| Ok(registries::options(&data)?)).await
}

/// Pushes an image of this node to a registry.
pub(crate) async fn push(
    doors: &Doors,
    id: Digest,
    to: Reference,
    watcher: SharedWatcher,
) -> Result<ImageInfo, ImageError> {
    let options = PushOptions { registry: options(doors).await?, ..Default::default() };
    let images = doors.runtime.images();
    image::push(images, &id, &to, &options, watcher).await?;
    let info = images.get(&id);
    let info = info.ok_or_else(|| ImageError::Unknown { wanted: id.to_string() })?;
    Ok(ImageInfo { names: vec![to], ..info })
}
