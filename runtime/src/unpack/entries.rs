//! The entries of an archive, for those who want no tree of it: images are archives of
//! archives and documents.
//!
//! The same reader as for trees, with all its checks and bounds. Names come out plain, and
//! one with `..` in it ends the work.

use std::io::Read;

use super::archive::{Archive, Kind};
use super::error::{UnpackError, printable};
use super::header::{BLOCK, Header};
use super::path::EntryPath;
use super::stream::Stream;
use super::{Bounds, Digest};

/// An archive, plain or packed, read once from front to back.
#[derive(Debug)]
pub(crate) struct Entries<R> {
    archive: Archive<R>,
    depth: usize,
}

/// One entry.
#[derive(Debug)]
pub(crate) struct Found {
    /// Without slashes at its ends and dots; empty for the root.
    pub(crate) name: Vec<u8>,
    pub(crate) what: What,
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum What {
    /// A file of this many bytes, which [`Entries::read`] gives.
    File {
        size: u64,
    },
    /// A symbolic link, with its target as it is written.
    Symlink(Vec<u8>),
    /// One more name of an earlier file.
    HardLink(Vec<u8>),
    Directory,
    /// A device or pipe.
    Other,
}

impl<R: Read> Entries<R> {
    /// Looks at the first bytes for how the rest is packed.
    pub(crate) fn open(from: R, bounds: &Bounds) -> Result<Self, UnpackError> {
        let stream = Stream::open(from, bounds, Digest::Skip)?;
        Ok(Self { archive: Archive::new(stream, bounds), depth: bounds.depth })
    }

    /// The next entry, passing over what is left of the current one.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, UnpackError> {
        let Some(entry) = self.archive.next()? else { return Ok(None) };
        let plain = |name: &[u8]| {
            let parsed = EntryPath::parse(name, self.depth);
            parsed.map(|path| path.bytes().to_vec()).map_err(|flaw| UnpackError::Entry {
                name: printable(&entry.name),
                number: self.archive.headers(),
                flaw,
            })
        };
        let what = match entry.kind {
            Kind::File => What::File { size: entry.size },
            Kind::Symlink => What::Symlink(entry.link.clone()),
            Kind::HardLink => What::HardLink(plain(&entry.link)?),
            Kind::Directory => What::Directory,
            Kind::Fifo | Kind::Device => What::Other,
        };
        Ok(Some(Found { name: plain(&entry.name)?, what }))
    }

    /// Some of the current file's content; nothing once all of it has been read.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        self.archive.read(into)
    }

    /// Bytes of the archive so far, unpacked.
    pub(crate) fn at(&self) -> u64 {
        self.archive.at()
    }

    /// Reads what follows the last entry, and makes sure that it was the last.
    pub(crate) fn finish(mut self) -> Result<(), UnpackError> {
        if !self.archive.has_end() {
            return Err(UnpackError::CutOff { at: self.archive.at() });
        }
        self.archive.finish().map(|_no_sum| ())
    }
}

/// Whether an archive may begin so: with a header, or with its end.
pub(crate) fn begins_archive(begin: &[u8]) -> bool {
    let block: Option<&[u8; BLOCK]> = begin.first_chunk();
    block.is_some_and(|block| *block == [0; BLOCK] || Header::parse(block).is_ok())
}
