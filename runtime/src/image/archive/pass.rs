//! The one reading of an archive.
//!
//! A file is what its first bytes say, whatever its name: manifests, which would tell, may
//! come last. A layer that cannot be unpacked is no error yet, for it may be none: charts and
//! signatures lie beside images in some archives. It is one if an image wants it.

use std::io::{self, Cursor, Read};

use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::budget::Share;
use super::contents::{Item, Layer, named_digest, same};
use super::{LoadOptions, bad_archive};
use crate::image::documents::CONFIG_BYTES;
use crate::image::{Digest, ImageError, Images, Progress, Stage, Watcher};
use crate::unpack::{Bounds, Entries, Found, UnpackError, begins_archive, printable};

/// Most entries: six for each layer of fifty images with as many layers as there may be.
const ENTRIES: u64 = 50_000;

/// Longest name, and deepest: ten times those of any tool.
const NAME_BYTES: usize = 1024;
const DEPTH: usize = 16;

/// Bytes of an archive, unpacked, and of all layers in it: more than disks are lent for it.
const ARCHIVE_BYTES: u64 = 1 << 40;

/// Bytes of documents that are kept of one archive. The few that count come to kilobytes, and
/// those of a thousand images to a few megabytes.
const DOCUMENTS_BYTES: usize = 16 << 20;

/// What is longer than this is kept only if it looks like a document of an image.
const BESIDE_BYTES: usize = 64 << 10;

/// Most layers that are unpacked before anybody knows whose they are: two images with as many
/// as there may be. Each keeps two files open, and a process often has no more than 1024.
const LAYERS: usize = 256;

/// What tells how a file is packed or what it is: one header of an archive.
const HEAD_BYTES: usize = 512;

