//! What plain processes can do to the agent.
//!
//! Those of root's agent have users of their own. Those of an ordinary user's agent have
//! its user, so something else than owners and modes has to stand between: mounts of
//! their own, and Landlock. Each may be missing.

use super::{Finding, Ground};
use crate::plan::{Facts, LANDLOCK_SCOPES};

/// What keeps them from the agent's files, and from its processes: nothing to say of
/// root's. The fix of the first is that of user namespaces.
pub fn processes(facts: &Facts, ground: &Ground) -> Vec<Finding> {
    if ground.is_root() {
        return Vec::new();
    }
    vec![files(facts, ground), signals(facts, ground)]
}

fn files(facts: &Facts, ground: &Ground) -> Finding {
    const NAME: &str = "plain processes";
    if facts.own_mounts {
        return Finding::ok(NAME, "tried: the agent's files are hidden from its tasks");
    }
    let what = format!(
        "tasks run as {0}, and nothing hides the agent's files and keys from them: only run jobs \
         here that {0} trusts",
        ground.user
    );
    Finding::warn(NAME, what, "starling doctor   user namespaces: they hide them")
}

fn signals(facts: &Facts, ground: &Ground) -> Finding {
    const NAME: &str = "landlock";
    let version = facts.landlock;
    if version >= LANDLOCK_SCOPES {
        return Finding::ok(NAME, format!("version {version}: tasks cannot signal the agent"));
    }
    let has = if version == 0 { "missing".to_owned() } else { format!("version {version}") };
    let what = format!("{has}: tasks run as {0} and can stop any process of {0}", ground.user);
    Finding::warn(NAME, what, "boot Linux 6.12 or later   with Landlock on: lsm=landlock,...")
}
