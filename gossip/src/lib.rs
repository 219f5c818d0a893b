//! Moves what a Starling cluster knows: admission, swarm, journal, documents, feed.
//!
//!     agent ──entries──▶ scribe ──fsync──▶ loop ──frames──▶ peers
//!     agent ◀──events─── loop ◀──reports── scribe ◀──records── peers
//!
//! `gate` and `gatekeeper` decide who becomes a connection at all, by what
//! `members` and `invitations` know of grants and removals; `link` and
//! `sync` carry logs and market messages; `scribe`, `journal`, `knowledge` and
//! `quarantine` turn records into state that survives; `feed` is the one loop
//! between them. This crate knows what peers say and what of it holds; it
//! knows nothing of placing work or of running it.
//!
//! *Invariants:* nothing but admission is spoken with a peer whose grant was
//! not verified. Nothing is sent, told or acknowledged before it is on the
//! disk. No byte of a peer reaches a live document but through the quarantine.

mod address;
mod api;
mod book;
mod document;
mod documents;
mod doors;
mod feed;
mod former;
mod gate;
mod gatekeeper;
mod handle;
mod identity;
mod invitations;
mod join;
mod journal;
mod journal_error;
mod knowledge;
mod link;
mod listen;
mod members;
mod names;
mod nuisance;
mod overlay;
mod quarantine;
pub mod raw;
mod receipts;
mod scribe;
mod start;
mod stored;
mod stream;
mod swarm;
mod sync;
mod threshold;

pub use api::{
    Busy, Entry, Event, Failure, InviteError, Invited, OpenStreamError, Peer, Say, Transport,
};
pub use former::{SetAsideError, set_aside};
pub use handle::Gossip;
pub use identity::{IdentityError, load_identity};
pub use join::JoinError;
pub use journal_error::JournalError;
pub use start::{Config, Purpose, StartError, Started, start};
pub use stream::PeerStream;