/// Passed over in pieces of this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// First bytes of what is known but not read.
const FOREIGN: [(&[u8], &str); 3] =
    [(b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4")];

pub(super) struct Pass<'a, R> {
    entries: Entries<R>,
    images: &'a Images,
    options: &'a LoadOptions,
    watcher: Watcher<'a>,
    layers: usize,
    layers_bytes: u64,
    documents: Share,
}

impl<'a, R: Read> Pass<'a, R> {
    pub(super) fn open(
        images: &'a Images,
        from: R,
        options: &'a LoadOptions,
        watcher: Watcher<'a>,
    ) -> Result<Self, ImageError> {
        let bounds = Bounds {
            entries: ENTRIES,
            depth: DEPTH,
            path_bytes: NAME_BYTES,
            bytes: ARCHIVE_BYTES,
            file_bytes: options.bounds.bytes,
            ..options.bounds.clone()
        };
        let entries = Entries::open(from, &bounds).map_err(in_archive)?;
        let (layers, layers_bytes) = Default::default();
        let documents = Share::of(images.documents());
        Ok(Self { entries, images, options, watcher, layers, layers_bytes, documents })
    }

    /// The next entry, passing over what is left of the current one.
    pub(super) fn next(&mut self) -> Result<Option<Found>, ImageError> {
        self.tell()?;
        self.entries.next().map_err(in_archive)
    }

    /// Makes sure that nothing is missing at the end. Gives what the documents have of the
    /// memory, to be held as long as they are.
    pub(super) fn finish(self) -> Result<Share, ImageError> {
        self.entries.finish().map_err(in_archive)?;
        Ok(self.documents)
    }

    /// Takes in the current entry, a file.
    pub(super) fn file(&mut self, name: &[u8], size: u64) -> Result<Item, ImageError> {
        let head = self.head()?;
        match sort(&head) {
            Sort::Document => self.document(name, size, head),
            Sort::Layer => self.layer(name, size, head),
            Sort::Other(why) => Ok(Item::Other(why)),
        }
    }

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

    fn document(&mut self, name: &[u8], size: u64, head: Vec<u8>) -> Result<Item, ImageError> {
        let bytes = usize::try_from(size).unwrap_or(usize::MAX);
        if bytes > CONFIG_BYTES {
            return Ok(Item::Other("it is longer than a document may be".to_owned()));
        }
        if self.documents.bytes() + bytes > DOCUMENTS_BYTES {
            return Ok(Item::Other(format!(
                "the documents before it have {DOCUMENTS_BYTES} bytes"
            )));
        }
        self.documents.take(bytes)?;
        let mut text = Vec::new();
        let mut content = Content::new(self, head);
        content.read_to_end(&mut text).map_err(|error| content.failure(error))?;
        if let Some(wanted) = named_digest(name) {
            same(printable(name), wanted, Digest::of(&text))?;
            if bytes > BESIDE_BYTES && !is_of_image(&text) {
                self.documents.give(bytes);
                return Ok(Item::Other("it is no document of an image".to_owned()));
            }
        }
        Ok(Item::Document(text.into()))
    }

    /// Unpacks a layer, or reads over one that is here.
    fn layer(&mut self, name: &[u8], size: u64, head: Vec<u8>) -> Result<Item, ImageError> {
        let (images, watcher) = (self.images, self.watcher);
        let room = ARCHIVE_BYTES.saturating_sub(self.layers_bytes);
        let bytes = self.options.bounds.bytes.min(room);
        let bounds = Bounds { bytes, ..self.options.bounds.clone() };
        let named = named_digest(name);
        let plain = begins_archive(&head);
        let known = named.and_then(|digest| {
            let same = (plain && images.has_layer(&digest)).then_some(digest);
            same.or_else(|| images.layer_of(&digest))
        });
        if plain && known.is_none() {
            // Its files take about as much as their archive.
            images.check_room(size)?;
        }
        let label = named.map_or_else(|| printable(name), |digest| digest.short());
        let mut content = Content::new(self, head);
        let staged = images.stage(&mut content, &label, known.as_ref(), &bounds, watcher);
        if let Some(source) = content.failed.take() {
            return Err(in_archive(source));
        }
        let staged = match staged {
            Ok(staged) => staged,
            // One that takes too long says nothing of itself.
            Err(ImageError::Layer { source, layer }) if !matches!(source, UnpackError::TooSlow) => {
                return Ok(Item::Broken(Some(ImageError::Layer { source, layer })));
            }
            Err(error @ ImageError::Mismatch { .. }) => return Ok(Item::Broken(Some(error))),
            Err(error) => return Err(error),
        };
        // One that was here is not read: what is in the archive must be what it is called all
        // the same.
        let was_read = staged.packed_bytes() > 0;
        let packed = if was_read { staged.packed() } else { content.sum()? };
        if let Some(wanted) = named {
            same(printable(name), wanted, packed)?;
        }
        self.layers_bytes = self.layers_bytes.saturating_add(staged.bytes());
        self.layers += usize::from(was_read);
        if self.layers > LAYERS {
            let why =
                format!("it brings more than {LAYERS} new layers; save fewer images into one");
            return Err(bad_archive(why));
        }
        let diff_id = staged.diff_id();
        Ok(Item::Layer(Layer { staged: Some(staged), diff_id, packed, bytes: size }))
    }
}

/// The content of one file of the archive.
struct Content<'p, 'a, R> {
    pass: &'p mut Pass<'a, R>,
    head: Cursor<Vec<u8>>,
    /// Why the archive cannot be read further.
    failed: Option<UnpackError>,
}

impl<'p, 'a, R: Read> Content<'p, 'a, R> {
    fn new(pass: &'p mut Pass<'a, R>, head: Vec<u8>) -> Self {
        Self { pass, head: Cursor::new(head), failed: None }
    }

    /// What a reader's error meant.
    fn failure(&mut self, error: io::Error) -> ImageError {
        in_archive(self.failed.take().unwrap_or(UnpackError::Read { source: error }))
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

fn in_archive(source: UnpackError) -> ImageError {
    ImageError::Archive { source }
}

/// Whether a document may be one that an image is made of. Beside those lie others in some
/// archives, as long as books: what an image was built from, and who signed it.
fn is_of_image(text: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Marks {
        #[serde(rename = "schemaVersion")]
        schema_version: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
        rootfs: Option<IgnoredAny>,
        manifests: Option<IgnoredAny>,
    }
    match serde_json::from_slice::<Marks>(text) {
        Ok(Marks { schema_version: None, config: None, rootfs: None, manifests: None }) => false,
        // One that cannot be read is said so if it is wanted.
        Ok(_) | Err(_) => true,
    }
}

/// What a file may be.
#[derive(Debug, PartialEq, Eq)]
enum Sort {
    Document,
    Layer,
    Other(String),
}

fn sort(head: &[u8]) -> Sort {
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
        None if head.is_empty() => Sort::Other("it is empty".to_owned()),
        _ => Sort::Other("it is neither an archive nor a document".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_an_image_is_not_kept_as_its_document() {
        for of_it in ["{\"schemaVersion\":2}", "{\"config\":{}}", "{\"rootfs\":{}}", "{ nothing"] {
            assert!(is_of_image(of_it.as_bytes()), "{of_it}");
        }
        for beside in [
            r#"{"_type":"https://in-toto.io/Statement/v0.1","predicate":{"config":1}}"#,
            r#"{"critical":{"image":{}},"optional":null}"#,
            "{}",
        ] {
            assert!(!is_of_image(beside.as_bytes()), "{beside}");
        }
    }

    #[test]
    fn files_are_what_their_first_bytes_say() {
        for (head, expected) in [
            (&b"{}"[..], Sort::Document),
            (b" \n\t[", Sort::Document),
            (b"\x1f\x8b\x08", Sort::Layer),
            (b"\x28\xb5\x2f\xfd", Sort::Layer),
            (b"\x5a\x2a\x4d\x18", Sort::Layer),
            (&[0; 512], Sort::Layer),
        ] {
            assert_eq!(sort(head), expected, "{}", head.escape_ascii());
        }
        for (head, word) in
            [(&b"1.0"[..], "neither"), (b"", "empty"), (b"\xfd7zXZ", "xz"), (&[0; 511], "neither")]
        {
            match sort(head) {
                Sort::Other(why) => assert!(why.contains(word), "{why}"),
                other => panic!("{other:?} of {}", head.escape_ascii()),
            }
        }
    }
}
