//! The entries of an archive, in order: headers put together and checked.
//!
//! What comes out of here has passed every bound that needs no disk: names
//! without zero bytes and not too long, sizes that are sizes, owners that exist.
//! Where two readers could disagree on where the next header begins, we refuse:
//! whoever looked through an archive before us must have seen the same entries.

use std::io::Read;

use super::Bounds;
use super::error::{Flaw, Stop, UnpackError, printable};
use super::extended::Extended;
use super::header::{BLOCK, Header};
use super::recipe::Recorder;
use super::stream::Stream;

/// Longest extended header: sixteen times the largest attribute of Linux, and
/// what other readers allow.
const EXTENDED_BYTES: u64 = 1 << 20;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    Device,
}

/// One thing to make.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it was in the archive; holds no zero byte.
    pub(super) name: Vec<u8>,
    /// Target of a link of either sort; holds no zero byte.
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of content that follow.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Attributes to set.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Attributes that were refused.
    pub(super) dropped: u64,
}

/// Which extensions of the next entry have been seen.
#[derive(Debug, Default)]
struct Ahead {
    extended: Option<Extended>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Archive<R> {
    stream: Stream<R>,
    /// Content of the current entry not yet read.
    left: u64,
    /// Bytes from the end of that content to the next header.
    padding: u64,
    /// Headers read.
    headers: u64,
    headers_max: u64,
    file_max: u64,
    path_max: usize,
    has_end: bool,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(stream: Stream<R>, bounds: &Bounds) -> Self {
        Self {
            stream,
            left: 0,
            padding: 0,
            headers: 0,
            headers_max: bounds.entries,
            file_max: bounds.file_bytes,
            path_max: bounds.path_bytes,
            has_end: false,
        }
    }

    /// Headers read so far.
    pub(super) fn headers(&self) -> u64 {
        self.headers
    }

    /// Whether the mark at the end of an archive was there.
    pub(super) fn has_end(&self) -> bool {
        self.has_end
    }

    pub(super) fn at(&self) -> u64 {
        self.stream.at()
    }

    /// Reads what follows the last entry. Returns the sum if one was asked for.
    pub(super) fn finish(&mut self) -> Result<Option<[u8; 32]>, UnpackError> {
        self.stream.finish()
    }

    /// Gives back who wrote down.
    pub(super) fn take_recorder(&mut self) -> Option<Recorder> {
        self.stream.take_recorder()
    }

    /// The next entry, skipping what is left of the current one.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut ahead = Ahead::default();
        loop {
            self.skip_content()?;
            self.stream.check_time()?;
            let at = self.stream.at();
            let mut block = [0; BLOCK];
            let is_end = !self.stream.read_block(&mut block)?;
            self.has_end = block == [0; BLOCK] && !is_end;
            if is_end || self.has_end {
                // An extension without its entry was cut off.
                let alone = ahead.extended.is_none() && ahead.long_name.is_none();
                return if alone { Ok(None) } else { Err(UnpackError::CutOff { at }) };
            }
            self.headers += 1;
            if self.headers > self.headers_max {
                return Err(UnpackError::TooMuch { of: "entries", limit: self.headers_max });
            }
            match self.take_header(&block, &mut ahead) {
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {}
                Err(Stop::Whole(error)) => return Err(error),
                Err(Stop::Flaw(flaw)) => return Err(self.name_flaw(at, &block, &ahead, flaw)),
            }
        }
    }

    fn name_flaw(&self, at: u64, block: &[u8; BLOCK], ahead: &Ahead, flaw: Flaw) -> UnpackError {
        let number = self.headers;
        let Ok(header) = Header::parse(block) else {
            return UnpackError::Header { number, at, flaw };
        };
        let long = ahead.extended.as_ref().and_then(|extended| extended.path.clone());
        let name = long.or_else(|| ahead.long_name.clone()).unwrap_or_else(|| header.name());
        UnpackError::Entry { name: printable(&name), number, flaw }
    }

    /// One header: an entry, or an extension to keep for the next.
    fn take_header(
        &mut self,
        block: &[u8; BLOCK],
        ahead: &mut Ahead,
    ) -> Result<Option<Entry>, Stop> {
        let header = Header::parse(block)?;
        let size = header.size()?;
        match header.kind() {
            b'x' if ahead.extended.is_some() => return Err(Flaw::ExtendedTwice.into()),
            b'L' if ahead.long_name.is_some() => return Err(Flaw::ExtendedTwice.into()),
            b'K' if ahead.long_link.is_some() => return Err(Flaw::ExtendedTwice.into()),
            b'x' => {
                let text = self.read_extension(size)?;
                ahead.extended.insert(Extended::default()).read(&text)?;
            }
            b'L' => ahead.long_name = Some(long_text(self.read_extension(size)?)?),
            b'K' => ahead.long_link = Some(long_text(self.read_extension(size)?)?),
            // For all that follow, or a label: comments, in practice. Other image
            // readers pass over them too.
            b'g' | b'V' => self.set_content(size),
            kind => return self.take_entry(&header, kind, size, ahead).map(Some),
        }
        Ok(None)
    }

