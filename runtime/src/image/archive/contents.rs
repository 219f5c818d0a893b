//! What an archive has in it, after one reading of it, by name.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::sync::Arc;

use super::budget::Share;
use super::pass::Pass;
use super::wanted::{Wanted, WantedLayer};
use super::{IMAGES, LoadOptions, bad_archive, docker, oci, wanted};
use crate::image::{Digest, ImageError, Images, Staged, Watcher};
use crate::unpack::{What, printable};

/// Links from one name to the next, at most. Tools make one.
const LINKS: usize = 8;

/// Where OCI layouts keep things, by digest.
const BLOBS: &[u8] = b"blobs/sha256/";

/// Bytes of documents that lists may lead to, each time counted: a thousand rows for one long
/// document must not cost a thousand readings of it.
const LISTED_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Contents {
    items: BTreeMap<Vec<u8>, Item>,
    /// Bytes of documents asked for so far.
    listed: Cell<usize>,
    /// What the documents have of the memory: given back with them.
    #[allow(dead_code, reason = "it is held and not looked at")]
    share: Option<Share>,
}

#[derive(Debug)]
pub(super) enum Item {
    Document(Arc<[u8]>),
    Layer(Layer),
    /// Looks like a layer and cannot be unpacked; why, until that is told.
    Broken(Option<ImageError>),
    /// The name that it stands for.
    Link(Vec<u8>),
    Directory,
    /// Neither layer nor document: why not.
    Other(String),
}

#[derive(Debug)]
pub(super) struct Layer {
    /// Until an image takes it.
    pub(super) staged: Option<Staged>,
    pub(super) diff_id: Digest,
    /// The sum and length of it as it lies in the archive.
    pub(super) packed: Digest,
    pub(super) bytes: u64,
}

impl Contents {
    /// Reads an archive to its end and stages what layers it has.
    pub(super) fn read(
        images: &Images,
        from: &mut dyn Read,
        options: &LoadOptions,
        watcher: Watcher,
    ) -> Result<Self, ImageError> {
        let mut pass = Pass::open(images, from, options, watcher)?;
        let mut contents = Self::default();
        while let Some(found) = pass.next()? {
            let item = match found.what {
                What::File { size } => pass.file(&found.name, size)?,
                What::Symlink(target) => match target_of(&found.name, &target) {
                    Some(target) => Item::Link(target),
                    None => Item::Other("it is a link out of the archive".to_owned()),
                },
                What::HardLink(target) => Item::Link(target),
                What::Directory => Item::Directory,
                What::Other => Item::Other("it is no file".to_owned()),
            };
            contents.add(found.name, item)?;
        }
        contents.share = Some(pass.finish()?);
        Ok(contents)
    }

    /// Two readers could disagree on which of two files with one name counts.
    fn add(&mut self, name: Vec<u8>, item: Item) -> Result<(), ImageError> {
        match self.items.entry(name) {
            Entry::Vacant(place) => {
                place.insert(item);
                Ok(())
            }
            Entry::Occupied(place) => match (place.get(), item) {
                (Item::Directory, Item::Directory) => Ok(()),
                _ => {
                    Err(bad_archive(format!("it has two files called {}", printable(place.key()))))
                }
            },
        }
    }

    /// All images that its documents tell of.
    pub(super) fn images(&self) -> Result<Vec<Wanted>, ImageError> {
        let by_oci = if self.has(oci::INDEX) { oci::images(self)? } else { Vec::new() };
        let by_docker = if self.has(docker::MANIFEST) { docker::images(self)? } else { Vec::new() };
        let all = wanted::merge(by_oci, by_docker)?;
        if all.len() > IMAGES {
            return Err(bad_archive(format!("it has more than {IMAGES} images")));
        }
        if all.is_empty() {
            return Err(bad_archive(if self.has(b"repositories") {
                "it was saved by a Docker before 1.10, which wrote no digests to verify"
            } else {
                "it has no image: neither an index.json nor a manifest.json that names one; \
                 the files of a root are imported, not loaded"
            }));
        }
        Ok(all)
    }

    /// Makes sure that an image's layers are all here and what its config says.
    pub(super) fn verify(&mut self, image: &Wanted) -> Result<(), ImageError> {
        image.layers.iter().try_for_each(|wanted| check_layer(wanted, self.layer(wanted)?))
    }

