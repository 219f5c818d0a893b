//! Archives that are too much, too deep, too late, cut off, or none at all.
//!
//! The seconds allowed are far more than a machine of its own takes: an emulated
//! one whose host is busy counts the time in which it did not run.

use std::io::Read;
use std::time::{Duration, Instant};

use runtime::unpack::{Bounds, Digest, Flaw, Form, Options, UnpackError};

use crate::stage::{Dice, Stage, cpu, options};
use crate::tarball::{Tarball, gzip, head, sum_up};

fn bounded(bounds: Bounds) -> Options {
    Options { bounds, ..options(Form::Rootfs) }
}

/// An endless archive, made as it is read.
struct Endless {
    block: [u8; 512],
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.block[self.at..];
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        self.at = (self.at + length) % 512;
        Ok(length)
    }
}

#[test]
fn a_path_of_two_thousand_directories_is_refused_at_once() {
    let stage = Stage::new();
    let begin = cpu();
    for path in [vec!["a"; 2000].join("/"), format!("/./{}", "a/./".repeat(500))] {
        let tar = Tarball::new().pax(&[("path", path.as_bytes())]).file("x", "").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Depth { limit: 255 }));
        let tar = Tarball::new().hard_link("x", &path).end();
        assert!(matches!(stage.flaw(&tar), Flaw::Depth { limit: 255 }));
    }
    assert!(cpu() - begin < Duration::from_secs(20));
}

#[test]
fn the_deepest_path_allowed_is_made_in_little_time() {
    let stage = Stage::new();
    let deep = vec!["a"; 254].join("/");
    let mut tar = Tarball::new();
    for number in 0..500 {
        // Two directories in turn, so that no handle is kept.
        tar = tar.file(format!("{deep}/{number}"), "").file(format!("b/{number}"), "");
    }
    let begin = cpu();
    stage.rootfs(&tar.end()).unwrap();
    assert!(cpu() - begin < Duration::from_secs(100), "{:?}", cpu() - begin);
    assert_eq!(std::fs::read_dir(stage.at(&deep)).unwrap().count(), 500);
}

/// Each link adds its 200 directories to those of the one before.
#[test]
fn depth_stacked_up_with_links_stays_bounded_and_can_be_removed() {
    let stage = Stage::new();
    let deep = vec!["a"; 200].join("/");
    let mut tar = Tarball::new().dir(&deep).symlink("l0", &deep);
    for number in 1..60 {
        let below = format!("l{}/{deep}", number - 1);
        tar = tar.dir(&below).symlink(format!("l{number}"), &below);
    }
    let begin = cpu();
    // The kernel follows 40 links for one path.
    assert!(matches!(stage.flaw(&tar.end()), Flaw::Parent { .. }));
    assert!(cpu() - begin < Duration::from_secs(200), "{:?}", cpu() - begin);
}

#[test]
fn names_and_targets_beyond_the_bound_are_refused() {
    let stage = Stage::new();
    let long = vec!["n".repeat(200); 25].join("/");
    let tar = Tarball::new().file(&long, "").end();
    assert!(matches!(stage.flaw(&tar), Flaw::NameLength { bytes: 5024, limit: 4095 }));
    let tar = Tarball::new().symlink("x", &long).end();
    assert!(matches!(stage.flaw(&tar), Flaw::NameLength { .. }));
    let tar = Tarball::new().file("n".repeat(5000), "").end();
    assert!(matches!(stage.flaw(&tar), Flaw::NameLength { .. }));
    // One component that no filesystem takes.
    let tar = Tarball::new().file("n".repeat(300), "").end();
    assert!(matches!(stage.flaw(&tar), Flaw::System { .. }));
    // The bounds of a caller cannot lift those of the kernel.
    let bounds = Bounds { path_bytes: 1 << 20, depth: 1 << 20, ..Bounds::default() };
    let tar = Tarball::new().file(&long, "").end();
    stage.unpack(tar.as_slice(), &bounded(bounds)).unwrap_err();
}

