//! A root without an image becomes one: a single layer, and a config made up for it.
//!
//! Nothing in that config depends on when or where it was made, so the same root imported
//! twice, or on two machines, is one image.

use std::io::{self, Read};

use super::{LoadOptions, Loaded};
use crate::image::documents::Platform;
use crate::image::{Digest, ImageError, Images, Reference, Watcher};
use crate::unpack::UnpackError;

mod changes;

pub use changes::Changes;

/// The unit of an archive, and of its end.
const BLOCK: usize = 512;

#[derive(serde::Serialize)]
struct Config<'a> {
    architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    config: &'a Changes,
    os: &'a str,
    rootfs: Rootfs,
}

#[derive(serde::Serialize)]
struct Rootfs {
    diff_ids: [Digest; 1],
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Makes an image of the archive of a root (plain, gzip or zstd), which is read to its end.
/// Blocks. `options` holds its names as well.
///
/// # Errors
///
/// If the archive is no sound root.
pub fn import(
    images: &Images,
    from: &mut dyn Read,
    name: Option<&Reference>,
    changes: &Changes,
    options: &LoadOptions,
    watcher: Watcher,
) -> Result<Loaded, ImageError> {
    let mut ending = Ending { from, bytes: 0, begin: Vec::new(), end: Vec::new() };
    let staged = images.stage(&mut ending, "the root", None, &options.bounds, watcher)?;
    if ending.is_cut_off() {
        return Err(ImageError::Archive { source: UnpackError::CutOff { at: ending.bytes } });
    }
    let here = Platform::here();
    // Nobody knows which level of a processor its programs want.
    let variant = if here.architecture() == "amd64" { "" } else { here.variant() };
    let config = Config {
        architecture: here.architecture(),
        variant,
        config: changes,
        os: here.os(),
        rootfs: Rootfs { diff_ids: [staged.diff_id()], kind: "layers" },
    };
    let config = serde_json::to_vec(&config).map_err(|error| ImageError::Document {
        what: "the image's config".to_owned(),
        why: error.to_string(),
    })?;
    let known = images.get(&Digest::of(&config)).is_some();
    let mut names: Vec<Reference> = name.cloned().into_iter().collect();
    names.extend(options.names.iter().filter(|other| Some(*other) != name).cloned());
    let info = images.commit(&config, None, vec![staged], &names, options.origin)?;
    Ok(Loaded { info, names, known })
}

/// Remembers how an archive begins and ends. A layer has a digest by which to tell whether it
/// was cut off between two entries; a root has only its end.
struct Ending<'a> {
    from: &'a mut dyn Read,
    bytes: u64,
    begin: Vec<u8>,
    end: Vec<u8>,
}

impl Ending<'_> {
    /// Packed archives tell by themselves.
    fn is_cut_off(&self) -> bool {
        let plain = crate::unpack::begins_archive(&self.begin) || self.begin.is_empty();
        plain && (self.end.len() < BLOCK || self.end.iter().any(|byte| *byte != 0))
    }
}

impl Read for Ending<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        let read = into.get(..length).unwrap_or_default();
        self.bytes += length as u64;
        let lacks = BLOCK.saturating_sub(self.begin.len()).min(length);
        self.begin.extend_from_slice(read.get(..lacks).unwrap_or_default());
        let last = read.get(length.saturating_sub(BLOCK)..).unwrap_or_default();
        let over = (self.end.len() + last.len()).saturating_sub(BLOCK);
        self.end.drain(..over.min(self.end.len()));
        self.end.extend_from_slice(last);
        Ok(length)
    }
}
