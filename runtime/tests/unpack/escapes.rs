//! Archives that try to reach what is not in them.

use runtime::unpack::Flaw;

use crate::stage::Stage;
use crate::tarball::{Tarball, head};

#[test]
fn a_name_with_dot_dot_is_refused() {
    for name in ["../host/victim", "a/../../host/victim", "..", "a/..", "./../x", "/../x"] {
        let stage = Stage::new();
        let tar = Tarball::new().file(name, "bad").end();
        assert!(matches!(stage.flaw(&tar), Flaw::DotDot), "{name}");
        // And in the forms that have longer names.
        let tar = Tarball::new().pax(&[("path", name.as_bytes())]).file("x", "bad").end();
        assert!(matches!(stage.flaw(&tar), Flaw::DotDot), "{name}");
    }
}

#[test]
fn an_absolute_name_lands_in_the_root() {
    let stage = Stage::new();
    let name = format!("{}/victim", stage.host());
    stage.rootfs(&Tarball::new().file(&name, "bad").end()).unwrap();
    assert_eq!(stage.read(name.trim_start_matches('/')), "bad");
}

#[test]
fn a_write_through_a_link_to_the_host_stays_in_the_root() {
    let stage = Stage::new();
    let host = stage.host();
    let tar = Tarball::new().symlink("out", &host).file("out/victim", "bad").end();
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));

    // The same with something there to be found: inside.
    let inside = host.trim_start_matches('/');
    let tar =
        Tarball::new().dir(inside).symlink("out", &host).file("out/victim", "in the root").end();
    let stage = Stage::new();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read(&format!("{inside}/victim")), "in the root");
}

#[test]
fn a_relative_link_upwards_stops_at_the_root() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .symlink("out", "../host")
        .dir("a/b")
        .symlink("a/b/out", "../../../../../../host")
        .file("out/victim", "bad")
        .end();
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));
    let stage = Stage::new();
    let tar = Tarball::new().dir("host").symlink("out", "../host").file("out/victim", "x").end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("host/victim"), "x");
}

#[test]
fn a_chain_of_links_does_not_lead_out() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .dir("d")
        .symlink("d/up", "..")
        .symlink("d/up2", "up/..")
        .symlink("e", "d/up2/../../host")
        .file("e/victim", "bad")
        .end();
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));
    let stage = Stage::new();
    let tar = Tarball::new().symlink("a", "b").symlink("b", "a").file("a/x", "bad").end();
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));
}

#[test]
fn a_file_over_a_link_replaces_the_link() {
    let stage = Stage::new();
    let victim = format!("{}/victim", stage.host());
    let tar = Tarball::new().symlink("x", &victim).file("x", "new").end();
    stage.rootfs(&tar).unwrap();
    assert!(stage.stat("x").is_file());
    assert_eq!(stage.read("x"), "new");
}

#[test]
fn mode_owner_and_time_never_go_through_a_link() {
    let stage = Stage::new();
    let link = head("x", b'2').link(format!("{}/victim", stage.host()));
    let tar = Tarball::new().add(link.mode(0o4777).owner(7, 7), b"").end();
    stage.rootfs(&tar).unwrap();
    let tar = Tarball::new()
        .symlink("d", stage.host())
        .add(head("d", b'5').mode(0o777).owner(7, 7), b"")
        .end();
    stage.rootfs(&tar).unwrap();
    assert!(stage.stat("d").is_dir());
}

#[test]
fn a_hard_link_to_the_host_is_refused() {
    let stage = Stage::new();
    let victim = format!("{}/victim", stage.host());
    let tar = Tarball::new().hard_link("x", &victim).end();
    assert!(matches!(stage.flaw(&tar), Flaw::HardLink { .. }));
    let tar = Tarball::new().hard_link("x", "../host/victim").end();
    assert!(matches!(stage.flaw(&tar), Flaw::DotDot));
    let tar = Tarball::new().hard_link("x", "/etc/passwd").end();
    assert!(matches!(stage.flaw(&tar), Flaw::HardLink { .. }));
    for target in ["", ".", "/"] {
        let tar = Tarball::new().hard_link("x", target).end();
        assert!(matches!(stage.flaw(&tar), Flaw::HardLink { .. }), "{target:?}");
    }
}

#[test]
fn a_hard_link_through_a_link_is_refused() {
    let stage = Stage::new();
    let tar = Tarball::new().symlink("out", stage.host()).hard_link("x", "out/victim").end();
    assert!(matches!(stage.flaw(&tar), Flaw::HardLink { .. }));
}

#[test]
fn a_hard_link_to_a_link_is_the_link_and_writes_replace_it() {
    let stage = Stage::new();
    let victim = format!("{}/victim", stage.host());
    let tar = Tarball::new().symlink("l", &victim).hard_link("x", "l").file("x", "new").end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("x"), "new");
    assert!(stage.stat("l").is_symlink());
}

#[test]
fn a_hard_link_to_a_directory_or_itself_does_no_harm() {
    let stage = Stage::new();
    let tar = Tarball::new().dir("d").hard_link("x", "d").end();
    assert!(matches!(stage.flaw(&tar), Flaw::HardLink { .. }));
    let tar = Tarball::new().file("a", "kept").hard_link("a", "a").hard_link("b", "a");
    let tar = tar.hard_link("a", "b").end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("a"), "kept");
    let tar = Tarball::new().dir("d").file("d/x", "gone").hard_link("d", "d/x").end();
    stage.rootfs(&tar).unwrap_err();
}