#[test]
fn an_extended_header_is_not_read_beyond_its_bound() {
    let stage = Stage::new();
    for kind in *b"xLK" {
        let mut header = head("x", kind);
        header.size = (1 << 33) - 1;
        let begin = Tarball::new().block(&header.block()).0;
        let tar = begin.as_slice().chain(std::io::repeat(b'a'));
        let error = stage.unpack(tar, &options(Form::Rootfs)).unwrap_err();
        let flaw = |error| match error {
            UnpackError::Entry { flaw, .. } => Some(flaw),
            _ => None,
        };
        assert!(matches!(flaw(error), Some(Flaw::ExtendedSize { .. })));
    }
    let tar = Tarball::new().pax(&[("a", b"b")]).pax(&[("a", b"b")]).file("x", "").end();
    assert!(matches!(stage.flaw(&tar), Flaw::ExtendedTwice));
}

#[test]
fn endless_entries_end_at_the_bound() {
    let stage = Stage::new();
    // Files, and comments that leave nothing behind.
    for kind in *b"0g" {
        let bounds = Bounds { entries: 5_000, ..Bounds::default() };
        let endless = Endless { block: head("x", kind).block(), at: 0 };
        let error = stage.unpack(endless, &bounded(bounds)).unwrap_err();
        assert!(matches!(error, UnpackError::TooMuch { of: "entries", limit: 5_000 }), "{error}");
    }
}

#[test]
#[ignore = "takes half a minute"]
fn ten_million_empty_comments_end_at_the_default_bound() {
    let stage = Stage::new();
    let endless = Endless { block: head("x", b'g').block(), at: 0 };
    // No deadline: the count must do, however slow the machine.
    let error =
        stage.unpack(endless.take(10_000_000 * 512), &bounded(Bounds::default())).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { of: "entries", .. }), "{error}");
}

#[test]
fn the_deadline_holds_between_entries_and_within_one() {
    let stage = Stage::new();
    let soon = || Bounds {
        until: Some(Instant::now() + Duration::from_millis(50)),
        entries: u64::MAX,
        ..Bounds::default()
    };
    let endless = Endless { block: head("x", b'g').block(), at: 0 };
    let error = stage.unpack(endless, &bounded(soon())).unwrap_err();
    assert!(matches!(error, UnpackError::TooSlow), "{error}");

    let mut header = head("x", b'3');
    header.kind = b'g'; // Content that is passed over, not written.
    header.size = (1 << 33) - 1;
    let endless = Tarball::new().block(&header.block()).0;
    let endless = endless.as_slice().chain(std::io::repeat(0));
    let error = stage.unpack(endless, &bounded(soon())).unwrap_err();
    assert!(matches!(error, UnpackError::TooSlow), "{error}");
}

#[test]
fn bytes_are_bounded_for_the_whole_and_for_each_file() {
    let stage = Stage::new();
    let tar = Tarball::new().file("a", [1; 3000]).file("b", [1; 3000]).end();
    let bounds = Bounds { bytes: 6000, ..Bounds::default() };
    let error = stage.unpack(tar.as_slice(), &bounded(bounds)).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { of: "bytes", limit: 6000 }), "{error}");
    let bounds = Bounds { file_bytes: 2999, ..Bounds::default() };
    let error = stage.unpack(tar.as_slice(), &bounded(bounds)).unwrap_err().to_string();
    assert!(error.contains("2999"), "{error}");
    // What lies behind the end counts as well.
    let bounds = Bounds { bytes: 1 << 20, ..Bounds::default() };
    let endless = tar.as_slice().chain(std::io::repeat(0));
    let error = stage.unpack(endless, &bounded(bounds)).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { .. }), "{error}");
}

#[test]
fn a_gzip_bomb_ends_at_the_ratio() {
    let stage = Stage::new();
    let mut header = head("zeros", b'0');
    header.size = 1 << 30;
    let bomb = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packer, &header.block()).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(100 << 20), &mut packer).unwrap();
        packer.finish().unwrap()
    };
    let error = stage.rootfs(&bomb).unwrap_err();
    assert!(matches!(error, UnpackError::Bomb { .. }), "{error}");
    assert!(stage.stat("zeros").len() < 70 << 20);
}

#[test]
fn gzip_is_read_in_any_number_of_members_and_damage_is_noticed() {
    let stage = Stage::new();
    let tar = Tarball::new().file("f", "content").end();
    let (front, back) = tar.split_at(700);
    let packed = [gzip(front), gzip(back)].concat();
    stage.rootfs(&packed).unwrap();
    assert_eq!(stage.read("f"), "content");
    for cut in [1, 2, 3, 10, 20, packed.len() - 1, packed.len() - 9] {
        stage.rootfs(&packed[..cut]).unwrap_err();
    }
    let mut damaged = gzip(&tar);
    let end = damaged.len() - 6;
    damaged[end] ^= 1; // The checksum.
    assert!(matches!(stage.rootfs(&damaged), Err(UnpackError::Read { .. })));
    let trailed = [gzip(&tar), b"garbage".to_vec()].concat();
    stage.rootfs(&trailed).unwrap_err();
}

