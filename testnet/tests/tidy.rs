//! Checks that keep the tree as it was meant, as ordinary tests.
//!
//! The package graph, a header in every file, bounded files, no drawers for
//! odds and ends, nothing left open. A rule that cannot fail is no rule: each
//! names what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines above which a file certainly hides a second noun; 100 to 300 is the aim.
const LINES_MAX: usize = 600;

/// What each package may depend on, of our own.
const GRAPH: [(&str, &str, &[&str]); 6] = [
    ("gossip/core", "gossip-core", &[]),
    ("gossip", "gossip", &["gossip-core"]),
    ("node/core", "starling-core", &["gossip-core"]),
    ("node", "starling", &["gossip", "gossip-core", "runtime", "starling-core"]),
    ("runtime", "runtime", &[]),
    ("testnet", "testnet", &["gossip", "gossip-core", "runtime", "starling-core"]),
];

/// What a core must not even know.
const IMPURE: [&str; 9] =
    ["tokio", "libp2p", "rustix", "libc", "futures", "redb", "hyper", "axum", "automerge"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs: Vec<_> = GRAPH.iter().map(|(dir, ..)| root().join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn dependencies(dir: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if section == "[dependencies]"
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
            && !name.starts_with('#')
        {
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn packages_depend_on_each_other_as_designed() {
    let own: BTreeMap<_, _> = GRAPH.iter().map(|(_, name, may)| (*name, *may)).collect();
    for (dir, name, may) in GRAPH {
        let has = dependencies(dir);
        for other in own.keys() {
            assert!(!has.contains(*other) || may.contains(other), "{name} depends on {other}");
        }
        if dir.ends_with("/core") {
            for impure in IMPURE {
                assert!(!has.contains(impure), "{name} depends on {impure}");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_stays_small() {
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file");
        assert!(text.starts_with("//!"), "{} does not open with a header", path.display());
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn there_are_no_drawers_for_odds_and_ends() {
    for path in sources() {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let drawer = ["util", "utils", "common", "helpers", "misc"].contains(&name);
        assert!(!drawer, "{} needs a noun for a name", path.display());
    }
}

#[test]
fn nothing_is_left_open() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file");
        for mark in marks {
            assert!(!text.contains(mark), "{} holds a {mark}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stays_where_it_is_proven() {
    let allowed = ["runtime/src/sys", "testnet/src/sys"];
    for path in sources() {
        let inside = path.strip_prefix(root()).unwrap_or(&path);
        let proven = allowed.iter().any(|dir| inside.to_string_lossy().starts_with(dir));
        let text = fs::read_to_string(&path).expect("a source file");
        let lifted = text.lines().any(|line| line.contains(concat!("allow(", "unsafe_code")));
        assert!(!lifted || proven, "{} lifts the ban on unsafe code", path.display());
    }
}