#[test]
fn a_zero_byte_in_a_name_is_refused() {
    let stage = Stage::new();
    for key in ["path", "linkpath", "SCHILY.xattr.user.a\0b"] {
        let tar = Tarball::new().pax(&[(key, b"a\0b")]).file("x", "").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Zero), "{key}");
    }
    for kind in [b'L', b'K'] {
        let tar = Tarball::new().raw(&head("long", kind), b"a\0../x\0").file("x", "").end();
        assert!(matches!(stage.flaw(&tar), Flaw::Zero));
    }
}

/// The lie of the header decides what is content and what the next header: a
/// scanner that believes the other one sees another archive.
#[test]
fn two_sizes_for_one_entry_are_refused() {
    let inner = Tarball::new().file("smuggled", "bad").0;
    for said in ["0", "512", "1024", "99999999"] {
        let stage = Stage::new();
        let tar = Tarball::new()
            .pax(&[("size", said.as_bytes())])
            .file("x", &inner)
            .file("after", "")
            .end();
        let refused = inner.len().to_string() != said;
        assert_eq!(matches!(stage.rootfs(&tar), Err(_)), refused, "{said}");
        assert!(!stage.exists("smuggled"));
    }
    let stage = Stage::new();
    let tar = Tarball::new().pax(&[("size", b"512")]).file("x", [b'y'; 1024]).end();
    assert!(matches!(stage.flaw(&tar), Flaw::TwoSizes { header: 1024, extended: 512 }));
    // The honest use: the header has no room for it.
    let tar = Tarball::new().pax(&[("size", b"3")]).add(head("x", b'0'), b"").bytes(b"abc");
    stage.rootfs(&tar.end()).unwrap();
    assert_eq!(stage.read("x"), "abc");
}

#[test]
fn content_of_what_has_none_is_refused() {
    for kind in *b"123456" {
        let stage = Stage::new();
        let inner = Tarball::new().file("smuggled", "bad").0;
        let tar = Tarball::new().file("f", "").add(head("x", kind).link("f"), &inner).end();
        assert!(matches!(stage.flaw(&tar), Flaw::Content), "{}", char::from(kind));
        assert!(!stage.exists("smuggled"));
    }
}

#[test]
fn a_dev_that_is_a_link_leads_nowhere_on_the_host() {
    let stage = Stage::new();
    for target in [stage.host(), "../host".to_owned(), "../../../../host".to_owned()] {
        let stage = Stage::new();
        let tar = Tarball::new()
            .symlink("dev", &target)
            .symlink("proc", &target)
            .file("dev/victim", "bad")
            .end();
        assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }), "{target}");
        let tar = Tarball::new().symlink("dev", &target).dir("dev").file("dev/victim", "x").end();
        stage.rootfs(&tar).unwrap();
        assert_eq!(stage.read("dev/victim"), "x");
    }
}

#[test]
fn a_directory_over_a_link_and_a_link_over_a_directory() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .dir("d")
        .file("d/x", "old")
        .symlink("d", stage.host())
        .file("d/victim", "bad")
        .end();
    // The handle of the old directory must not be used for what follows.
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));
    assert!(stage.stat("d").is_symlink());
}

#[test]
fn a_path_that_led_through_something_replaced_is_resolved_again() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .dir("q/r")
        .symlink("p", "q/r/..")
        .file("p/one", "1")
        .file("p/r", "no directory any more")
        .file("p/two", "2")
        .end();
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));
    assert_eq!(stage.read("q/one"), "1");
    assert!(!stage.exists("q/two"));
}

#[test]
fn an_entry_below_a_file_is_refused() {
    let stage = Stage::new();
    let tar = Tarball::new().file("f", "").file("f/x", "").end();
    assert!(matches!(stage.flaw(&tar), Flaw::Parent { .. }));
}

#[test]
fn a_file_over_a_directory_and_back_leaves_the_last() {
    let stage = Stage::new();
    let tar = Tarball::new().dir("x").file("x/a", "").file("x", "file").end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("x"), "file");
    stage.rootfs(&Tarball::new().dir("x").file("x/b", "b").end()).unwrap();
    assert_eq!(stage.read("x/b"), "b");
}

#[test]
fn the_links_of_a_merged_usr_are_followed_inside() {
    let stage = Stage::new();
    let tar = Tarball::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("lib64", "/lib")
        .file("lib64/libc.so", "elf")
        .dir("lib/deeper")
        .hard_link("copy", "lib64/libc.so")
        .end();
    stage.rootfs(&tar).unwrap();
    assert_eq!(stage.read("usr/lib/libc.so"), "elf");
    assert!(stage.stat("lib").is_symlink());
    assert!(stage.stat("usr/lib/deeper").is_dir());
    assert_eq!(stage.read("copy"), "elf");
}

#[test]
fn an_error_cannot_move_the_cursor_nor_flood_the_log() {
    let stage = Stage::new();
    let name = format!("\x1b[2J{}/..", "n".repeat(3000));
    let error = stage.rootfs(&Tarball::new().file(name, "").end()).unwrap_err().to_string();
    assert!(error.contains("\\x1b[2Jnnn"), "{error}");
    assert!(error.len() < 250, "{error}");
}
