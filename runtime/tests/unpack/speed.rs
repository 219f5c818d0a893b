//! How fast an honest archive is unpacked, beside GNU tar. Not a test.
//!
//! `cargo test --release -p runtime --test unpack -- --ignored --nocapture speed`

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use runtime::unpack::{Form, remove_tree, unpack};

use crate::stage::options;

fn best(mut run: impl FnMut() -> Duration) -> f64 {
    (0..3).map(|_| run().as_secs_f64()).fold(f64::MAX, f64::min)
}

#[test]
#[ignore = "a measurement"]
fn speed_beside_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let top = File::open(dir.path()).unwrap();
    let out = dir.path().join("out");
    for (what, path) in [("small files", "usr/share/doc"), ("large files", "usr/lib")] {
        let packed = dir.path().join("x.tar");
        let run = |arguments: &[&str]| {
            let done = Command::new("tar").args(arguments).output().unwrap();
            assert!(done.status.success());
        };
        run(&["-C", "/", "-cf", packed.to_str().unwrap(), path]);
        let gzipped = dir.path().join("x.tar.gz");
        run(&["-C", "/", "-czf", gzipped.to_str().unwrap(), path]);
        for packed in [&packed, &gzipped] {
            let fresh = || {
                remove_tree(top.as_fd(), b"out").unwrap();
                std::fs::create_dir(&out).unwrap();
            };
            let mut made = Default::default();
            let ours = best(|| {
                fresh();
                let begin = Instant::now();
                let into = File::open(&out).unwrap();
                let tar = File::open(packed).unwrap();
                made = unpack(tar, into.as_fd(), &options(Form::Rootfs)).unwrap();
                begin.elapsed()
            });
            let theirs = best(|| {
                fresh();
                let begin = Instant::now();
                run(&["-C", out.to_str().unwrap(), "-xpf", packed.to_str().unwrap()]);
                begin.elapsed()
            });
            let removed = Instant::now();
            remove_tree(top.as_fd(), b"out").unwrap();
            let entries = made.files + made.directories + made.symlinks + made.hard_links;
            println!(
                "{what}, {}: {entries} entries, {:.0} MB; {:.2} s ({:.0} entries/s, {:.0} MB/s), \
                 GNU tar {theirs:.2} s ({:.0} entries/s, {:.0} MB/s); removed in {:.2} s",
                Path::new(packed).extension().unwrap().display(),
                made.bytes as f64 / 1e6,
                ours,
                entries as f64 / ours,
                made.bytes as f64 / 1e6 / ours,
                entries as f64 / theirs,
                made.bytes as f64 / 1e6 / theirs,
                removed.elapsed().as_secs_f64(),
            );
        }
    }
}
