//! Opening a directory below a root, through the links inside that root.
//!
//! Links resolve as a process would see them whose `/` is the root: absolute
//! targets begin there, and `..` at the top stays there. Image layers need this,
//! for they write to `lib/x` where `lib` is a link to `usr/lib`.
//!
//! The kernel does it with `openat2`. Kernels before 5.6 cannot, and some
//! sandboxes forbid the call: there we walk ourselves, one plain component at a
//! time, which is right as long as nobody else changes the tree meanwhile.
//!
//! Invariant: neither way opens anything outside of the root or across a mount.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// How all directories are opened: to read, so that times and attributes can be
/// set through the handle.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Links followed for one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// Tries of `openat2` when something was renamed on the machine at that moment.
const KERNEL_TRIES: usize = 8;

/// Who resolves paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    Kernel,
    Own,
}

/// Opens the directory `path` below `root`. Falls back for good to our own walk
/// where the kernel has none.
pub(super) fn open_dir(walk: &mut Walk, root: BorrowedFd, path: &[u8]) -> Result<OwnedFd> {
    if *walk == Walk::Kernel {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..KERNEL_TRIES {
            match rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM) => {
                    *walk = Walk::Own;
                    break;
                }
                opened => return opened,
            }
        }
    }
    open_dir_by_steps(root, path)
}

/// Opens one plain component; never follows it.
fn step(dir: BorrowedFd, name: &[u8]) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

fn open_dir_by_steps(root: BorrowedFd, path: &[u8]) -> Result<OwnedFd> {
    let device = rustix::fs::fstat(root)?.st_dev;
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
    };
    let mut ahead = VecDeque::from(parts(path));
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut here = step(root, b".")?;
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        match part.as_slice() {
            b"" | b"." => {}
            b".." => {
                // Down again from the root, rather than up: `..` of a directory
                // that was moved leads astray.
                done.pop();
                let from_root = step(root, b".")?;
                here = done.iter().try_fold(from_root, |dir, name| step(dir.as_fd(), name))?;
            }
            name => match step(here.as_fd(), name) {
                Ok(next) if rustix::fs::fstat(&next)?.st_dev != device => {
                    return Err(Errno::XDEV);
                }
                Ok(next) => {
                    here = next;
                    done.push(part);
                }
                // NOFOLLOW on a link: LOOP, or with DIRECTORY as well, NOTDIR.
                Err(error @ (Errno::LOOP | Errno::NOTDIR)) => {
                    let Ok(target) = rustix::fs::readlinkat(&here, name, Vec::new()) else {
                        return Err(error);
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        done.clear();
                        here = step(root, b".")?;
                    }
                    for part in parts(target.as_bytes()).into_iter().rev() {
                        ahead.push_front(part);
                    }
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(here)
}

/// Like `open_dir`, but makes what is missing on the way, with mode 0755. Links
/// that lead to nothing are not made to lead somewhere.
pub(super) fn make_dirs(walk: &mut Walk, root: BorrowedFd, path: &[u8]) -> Result<OwnedFd> {
    let mut here = step(root, b".")?;
    let mut end = 0;
    for part in path.split(|byte| *byte == b'/') {
        end += part.len();
        let next = match step(here.as_fd(), part) {
            Err(Errno::NOENT) => {
                let before = rustix::fs::fstat(&here)?;
                rustix::fs::mkdirat(&here, part, Mode::from_raw_mode(0o755))?;
                let next = step(here.as_fd(), part)?;
                rustix::fs::fchmod(&next, Mode::from_raw_mode(0o755))?;
                rustix::fs::futimens(&here, &super::tree::times_of(&before))?;
                next
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                open_dir(walk, root, path.get(..end).unwrap_or(path))?
            }
            other => other?,
        };
        here = next;
        end += 1;
    }
    Ok(here)
}

/// Whether `name` in `dir` is a directory; links are not followed.
pub(super) fn is_dir(dir: BorrowedFd, name: &[u8]) -> Result<bool> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    /// SplitMix64: the tests need no better.
    fn random(state: &mut u64) -> usize {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 8).unwrap_or_default()
    }

    fn random_path(state: &mut u64) -> String {
        let parts = ["a", "b", "c", "..", ".", "", "a/b"];
        let mut path = String::new();
        for at in 0..=random(state) % 4 {
            if at > 0 || random(state).is_multiple_of(3) {
                path.push('/');
            }
            path.push_str(parts[random(state) % parts.len()]);
        }
        path
    }

    #[test]
    fn both_walks_open_the_same_directory_and_none_outside() {
        let mut state = 11;
        let mut opened = 0;
        for _ in 0..100 {
            let above = tempfile::tempdir().unwrap();
            let top = above.path().join("root");
            for path in ["root/a/b/c", "root/b/a", "a/b", "b", "c"] {
                std::fs::create_dir_all(above.path().join(path)).unwrap();
            }
            for dir in ["", "a", "a/b", "b"] {
                let link = top.join(dir).join(["a", "b", "c"][random(&mut state) % 3]);
                let _ = std::fs::remove_dir(&link);
                let target = random_path(&mut state);
                let _ =
                    std::os::unix::fs::symlink(if target.is_empty() { "/" } else { &target }, link);
            }
            let root = rustix::fs::open(&top, DIRECTORY, Mode::empty()).unwrap();
            for _ in 0..100 {
                let path = random_path(&mut state);
                let path = path.trim_matches('/');
                let path = if path.is_empty() { "." } else { path };
                let by = |mut walk| open_dir(&mut walk, root.as_fd(), path.as_bytes());
                match (by(Walk::Kernel), by(Walk::Own)) {
                    (Ok(one), Ok(other)) => {
                        opened += 1;
                        let identity = |fd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino));
                        assert_eq!(identity(&one).ok(), identity(&other).ok(), "{path}");
                        assert_within(&one, &top);
                    }
                    (Err(one), Err(other)) => assert_eq!(one, other, "{path}"),
                    (one, other) => panic!("{path}: {one:?} and {other:?}"),
                }
            }
        }
        assert!(opened > 1_000, "only {opened} paths led anywhere");
    }

    fn assert_within(fd: &OwnedFd, top: &Path) {
        use std::os::fd::AsRawFd as _;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = std::fs::read_link(link).unwrap();
        assert!(path.starts_with(top), "{}", path.as_os_str().as_bytes().escape_ascii());
    }
}
