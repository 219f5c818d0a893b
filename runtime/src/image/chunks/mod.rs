//! A layer in pieces, so that machines can give each other what the other lacks.
//!
//! ```text
//! layer ──read again──▶ cut ──▶ list: (length, digest) of every chunk, in order
//!                                 │
//! own layers, other machines ──chunk──▶ verified ──▶ spool ──in order──▶ stage
//!                                                      └──▶ machines that lack it too
//! ```
//!
//! What is cut is the uncompressed archive, for two compressed ones have no bytes in common;
//! it is cut where its content says, so a file that grew moves no cut but its own. A layer that
//! was built anew then shares most chunks with its elder.
//!
//! Invariant: a chunk is nothing until its bytes have its digest, and a layer is nothing until
//! `Images::stage` has found its digest: whoever lies in a list or a chunk can waste time and
//! never more.

mod cut;
mod kept;
mod list;
mod ranges;
mod spool;
mod spools;

pub use cut::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Chunk, Cutter};
pub use kept::{KeptList, KeptLists, Making};
pub use list::{BadList, CHUNKS_MAX, ENTRY_BYTES, HEAD, ListReader, entry};
pub use ranges::{BadRanges, Ranges};
pub use spool::{Put, Spool, SpoolReader, SpoolView};
pub use spools::{SpoolError, Spools};
