//! Removing what strangers have made.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use runtime::unpack::remove_tree;
use rustix::fs::{Mode, OFlags};

use crate::stage::{Dice, is_root};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory for many entries: on a busy disk, making them takes most of a minute.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A chain of directories with a file in each; no path could name the last.
fn dig(dir: &File, depth: usize) {
    let mut here = OwnedFd::from(dir.try_clone().unwrap());
    for level in 0..depth {
        let name = if level == 0 { "top" } else { "d" };
        rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, name, DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&here, "empty", Mode::RWXU).unwrap();
    }
}

#[test]
fn ten_thousand_directories_deep_go_in_linear_time_and_little_stack() {
    let dir = in_memory();
    let take = |depth| {
        let handle = File::open(dir.path()).unwrap();
        dig(&handle, depth);
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let begin = Instant::now();
        let work = small.spawn(move || remove_tree(handle.as_fd(), b"top"));
        work.unwrap().join().unwrap().unwrap();
        begin.elapsed()
    };
    let (few, many) = (take(1_000), take(10_000));
    assert!(many < few * 40 + Duration::from_millis(500), "{few:?} and {many:?}");
    assert!(!dir.path().join("top").exists());
}

#[test]
fn links_are_removed_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir_all(at("keep/inner")).unwrap();
    std::fs::create_dir_all(at("top/d")).unwrap();
    std::fs::write(at("keep/inner/f"), "").unwrap();
    std::os::unix::fs::symlink(at("keep"), at("top/absolute")).unwrap();
    std::os::unix::fs::symlink("../../keep/inner", at("top/d/relative")).unwrap();
    std::os::unix::fs::symlink("keep", at("link")).unwrap();
    let handle = File::open(dir.path()).unwrap();
    remove_tree(handle.as_fd(), b"top").unwrap();
    remove_tree(handle.as_fd(), b"link").unwrap();
    assert!(at("keep/inner/f").exists());
    assert!(!at("top").exists() && std::fs::symlink_metadata(at("link")).is_err());
    remove_tree(handle.as_fd(), b"top").unwrap();
    for name in [&b".."[..], b".", b"", b"keep/inner", b"/", b"a\0b"] {
        remove_tree(handle.as_fd(), name).unwrap_err();
    }
    assert!(at("keep/inner/f").exists());
}

#[test]
fn many_entries_in_one_directory_go() {
    let dir = in_memory();
    for number in 0..5_000 {
        let path = dir.path().join(format!("top/{number}"));
        std::fs::create_dir_all(path.join("inner")).unwrap();
        std::fs::write(path.join("f"), "").unwrap();
    }
    let handle = File::open(dir.path()).unwrap();
    remove_tree(handle.as_fd(), b"top").unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// In a mount namespace of its own, which goes with its process.
#[test]
fn a_mount_in_the_tree_is_an_error_and_stays_whole() {
    if !is_root() {
        eprintln!("SKIPPED: mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path).to_str().unwrap().to_owned();
    std::fs::create_dir_all(at("top/d/m")).unwrap();
    std::fs::create_dir_all(at("other/inner")).unwrap();
    let child = std::env::current_exe().unwrap();
    for source in [at("other"), "tmpfs".to_owned()] {
        let how = if source == "tmpfs" { "-t tmpfs" } else { "--bind" };
        let script = format!(
            "mount --make-rprivate / && mount {how} {source} {} && \
             STARLING_REMOVE={} exec {} --exact --ignored remove::child_removes_top --nocapture",
            at("top/d/m"),
            at(""),
            child.display(),
        );
        let out = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("refused: "), "{text} {}", String::from_utf8_lossy(&out.stderr));
        assert!(std::path::Path::new(&at("other/inner")).is_dir());
        assert!(std::path::Path::new(&at("top/d/m")).is_dir());
    }
}

#[test]
#[ignore = "runs in the mount namespace of another test"]
fn child_removes_top() {
    let Ok(dir) = std::env::var("STARLING_REMOVE") else { return };
    let handle = File::open(dir).unwrap();
    match remove_tree(handle.as_fd(), b"top") {
        Ok(()) => println!("removed"),
        Err(error) => println!("refused: {error}"),
    }
}

/// A live container renames directories while its tree is removed.
#[test]
fn directories_moved_at_that_moment_do_not_lead_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir(at("keep")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(3);
            while !stop.load(Ordering::Relaxed) {
                let deep = at(&format!("top/{}/a/b/c", dice.roll(4)));
                let _ = std::fs::create_dir_all(&deep);
                let _ = std::os::unix::fs::symlink(at("keep"), deep.join("l"));
                let moved = at(&format!("top/m{}", dice.roll(4)));
                let _ = std::fs::rename(deep.parent().unwrap(), moved);
            }
        });
        let handle = File::open(dir.path()).unwrap();
        for _ in 0..300 {
            std::fs::write(at("keep/canary"), "").unwrap();
            // Whatever it says: it must not go astray.
            let _ = remove_tree(handle.as_fd(), b"top");
            assert!(at("keep/canary").exists());
        }
        stop.store(true, Ordering::Relaxed);
    });
}
