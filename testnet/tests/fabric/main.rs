//! The fabric on real namespaces, with real sockets and ordinary programs.
//!
//! Needs root; where that is missing each test says SKIPPED and passes. Every
//! test has a fabric of its own, in a directory of its own, so tests collide
//! neither with each other nor with a fabric that is up. Must never use a
//! sleep to wait for something.

mod clean;
mod command;
mod ground;
mod links;
mod orders;
