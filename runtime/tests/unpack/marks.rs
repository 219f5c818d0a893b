//! What a layer hides, and what it must not.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::process::Command;
use std::time::Duration;

use runtime::unpack::{Flaw, UnpackError};

use crate::stage::{Stage, cpu, is_root};
use crate::tarball::{Tarball, head};

fn is_hidden(stage: &Stage, path: &str) -> bool {
    let stat = stage.stat(path);
    stat.file_type().is_char_device() && stat.rdev() == 0
}

fn is_opaque(stage: &Stage, path: &str) -> bool {
    let mut value = [0; 8];
    let read = rustix::fs::lgetxattr(stage.at(path), "user.overlay.opaque", &mut value);
    read.is_ok_and(|length| &value[..length] == b"y")
}

#[test]
fn marks_become_those_of_overlay() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .file("etc/.wh.motd", "")
        .file("var/cache/.wh..wh..opq", "")
        .file(".wh.top", "")
        .hard_link(".wh.linked", ".wh..wh.aufs") // As aufs wrote them.
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "x")
        .end();
    let done = stage.layer(&tar).unwrap();
    assert!(is_hidden(&stage, "etc/motd") && is_hidden(&stage, "top"));
    assert!(is_hidden(&stage, "linked") && is_opaque(&stage, "var/cache"));
    assert_eq!((done.hidden, done.skipped_notes, done.hides_all), (4, 2, false));
    assert_eq!(std::fs::read_dir(stage.at("")).unwrap().count(), 4);
}

#[test]
fn a_mark_hides_lower_layers_only_whatever_the_order() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .file("a/x", "stays")
        .file(".wh.a", "")
        .file("f", "stays")
        .file(".wh.f", "")
        .file(".wh.b", "")
        .dir("b")
        .file("b/x", "stays")
        .file("c/x", "stays")
        .file("c/.wh..wh..opq", "")
        .end();
    stage.layer(&tar).unwrap();
    for path in ["a/x", "f", "b/x", "c/x"] {
        assert_eq!(stage.read(path), "stays", "{path}");
    }
    for path in ["a", "b", "c"] {
        assert!(is_opaque(&stage, path), "{path}");
    }
}

#[test]
fn marks_for_no_proper_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh...", ".wh.a/b", ".wh./../../host/victim"] {
        let stage = Stage::new();
        let error = stage.layer(&Tarball::new().file(name, "").end()).unwrap_err();
        let UnpackError::Entry { flaw, .. } = error else { panic!("{name}: {error}") };
        assert!(matches!(flaw, Flaw::BadMark | Flaw::DotDot), "{name}: {flaw}");
    }
}

#[test]
fn a_mark_below_a_link_to_the_host_stays_in_the_layer() {
    let stage = Stage::new();
    for mark in ["out/.wh.victim", "out/.wh..wh..opq"] {
        let tar = Tarball::new().symlink("out", stage.host()).file(mark, "").end();
        stage.layer(&tar).unwrap_err();
    }
    let tar = Tarball::new().dir("d").symlink("out", "../d").file("out/.wh.victim", "").end();
    stage.layer(&tar).unwrap();
    assert!(is_hidden(&stage, "d/victim"));
}

#[test]
fn a_mark_on_a_link_does_not_follow_it() {
    let stage = Stage::new();
    let tar = Tarball::new().symlink("out", stage.host()).file(".wh.out", "").end();
    stage.layer(&tar).unwrap();
    assert!(stage.stat("out").is_symlink());
}

#[test]
fn a_layer_that_hides_everything_says_so() {
    let stage = Stage::new();
    let done = stage.layer(&Tarball::new().file(".wh..wh..opq", "").file("f", "").end()).unwrap();
    assert!(done.hides_all);
    assert!(!is_opaque(&stage, ""));
}

#[test]
fn twenty_thousand_opaque_marks_take_linear_time() {
    let take = |count| {
        let stage = Stage::new();
        let mut tar = Tarball::new();
        for name in 0..1000 {
            tar = tar.file(format!("d/{name}"), "");
        }
        for _ in 0..count {
            tar = tar.block(&head("d/.wh..wh..opq", b'0').block());
        }
        let begin = cpu();
        assert_eq!(stage.layer(&tar.end()).unwrap().hidden, 1);
        cpu() - begin
    };
    let (few, many) = (take(2_000), take(20_000));
    assert!(many < few * 30 + Duration::from_secs(1), "{few:?} and {many:?}");
}

#[test]
fn a_root_with_marks_is_a_layer_and_refused() {
    for name in [".wh.x", "a/.wh..wh..opq", ".wh.d/x"] {
        let stage = Stage::new();
        let flaw = stage.flaw(&Tarball::new().file(name, "").end());
        assert!(matches!(flaw, Flaw::MarkInRoot), "{name}: {flaw}");
        assert!(flaw.to_string().contains("load the image"));
    }
}

/// The judge is the kernel: what a container sees of two layers.
#[test]
fn overlay_hides_what_the_marks_say() {
    if !is_root() {
        eprintln!("SKIPPED: mounting overlay needs root");
        return;
    }
    let (lower, upper) = (Stage::new(), Stage::new());
    let tar = Tarball::new()
        .file("gone", "")
        .file("kept", "")
        .file("all/a", "")
        .file("again/old", "")
        .end();
    lower.layer(&tar).unwrap();
    let tar = Tarball::new()
        .file(".wh.gone", "")
        .file("all/new", "")
        .file("all/.wh..wh..opq", "")
        .file(".wh.again", "")
        .dir("again")
        .file("again/new", "")
        .end();
    upper.layer(&tar).unwrap();
    let mounted = tempfile::tempdir().unwrap();
    let script = format!(
        "mount --make-rprivate / && mount -t overlay o -o userxattr,lowerdir={}:{} {at} && \
         cd {at} && find . -type f | sort | tr '\\n' ' '",
        upper.at("").display(),
        lower.at("").display(),
        at = mounted.path().display(),
    );
    let out = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(text, "./again/new ./all/new ./kept ", "{said}");
}
