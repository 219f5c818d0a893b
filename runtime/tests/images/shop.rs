//! A store for one test, and how to look whether it is unharmed.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use runtime::image::{Digest, ImageError, Images, LoadOptions, Loaded, load};
use runtime::unpack::Owners;

use crate::shapes::Sample;

pub(crate) struct Shop {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) images: Images,
}

/// What a store has, for comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    listed: String,
    files: BTreeSet<String>,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// One that need not wait for a disk, where there is memory for it: for many loads.
    pub(crate) fn quick() -> Self {
        Self::within(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    pub(crate) fn within(dir: tempfile::TempDir) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let owners = if is_root { Owners::Keep } else { Owners::Mine };
        let images = Images::open(&dir.path().join("images"), owners).unwrap();
        Self { dir, images }
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, ImageError> {
        self.load_with(archive, &LoadOptions::default())
    }

    pub(crate) fn load_with(
        &self,
        mut archive: impl Read,
        options: &LoadOptions,
    ) -> Result<Vec<Loaded>, ImageError> {
        load(&self.images, &mut archive, options, &|_| true)
    }

    /// The reason for which an archive is refused, which leaves the store as it was.
    pub(crate) fn refused(&self, archive: &[u8]) -> String {
        self.refused_with(archive, &LoadOptions::default())
    }

    pub(crate) fn refused_with(&self, archive: impl Read, options: &LoadOptions) -> String {
        let before = self.stock();
        let error = self.load_with(archive, options).unwrap_err();
        assert_eq!(self.stock(), before, "the store was changed");
        whole(&error)
    }

    /// What is listed, and every file and directory on the disk but the trees of layers.
    pub(crate) fn stock(&self) -> Stock {
        let mut files = BTreeSet::new();
        let root = self.dir.path().join("images");
        let mut ahead = vec![root.clone()];
        while let Some(dir) = ahead.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let is_dir = std::fs::symlink_metadata(&path).unwrap().is_dir();
                files.insert(path.strip_prefix(&root).unwrap().display().to_string());
                if is_dir && path.file_name().is_some_and(|name| name != "tree") {
                    ahead.push(path);
                }
            }
        }
        Stock { listed: format!("{:?}", self.images.list()), files }
    }

    /// Makes sure that an image is here, whole.
    pub(crate) fn assert_has(&self, sample: &Sample) {
        let id = sample.id();
        let info = self.images.get(&id).unwrap();
        assert_eq!(self.images.config_bytes(&id).unwrap(), sample.config);
        let layers: Vec<Digest> = info.layers.iter().map(|layer| layer.diff_id).collect();
        let expected: Vec<Digest> = sample.layers.iter().map(|layer| Digest::of(layer)).collect();
        assert_eq!(layers, expected);
        for (layer, bytes) in info.layers.iter().zip(&sample.layers) {
            let mut again = Vec::new();
            let mut reader = self.images.read_layer(&layer.diff_id).unwrap();
            reader.read_to_end(&mut again).unwrap();
            assert!(again == *bytes, "another archive came out");
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // Not all of it is for everybody to remove.
        let top = std::fs::File::open(self.dir.path()).unwrap();
        runtime::unpack::remove_tree(std::os::fd::AsFd::as_fd(&top), b"images").unwrap();
    }
}

/// An error with all its causes.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole(source)),
        None => error.to_string(),
    }
}

/// Puts parts of a layout or archive into a directory.
pub(crate) fn write_out(parts: &[crate::shapes::Part], dir: &Path) {
    use crate::shapes::Part;
    for part in parts {
        let path = dir.join(part.name());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match part {
            Part::File(_, content) => std::fs::write(path, content).unwrap(),
            Part::Link(_, target) => std::os::unix::fs::symlink(target, path).unwrap(),
            Part::HardLink(_, target) => std::fs::hard_link(dir.join(target), path).unwrap(),
        }
    }
}
