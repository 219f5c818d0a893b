//! What of a container only a node runs that trusts its jobs with itself.
//!
//! Judged by what the job says alone, so the same everywhere; a node that runs it looks where
//! its paths lead, too.

use serde::{Deserialize, Serialize};

use super::{ContainerSpec, MountSpec, RootSpec};

/// What a container gets only from a node that trusts its jobs with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// The node's own user ids: root is root.
    HostIds,
    /// All system calls.
    AllCalls,
    /// All of `/proc` and `/sys`.
    SystemPaths,
}

/// What may be done with a path of a node without the node's trust.
///
/// The node itself lies in these: who writes there is its root, and who reads there may learn
/// its keys.
const GUARDED: [&str; 15] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "proc", "root", "run", "sbin",
    "sys", "usr", "var",
];

/// What of those holds no secrets and is often wanted: programs, certificates, the time zone.
const READABLE: [&str; 12] = [
    "/bin",
    "/etc/ca-certificates",
    "/etc/localtime",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/timezone",
    "/lib",
    "/lib32",
    "/lib64",
    "/sbin",
    "/usr",
    "/var/www",
];

/// What of those belongs to applications.
const OPEN: [&str; 4] = ["/var/opt", "/var/tmp", "/var/www", "/var/lib/machines"];

impl ContainerSpec {
    /// Why only a node that trusts its jobs with itself runs this; `None` if any does.
    pub fn needs_trust(&self) -> Option<String> {
        if let Some(trust) = self.trust.first() {
            return Some(match trust {
                Trust::HostIds => "it asks for the node's own user ids".to_owned(),
                Trust::AllCalls => "it asks for all system calls".to_owned(),
                Trust::SystemPaths => "it asks for all of /proc and /sys".to_owned(),
            });
        }
        if let RootSpec::Path(root) = &self.root
            && is_guarded(root, Use::Read)
        {
            return Some(format!("it asks to read all of {root}"));
        }
        self.mounts.iter().find_map(|mount| match mount {
            MountSpec::Bind { source, read_only, .. } => {
                let how = if *read_only { Use::Read } else { Use::Write };
                let word = if *read_only { "read" } else { "write" };
                is_guarded(source, how).then(|| format!("it asks to {word} in {source}"))
            }
            _ => None,
        })
    }
}

/// What a task does with a path of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Reads it.
    Read,
    /// Changes it.
    Write,
}

/// Whether only a node that trusts its jobs with itself lets a task do that with a path.
///
/// Judged by the path alone, so whoever asks has resolved it: with a link in it, or dots, or
/// a doubled slash, it counts as guarded.
pub fn is_guarded(path: &str, how: Use) -> bool {
    let odd = |part: &str| matches!(part, "" | "." | "..");
    let trimmed = path.trim_end_matches('/');
    let Some(inside) = trimmed.strip_prefix('/') else { return true };
    if inside.split('/').any(odd) {
        return true;
    }
    let below = |tops: &[&str]| {
        let rest = tops.iter().filter_map(|top| trimmed.strip_prefix(top));
        rest.into_iter().any(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if below(&OPEN) || (how == Use::Read && below(&READABLE)) {
        return false;
    }
    let first = inside.split('/').next().unwrap_or_default();
    GUARDED.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> ContainerSpec {
        ContainerSpec::new(RootSpec::Path("/srv/root".into()), vec!["true".into()])
    }

    fn bind(source: &str, read_only: bool) -> MountSpec {
        MountSpec::Bind { source: source.into(), target: "/data".into(), read_only }
    }

    #[test]
    fn who_could_write_the_node_itself_needs_trust() {
        let mut container = container();
        for (source, read_only, trusted) in [
            ("/srv/data", false, false),
            ("/data", false, false),
            ("/etc", true, true),
            ("/etc", false, true),
            ("/etc/cron.d", false, true),
            ("/etc/localtime", true, false),
            ("/etc/localtime", false, true),
            ("/etc/localtimes", true, true),
            ("/usr/share", true, false),
            ("/usr/share", false, true),
            ("/home/me", true, true),
            ("/run/docker.sock", true, true),
            ("/var/lib/starling", true, true),
            ("/var/tmp/x", false, false),
            ("/", true, true),
            ("//", false, true),
            ("/srv/../etc", false, true),
            ("/srv//x", false, true),
            ("/variety", false, false),
        ] {
            container.mounts = vec![bind(source, read_only)];
            assert_eq!(container.needs_trust().is_some(), trusted, "{source}");
        }
        container.root = RootSpec::Path("/".into());
        container.mounts.clear();
        assert!(container.needs_trust().is_some());
        container.root = RootSpec::Path("/var/lib/machines/debian".into());
        assert_eq!(container.needs_trust(), None);
        container.mounts.clear();
        container.trust.insert(Trust::HostIds);
        assert!(container.needs_trust().is_some());
    }
}
