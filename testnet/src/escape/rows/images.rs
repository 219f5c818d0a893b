//! Ways out by what an image holds: names, links, devices, users.
//!
//! An archive may be refused or unpacked in a harmless way; which, is its isolator's
//! business. What a row asks is that nothing outside of the root was touched, that
//! no device or right came in, and that it took bounded time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::{Ask, Files, Told};
use crate::escape::tar::{Archive, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARD_LINK, LINK};

/// What unpacking and starting a small hostile archive may take.
const PLAYED_WITHIN: Duration = Duration::from_secs(10);

/// Whiteouts of one directory in one archive, and components of one path.
const MANY_WHITEOUTS: usize = 20_000;
const DEEP: usize = 2_000;

/// Runs the probe over the usual root and these entries behind it.
fn play(ground: &mut Ground, hostile: Archive, words: &[&str]) -> io::Result<(Told, Vec<String>)> {
    let root = ground.root()?;
    let tar = ground.directory()?.join("root.tar");
    let mut archive = Archive::default().tree(&root, "")?;
    archive = archive.followed_by(hostile);
    archive.write(&tar)?;
    let began = Instant::now();
    let ask = Ask { files: Some(Files::Tar(tar)), ..Ask::probe(root, words) };
    let told = ground.run(&ask)?;
    let (took, mut broken) = (began.elapsed(), Vec::new());
    if took > PLAYED_WITHIN && took > ground.patience(PLAYED_WITHIN)? {
        broken.push(format!("it took {:.1} s", took.as_secs_f64()));
    }
    Ok((told, broken))
}

/// An archive without guile must run, or the others prove nothing.
fn harmless(ground: &mut Ground) -> io::Result<Vec<String>> {
    Ok(ran(&play(ground, Archive::default(), &["list", "/"])?.0))
}

pub(super) fn traversal(ground: &mut Ground) -> io::Result<Vec<String>> {
    let canary = ground.canary();
    let up = |path: &str| {
        format!(
            "{}{}/{path}",
            "../".repeat(12),
            canary.strip_prefix("/").unwrap_or(&canary).display()
        )
    };
    let absolute = |path: &str| canary.join(path).display().to_string();
    let whole = canary.display().to_string();
    let a = Archive::default;
    let hostile: Vec<(&str, Archive)> = vec![
        ("dots", a().file(&up("dots"), b"x")),
        ("an absolute name", a().file(&absolute("abs"), b"x")),
        ("dots in the middle", a().file(&format!("tmp/../{}", up("mid")), b"x")),
        (
            "through an absolute link",
            a().entry(LINK, "l", 0o777, &whole, b"").file("l/through", b"x"),
        ),
        (
            "through a relative link",
            a().entry(LINK, "l", 0o777, &up("."), b"").file("l/through", b"x"),
        ),
        (
            "through a link to a file",
            a().entry(LINK, "l", 0o777, &absolute("file"), b"").file("l", b"x"),
        ),
        (
            "through two links",
            a().entry(LINK, "l", 0o777, "m", b"")
                .entry(LINK, "m", 0o777, &whole, b"")
                .file("l/two", b"x"),
        ),
        (
            "a hard link to the host",
            a().entry(HARD_LINK, "h", 0o644, &absolute("file"), b"").file("h", b"x"),
        ),
        ("a hard link by dots", a().entry(HARD_LINK, "h", 0o644, &up("file"), b"").file("h", b"x")),
        (
            "a hard link by a link",
            a().entry(LINK, "l", 0o777, &whole, b"")
                .entry(HARD_LINK, "h", 0o644, "l/file", b"")
                .file("h", b"x"),
        ),
        (
            "a directory over a link",
            a().entry(LINK, "l", 0o777, &whole, b"")
                .entry(DIRECTORY, "l", 0o777, "", b"")
                .file("l/over", b"x"),
        ),
        (
            "a directory's mode through a link",
            a().entry(LINK, "l", 0o777, &whole, b"").entry(DIRECTORY, "l/", 0o777, "", b""),
        ),
        ("an extended name", a().extended(&[("path", &up("pax"))]).file("harmless", b"x")),
        (
            "an extended link",
            a().extended(&[("linkpath", &whole)])
                .entry(LINK, "l", 0o777, "tmp", b"")
                .file("l/pax", b"x"),
        ),
        (
            "a size that lies",
            a().extended(&[("size", "0")])
                .file("lie", &Archive::default().file(&up("lie"), b"x").raw()),
        ),
        ("a root that is a link", a().entry(LINK, "./", 0o777, &whole, b"").file("root", b"x")),
        ("its own name replaced", a().entry(LINK, ".", 0o777, &whole, b"").file("dot", b"x")),
    ];
    let mut broken = harmless(ground)?;
    for (what, archive) in hostile {
        let before = ground.look();
        let (_, late) = play(ground, archive, &["list", "/"])?;
        broken.extend(
            late.into_iter().chain(ground.changes(&before)).map(|it| format!("{what}: {it}")),
        );
    }
    let deep = format!("{}x", "d/".repeat(DEEP));
    let (_, late) =
        play(ground, a().extended(&[("path", &deep)]).file("deep", b"x"), &["list", "/"])?;
    broken.extend(late.into_iter().map(|it| format!("a deep path: {it}")));
    Ok(broken)
}

