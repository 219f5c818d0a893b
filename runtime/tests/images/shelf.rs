//! A store in a directory of its own, and what is put into it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::image::{Digest, ImageError, ImageInfo, Images, Origin, Progress, Reference, Staged};
use runtime::unpack::{Bounds, Owners};

use crate::stage::is_root;

pub(crate) struct Shelf {
    pub(crate) dir: tempfile::TempDir,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_dir(dir: tempfile::TempDir) -> Self {
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub(crate) fn open(&self) -> Images {
        open(&self.path())
    }

    /// How many names there are in a directory of the store.
    pub(crate) fn count(&self, below: &str) -> usize {
        std::fs::read_dir(self.path().join(below)).unwrap().count()
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // Not all of it is for everybody to remove.
        let top = std::fs::File::open(self.dir.path()).unwrap();
        runtime::unpack::remove_tree(std::os::fd::AsFd::as_fd(&top), b"images").unwrap();
    }
}

pub(crate) fn open(path: &Path) -> Images {
    Images::open(path, if is_root() { Owners::Keep } else { Owners::Mine }).unwrap()
}

pub(crate) fn bounds() -> Bounds {
    Bounds { until: Some(Instant::now() + Duration::from_secs(600)), ..Bounds::default() }
}

pub(crate) fn go_on(_: Progress) -> bool {
    true
}

pub(crate) fn stage(images: &Images, tar: &[u8]) -> Result<Staged, ImageError> {
    images.stage(&mut &*tar, "a layer", None, &bounds(), &go_on)
}

/// A config over some layers; `salt` tells it from others over the same.
pub(crate) fn config(layers: &[Digest], salt: &str) -> Vec<u8> {
    let layers: Vec<String> = layers.iter().map(Digest::to_string).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": { "Cmd": ["/bin/true", salt] },
        "rootfs": { "type": "layers", "diff_ids": layers },
    }))
    .unwrap()
}

pub(crate) fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Loads an image of these layers.
pub(crate) fn load(images: &Images, tars: &[&[u8]], names: &[&str]) -> ImageInfo {
    load_as(images, tars, names, Origin::Asked, "")
}

pub(crate) fn load_as(
    images: &Images,
    tars: &[&[u8]],
    names: &[&str],
    origin: Origin,
    salt: &str,
) -> ImageInfo {
    let staged: Vec<Staged> = tars.iter().map(|tar| stage(images, tar).unwrap()).collect();
    let layers: Vec<Digest> = staged.iter().map(Staged::diff_id).collect();
    let names: Vec<Reference> = names.iter().map(|text| name(text)).collect();
    images.commit(&config(&layers, salt), None, staged, &names, origin).unwrap()
}

/// A layer's archive again.
pub(crate) fn again(images: &Images, layer: &Digest) -> Vec<u8> {
    let mut tar = Vec::new();
    images.read_layer(layer).unwrap().read_to_end(&mut tar).unwrap();
    tar
}
