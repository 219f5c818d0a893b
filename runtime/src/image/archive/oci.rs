//! The list in an OCI layout: `index.json`.
//!
//! Its entries are images, one or several to a name. Several of one name are one image for
//! several platforms; so are several without a name, each for another platform. Of such, and
//! of an index that an entry leads to, the one for this machine is taken of those that are in
//! the archive: tools list what they left out.

use std::sync::Arc;

use super::contents::{Contents, blob};
use super::wanted::{LayerFile, Wanted};
use super::{IMAGES, bad_archive};
use crate::image::documents::{
    Descriptor, Document, INDEX_DEPTH, Manifest, Platform, choose, from_json, in_document, shown,
};
use crate::image::{Digest, ImageError, Reference};

/// Where it is.
pub(super) const INDEX: &[u8] = b"index.json";

/// Says which version of the layout it is.
const LAYOUT: &[u8] = b"oci-layout";

/// That one, and what may follow without breaking it.
const LAYOUT_VERSION: &str = "1.";

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// The images that it tells of.
pub(super) fn images(contents: &Contents) -> Result<Vec<Wanted>, ImageError> {
    check_layout(contents)?;
    let Document::Index(index) = Document::parse(contents.document(INDEX)?, None)? else {
        return Err(bad_archive("its index.json is no index"));
    };
    let here = Platform::here();
    let entries: Vec<&Descriptor> = index.entries.iter().filter(|entry| entry.is_image()).collect();
    if let ([], Some(other)) = (entries.as_slice(), index.entries.first()) {
        return Err(bad_archive(format!("it has no image, but {}", shown(&other.media_type))));
    }
    let groups = groups(&entries)?;
    if groups.len() > IMAGES {
        return Err(bad_archive(format!("it has more than {IMAGES} images")));
    }
    groups.into_iter().map(|(name, group)| image(contents, &here, name, &group)).collect()
}

fn check_layout(contents: &Contents) -> Result<(), ImageError> {
    if !contents.has(LAYOUT) {
        return Ok(());
    }
    let text = contents.document(LAYOUT)?;
    let layout: Layout = from_json(text, text.len()).map_err(in_document("the oci-layout"))?;
    let version = layout.image_layout_version;
    if version.starts_with(LAYOUT_VERSION) {
        return Ok(());
    }
    Err(bad_archive(format!("it is an OCI layout of version {}", shown(&version))))
}

type Group<'a> = (Option<&'a Reference>, Vec<&'a Descriptor>);

/// Entries that are one image, for several platforms perhaps.
fn groups<'a>(entries: &[&'a Descriptor]) -> Result<Vec<Group<'a>>, ImageError> {
    let mut groups: Vec<Group> = Vec::new();
    let mut nameless: Vec<&Descriptor> = Vec::new();
    for entry in entries {
        let Some(name) = entry.names.first() else {
            nameless.push(entry);
            continue;
        };
        match groups.iter_mut().find(|(other, _)| *other == Some(name)) {
            Some((_, group)) if group.iter().any(|other| other.digest == entry.digest) => {}
            Some((_, group)) => group.push(entry),
            None => groups.push((Some(name), vec![entry])),
        }
    }
    for (name, group) in &groups {
        if let (Some(name), false) = (name, differ(group)) {
            return Err(bad_archive(format!("it has two images called {name}")));
        }
    }
    if differ(&nameless) && !nameless.is_empty() {
        groups.push((None, nameless));
    } else {
        groups.extend(nameless.into_iter().map(|entry| (None, vec![entry])));
    }
    Ok(groups)
}

/// Whether each is for another platform; one alone always is.
fn differ(group: &[&Descriptor]) -> bool {
    let others = |at: usize| group.iter().skip(at + 1);
    group.len() < 2
        || group.iter().enumerate().all(|(at, entry)| {
            entry.platform.is_some() && others(at).all(|other| other.platform != entry.platform)
        })
}

fn image(
    contents: &Contents,
    here: &Platform,
    name: Option<&Reference>,
    group: &[&Descriptor],
) -> Result<Wanted, ImageError> {
    let mut entry = match group {
        // Somebody put just this one in: for which machine is his affair.
        [only] => (*only).clone(),
        several => choose_of(contents, here, several.iter().copied())?,
    };
    for _ in 0..=INDEX_DEPTH {
        let text = blob_of(contents, &entry)?;
        match Document::parse(text, Some(&entry.media_type))? {
            Document::Manifest(manifest) => return wanted(contents, &manifest, text, name),
            Document::Index(index) => entry = choose_of(contents, here, index.entries.iter())?,
        }
    }
    Err(bad_archive(format!("it has indexes more than {INDEX_DEPTH} deep within one another")))
}

/// Chooses among what is in the archive.
fn choose_of<'a>(
    contents: &Contents,
    here: &Platform,
    entries: impl Iterator<Item = &'a Descriptor>,
) -> Result<Descriptor, ImageError> {
    let (present, absent): (Vec<&Descriptor>, Vec<&Descriptor>) =
        entries.partition(|entry| contents.has(&blob(&entry.digest)));
    match choose(present.iter().copied(), here) {
        // A list of nothing that is here: say what is missing rather than that nothing fits.
        Err(error) if !present.iter().any(|entry| entry.is_image()) => {
            choose(absent.into_iter(), here).map_err(|_none_either| error).cloned()
        }
        chosen => chosen.cloned(),
    }
}

fn blob_of<'a>(contents: &'a Contents, of: &Descriptor) -> Result<&'a Arc<[u8]>, ImageError> {
    let text = contents.document(&blob(&of.digest))?;
    if text.len() as u64 != of.size {
        let (have, digest) = (text.len(), of.digest.short());
        let why = format!("its document {digest} has {have} bytes, and {} by its list", of.size);
        return Err(bad_archive(why));
    }
    // By its name it is the right one, but a link may have led elsewhere.
    match Digest::of(text) {
        found if found == of.digest => Ok(text),
        found => {
            let what = "a document of the archive".to_owned();
            Err(ImageError::Mismatch { what, wanted: of.digest, found })
        }
    }
}

fn wanted(
    contents: &Contents,
    manifest: &Manifest,
    text: &Arc<[u8]>,
    name: Option<&Reference>,
) -> Result<Wanted, ImageError> {
    let config = Arc::clone(blob_of(contents, &manifest.config)?);
    for layer in &manifest.layers {
        if layer.is_foreign() && !contents.has(&blob(&layer.digest)) {
            let digest = layer.digest.short();
            let why = format!("its layer {digest} is only at its maker's, who is not asked for it");
            return Err(bad_archive(why));
        }
    }
    let files = manifest.layers.iter().map(|layer| LayerFile {
        name: blob(&layer.digest),
        promised: Some((layer.digest, layer.size)),
    });
    let names = name.cloned().into_iter().collect();
    Wanted::new(config, Some(Arc::clone(text)), names, files.collect())
}
