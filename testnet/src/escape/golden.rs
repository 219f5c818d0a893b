//! What a default container sees, as text that is compared with a committed one.
//!
//! Every change of the sandbox shows as a difference of lines that somebody must
//! have meant. What differs from run to run or from host to host has a word in its place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Ground;
use super::cell::Told;
use crate::sys::raw::{FORBIDDEN, try_forbidden};

/// What is hidden from a container, and what it cannot write, where it is there: as Docker
/// has it.
const HIDDEN: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Options of mounts that tell of the host or of its kernel's defaults, not of the sandbox.
const VARYING: [&str; 17] = [
    "lowerdir",
    "upperdir",
    "workdir",
    "size",
    "nr_inodes",
    "uid",
    "gid",
    "inode64",
    "uuid",
    "index",
    "xino",
    "nfs_export",
    "redirect_dir",
    // Of version 2 of control groups, which the host mounted once for all.
    "nsdelegate",
    "memory_recursiveprot",
    "memory_localevents",
    "favordynmods",
];

/// Calls that some kernels have not, and that do nothing to the host as the probe makes them.
const LACKING: [&str; 3] = ["memfd_secret", "landlock_create_ruleset", "name_to_handle_at"];

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
    for (what, paths) in [("hidden", &HIDDEN[..]), ("read-only", &READ_ONLY[..])] {
        for path in paths {
            // A kernel that has no such file has nothing to cover.
            let covered = format!("{what} {path}");
            if !Path::new(path).exists() && !lines.contains(&covered) {
                lines.push(covered);
            }
        }
    }
    // The kernel lists mounts in the order in which they were made, which is ours; of
    // what is covered, it depends on what there is.
    lines.sort_by_key(|line| line.starts_with("hidden ") || line.starts_with("read-only "));
    let covered = lines.iter().position(|line| line.starts_with("hidden "));
    if let Some(covered) = covered.and_then(|at| lines.get_mut(at..)) {
        covered.sort();
    }
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
        ("cgroup", _) if rest.ends_with(":/") => return None,
        ("limit", _) => limit(&words),
        ("call", [name, "ENOSYS"]) if is_lacking(name) => format!("call {name} is let through"),
        // What the kernel says of senseless arguments is its own affair.
        ("call", [name @ .., answer]) if !matches!(*answer, "EPERM" | "ENOSYS") => {
            format!("call {} is let through", name.join(" "))
        }
        ("env", _) if rest.starts_with("STARLING_ESCAPE=") => return None,
        _ => line.to_owned(),
    })
}

/// Whether the host's own kernel has no such call.
fn is_lacking(name: &str) -> bool {
    let call = FORBIDDEN.iter().find(|call| call.name == name && LACKING.contains(&name));
    call.is_some_and(|call| try_forbidden(*call) == Errno::NOSYS.raw_os_error())
}

/// A limit that the task was not given is the one of whoever started the keeper: us.
fn limit(words: &[&str]) -> String {
    let rest = words.join(" ");
    let own = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let is_own = |line: &str| line.split_whitespace().eq(words.iter().copied());
    let name = words.iter().take_while(|word| {
        **word != "unlimited" && !word.starts_with(|first: char| first.is_ascii_digit())
    });
    let name: Vec<_> = name.copied().collect();
    if own.lines().any(is_own) {
        format!("limit {} the host's", name.join(" "))
    } else {
        format!("limit {rest}")
    }
}

/// `TARGET TYPE OPTIONS | SUPER`, without numbers and paths of the host.
fn mount(words: &[&str]) -> Option<String> {
    let (root, target, options) = (words.get(3)?, words.get(4)?, words.get(5)?);
    let dash = words.iter().position(|word| *word == "-")?;
    let (kind, above) = (words.get(dash + 1)?, words.get(dash + 3)?);
    let varies =
        |option: &&str| !VARYING.iter().any(|name| option.split(['=', '+']).next() == Some(name));
    // As older kernels call it.
    let plain = |option| if option == "fsync=volatile" { "volatile" } else { option };
    let above: Vec<_> = above.split(',').filter(varies).map(plain).collect();
    let hidden = (*kind == "devtmpfs" && *root == "/null")
        || (*kind == "tmpfs" && options.starts_with("ro,"));
    if HIDDEN.contains(target) && hidden {
        return Some(format!("hidden {target}"));
    }
    if READ_ONLY.contains(target) && *kind == "proc" && options.starts_with("ro,") {
        return Some(format!("read-only {target}"));
    }
    // A host without a devtmpfs has the devices in a tmpfs.
    let is_device = target.starts_with("/dev/") && *root != "/";
    if is_device {
        return Some(format!("mount {target} device {options}"));
    }
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
        for volatile in ["volatile", "redirect_dir=nofollow,fsync=volatile"] {
            let line = format!(
                "mount 9 8 0:7 / / rw,nosuid - overlay overlay rw,lowerdir=/x,{volatile},userxattr"
            );
            let wanted = "mount / overlay rw,nosuid | rw,volatile,userxattr";
            assert_eq!(stable(&line).as_deref(), Some(wanted));
        }
        let line = "mount 9 8 0:7 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(stable(line).as_deref(), Some("mount /sys/fs/cgroup cgroup2 ro | rw"));
        // Only what this kernel itself has not may be missing inside.
        assert_eq!(stable("call chroot ENOSYS").as_deref(), Some("call chroot ENOSYS"));
        assert!(!is_lacking("chroot"));
    }

    #[test]
    fn a_changed_line_is_shown_both_ways() {
        assert_eq!(differences("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
    }
}
