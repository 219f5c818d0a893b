//! What a default container sees, as text that is compared with a committed one.
//!
//! Every change of the sandbox shows as a difference of lines that somebody must
//! have meant. What differs from run to run or from host to host has a word in its place.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::Ground;
use super::cell::Told;

/// Where the committed text is.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/container.txt")
}

/// What a default container sees now.
pub fn take(ground: &mut Ground) -> io::Result<String> {
    let told = ground.probe(&["facts"])?;
    match &told.refused {
        Some(reason) => Err(io::Error::other(format!("the payload did not run: {reason}"))),
        None => Ok(profile(&told)),
    }
}

/// Lines that are not in both: `-` is committed, `+` is what is seen.
pub fn differences(committed: &str, seen: &str) -> Vec<String> {
    let (old, new): (Vec<_>, Vec<_>) = (committed.lines().collect(), seen.lines().collect());
    let lost = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let found = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    lost.chain(found).collect()
}

fn profile(told: &Told) -> String {
    let mut lines: Vec<String> = told.lines.iter().filter_map(|line| stable(line)).collect();
    lines.push(String::new());
    lines.join("\n")
}

/// The line without what differs from run to run; none if nothing is left of it.
fn stable(line: &str) -> Option<String> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<_> = rest.split(' ').collect();
    Some(match (kind, &words[..]) {
        ("ns", [name, link]) => {
            let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
            let whose = if host.to_string_lossy() == **link { "the host's" } else { "its own" };
            format!("ns {name} {whose}")
        }
        ("uid_map" | "gid_map", [inside, _, count]) => format!("{kind} {inside} RANGE {count}"),
        ("hostname", _) => "hostname ID".to_owned(),
        ("fd", [number, link]) => {
            let what = link.split_once(':').map_or(*link, |(what, _)| what);
            format!("fd {number} {what}")
        }
        ("mount", _) => mount(&words)?,
        // Of which controllers there are, the host decides.
        ("cgroup", _) => format!("cgroup {}", rest.rsplit(':').next().unwrap_or_default()),
        ("limit", _) if rest.contains("processes") || rest.contains("pending") => return None,
        ("limit", _) if rest.contains("open files") || rest.contains("locked memory") => {
            format!("limit {} HOST", words.get(..3).unwrap_or_default().join(" "))
        }
        ("env", _) if rest.starts_with("STARLING_ESCAPE=") => return None,
        _ => line.to_owned(),
    })
}

/// `TARGET TYPE OPTIONS | SUPER`, without numbers and paths of the host.
fn mount(words: &[&str]) -> Option<String> {
    let (root, target, options) = (words.get(3)?, words.get(4)?, words.get(5)?);
    let dash = words.iter().position(|word| *word == "-")?;
    let (kind, above) = (words.get(dash + 1)?, words.get(dash + 3)?);
    let varies = |option: &&str| {
        !["lowerdir", "upperdir", "workdir", "size", "nr_inodes", "uid", "gid", "inode64"]
            .iter()
            .any(|name| option.split(['=', '+']).next() == Some(name))
    };
    let above: Vec<_> = above.split(',').filter(varies).collect();
    let from = if *root == "/" || *kind == "overlay" { "" } else { root };
    Some(
        format!("mount {target} {kind} {options} | {} {from}", above.join(","))
            .trim_end()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_has_a_word_in_its_place() {
        let net =
            format!("ns net {}", fs::read_link("/proc/self/ns/net").expect("a link").display());
        assert_eq!(stable(&net).as_deref(), Some("ns net the host's"));
        assert_eq!(stable("ns net net:[1]").as_deref(), Some("ns net its own"));
        assert_eq!(stable("uid_map 0 100000 65536").as_deref(), Some("uid_map 0 RANGE 65536"));
        assert_eq!(stable("fd 1 pipe:[77]").as_deref(), Some("fd 1 pipe"));
        let line = "mount 9 8 0:7 / / rw,nosuid - overlay overlay rw,lowerdir=/x,userxattr";
        assert_eq!(stable(line).as_deref(), Some("mount / overlay rw,nosuid | rw,userxattr"));
    }

    #[test]
    fn a_changed_line_is_shown_both_ways() {
        assert_eq!(differences("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
    }
}
