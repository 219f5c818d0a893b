//! A root to fill, beside what stands for the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::unpack::{
    Bounds, Digest, Flaw, Form, Options, Owners, UnpackError, Unpacked, remove_tree, unpack,
};

/// Whether this test runs as root, who alone keeps owners.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// How long this thread has worked: what others do at the same time does not count.
pub(crate) fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

pub(crate) fn options(form: Form) -> Options {
    Options {
        bounds: Bounds {
            until: Some(Instant::now() + Duration::from_secs(600)),
            ..Bounds::default()
        },
        form,
        owners: if is_root() { Owners::Keep } else { Owners::Mine },
        digest: Digest::Skip,
    }
}

pub(crate) struct Stage {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let host = dir.path().join("host");
        std::fs::create_dir_all(host.join("sub")).unwrap();
        for name in ["victim", "sub/inner"] {
            std::fs::write(host.join(name), "untouched").unwrap();
            std::fs::set_permissions(host.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let before = snapshot(dir.path());
        Self { dir, before }
    }

    /// The directory that stands for the host's.
    pub(crate) fn host(&self) -> String {
        self.dir.path().join("host").to_str().unwrap().to_owned()
    }

    /// A path in the root.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| format!("({error})"))
    }

    pub(crate) fn stat(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.at(path)).unwrap()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok()
    }

    /// Unpacks and looks whether the host is the same, whatever came of it.
    pub(crate) fn unpack(
        &self,
        from: impl Read,
        options: &Options,
    ) -> Result<Unpacked, UnpackError> {
        let root = File::open(self.at("")).unwrap();
        let done = unpack(from, root.as_fd(), options);
        self.assert_host_untouched();
        done
    }

    pub(crate) fn rootfs(&self, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack(tar, &options(Form::Rootfs))
    }

    pub(crate) fn layer(&self, tar: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack(tar, &options(Form::Layer))
    }

    /// The flaw for which a root is refused.
    pub(crate) fn flaw(&self, tar: &[u8]) -> Flaw {
        match self.rootfs(tar) {
            Err(UnpackError::Entry { flaw, .. } | UnpackError::Header { flaw, .. }) => flaw,
            other => panic!("not refused for an entry: {other:?}"),
        }
    }

    pub(crate) fn assert_host_untouched(&self) {
        let now = snapshot(self.dir.path());
        assert_eq!(now, self.before, "the host was changed");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let dir = File::open(self.dir.path()).unwrap();
        remove_tree(dir.as_fd(), b"root").unwrap();
        if !std::thread::panicking() {
            self.assert_host_untouched();
        }
    }
}

/// All that is beside the root, with content, identity and times.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("root") {
                continue;
            }
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                ahead.push(path.clone());
                String::new()
            } else {
                std::fs::read_to_string(&path).unwrap()
            };
            let facts = (stat.ino(), stat.mode(), stat.uid(), stat.gid(), stat.nlink());
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            seen.insert(path, format!("{facts:?} {times:?} {content:?}"));
        }
    }
    seen
}

/// A seeded source of numbers (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }
}
