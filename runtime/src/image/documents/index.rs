//! A list of images, of which one fits this machine.

use super::{Descriptor, Platform};
use crate::image::ImageError;

/// Platforms told of in an error: more than any image has.
const TOLD: usize = 40;

/// Images for several platforms, or those of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// In the order given.
    pub entries: Vec<Descriptor>,
}

impl Index {
    /// The entry that fits a machine best. It may be an index again: no more than
    /// [`super::INDEX_DEPTH`] of them are to be gone through.
    ///
    /// # Errors
    ///
    /// If none fits; says which there are.
    pub fn choose(&self, here: &Platform) -> Result<&Descriptor, ImageError> {
        choose(self.entries.iter(), here)
    }
}

/// The same among some entries. One that does not say what it is for is taken where no
/// other fits, the first of equals otherwise.
pub(in crate::image) fn choose<'a>(
    entries: impl Iterator<Item = &'a Descriptor>,
    here: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let mut best: Option<(u32, &Descriptor)> = None;
    let mut has: Vec<String> = Vec::new();
    for entry in entries.filter(|entry| entry.is_image()) {
        let rank = match &entry.platform {
            Some(platform) => {
                let text = platform.to_string();
                if has.len() < TOLD && !has.contains(&text) {
                    has.push(text);
                }
                here.rank(platform)
            }
            None => Some(0),
        };
        if let Some(rank) = rank
            && best.is_none_or(|(other, _)| rank > other)
        {
            best = Some((rank, entry));
        }
    }
    match best {
        Some((_, entry)) => Ok(entry),
        None => {
            // The variant only where it is what makes the difference.
            let plain = format!("{}/{}", here.os(), here.architecture());
            let close = has.iter().any(|other| other.starts_with(&plain));
            Err(ImageError::Platform { wanted: if close { here.to_string() } else { plain }, has })
        }
    }
}
