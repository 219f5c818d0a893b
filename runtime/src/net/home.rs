//! Whose network it is: what a bridge's alias says, and whether that agent is no more.
//!
//! An agent leaves its network to its successor. One whose directory somebody deleted has
//! none, and its subnet and rules would stay until the next boot; so each agent, before it
//! makes its own, looks for such. A directory counts as gone only where its agent saw the
//! same mounts as we do, since elsewhere we cannot know. Must never judge an alias that it
//! did not write.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How the alias of a bridge begins.
const PREFIX: &str = "starling home ";
/// The kernel keeps 255 bytes of an alias.
const ALIAS_BYTES: usize = 255;
/// The mounts of the calling process, by number.
const MOUNTS: &str = "/proc/self/ns/mnt";
/// Held by whoever makes a network in this network namespace.
const TURN: &str = "starling-network";
/// A network is made in a few milliseconds; whoever holds the turn longer is none of ours.
const TURN_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the bridge of the agent in this directory says; empty where that cannot be said,
/// which keeps the bridge for good.
pub(super) fn alias(home: &Path) -> String {
    let (Some(mounts), Some(home)) = (mounts(), home.to_str()) else { return String::new() };
    let alias = format!("{PREFIX}{mounts} {home}");
    if alias.len() <= ALIAS_BYTES { alias } else { String::new() }
}

/// Whether an alias is of an agent whose directory is gone for certain.
pub(super) fn is_gone(alias: &str) -> bool {
    let Some((theirs, home)) = alias.strip_prefix(PREFIX).and_then(|rest| rest.split_once(' '))
    else {
        return false;
    };
    let home = Path::new(home);
    let missing =
        || home.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    home.is_absolute() && mounts().is_some_and(|ours| ours == theirs) && missing()
}

fn mounts() -> Option<String> {
    Some(std::fs::read_link(MOUNTS).ok()?.to_str()?.to_owned())
}

/// The turn to choose a subnet: two that look at once would choose the same one. None after
/// a while, since somebody else may hold the name.
pub(super) fn turn() -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(TURN).ok()?;
    let end = Instant::now() + TURN_PATIENCE;
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(turn) => return Some(turn),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(LOOK_EVERY);
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_that_is_gone_for_certain_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = alias(dir.path());
        assert!(!is_gone(&there), "{there}");
        let missing = alias(&dir.path().join("missing"));
        assert!(is_gone(&missing), "{missing}");
        // Elsewhere than here it may be there.
        let elsewhere = missing.replace("mnt:[", "mnt:[1");
        let foreign = ["", "my bridge", PREFIX, &elsewhere, "starling home mnt:[1] relative"];
        assert!(!foreign.iter().any(|alias| is_gone(alias)));
        assert_eq!(alias(Path::new(&"/long".repeat(60))), "");
    }

    #[test]
    fn one_at_a_time_has_the_turn() {
        let first = turn().expect("free");
        let second = thread::spawn(|| turn().is_some());
        drop(first);
        assert!(second.join().expect("it ends"));
    }
}
