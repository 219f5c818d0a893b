//! Why an archive was refused, in words for whoever made or named it.
//!
//! Names and link targets come from strangers: they are shown escaped and cut,
//! so a message cannot move a terminal's cursor nor fill a log.

use std::io;

use rustix::io::Errno;

use super::room::NoRoom;

/// Bytes of a name shown in an error: enough to find the entry, short enough
/// for one line.
const NAME_SHOWN: usize = 120;

/// Why a tree could not be made. The caller removes what is there of it.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// One entry cannot or must not be made.
    #[error("entry {number} of the archive, {name}: {flaw}")]
    Entry {
        /// Its name, escaped and cut.
        name: String,
        /// The count of headers up to it, from 1.
        number: u64,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A header that names nothing yet.
    #[error("header {number} of the archive, at byte {at}: {flaw}")]
    Header {
        /// The count of headers up to it, from 1.
        number: u64,
        /// Where its block begins, in bytes of the uncompressed archive.
        at: u64,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The stream ends where more must follow.
    #[error("the archive is cut off after {at} bytes")]
    CutOff {
        /// Uncompressed bytes read.
        at: u64,
    },
    /// Packed in a way not read here.
    #[error("the archive is compressed with {with}; only gzip, zstd and none are read")]
    Compression {
        /// Name of the program that packed it.
        with: &'static str,
    },
    /// Larger than the caller allows.
    #[error("the archive has more than {limit} {of}")]
    TooMuch {
        /// What is counted.
        of: &'static str,
        /// The bound of the caller.
        limit: u64,
    },
    /// Compressed more than any honest archive.
    #[error("the archive unpacks to more than {limit} times its compressed size")]
    Bomb {
        /// The bound of the caller.
        limit: u64,
    },
    /// The caller's deadline has passed.
    #[error("unpacking took longer than allowed")]
    TooSlow,
    /// What is needed to write the archive again cannot be kept.
    #[error("cannot write down how the archive is made")]
    Recipe {
        /// What the kernel said.
        source: io::Error,
    },
    /// Entries that replace others, so that the archive cannot be written again.
    #[error("the archive replaces directories that it has filled, which no sound layer does")]
    Replaced,
    /// The source failed, or is not valid gzip or zstd.
    #[error("cannot read the archive")]
    Read {
        /// What the source said.
        source: io::Error,
    },
    /// The disk is to keep what room it has left.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The directory to fill cannot be used.
    #[error("cannot use the directory to unpack into: {action}")]
    Into {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is wrong with one entry.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The header's sum does not match: not an archive, or damaged.
    #[error("is not a tar header (its checksum does not match)")]
    Checksum,
    /// A number that is none, negative, or larger than can be meant.
    #[error("has no valid {field}")]
    Number {
        /// Which one.
        field: &'static str,
    },
    /// Extended header whose records do not parse.
    #[error("has a malformed extended header")]
    Extended,
    /// Extended header beyond the bound.
    #[error("has an extended header of {size} bytes; {limit} are allowed")]
    ExtendedSize {
        /// Bytes announced.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The same extension twice for one entry: readers differ in which counts.
    #[error("has the same kind of extended header twice")]
    ExtendedTwice,
    /// Extended and plain header name two sizes: readers differ in which counts.
    #[error("is {header} bytes long by its header and {extended} by its extended header")]
    TwoSizes {
        /// By the plain header.
        header: u64,
        /// By the extended header.
        extended: u64,
    },
    /// A link, directory or the like that claims content.
    #[error("has content, which its kind cannot have")]
    Content,
    /// A kind that is not unpacked.
    #[error("is of the unknown kind {kind:?}")]
    Kind {
        /// The type flag.
        kind: char,
    },
    /// A sparse file.
    #[error("is a sparse file, which is not unpacked; pack it without --sparse")]
    Sparse,
    /// No name, or only dots, for something that is not a directory.
    #[error("has no name")]
    NoName,
    /// A `..` in the name.
    #[error("has '..' in its name")]
    DotDot,
    /// A zero byte inside a name, link target or attribute name.
    #[error("has a zero byte in a name")]
    Zero,
    /// Name or link target beyond the bound.
    #[error("has a name or target of {bytes} bytes; {limit} are allowed")]
    NameLength {
        /// Its length.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// More components than the bound.
    #[error("lies more than {limit} directories deep")]
    Depth {
        /// The bound.
        limit: usize,
    },
    /// Content beyond the bound for one file.
    #[error("is {size} bytes long; {limit} are allowed for one file")]
    FileSize {
        /// Bytes announced.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// A mark of an image layer in a root.
    #[error(
        "is the mark of an image layer (.wh.); this is a layer and no root: load the image instead"
    )]
    MarkInRoot,
    /// A mark that hides nothing that can be named.
    #[error("is a layer's mark (.wh.) for no proper name")]
    BadMark,
    /// Something in its path is neither a directory nor leads to one.
    #[error("lies in {parent}, which is no directory")]
    Parent {
        /// The directory part of its name, escaped and cut.
        parent: String,
    },
    /// Hard link to nothing, or to what cannot have two names.
    #[error("is a hard link to {target}, which is no file of this archive")]
    HardLink {
        /// The target, escaped and cut.
        target: String,
    },
    /// The kernel refused a step.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl UnpackError {
    /// What this machine said, if it was the machine that failed: its disk, its memory or its
    /// files, and not the archive. Gives itself back if not.
    pub(crate) fn of_machine(self) -> Result<io::Error, Self> {
        match self {
            Self::NoRoom(no) => Ok(no.into()),
            Self::Into { source, .. } => Ok(source),
            // Without a number it is that the archive would take too long a recipe.
            Self::Recipe { source } if source.raw_os_error().is_some() => Ok(source),
            Self::Entry { flaw: Flaw::System { source, .. }, .. } if is_machines(source) => {
                Ok(source.into())
            }
            other => Err(other),
        }
    }
}

/// Whether no archive could be unpacked where the kernel says this.
fn is_machines(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::ROFS
            | Errno::NFILE
            | Errno::MFILE
            | Errno::NOMEM
            // What a file system says of itself when it finds that it is damaged.
            | Errno::UCLEAN
            | Errno::BADMSG
    )
}

impl Flaw {
    /// For `map_err`: names the step that failed.
    pub(super) fn in_step(action: &'static str) -> impl Fn(Errno) -> Flaw {
        move |source| Flaw::System { action, source }
    }
}

/// What stops the work on an entry: its own flaw, or the end of everything.
#[derive(Debug)]
pub(super) enum Stop {
    Flaw(Flaw),
    Whole(UnpackError),
}

impl From<Flaw> for Stop {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

impl From<UnpackError> for Stop {
    fn from(error: UnpackError) -> Self {
        Self::Whole(error)
    }
}

/// A stranger's name, safe to print.
pub(crate) fn printable(name: &[u8]) -> String {
    let shown = name.get(..NAME_SHOWN).unwrap_or(name);
    let mut text = shown.escape_ascii().to_string();
    if shown.len() < name.len() {
        text.push_str("...");
    }
    text
}