#[test]
fn an_archive_cut_off_anywhere_is_an_error() {
    let stage = Stage::new();
    let tar = Tarball::new().pax(&[("path", b"p")]).file("a", [1; 700]).dir("d").end();
    for cut in (0..tar.len() - 1024).step_by(64) {
        let error = stage.rootfs(&tar[..cut]).unwrap_err();
        assert!(matches!(error, UnpackError::CutOff { .. }), "{cut}: {error}");
    }
    // One zero block is end enough; a layer has a digest and needs none.
    stage.rootfs(&tar[..tar.len() - 512]).unwrap();
    stage.layer(&tar[..tar.len() - 1024]).unwrap();
    stage.layer(&tar[..512]).unwrap_err();
}

#[test]
fn garbage_and_foreign_archives_are_refused_with_a_name() {
    let stage = Stage::new();
    let mut dice = Dice(5);
    for length in [1, 511, 512, 513, 5000] {
        let garbage: Vec<u8> = (0..length).map(|_| dice.roll(256) as u8).collect();
        stage.rootfs(&garbage).unwrap_err();
        stage.rootfs(&[&b"\x1f\x8b"[..], &garbage].concat()).unwrap_err();
        stage.rootfs(&[&b"\x28\xb5\x2f\xfd"[..], &garbage].concat()).unwrap_err();
    }
    for (begin, name) in
        [(&b"\x04\x22\x4d\x18"[..], "lz4"), (b"\xfd7zXZ\0", "xz"), (b"BZh9", "bzip2")]
    {
        let error = stage.rootfs(begin).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    assert!(matches!(stage.rootfs(b""), Err(UnpackError::CutOff { at: 0 })));
    assert!(matches!(stage.flaw(&[b'x'; 512]), Flaw::Checksum));
}

#[test]
fn sizes_that_are_none_are_refused() {
    let stage = Stage::new();
    for field in [
        &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], // -1
        b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",            // Beyond 63 bits.
        b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"-0000000001\0",
        b"0000000009\0\0",
        b"0x10\0\0\0\0\0\0\0\0",
    ] {
        let mut block = head("x", b'0').block();
        block[124..136].copy_from_slice(field);
        sum_up(&mut block);
        let tar = Tarball::new().block(&block).bytes(b"abc").end();
        let flaw = stage.flaw(&tar);
        assert!(matches!(flaw, Flaw::Number { field: "size" }), "{flaw}");
    }
    for text in ["-1", "9223372036854775808", "1e3", "+5", "0x5", " 5"] {
        let tar = Tarball::new().pax(&[("size", text.as_bytes())]).file("x", "").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Number { field: "size" }), "{text}");
    }
    // In base 256 and far beyond all bounds, yet a number.
    let mut block = head("x", b'0').block();
    block[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    sum_up(&mut block);
    let tar = Tarball::new().block(&block).bytes(b"abc").end();
    assert!(matches!(stage.flaw(&tar), Flaw::FileSize { .. }));
}

#[test]
fn a_source_that_fails_ends_the_work() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    let stage = Stage::new();
    let tar = Tarball::new().file("a", [1; 700]).0;
    let error = stage.unpack(tar.as_slice().chain(Broken), &options(Form::Rootfs)).unwrap_err();
    assert!(matches!(error, UnpackError::Read { .. }), "{error}");
}

#[test]
fn the_digest_is_of_the_whole_uncompressed_archive() {
    use sha2::Digest as _;
    let stage = Stage::new();
    let mut tar = Tarball::new().file("a", [1; 700]).end();
    tar.extend_from_slice(&[9; 3000]); // Behind the end, and part of the file.
    let sum: [u8; 32] = sha2::Sha256::digest(&tar).into();
    let summed = Options { digest: Digest::Sha256, ..options(Form::Layer) };
    for packed in [tar.clone(), gzip(&tar)] {
        assert_eq!(stage.unpack(packed.as_slice(), &summed).unwrap().sha256, Some(sum));
    }
}