    fn take_entry(
        &mut self,
        header: &Header,
        kind: u8,
        size: u64,
        ahead: &mut Ahead,
    ) -> Result<Entry, Stop> {
        let extended = ahead.extended.get_or_insert_default();
        if extended.sparse || kind == b'S' {
            return Err(Flaw::Sparse.into());
        }
        let size = match extended.size {
            Some(other) if size != 0 && size != other => {
                return Err(Flaw::TwoSizes { header: size, extended: other }.into());
            }
            other => other.unwrap_or(size),
        };
        // Copied, not taken: an error further down names the entry by them.
        let name = extended.path.as_ref().or(ahead.long_name.as_ref());
        let name = name.cloned().unwrap_or_else(|| header.name());
        let link = extended.link.as_ref().or(ahead.long_link.as_ref());
        let link = link.map_or_else(|| header.link().to_vec(), Vec::clone);
        let kind = match kind {
            // Before there was a type for directories, a slash told.
            b'0' | 0 | b'7' if name.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(Flaw::Kind { kind: char::from(other) }.into()),
        };
        if kind != Kind::File && size > 0 {
            return Err(Flaw::Content.into());
        }
        if size > self.file_max {
            return Err(Flaw::FileSize { size, limit: self.file_max }.into());
        }
        for text in [&name, &link] {
            if text.contains(&0) {
                return Err(Flaw::Zero.into());
            }
            if text.len() > self.path_max {
                let bytes = text.len();
                return Err(Flaw::NameLength { bytes, limit: self.path_max }.into());
            }
        }
        self.set_content(size);
        Ok(Entry {
            name,
            link,
            kind,
            size,
            mode: header.mode()?,
            uid: owner(extended.uid.or_else(|| header.uid()), "owner")?,
            gid: owner(extended.gid.or_else(|| header.gid()), "group")?,
            mtime: match extended.mtime {
                Some(time) => time,
                None => (header.mtime()?, 0),
            },
            attributes: std::mem::take(&mut extended.attributes),
            dropped: extended.dropped,
        })
    }

    fn set_content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Some of the current entry's content; nothing once it has been read.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        self.read_by(Stream::read, into)
    }

    /// The same for content that goes into a file of the tree, all of it.
    pub(super) fn read_content(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        self.read_by(Stream::read_content, into)
    }

    /// Who writes down how the archive is made, if anybody does.
    pub(super) fn recorder(&mut self) -> Option<&mut Recorder> {
        self.stream.recorder()
    }

    fn read_by(
        &mut self,
        read: impl FnOnce(&mut Stream<R>, &mut [u8]) -> Result<usize, UnpackError>,
        into: &mut [u8],
    ) -> Result<usize, UnpackError> {
        self.stream.check_time()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let read = read(&mut self.stream, into)?;
        if read == 0 {
            return Err(UnpackError::CutOff { at: self.stream.at() });
        }
        self.left -= read as u64;
        Ok(read)
    }

    fn skip_content(&mut self) -> Result<(), UnpackError> {
        let mut waste = [0; 16 * BLOCK];
        while self.read(&mut waste)? > 0 {}
        self.left = std::mem::take(&mut self.padding);
        while self.left > 0 && self.read(&mut waste)? > 0 {}
        Ok(())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, Stop> {
        if size > EXTENDED_BYTES {
            return Err(Flaw::ExtendedSize { size, limit: EXTENDED_BYTES }.into());
        }
        self.set_content(size);
        // Grown by what comes, not by what was announced.
        let mut text = Vec::new();
        let mut part = [0; 8 * BLOCK];
        loop {
            let read = self.read(&mut part)?;
            if read == 0 {
                return Ok(text);
            }
            text.extend_from_slice(part.get(..read).unwrap_or_default());
        }
    }
}

/// A GNU long name: zero bytes at the end are its own, one inside is a lie.
fn long_text(mut text: Vec<u8>) -> Result<Vec<u8>, Flaw> {
    while text.last() == Some(&0) {
        text.pop();
    }
    if text.contains(&0) { Err(Flaw::Zero) } else { Ok(text) }
}

/// User and group ids are 32 bits, and the highest means "leave as it is".
fn owner(id: Option<i64>, field: &'static str) -> Result<u32, Flaw> {
    let id = id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
    id.ok_or(Flaw::Number { field })
}
