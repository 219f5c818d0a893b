//! Copying into and out of a payload that fights back: it exchanges directories for links
//! to the host while we walk there, and the archives are hostile.
//!
//! That nothing of the host was changed is what the canaries look at; here it is looked
//! whether anything of it came out.

use std::io;

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::{Ask, Running};
use crate::escape::tar::{Archive, LINK};

/// Copies against one payload: an exchange takes less than a look-up of a path does.
const COPIES: usize = 40;

/// What a canary's files hold.
const HOSTS: [&[u8]; 2] = [b"a canary", b"a secret"];

pub(super) fn copies(ground: &mut Ground) -> io::Result<Vec<String>> {
    let mut broken = log_links(ground)?;
    let canary = ground.canary().display().to_string();
    let root = ground.root()?;
    let container = Ask::probe(root, &["swap", "/tmp", &canary]);
    let mut process = Ask { files: None, ..Ask::probe("", &["swap", ".", &canary]) };
    process.argv[0] = ground.probe_path().display().to_string();
    // A plain process's paths begin at its scratch directory.
    for (ask, place) in [(container, "/tmp"), (process, "")] {
        let victim = match ground.start(&ask)? {
            Ok(victim) => victim,
            Err(reason) => {
                broken.push(format!("the payload did not run: {reason}"));
                continue;
            }
        };
        broken.extend(attacked(ground, &victim, place, &canary)?);
        let (told, _) = ground.isolator().stop(&victim)?;
        broken.extend(ran(&told));
        if told.value("swap link") != Some("ok") || told.value("swap over").is_some() {
            broken.push(format!("nothing was exchanged: {told:?}"));
        }
    }
    Ok(broken)
}

fn attacked(
    ground: &mut Ground,
    victim: &Running,
    place: &str,
    canary: &str,
) -> io::Result<Vec<String>> {
    let Some(ours) = ground.isolator().ours() else { return Ok(Vec::new()) };
    let mut broken = Vec::new();
    let whole = if place.is_empty() { "/" } else { place };
    let harmless = Archive::default().file("harmless", b"came back").end();
    ours.copy_in(victim, whole, &harmless)?;
    let back = ours.copy_out(victim, &format!("{place}/harmless"))?;
    if !holds(&back, b"came back") {
        broken.push("not even a harmless file can be copied in and out".to_owned());
    }
    let evil = Archive::default().file("evil", b"evil").end();
    let hostile = [
        Archive::default().file(&format!("../../../../../../../..{canary}/evil"), b"x").end(),
        Archive::default().file(&format!("{canary}/evil"), b"x").end(),
        Archive::default().entry(LINK, "x", 0o777, canary, b"").file("x/evil", b"x").end(),
    ];
    for archive in &hostile {
        ours.copy_in(victim, whole, archive)?;
    }
    let up = format!("../../../../../../../..{canary}");
    let outs = ["d/file", "d/secret", "d/", "d/.", "l/file", &up, "x/file"];
    for _ in 0..COPIES {
        for into in ["d", "l"] {
            ours.copy_in(victim, &format!("{place}/{into}"), &evil)?;
        }
        for out in outs {
            let got = ours.copy_out(victim, &format!("{place}/{out}"))?;
            if HOSTS.iter().any(|host| holds(&got, host)) {
                broken.push(format!("a file of the host came out by {place}/{out}"));
            }
        }
    }
    Ok(broken)
}

fn holds(archive: &[u8], text: &[u8]) -> bool {
    archive.windows(text.len()).any(|part| part == text)
}

/// No path of a container leads to the task's directory, with its log and its records.
fn log_links(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["list", "/", "/vol", "/tmp"])?;
    let mut broken = ran(&told);
    let seen = told
        .all("list")
        .filter(|line| ["log.", "state", "control.sock"].iter().any(|name| line.contains(name)));
    broken.extend(seen.map(|line| format!("a file of the runtime is in the container: {line}")));
    Ok(broken)
}