pub(super) fn whiteouts(ground: &mut Ground) -> io::Result<Vec<String>> {
    let canary = ground.canary();
    let whole = canary.display().to_string();
    let a = Archive::default;
    let mut many = a();
    for _ in 0..MANY_WHITEOUTS {
        many = many.file("tmp/.wh..wh..opq", b"");
    }
    let hostile: Vec<(&str, Archive)> = vec![
        ("of nothing", a().file(".wh.", b"")),
        ("of dots", a().file(".wh...", b"").file(".wh..", b"")),
        ("by a path", a().file(&format!(".wh./../../../../../../../../..{whole}/file"), b"")),
        ("through a link", a().entry(LINK, "l", 0o777, &whole, b"").file("l/.wh.file", b"")),
        (
            "of all, through a link",
            a().entry(LINK, "l", 0o777, &whole, b"").file("l/.wh..wh..opq", b""),
        ),
        (
            "by dots",
            a().file(
                &format!("{}{}/.wh.file", "../".repeat(12), whole.trim_start_matches('/')),
                b"",
            ),
        ),
        ("of the root", a().file(".wh..wh..opq", b"")),
        ("twenty thousand times", many),
    ];
    let mut broken = harmless(ground)?;
    for (what, archive) in hostile {
        let before = ground.look();
        let (_, late) = play(ground, archive, &["list", "/"])?;
        broken.extend(
            late.into_iter().chain(ground.changes(&before)).map(|it| format!("{what}: {it}")),
        );
    }
    Ok(broken)
}

pub(super) fn special_files(ground: &mut Ground) -> io::Result<Vec<String>> {
    let a = Archive::default;
    let mut broken = harmless(ground)?;
    // Each may be refused; where it is not, it must be without effect.
    let devices = a().device(CHAR, "mem", 1, 1).device(CHAR, "kmsg", 1, 11).device(
        BLOCK_DEVICE,
        "disk",
        254,
        0,
    );
    let (told, late) = play(ground, devices, &["read", "/mem", "/kmsg", "/disk"])?;
    broken.extend(late);
    let read = told.all("read").filter(|line| line.contains('"'));
    broken.extend(read.map(|line| format!("a device of the image works: {line}")));

    let hidden = a().device(CHAR, "etc/passwd", 0, 0);
    let (_, late) = play(ground, hidden, &["list", "/etc"])?;
    broken.extend(late);

    let fifo =
        a().entry(FIFO, "etc/passwd", 0o666, "", b"").entry(FIFO, "etc/group", 0o666, "", b"");
    let (_, late) = play(ground, fifo, &["list", "/etc"])?;
    broken.extend(late.into_iter().map(|it| format!("a FIFO as /etc/passwd: {it}")));

    let overlay = a()
        .extended(&[
            ("SCHILY.xattr.trusted.overlay.redirect", "/../../../../etc"),
            ("SCHILY.xattr.user.overlay.redirect", "/../../../../etc"),
        ])
        .entry(DIRECTORY, "redirected/", 0o755, "", b"")
        .extended(&[("SCHILY.xattr.trusted.overlay.opaque", "y")])
        .entry(DIRECTORY, "vol/", 0o755, "", b"");
    let (told, late) = play(ground, overlay, &["list", "/redirected"])?;
    broken.extend(late);
    broken.extend(
        told.value("list /redirected")
            .map(|name| format!("a redirect was followed: {name}"))
            .filter(|it| !it.contains(" - ")),
    );

    let raised = a().entry(FILE, "suid", 0o6755, "", b"x");
    let (told, late) = play(ground, raised, &["facts"])?;
    broken.extend(late);
    if told.refused.is_none() && told.value("status NoNewPrivs") != Some("1") {
        broken.push("setuid programs of an image raise their user".to_owned());
    }
    Ok(broken)
}

