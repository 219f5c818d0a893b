//! What enters running tasks: programs, archives, looks; with a real keeper, real
//! containers and real plain processes.
//!
//! What needs root, or ids that were granted, says so and is skipped without.

mod archives;
#[allow(dead_code, reason = "shared with the tests of containers, which use all of it")]
#[path = "../containers/image.rs"]
mod image;
mod programs;
mod remains;
mod rights;
mod site;
#[allow(dead_code, reason = "shared with the tests of tasks, which use all of it")]
#[path = "../tasks/stage.rs"]
mod stage;
mod streams;
