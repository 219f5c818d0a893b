//! How an archive is written again from the tree that was made of it.
//!
//! ```text
//! MAGIC                                    8 bytes, its last the version
//! frame, frame, …                          each packed with zstd, with a checksum
//! index                                    the same: where frames and archive meet
//! offset, packed, raw, bytes, MAGIC        where the index is; bytes of the archive
//!
//! frame:  L length bytes…                  these bytes, as they are: headers, padding, end
//!         F length path inode size         the content of this file
//! ```
//!
//! Numbers are little endian. A frame begins with a record and is unpacked whole, so whoever
//! wants the archive from its middle reads one frame, and no content before it.
//!
//! A file that the archive itself replaced later lies aside under the number of its inode;
//! that number names it and says nothing else, and may be another's on another disk.
//!
//! Invariant: a damaged recipe or tree gives an error and never wrong bytes unnoticed but
//! where a file was changed without its length; whoever must know that sums up.

mod files;
mod read;
mod write;

pub(crate) use read::Replay;
pub(super) use write::Recorder;

const MAGIC: [u8; 8] = *b"strecip\x01";

const LITERAL: u8 = b'L';
const FILE: u8 = b'F';

/// Raw bytes after which a frame ends: enough to pack well, little to unpack for one header.
const FRAME_BYTES: usize = 256 * 1024;

/// Longest literal of one record.
const LITERAL_BYTES_MAX: usize = 64 * 1024;

/// Longest frame: a last record may go beyond.
const FRAME_BYTES_MAX: usize = FRAME_BYTES + LITERAL_BYTES_MAX + 64;

/// Longest path, as for the applier.
const PATH_BYTES_MAX: usize = super::PATH_BYTES_MAX;

/// Bytes behind the index.
const FOOT_BYTES: usize = 8 + 4 + 4 + 8 + MAGIC.len();

/// Bytes of one frame in the index.
const MARK_BYTES: usize = 8 + 8 + 4 + 4;

/// Longest index: of an archive of 64 GiB that has no file in it.
const INDEX_BYTES_MAX: usize = 16 << 20;

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The byte of the archive it begins at.
    archive: u64,
    /// The byte of the recipe it begins at.
    offset: u64,
    /// Its length there.
    packed: u32,
    /// Its length unpacked.
    raw: u32,
}