    /// The staged layers of an image, without those that another of the archive has taken.
    pub(super) fn take_layers(&mut self, image: &Wanted) -> Vec<Staged> {
        let mut staged: BTreeMap<Digest, Staged> = BTreeMap::new();
        for wanted in &image.layers {
            if let Ok(layer) = self.layer(wanted)
                && let Some(one) = layer.staged.take()
            {
                staged.entry(layer.diff_id).or_insert(one);
            }
        }
        staged.into_values().collect()
    }

    fn layer(&mut self, wanted: &WantedLayer) -> Result<&mut Layer, ImageError> {
        let name = wanted.file.name.as_slice();
        let file = self.resolve(name)?;
        let bad = |why: &str| bad_archive(format!("its layer {}: {why}", printable(name)));
        match self.items.get_mut(&file) {
            Some(Item::Layer(layer)) => Ok(layer),
            Some(Item::Broken(error)) => {
                Err(error.take().unwrap_or_else(|| bad("it cannot be unpacked")))
            }
            Some(Item::Other(why)) => Err(bad(why)),
            _ => Err(bad("it is no archive")),
        }
    }

    /// A document by its name in the archive.
    pub(super) fn document(&self, name: &[u8]) -> Result<&Arc<[u8]>, ImageError> {
        let bad = |why: &str| bad_archive(format!("its {}: {why}", printable(name)));
        match self.items.get(&self.resolve(name)?) {
            Some(Item::Document(text)) => {
                self.listed.set(self.listed.get().saturating_add(text.len()));
                if self.listed.get() > LISTED_BYTES {
                    return Err(bad_archive("its lists name the same documents over and over"));
                }
                Ok(text)
            }
            Some(Item::Other(why)) => Err(bad(why)),
            _ => Err(bad("it is no document")),
        }
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.items.contains_key(name)
    }

    /// Follows links to what is no link.
    fn resolve(&self, name: &[u8]) -> Result<Vec<u8>, ImageError> {
        let missing = || {
            let shown = printable(name);
            bad_archive(format!("it lacks {shown}, which belongs to an image of it"))
        };
        let mut here = target_of(b"", name).ok_or_else(missing)?;
        for _ in 0..=LINKS {
            match self.items.get(&here) {
                Some(Item::Link(target)) => here.clone_from(target),
                Some(_) => return Ok(here),
                None => return Err(missing()),
            }
        }
        Err(bad_archive(format!("its links from {} lead to no end", printable(name))))
    }
}

/// The name of a blob in an OCI layout.
pub(super) fn blob(digest: &Digest) -> Vec<u8> {
    [BLOBS, digest.hex().as_bytes()].concat()
}

/// What a blob's name says that its bytes sum up to.
pub(super) fn named_digest(name: &[u8]) -> Option<Digest> {
    let hex = std::str::from_utf8(name.strip_prefix(BLOBS)?).ok()?;
    format!("sha256:{hex}").parse().ok()
}

fn check_layer(wanted: &WantedLayer, found: &Layer) -> Result<(), ImageError> {
    let shown = printable(&wanted.file.name);
    if let Some((digest, size)) = wanted.file.promised {
        if size != found.bytes {
            let have = found.bytes;
            let why = format!("its layer {shown} has {have} bytes, and {size} by its manifest");
            return Err(bad_archive(why));
        }
        // By its name it is the right one, but a link may have led elsewhere.
        same(format!("the layer {shown}"), digest, found.packed)?;
    }
    same(format!("what the layer {shown} unpacks to"), wanted.diff_id, found.diff_id)
}

pub(super) fn same(what: String, wanted: Digest, found: Digest) -> Result<(), ImageError> {
    if wanted == found { Ok(()) } else { Err(ImageError::Mismatch { what, wanted, found }) }
}

/// Where a link leads, as a plain name in the archive. None if out of it.
fn target_of(link: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = link.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    (!target.starts_with(b"/") && !parts.is_empty()).then(|| parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_within_the_archive_or_nowhere() {
        for (link, target, leads) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a/layer.tar", "layer2.tar", Some("a/layer2.tar")),
            ("a/b/c", "../../x", Some("x")),
            ("x", "./y", Some("y")),
            ("a/x", "../../y", None),
            ("a/x", "/y", None),
            ("a", ".", None),
            ("a", "", None),
        ] {
            let found = target_of(link.as_bytes(), target.as_bytes());
            assert_eq!(found.as_deref(), leads.map(str::as_bytes), "{link} to {target}");
        }
    }
}
