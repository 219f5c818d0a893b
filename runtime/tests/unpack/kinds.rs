//! Kinds of entries, bits and attributes: what is made, and what is not.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use runtime::unpack::{Flaw, Owners};

use crate::stage::{Stage, is_root, options};
use crate::tarball::{Tarball, head};

fn attribute(stage: &Stage, path: &str, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(stage.at(path), name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn devices_are_counted_and_not_made() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .dir("dev")
        .add(head("dev/null", b'3'), b"")
        .add(head("dev/sda", b'4'), b"")
        .add(head("hidden", b'3'), b"") // 0/0: overlay would take it for a mark.
        .end();
    assert_eq!(stage.rootfs(&tar).unwrap().skipped_devices, 3);
    assert_eq!(std::fs::read_dir(stage.at("dev")).unwrap().count(), 0);
    assert!(!stage.exists("hidden"));
    assert_eq!(stage.layer(&tar).unwrap().skipped_devices, 3);
    assert!(!stage.exists("hidden"));
}

#[test]
fn setuid_and_sticky_bits_are_kept() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .add(head("su", b'0').mode(0o4755).owner(0, 0), b"x")
        .add(head("sg", b'0').mode(0o2755).owner(12, 34), b"x")
        .add(head("tmp", b'5').mode(0o1777), b"")
        .end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.stat("su").mode() & 0o7777, 0o4755);
    assert_eq!(stage.stat("tmp").mode() & 0o7777, 0o1777);
    if is_root() {
        assert_eq!(stage.stat("sg").mode() & 0o7777, 0o2755);
        assert_eq!((stage.stat("sg").uid(), stage.stat("sg").gid()), (12, 34));
    } else {
        eprintln!("SKIPPED: owners of another user need root");
    }
}

#[test]
fn a_directory_that_hands_on_its_group_does_not_to_entries_of_another() {
    if !is_root() {
        eprintln!("SKIPPED: owners of another user need root");
        return;
    }
    let stage = Stage::new();
    let tar = Tarball::new()
        .add(head("d", b'5').mode(0o2755).owner(5, 5), b"")
        .file("d/f", "")
        .dir("d/inner")
        .symlink("d/l", "f")
        .end();
    stage.rootfs(&tar).unwrap();
    for path in ["d/f", "d/inner", "d/l"] {
        assert_eq!((stage.stat(path).uid(), stage.stat(path).gid()), (0, 0), "{path}");
    }
    assert_eq!(stage.stat("d/inner").mode() & 0o7777, 0o755);
}

#[test]
fn attributes_by_which_overlay_is_told_things_are_dropped() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/"),
            ("SCHILY.xattr.user.overlay.redirect", b"/"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.system.posix_acl_access", b"x"),
            ("LIBARCHIVE.xattr.user.overlay.opaque", b"eQ=="),
            ("SCHILY.xattr.user.kept", b"a=b\n\0c"),
        ])
        .dir("d")
        .end();
    for done in [stage.rootfs(&tar).unwrap(), stage.layer(&tar).unwrap()] {
        assert_eq!(done.dropped_attributes, 7);
    }
    let mut names = vec![0; 1024];
    let length = rustix::fs::llistxattr(stage.at("d"), &mut names).unwrap();
    assert_eq!(&names[..length], b"user.kept\0");
    assert_eq!(attribute(&stage, "d", "user.kept").as_deref(), Some(&b"a=b\n\0c"[..]));
}

#[test]
fn a_file_capability_is_kept_and_outlives_the_change_of_owner() {
    if !is_root() {
        eprintln!("SKIPPED: file capabilities need root");
        return;
    }
    let stage = Stage::new();
    // cap_net_bind_service+ep, version 2.
    let value = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tarball::new()
        .pax(&[("SCHILY.xattr.security.capability", value)])
        .add(head("ping", b'0').owner(3, 4), b"elf")
        .end();
    assert_eq!(stage.rootfs(&tar).unwrap().dropped_attributes, 0);
    assert_eq!(attribute(&stage, "ping", "security.capability").as_deref(), Some(&value[..]));
}

#[test]
fn a_fifo_in_the_place_of_a_file_does_not_block() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .add(head("etc/passwd", b'6').mode(0o622), b"")
        .hard_link("etc/shadow", "etc/passwd")
        .file("etc/shadow", "no fifo")
        .end();
    stage.rootfs(&tar).unwrap();
    assert!(stage.stat("etc/passwd").file_type().is_fifo());
    assert_eq!(stage.stat("etc/passwd").mode() & 0o7777, 0o622);
    assert_eq!(stage.read("etc/shadow"), "no fifo");
}

