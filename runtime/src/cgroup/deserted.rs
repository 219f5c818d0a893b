//! Trees that nobody has any more.
//!
//! Whoever opens a tree holds a lock on its directories for as long as it lives, and so do
//! those it gives birth to. An agent leaves its tree to its successor; if its directory was
//! deleted after all of its processes were killed, it has none, and the groups would stay
//! until the next boot. So each agent removes, when it starts, the trees beside its own that
//! nobody holds. Must never touch one with a process in it, or of another name than ours have.

use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, fstat};
use rustix::io::Errno;

use super::CgroupError;
use super::group::Group;
use super::layout::TOP;
use super::tree::{Branch, Tree};

/// Attempts to get hold of a directory that somebody is just removing.
const HOLD_TRIES: usize = 50;
const HOLD_PAUSE: Duration = Duration::from_millis(2);

/// Makes a tree's directory if need be, and holds it, so that no other agent removes it.
/// Second: whether it is new.
pub(super) fn hold(above: &Group, name: &str) -> Result<(Group, bool), CgroupError> {
    let mut is_new = false;
    for _ in 0..HOLD_TRIES {
        let (dir, made) = above.make(name)?;
        is_new |= made;
        match flock(&dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) if is_same(&dir, above.below(name)?.as_ref()) => return Ok((dir, is_new)),
            // It was removed before we had hold of it.
            Ok(()) => {}
            Err(_) => sleep(HOLD_PAUSE),
        }
    }
    // Somebody else locks it for reasons of theirs; then it is not removed either.
    let (dir, made) = above.make(name)?;
    Ok((dir, is_new || made))
}

impl Tree {
    /// Removes the trees beside this one that nobody holds and nothing is in; returns their
    /// names.
    pub(crate) fn remove_deserted(&self) -> Result<Vec<String>, CgroupError> {
        let mut removed = Vec::new();
        for branch in &self.0.branches {
            for name in branch.above.names()?.into_iter().filter(|name| is_trees(name)) {
                if *name != self.0.name && remove(branch, &name)? && !removed.contains(&name) {
                    removed.push(name);
                }
            }
        }
        Ok(removed)
    }
}

fn remove(branch: &Branch, name: &str) -> Result<bool, CgroupError> {
    let Some(dir) = branch.above.below(name)? else { return Ok(false) };
    // Given up with the handle.
    if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    let mut is_empty = true;
    dir.visit(&mut |group| {
        is_empty &= group.has_no_process();
        Ok(())
    })?;
    Ok(is_empty && dir.remove_below()? && branch.above.remove(name)?)
}

/// Whether a tree of a runtime directory may be called so: its tag is two numbers.
fn is_trees(name: &str) -> bool {
    let tag = name.strip_prefix(TOP).and_then(|rest| rest.strip_prefix('-'));
    let is_number =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    tag.and_then(|tag| tag.split_once('-'))
        .is_some_and(|(device, inode)| is_number(device) && is_number(inode))
}

fn is_same(one: &Group, other: Option<&Group>) -> bool {
    let about = |group: &Group| -> Result<_, Errno> {
        let about = fstat(group)?;
        Ok((about.st_dev, about.st_ino))
    };
    other.is_some_and(|other| matches!((about(one), about(other)), (Ok(a), Ok(b)) if a == b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_ours_have_are_ours() {
        assert!(is_trees("starling-fe00-99a210"));
        for other in ["starling", "starling-web", "starling-trial-7", "starling-a-", "a-1-2"] {
            assert!(!is_trees(other), "{other}");
        }
    }
}
