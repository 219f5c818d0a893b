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

impl Drop for Place {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // What is still mounted there is a finding, and must not be walked into.
        if !mounts.contains(&*self.0.to_string_lossy()) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
