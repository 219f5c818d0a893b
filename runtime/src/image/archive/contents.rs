//! What an archive has in it, after one reading of it.
//!
//! A file is what its first bytes say, whatever its name: manifests, which would tell, may
//! come last. A layer that cannot be unpacked is no error yet, for it may be none: charts and
//! signatures lie beside images in some archives. It is one if an image wants it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Cursor, Read};

use sha2::{Digest as _, Sha256};

use super::wanted::{Wanted, WantedLayer};
use super::{IMAGES, LoadOptions, bad_archive, docker, oci, wanted};
use crate::image::documents::CONFIG_BYTES;
use crate::image::{Digest, ImageError, Images, Progress, Stage, Staged, Watcher};
use crate::unpack::{Bounds, Entries, UnpackError, What, begins_archive, printable};

/// Most entries: six for each layer of fifty images with as many layers as there may be.
const ENTRIES: u64 = 50_000;

/// Longest name, and deepest: ten times those of any tool.
const NAME_BYTES: usize = 1024;
const DEPTH: usize = 16;

/// Bytes of an archive, unpacked, and of all layers in it: more than disks are lent for it.
const ARCHIVE_BYTES: u64 = 1 << 40;

/// Bytes of documents that are kept. Those that are nobody's (lists of what an image was made
/// from are as long as books) must not fill the memory; the few that count come to kilobytes.
const DOCUMENTS_BYTES: usize = 128 << 20;

/// Most layers that are unpacked before anybody knows whose they are.
const LAYERS_OF_ALL: usize = 8192;

/// Links from one name to the next, at most. Tools make one.
const LINKS: usize = 8;

/// What tells how a file is packed or what it is: one header of an archive.
const HEAD_BYTES: usize = 512;

/// Passed over in pieces of this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Where OCI layouts keep things, by digest.
const BLOBS: &[u8] = b"blobs/sha256/";

