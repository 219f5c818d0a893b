//! A plain process has the host's files before it: what it must not get all the same.
//!
//! Names in a hidden directory that everybody may list can be seen by it, which is
//! what Landlock leaves; what they hold cannot.

use std::fs;
use std::io;
use std::path::Path;

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::Ask;

pub(super) fn pries(ground: &mut Ground) -> io::Result<Vec<String>> {
    let (canary, agent) = (ground.canary(), ground.runtime_dir());
    let secret = canary.join("secret").display().to_string();
    let open = canary.join("file").display().to_string();
    let probe = ground.probe_path().display().to_string();
    let own = std::process::id().to_string();
    // Sockets, locks and records, whatever they are called.
    let mut victim = Ask { files: None, ..Ask::probe("", &["bomb", "deaf"]) };
    victim.argv[0].clone_from(&probe);
    let victim = match ground.start(&victim)? {
        Ok(victim) => victim,
        Err(reason) => return Ok(vec![format!("not even a plain process runs: {reason}")]),
    };
    let mut files = Vec::new();
    walk(&agent, &mut files);
    let sockets: Vec<_> = files.iter().filter(|path| path.ends_with(".sock")).cloned().collect();
    let mut missing = Vec::new();
    for name in [".sock", ".lock", "/state"] {
        if !files.iter().any(|path| path.ends_with(name)) {
            missing.push(format!("there is no {name} to pry for: {files:?}"));
        }
    }
    // What is nobody's secret can be read, or the rest proves nothing.
    let harmless = ground.directory()?.join("harmless");
    fs::write(&harmless, "harmless")?;
    let harmless = harmless.display().to_string();
    let tasks = agent.join("tasks").display().to_string();
    let with = |word: &str, paths: &[String]| {
        let mut words = vec![word.to_owned()];
        words.extend_from_slice(paths);
        words
    };
    let tries = [
        with("read", &[secret, open]),
        with("read", &files),
        with("write", &files),
        with("connect-to", &sockets),
        with("list", &[agent.display().to_string(), tasks]),
        with("others", std::slice::from_ref(&own)),
    ];
    let mut broken = missing;
    let mut ask = Ask { files: None, ..Ask::probe("", &["read", &harmless]) };
    ask.argv[0].clone_from(&probe);
    let told = ground.run(&ask)?;
    if !told.lines.iter().any(|line| line.contains("\"harmless\"")) {
        broken.push(format!("not even a harmless file can be read: {told:?}"));
    }
    for words in tries {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut ask = Ask { files: None, hidden: vec![canary.clone()], ..Ask::probe("", &words) };
        ask.argv[0].clone_from(&probe);
        let told = ground.run(&ask)?;
        broken.extend(ran(&told));
        let read = told.all("read").filter(|line| line.contains('"'));
        broken.extend(read.map(|line| format!("it read {line}")));
        let listed = told.all("list").filter(|line| !line.contains(" - E"));
        broken.extend(listed.map(|line| format!("it listed {line}")));
        broken.extend(told.succeeded("write"));
        let met = told.all("connect-to").filter(|line| !line.ends_with(" EACCES"));
        broken.extend(met.map(|line| format!("it came as far as {line}")));
        for what in ["signal", "memory", "trace", "root"] {
            let own = format!("{what} {own}");
            broken.extend(told.succeeded(what).into_iter().filter(|line| *line == own));
        }
    }
    ground.isolator().stop(&victim)?;
    let mut ask = Ask { files: None, ..Ask::probe("", &["facts"]) };
    ask.argv[0] = probe;
    let told = ground.run(&ask)?;
    broken.extend(ran(&told));
    if told.value("status NoNewPrivs") != Some("1") {
        broken.push("a setuid program would raise it".to_owned());
    }
    let secrets = fs::read("/proc/self/environ").unwrap_or_default();
    let named = |line: &&str| line.starts_with("STARLING_ESCAPE=");
    let inherited = told.all("env").filter(|line| !named(line));
    broken.extend(
        inherited.map(|line| format!("of {} bytes of environment it has {line}", secrets.len())),
    );
    Ok(broken)
}

/// Every file below, by its path.
fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
}
