//! Gives a slot's v2 group to its task, which may then make groups below it: a
//! container with an init system, or a runtime in a container.
//!
//! What is given is what the kernel names for that (cgroup-v2.rst, "Delegation"):
//! the directory and the files that move processes and pass controllers on. The
//! files with our limits stay ours. v1 has no such line, so nothing of v1 is given.
//!
//! Invariant: the task cannot make more groups, or deeper ones, than we can remove
//! in good time.

use rustix::fs::{AtFlags, Gid, Uid, chownat};
use rustix::io::Errno;

use super::{CgroupError, Slot};

/// How deep a task may nest: systemd in a container needs three or four.
const DEPTH: &str = "5";

/// How many groups it may have: more than systemd in a container makes for a handful
/// of services, and removed within a few milliseconds.
const GROUPS: &str = "32";

impl Slot {
    /// Lets this user divide the slot's group. Not taken back, so such a slot is not
    /// for another task: remove it.
    pub fn delegate(&self, uid: u32, gid: u32) -> Result<(), CgroupError> {
        let Some(group) = self.unified() else {
            return Err(CgroupError::NotDelegable { slot: self.name.clone() });
        };
        group.write("cgroup.max.depth", DEPTH)?;
        group.write("cgroup.max.descendants", GROUPS)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        for file in [".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            match chownat(group, file, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(group.unwritten(file, "a new owner", errno)),
            }
        }
        Ok(())
    }
}