/// First bytes of what is known but not read.
const FOREIGN: [(&[u8], &str); 3] =
    [(b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")];

#[derive(Debug)]
pub(super) struct Contents {
    items: BTreeMap<Vec<u8>, Item>,
    layers: usize,
    layers_bytes: u64,
    documents_bytes: usize,
}

#[derive(Debug)]
enum Item {
    Document(Vec<u8>),
    Layer(Layer),
    /// Looks like a layer and cannot be unpacked.
    Broken(ImageError),
    /// The name that it stands for.
    Link(Vec<u8>),
    Directory,
    /// Neither layer nor document: why not.
    Other(String),
}

#[derive(Debug)]
struct Layer {
    /// Until an image takes it.
    staged: Option<Staged>,
    diff_id: Digest,
    /// As it lies in the archive.
    bytes: u64,
}

impl Contents {
    /// Reads an archive to its end and stages what layers it has.
    pub(super) fn read(
        images: &Images,
        from: &mut dyn Read,
        options: &LoadOptions,
        watcher: Watcher,
    ) -> Result<Self, ImageError> {
        let bounds = Bounds {
            entries: ENTRIES,
            depth: DEPTH,
            path_bytes: NAME_BYTES,
            bytes: ARCHIVE_BYTES,
            file_bytes: options.bounds.bytes,
            ..options.bounds.clone()
        };
        let mut pass = Pass {
            entries: Entries::open(from, &bounds).map_err(in_archive)?,
            images,
            options,
            watcher,
        };
        let (items, layers, layers_bytes, documents_bytes) = Default::default();
        let mut contents = Self { items, layers, layers_bytes, documents_bytes };
        while let Some(found) = pass.entries.next().map_err(in_archive)? {
            pass.tell()?;
            let item = match found.what {
                What::File { size } => contents.file(&mut pass, &found.name, size)?,
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
        pass.entries.finish().map_err(in_archive)?;
        Ok(contents)
    }

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

    fn file(
        &mut self,
        pass: &mut Pass<'_, impl Read>,
        name: &[u8],
        size: u64,
    ) -> Result<Item, ImageError> {
        let head = pass.head()?;
        match sort(&head, size) {
            Sort::Document => {
                let bytes = usize::try_from(size).unwrap_or(usize::MAX);
                let all = self.documents_bytes.saturating_add(bytes);
                if bytes > CONFIG_BYTES || all > DOCUMENTS_BYTES {
                    return Ok(Item::Other("it is too long for what it should be".to_owned()));
                }
                self.documents_bytes = all;
                let mut text = Vec::new();
                let mut content = Content::new(pass, head);
                content.read_to_end(&mut text).map_err(|error| content.failure(error))?;
                check_name(name, || Digest::of(&text))?;
                Ok(Item::Document(text))
            }
            Sort::Layer => {
                self.layers += 1;
                if self.layers > LAYERS_OF_ALL {
                    return Err(bad_archive(format!("it has more than {LAYERS_OF_ALL} layers")));
                }
                let item = pass.layer(name, size, head, ARCHIVE_BYTES - self.layers_bytes)?;
                if let Item::Layer(Layer { staged: Some(staged), .. }) = &item {
                    self.layers_bytes = self.layers_bytes.saturating_add(staged.bytes());
                }
                Ok(item)
            }
            Sort::Other(why) => Ok(Item::Other(why)),
        }
    }

    /// All images that its documents tell of.
    pub(super) fn images(&self) -> Result<Vec<Wanted>, ImageError> {
        let by_oci = match self.items.contains_key(oci::INDEX) {
            true => oci::images(self)?,
            false => Vec::new(),
        };
        let by_docker = match self.items.contains_key(docker::MANIFEST) {
            true => docker::images(self)?,
            false => Vec::new(),
        };
        let all = wanted::merge(by_oci, by_docker)?;
        if all.len() > IMAGES {
            return Err(bad_archive(format!("it has more than {IMAGES} images")));
        }
        if all.is_empty() {
            let old = self.items.contains_key(&b"repositories"[..]);
            return Err(bad_archive(if old {
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
        for layer in &image.layers {
            let file = self.resolve(&layer.file)?;
            let shown = printable(&layer.file);
            let found = match self.items.get_mut(&file) {
                Some(Item::Layer(found)) => found,
                Some(broken @ Item::Broken(_)) => {
                    let gone = Item::Other("it cannot be unpacked".to_owned());
                    match std::mem::replace(broken, gone) {
                        Item::Broken(error) => return Err(error),
                        _ => return Err(missing(&layer.file)),
                    }
                }
                Some(Item::Other(why)) => {
                    return Err(bad_archive(format!("its layer {shown}: {why}")));
                }
                _ => {
                    return Err(bad_archive(format!("its layer {shown} is none")));
                }
            };
            check_layer(layer, found, shown)?;
        }
        Ok(())
    }

    /// The staged layers of an image, without those that another of the archive has taken.
    pub(super) fn take_layers(&mut self, image: &Wanted) -> Vec<Staged> {
        let mut staged: BTreeMap<Digest, Staged> = BTreeMap::new();
        for layer in &image.layers {
            let Ok(file) = self.resolve(&layer.file) else { continue };
            if let Some(Item::Layer(found)) = self.items.get_mut(&file)
                && let Some(one) = found.staged.take()
            {
                staged.entry(found.diff_id).or_insert(one);
            }
        }
        staged.into_values().collect()
    }

    /// A document by its name in the archive.
    pub(super) fn document(&self, name: &[u8]) -> Result<&[u8], ImageError> {
        match self.items.get(&self.resolve(name)?) {
            Some(Item::Document(text)) => Ok(text),
            Some(Item::Other(why)) => Err(bad_archive(format!("its {}: {why}", printable(name)))),
            _ => Err(bad_archive(format!("its {} is no document", printable(name)))),
        }
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.items.contains_key(name)
    }

    /// Follows links to what is no link.
    fn resolve(&self, name: &[u8]) -> Result<Vec<u8>, ImageError> {
        let mut here = target_of(b"", name).ok_or_else(|| missing(name))?;
        for _ in 0..=LINKS {
            match self.items.get(&here) {
                Some(Item::Link(target)) => here = target.clone(),
                Some(_) => return Ok(here),
                None => return Err(missing(name)),
            }
        }
        Err(bad_archive(format!("its links from {} lead to no end", printable(name))))
    }
}

/// The name of a blob in an OCI layout.
pub(super) fn blob(digest: &Digest) -> Vec<u8> {
    [BLOBS, digest.hex().as_bytes()].concat()
}

fn missing(name: &[u8]) -> ImageError {
    bad_archive(format!("it lacks {}, which belongs to an image of it", printable(name)))
}

fn in_archive(source: UnpackError) -> ImageError {
    ImageError::Archive { source }
}

fn check_layer(wanted: &WantedLayer, found: &Layer, shown: String) -> Result<(), ImageError> {
    if let Some(size) = wanted.size.filter(|size| *size != found.bytes) {
        let why =
            format!("its layer {shown} has {} bytes, and {size} by its manifest", found.bytes);
        return Err(bad_archive(why));
    }
    if wanted.diff_id != found.diff_id {
        let (wanted, found) = (wanted.diff_id, found.diff_id);
        return Err(ImageError::Mismatch { what: format!("the layer {shown}"), wanted, found });
    }
    Ok(())
}

/// What a blob's name says that its bytes sum up to.
fn named_digest(name: &[u8]) -> Option<Digest> {
    let hex = std::str::from_utf8(name.strip_prefix(BLOBS)?).ok()?;
    format!("sha256:{hex}").parse().ok()
}

fn check_name(name: &[u8], sum: impl FnOnce() -> Digest) -> Result<(), ImageError> {
    let Some(wanted) = named_digest(name) else { return Ok(()) };
    match sum() {
        found if found == wanted => Ok(()),
        found => Err(ImageError::Mismatch { what: printable(name), wanted, found }),
    }
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

/// What a file may be.
#[derive(Debug, PartialEq, Eq)]
enum Sort {
    Document,
    Layer,
    Other(String),
}

fn sort(head: &[u8], size: u64) -> Sort {
    let packed = match head {
        // gzip, zstd, and a frame of zstd that its readers skip.
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            true
        }
        _ => false,
    };
    // Before documents: a layer whose first file's name begins with a brace is one.
    if packed || begins_archive(head) {
        return Sort::Layer;
    }
    if let Some((_, with)) = FOREIGN.iter().find(|(begin, _)| head.starts_with(begin)) {
        return Sort::Other(format!("it is compressed with {with}; gzip, zstd and none are read"));
    }
    match head.trim_ascii_start().first() {
        Some(b'{' | b'[') => Sort::Document,
        _ if size == 0 => Sort::Other("it is empty".to_owned()),
        _ => Sort::Other("it is neither an archive nor a document".to_owned()),
    }
}

/// The one reading of the archive.
struct Pass<'a, R> {
    entries: Entries<R>,
    images: &'a Images,
    options: &'a LoadOptions,
    watcher: Watcher<'a>,
}

impl<R: Read> Pass<'_, R> {
    fn tell(&self) -> Result<(), ImageError> {
        let (bytes, of) = (self.entries.at(), self.options.bytes);
        let go_on = (self.watcher)(Progress { layer: None, stage: Stage::Working, bytes, of });
        if go_on { Ok(()) } else { Err(ImageError::CalledOff) }
    }

    /// The first bytes of a file, by which it is known.
    fn head(&mut self) -> Result<Vec<u8>, ImageError> {
        let mut head = vec![0; HEAD_BYTES];
        let mut filled = 0;
        while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.entries.read(rest).map_err(in_archive)? {
                0 => break,
                length => filled += length,
            }
        }
        head.truncate(filled);
        Ok(head)
    }

    /// Unpacks a layer, or reads over one that is here.
    fn layer(
        &mut self,
        name: &[u8],
        size: u64,
        head: Vec<u8>,
        room: u64,
    ) -> Result<Item, ImageError> {
        let (images, watcher) = (self.images, self.watcher);
        let bounds =
            Bounds { bytes: self.options.bounds.bytes.min(room), ..self.options.bounds.clone() };
        let named = named_digest(name);
        let plain = begins_archive(&head);
        let known = named.and_then(|digest| {
            let same = (plain && images.has_layer(&digest)).then_some(digest);
            same.or_else(|| images.layer_of(&digest))
        });
        let label = named.map_or_else(|| printable(name), |digest| digest.short());
        let mut content = Content::new(self, head);
        let staged = images.stage(&mut content, &label, known.as_ref(), &bounds, watcher);
        if let Some(source) = content.failed.take() {
            return Err(in_archive(source));
        }
        match staged {
            Ok(staged) if content.begun => {
                if let Some(packed) = staged.packed() {
                    check_name(name, || packed)?;
                }
                let diff_id = staged.diff_id();
                Ok(Item::Layer(Layer { staged: Some(staged), diff_id, bytes: size }))
            }
            // It was here: what is in the archive must be what it is called all the same.
            Ok(staged) => {
                let sum = content.sum()?;
                check_name(name, || sum)?;
                let diff_id = staged.diff_id();
                Ok(Item::Layer(Layer { staged: Some(staged), diff_id, bytes: size }))
            }
            Err(error @ (ImageError::Layer { .. } | ImageError::Mismatch { .. })) => {
                Ok(Item::Broken(error))
            }
            Err(error) => Err(error),
        }
    }
}

/// The content of one file of the archive.
struct Content<'p, 'a, R> {
    pass: &'p mut Pass<'a, R>,
    head: Cursor<Vec<u8>>,
    /// Whether anybody has read any of it.
    begun: bool,
    /// Why the archive cannot be read further.
    failed: Option<UnpackError>,
}

impl<'p, 'a, R: Read> Content<'p, 'a, R> {
    fn new(pass: &'p mut Pass<'a, R>, head: Vec<u8>) -> Self {
        Self { pass, head: Cursor::new(head), begun: false, failed: None }
    }

    /// What a reader's error meant.
    fn failure(&mut self, error: io::Error) -> ImageError {
        let source = self.failed.take().unwrap_or(UnpackError::Read { source: error });
        in_archive(source)
    }

    /// Reads all of it only for its sum.
    fn sum(&mut self) -> Result<Digest, ImageError> {
        let mut sum = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = self.read(&mut piece).map_err(|error| self.failure(error))?;
            if read == 0 {
                return Ok(Digest::new(sum.finalize().into()));
            }
            sum.update(piece.get(..read).unwrap_or_default());
            self.pass.tell()?;
        }
    }
}

impl<R: Read> Read for Content<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.begun = true;
        match self.head.read(into)? {
            0 => {}
            read => return Ok(read),
        }
        self.pass.entries.read(into).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            told
        })
    }
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

    #[test]
    fn files_are_what_their_first_bytes_say() {
        for (head, expected) in [
            (&b"{}"[..], Sort::Document),
            (b" \n\t[", Sort::Document),
            (b"\x1f\x8b\x08", Sort::Layer),
            (b"\x28\xb5\x2f\xfd", Sort::Layer),
            (&[0; 512], Sort::Layer),
        ] {
            assert_eq!(sort(head, head.len() as u64), expected, "{}", head.escape_ascii());
        }
        for (head, word) in
            [(&b"1.0"[..], "neither"), (b"", "empty"), (b"\xfd7zXZ", "xz"), (&[0; 511], "neither")]
        {
            match sort(head, head.len() as u64) {
                Sort::Other(why) => assert!(why.contains(word), "{why}"),
                other => panic!("{other:?} of {}", head.escape_ascii()),
            }
        }
    }
}
