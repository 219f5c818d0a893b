//! Images as a runtime keeps them: layers unpacked once, written again byte by byte, shared,
//! held and removed; whole after every crash. And their ways in and out: archives as tools
//! write them, and as nobody should.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod archives;
mod crash;
mod damage;
mod full;
mod hostile;
mod lies;
mod memory;
mod mutations;
mod no_room;
mod recipe;
mod roots;
mod save;
#[path = "../unpack/seeded.rs"]
mod seeded;
mod shapes;
mod shelf;
mod shop;
mod speed;
#[path = "../unpack/stage.rs"]
#[allow(dead_code, reason = "its roots are for tests of the applier alone")]
mod stage;
mod store;
#[path = "../unpack/tarball.rs"]
#[allow(dead_code, reason = "the tests of the applier bend more of it")]
mod tarball;
