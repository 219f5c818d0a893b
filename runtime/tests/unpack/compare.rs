//! An honest archive, against what GNU tar makes of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime::unpack::Unpacked;

use crate::stage::{Stage, is_root};
use crate::tarball::gzip;

/// Directories of any Linux: many small files, links of both sorts, odd modes.
/// Taken in turn until there is enough to compare.
const SOURCES: [&str; 6] = [
    "etc",
    "usr/lib/openssh",
    "usr/share/zoneinfo/America",
    "usr/share/terminfo",
    "usr/bin",
    "usr/sbin",
];
/// Entries that are enough; the guest of `testnet vm` has no more than 388.
const ENOUGH: usize = 300;

fn tar(arguments: &[&str]) {
    let done = Command::new("tar").args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    // Files with several names, by the first of them.
    let mut first = BTreeMap::new();
    while let Some(dir) = ahead.pop() {
        let mut paths: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let content = if stat.is_dir() {
                ahead.push(path.clone());
                0
            } else if stat.is_symlink() {
                sum(std::fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes())
            } else {
                sum(&std::fs::read(&path).unwrap())
            };
            let same = match stat.is_dir() {
                true => name.clone(),
                false => first.entry(stat.ino()).or_insert_with(|| name.clone()).clone(),
            };
            let links = if stat.is_dir() { 0 } else { stat.nlink() };
            let facts = (stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec());
            seen.insert(name, format!("{facts:?} {content:x} {links} {same:?}"));
        }
    }
    seen
}

fn sum(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[test]
fn an_honest_archive_becomes_what_gnu_tar_makes_of_it() {
    if !is_root() {
        eprintln!("SKIPPED: owners of another user need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut entries = 0;
    let sources = SOURCES.into_iter().filter(|path| {
        let path = Path::new("/").join(path);
        let wanted = entries <= ENOUGH && path.is_dir() && !path.is_symlink();
        if wanted {
            entries += tree(&path).len();
        }
        wanted
    });
    let sources: Vec<&str> = sources.collect();
    for format in ["gnu", "pax", "ustar"] {
        let (packed, theirs) = (at("x.tar"), at("theirs"));
        let how = format!("--format={format}");
        let mut arguments = vec!["-C", "/", how.as_str(), "-cf", packed.as_str()];
        arguments.extend(&sources);
        tar(&arguments);
        std::fs::create_dir(&theirs).unwrap();
        tar(&["--same-owner", "-p", "-C", &theirs, "-xf", &packed]);
        let expected = {
            let mut tree = tree(Path::new(&theirs));
            // Not in the archive, so made by each in its own time.
            for above in ["usr", "usr/share", "usr/lib"] {
                tree.remove(Path::new(above));
            }
            tree
        };
        assert!(expected.len() > ENOUGH, "only {} files to compare", expected.len());
        let bytes = std::fs::read(&packed).unwrap();
        let bytes = if format == "pax" { gzip(&bytes) } else { bytes };
        let stage = Stage::new();
        let done: Unpacked = stage.rootfs(&bytes).unwrap();
        assert_eq!(done.dropped_attributes, 0);
        let ours = tree(&stage.at(""));
        for (path, facts) in &expected {
            assert_eq!(ours.get(path), Some(facts), "{format}: {}", path.display());
        }
        let extra = ours.keys().filter(|path| !expected.contains_key(*path)).count();
        assert!(extra <= 3, "{extra} entries that GNU tar does not make");
        std::fs::remove_dir_all(&theirs).unwrap();
    }
}
