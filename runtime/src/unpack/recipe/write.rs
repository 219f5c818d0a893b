//! Writing a recipe down, while the archive is unpacked.
//!
//! One frame is in memory at a time, and of the others where they begin.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::{
    FILE, FRAME_BYTES, INDEX_BYTES_MAX, LITERAL, LITERAL_BYTES_MAX, MAGIC, MARK_BYTES, Mark,
};

/// Headers are so alike that more than the least effort gains little.
const LEVEL: i32 = 1;

/// Writes a recipe to a file.
pub(in crate::unpack) struct Recorder {
    file: File,
    packer: Compressor<'static>,
    frame: Vec<u8>,
    /// Where in the frame the literal begins that can grow still, past its length.
    literal: Option<usize>,
    marks: Vec<Mark>,
    /// Bytes of the archive up to here.
    archive: u64,
    /// Bytes of the archive up to this frame.
    frame_archive: u64,
    offset: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "Recorder({} bytes)", self.archive)
    }
}

impl Recorder {
    /// Begins an empty file.
    pub(in crate::unpack) fn new(mut file: File) -> io::Result<Self> {
        let mut packer = Compressor::new(LEVEL)?;
        packer.set_parameter(CParameter::ChecksumFlag(true))?;
        file.write_all(&MAGIC)?;
        Ok(Self {
            file,
            packer,
            frame: Vec::new(),
            literal: None,
            marks: Vec::new(),
            archive: 0,
            frame_archive: 0,
            offset: MAGIC.len() as u64,
        })
    }

    /// Bytes that no file has.
    pub(in crate::unpack) fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(LITERAL_BYTES_MAX) {
            let grown = self
                .literal
                .filter(|begin| self.frame.len() - begin + part.len() <= LITERAL_BYTES_MAX);
            let begin = match grown {
                Some(begin) => begin,
                None => {
                    self.next_record()?;
                    self.frame.push(LITERAL);
                    self.frame.extend_from_slice(&[0; 4]);
                    self.frame.len()
                }
            };
            self.frame.extend_from_slice(part);
            self.archive += part.len() as u64;
            let length = u32::try_from(self.frame.len() - begin).map_err(io::Error::other)?;
            if let Some(field) = self.frame.get_mut(begin - 4..begin) {
                field.copy_from_slice(&length.to_le_bytes());
            }
            self.literal = Some(begin);
        }
        Ok(())
    }

    /// All of a file's content, which is not empty.
    pub(in crate::unpack) fn content(
        &mut self,
        path: &[u8],
        inode: u64,
        bytes: u64,
    ) -> io::Result<()> {
        self.literal = None;
        self.next_record()?;
        let length = u16::try_from(path.len()).map_err(io::Error::other)?;
        self.frame.push(FILE);
        self.frame.extend_from_slice(&length.to_le_bytes());
        self.frame.extend_from_slice(path);
        self.frame.extend_from_slice(&inode.to_le_bytes());
        self.frame.extend_from_slice(&bytes.to_le_bytes());
        self.archive += bytes;
        Ok(())
    }

    /// Ends the file; returns how many bytes the archive has. Nothing is flushed to the disk.
    pub(in crate::unpack) fn finish(mut self) -> io::Result<u64> {
        self.end_frame()?;
        let mut index = Vec::with_capacity(self.marks.len() * MARK_BYTES);
        for mark in &self.marks {
            index.extend_from_slice(&mark.archive.to_le_bytes());
            index.extend_from_slice(&mark.offset.to_le_bytes());
            index.extend_from_slice(&mark.packed.to_le_bytes());
            index.extend_from_slice(&mark.raw.to_le_bytes());
        }
        let too_long = || io::Error::other("its recipe is too long");
        let raw = u32::try_from(index.len()).ok().filter(|raw| *raw as usize <= INDEX_BYTES_MAX);
        let raw = raw.ok_or_else(too_long)?;
        let packed = self.packer.compress(&index)?;
        let mut foot = self.offset.to_le_bytes().to_vec();
        foot.extend_from_slice(
            &u32::try_from(packed.len()).map_err(io::Error::other)?.to_le_bytes(),
        );
        foot.extend_from_slice(&raw.to_le_bytes());
        foot.extend_from_slice(&self.archive.to_le_bytes());
        foot.extend_from_slice(&MAGIC);
        self.file.write_all(&packed)?;
        self.file.write_all(&foot)?;
        Ok(self.archive)
    }

    /// Makes room for a record.
    fn next_record(&mut self) -> io::Result<()> {
        if self.frame.len() >= FRAME_BYTES { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.literal = None;
        if self.frame.is_empty() {
            return Ok(());
        }
        let packed = self.packer.compress(&self.frame)?;
        self.file.write_all(&packed)?;
        self.marks.push(Mark {
            archive: self.frame_archive,
            offset: self.offset,
            packed: u32::try_from(packed.len()).map_err(io::Error::other)?,
            raw: u32::try_from(self.frame.len()).map_err(io::Error::other)?,
        });
        self.offset += packed.len() as u64;
        self.frame_archive = self.archive;
        self.frame.clear();
        Ok(())
    }
}
