//! A benchmark's own directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A directory of this run, gone when it ends.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// One for the benchmark of that name.
    pub(crate) fn make(name: &str) -> io::Result<Self> {
        let dir =
            std::env::temp_dir().join(format!("starling-bench-{name}-{}", std::process::id()));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// Has what is made in a directory put in a part of the disk of its own, as the store of
/// images has: ext4 without a journal passes over each inode that was lately freed where it
/// makes one, and whoever is measured after a removal would pay for it. No other file system
/// needs this, and those refuse it.
pub(crate) fn move_apart(dir: &Path) -> io::Result<()> {
    let dir = fs::File::open(dir)?;
    if let Ok(flags) = rustix::fs::ioctl_getflags(&dir) {
        let _ = rustix::fs::ioctl_setflags(&dir, flags | rustix::fs::IFlags::TOPDIR);
    }
    Ok(())
}

impl Drop for Place {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // What is still mounted there is a finding, and must not be walked into.
        if !mounts.contains(&*self.0.to_string_lossy()) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
