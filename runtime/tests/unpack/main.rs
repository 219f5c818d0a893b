//! Unpacking archives that were made to do harm, beside some that were not.
//!
//! Archives are built in memory, field by field, since no honest archiver would
//! write most of them. Each is unpacked into a root beside files that stand for
//! the host's, which must be the same afterwards, to their inode and times.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bounds;
mod compare;
mod escapes;
mod kinds;
mod marks;
mod random;
mod remove;
mod seeded;
mod speed;
mod stage;
mod store;
mod tarball;
