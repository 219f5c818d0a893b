//! Pulling from and pushing to registries that behave, and to ones that do not.
//!
//! The registry is a few threads of the test on loopback, which answer as each test says, to
//! the byte: no other could be made to lie. Every port is another server, to which nothing may
//! be shown that is the first one's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod breaks;
mod image;
mod lies;
mod passes;
mod pulls;
mod pushes;
mod redirects;
mod refusals;
mod shelf;
mod stage;
mod stub;
mod trust;