#[test]
fn sparse_files_are_refused_with_what_to_do() {
    let stage = Stage::new();
    let tar = Tarball::new().add(head("s", b'S'), b"data").end();
    assert!(matches!(stage.flaw(&tar), Flaw::Sparse));
    let tar = Tarball::new().pax(&[("GNU.sparse.major", b"1")]).file("s", "data").end();
    assert!(stage.flaw(&tar).to_string().contains("without --sparse"));
}

#[test]
fn unknown_kinds_are_refused() {
    let stage = Stage::new();
    for kind in *b"8DMNXZ\xff" {
        let tar = Tarball::new().add(head("x", kind), b"").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Kind { .. }), "{kind}");
    }
}

#[test]
fn owners_beyond_32_bits_are_refused() {
    let stage = Stage::new();
    for id in [u64::from(u32::MAX), 1 << 32, 1 << 40] {
        let tar = Tarball::new().add(head("x", b'0').owner(id, 0), b"").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Number { field: "owner" }), "{id}");
        let tar = Tarball::new().add(head("x", b'0').owner(0, id), b"").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Number { field: "group" }), "{id}");
        let text = id.to_string();
        let tar = Tarball::new().pax(&[("uid", text.as_bytes())]).file("x", "").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Number { field: "owner" }), "{id}");
    }
    let tar = Tarball::new().pax(&[("uid", b"-1")]).file("x", "").end();
    assert!(matches!(stage.flaw(&tar), Flaw::Number { field: "owner" }));
    if is_root() {
        let id = u64::from(u32::MAX - 1);
        stage.rootfs(&Tarball::new().add(head("x", b'0').owner(id, id), b"").end()).unwrap();
        assert_eq!(stage.stat("x").uid(), u32::MAX - 1);
    }
}

#[test]
fn times_are_kept_and_those_of_directories_whatever_follows() {
    let stage = Stage::new();
    let at = |name: &str, kind, mtime| crate::tarball::Head { mtime, ..head(name, kind) };
    let tar = Tarball::new()
        .add(at("./", b'5', 11), b"")
        .add(at("a", b'5', 22), b"")
        .add(at("a/b", b'5', 33), b"")
        .add(at("a/b/f", b'0', 44), b"x")
        .file("other", "")
        .file("a/late", "")
        .file("a/b/new/deep", "") // Makes a directory that is not in the archive.
        .add(at("l", b'2', 55).link("nowhere"), b"")
        .file("a/b/f2", "")
        .file("a/b/f2", "again")
        .end();
    stage.rootfs(&tar).unwrap();
    for (path, time) in [("", 11), ("a", 22), ("a/b", 33), ("a/b/f", 44), ("l", 55)] {
        assert_eq!(stage.stat(path).mtime(), time, "{path:?}");
    }
    let tar = Tarball::new().pax(&[("mtime", b"-1.25")]).dir("a").end();
    stage.rootfs(&tar).unwrap();
    assert_eq!((stage.stat("a").mtime(), stage.stat("a").mtime_nsec()), (-2, 750_000_000));
}

#[test]
fn as_mine_everything_is_the_callers_and_directories_stay_open() {
    let stage = Stage::new();
    let options =
        runtime::unpack::Options { owners: Owners::Mine, ..options(runtime::unpack::Form::Rootfs) };
    let tar = Tarball::new()
        .add(head("locked", b'5').mode(0).owner(5, 5), b"")
        .add(head("locked/f", b'0').mode(0).owner(5, 5), b"x")
        .add(head("l", b'2').link("x").owner(5, 5), b"")
        .end();
    stage.unpack(tar.as_slice(), &options).unwrap();
    let me = rustix::process::geteuid().as_raw();
    for path in ["locked", "locked/f", "l"] {
        assert_eq!(stage.stat(path).uid(), me, "{path}");
    }
    assert_eq!(stage.stat("locked").mode() & 0o7777, 0o700);
    assert_eq!(stage.stat("locked/f").mode() & 0o7777, 0);
}

#[test]
fn long_names_of_both_dialects_are_read() {
    let stage = Stage::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let tar = Tarball::new().file(&long, "gnu").symlink("l", &long).end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("l"), "gnu");
    let tar = Tarball::new().pax(&[("path", long.as_bytes())]).file("x", "pax").end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("l"), "pax");
    assert!(!stage.exists("x"));
}