pub(super) fn users(ground: &mut Ground) -> io::Result<Vec<String>> {
    let root = ground.root()?;
    let ask = Ask { user: "1000:1000".to_owned(), ..Ask::probe(root, &["facts"]) };
    let told = ground.run(&ask)?;
    let mut broken = ran(&told);
    if !told.value("status Uid").is_some_and(|uid| uid.starts_with("1000")) {
        broken.push("not even a user of that number is that user".to_owned());
    }
    let names = ["4294967296", "99999999999", "4294967295", "-1", "0x0", "65536", "nobody-here"];
    let passwd = names.iter().map(|name| format!("{name}:x:0:0::/:/bin/sh\n")).collect::<String>();
    let numbers = names.iter().filter(|name| **name != "nobody-here");
    for name in numbers {
        let root = ground.root()?;
        fs::write(root.join("etc/passwd"), &passwd)?;
        let ask = Ask { user: (*name).to_owned(), ..Ask::probe(root, &["facts"]) };
        let told = ground.run(&ask)?;
        // A line of that very name is the image's to have; a number is not.
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && told.value("status Uid").is_some_and(|uid| uid.starts_with('0')) {
            broken.push(format!("the user {name} runs as root"));
        }
    }
    let canary = ground.canary();
    let places: [(&str, PathBuf); 2] = [
        ("a link to the host", canary.join("file")),
        ("an endless file", PathBuf::from("/dev/zero")),
    ];
    for (what, there) in places {
        let root = ground.root_with_link("etc/passwd", &there)?;
        broken.extend(named_user(ground, &root)?.into_iter().map(|it| format!("{what}: {it}")));
    }
    let root = ground.root()?;
    fs::remove_file(root.join("etc/passwd"))?;
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        root.join("etc/passwd"),
        rustix::fs::Mode::from_raw_mode(0o666),
    )?;
    broken.extend(named_user(ground, &root)?.into_iter().map(|it| format!("a FIFO: {it}")));
    Ok(broken)
}

fn named_user(ground: &mut Ground, root: &Path) -> io::Result<Option<String>> {
    let began = Instant::now();
    let ask = Ask { user: "someone".to_owned(), ..Ask::probe(root, &["facts"]) };
    let told = ground.run(&ask)?;
    let took = began.elapsed();
    if took > PLAYED_WITHIN && took > ground.patience(PLAYED_WITHIN)? {
        return Ok(Some(format!("it took {:.1} s", took.as_secs_f64())));
    }
    let root = told.value("status Uid").filter(|uid| uid.starts_with('0'));
    Ok(root.map(|_| "a user that is not there is root".to_owned()))
}

pub(super) fn environment(ground: &mut Ground) -> io::Result<Vec<String>> {
    let root = ground.root()?;
    // What an image might bring to be believed.
    fs::write(
        root.join("config.json"),
        r#"{"annotations":{"privileged":"true"},"process":{"noNewPrivileges":false}}"#,
    )?;
    fs::write(root.join("etc/ld.so.preload"), "/evil.so\n")?;
    let mut ask = Ask::probe(&root, &["bomb", "deaf"]);
    ask.env.insert("LD_PRELOAD".to_owned(), "/evil.so".to_owned());
    ask.env.insert("PATH".to_owned(), "/evil".to_owned());
    let running = match ground.start(&ask)? {
        Ok(running) => running,
        Err(reason) => return Ok(vec![format!("the payload did not run: {reason}")]),
    };
    let mut broken = Vec::new();
    let parent = fs::read_to_string(format!("/proc/{}/stat", running.pid))?;
    let parent = parent
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(1))
        .unwrap_or("0")
        .to_owned();
    let environ = fs::read(format!("/proc/{parent}/environ")).unwrap_or_default();
    if String::from_utf8_lossy(&environ).contains("evil") {
        broken.push("the task's environment is its supervisor's".to_owned());
    }
    let maps = fs::read_to_string(format!("/proc/{parent}/maps")).unwrap_or_default();
    if maps.contains("evil") {
        broken.push("a library of the image is in its supervisor".to_owned());
    }
    ground.isolator().stop(&running)?;
    let told = ground.run(&Ask::probe(&root, &["facts"]))?;
    broken.extend(ran(&told));
    if told.value("status NoNewPrivs") != Some("1") {
        broken.push("a file of the image turned its limits off".to_owned());
    }
    Ok(broken)
}
