//! Files that come with a plain process: an image's one layer, unpacked as the task's own
//! into what becomes its scratch directory.
//!
//! ```text
//! launch ──lend──▶ files/ID, unpacked ──order──▶ supervisor ──rename──▶ tasks/ID/scratch
//!                      │                                                      │
//!                      └── given up, or a crash ──▶ removed      removed ◀────┘ with the task
//! ```
//!
//! The agent unpacks, because that takes as long as it takes; the supervisor only renames,
//! after the directory of the task is the task's. So at any moment the files belong to one
//! of the two, and whoever looks after that one removes them.
//!
//! Invariant: what is unpacked is the task's and gives it nothing: no setuid bit, no
//! capability, no device, whatever the image says.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use tracing::warn;

use crate::image::{Digest, Images};
use crate::launch::{TaskId, User};
use crate::order::{self, chain};
use crate::record::SCRATCH;
use crate::unpack::{self, Bounds, Form, Options, Owners, remove_tree};

/// Where files lie until a supervisor takes them.
const SHIPPED: &str = "files";

/// A task's files, until its supervisor takes them; what it did not take goes when this does.
#[derive(Debug)]
pub(crate) struct Shipped {
    dir: OwnedFd,
    id: TaskId,
}

impl Shipped {
    /// Unpacks an image's files for a task of this user, or of the agent's own. Blocks.
    pub(crate) fn unpack(
        images: &Images,
        image: &Digest,
        runtime: &Path,
        id: &TaskId,
        user: Option<User>,
    ) -> Result<Self, String> {
        let info = images.get(image).ok_or("the image is not here any more")?;
        let [layer] = info.layers.as_slice() else {
            let layers = info.layers.len();
            return Err(format!("it is an image of {layers} layers, and files have one"));
        };
        let plain = |error: io::Error| order::plain(&error);
        let shipped = Self::make(runtime, id).map_err(plain)?;
        let into = order::open_below(&shipped.dir, id.as_str()).map_err(plain)?;
        let user = user.unwrap_or_else(|| User {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        });
        let options = Options {
            bounds: Bounds::default(),
            form: Form::Rootfs,
            owners: Owners::Given { uid: user.uid, gid: user.gid },
            digest: unpack::Digest::Skip,
        };
        let from = images.read_layer(&layer.diff_id).map_err(|error| chain(&error))?;
        unpack::unpack(from, into.as_fd(), &options).map_err(|error| chain(&error))?;
        // Whatever the archive says of its root.
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        rustix::fs::fchown(&into, Some(uid), Some(gid))
            .and_then(|()| rustix::fs::fchmod(&into, Mode::RWXU))
            .map_err(|error| plain(error.into()))?;
        Ok(shipped)
    }

    fn make(runtime: &Path, id: &TaskId) -> io::Result<Self> {
        let path = directory(runtime);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let shipped = Self { dir: order::open_directory(&path)?, id: id.clone() };
        // One of a launch that was given up.
        remove_tree(shipped.dir.as_fd(), id.as_str().as_bytes())?;
        rustix::fs::mkdirat(&shipped.dir, id.as_str(), Mode::RWXU)?;
        Ok(shipped)
    }

    /// Whether they were not taken, so that their removal takes time.
    pub(crate) fn is_there(&self) -> bool {
        rustix::fs::statat(&self.dir, self.id.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

impl Drop for Shipped {
    fn drop(&mut self) {
        // What stays is found by the next agent.
        if let Err(error) = remove_tree(self.dir.as_fd(), self.id.as_str().as_bytes()) {
            warn!(id = %self.id, %error, "files of a task that was not started stay");
        }
    }
}

fn directory(runtime: &Path) -> PathBuf {
    runtime.join(SHIPPED)
}

/// Makes the files of a task its scratch directory, in place of the empty one that it has.
pub(crate) fn take(tasks: &OwnedFd, id: &TaskId, task: &OwnedFd) -> io::Result<()> {
    let runtime = order::open_below(tasks, "..")?;
    let shipped = order::open_below(&runtime, SHIPPED)?;
    Ok(rustix::fs::renameat(&shipped, id.as_str(), task, SCRATCH)?)
}

/// Removes what an agent before left. Blocks.
pub(crate) fn sweep(runtime: &Path) {
    let swept = order::open_directory(runtime)
        .and_then(|runtime| remove_tree(runtime.as_fd(), SHIPPED.as_bytes()));
    if let Err(error) = swept {
        warn!(%error, "files of tasks that were not started stay");
    }
}
