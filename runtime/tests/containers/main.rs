//! Containers as they are, seen from inside and from the host: root's, and those of an
//! ordinary user, over a root made of this machine's own programs.

#[path = "../net/stage.rs"]
#[allow(dead_code, reason = "shared with the tests of the network")]
mod hosts;
#[path = "../tasks/stage.rs"]
#[allow(dead_code, reason = "shared with the tests of plain tasks")]
mod stage;

mod ahead;
mod devices;
mod escapes;
mod exact;
mod files;
mod hangs;
mod held;
mod image;
mod isolation;
mod layered;
mod shared;
mod users;
