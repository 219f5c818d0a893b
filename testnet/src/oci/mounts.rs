//! The options of a mount, as `mount(8)` calls them, for the kernel's newer calls.
//!
//! An option is an attribute of the mount, a way it spreads, or the file system's own: what
//! we do not know is handed to that, which refuses what it does not know either.

use std::path::Path;

use runtime::{Depth, Mounted, PlainMount, Propagation};

use super::config::Mount;
use super::refusal::{Refusal, absent};

/// `MOUNT_ATTR_*` of `linux/mount.h`: name, bits set, bits cleared first.
const ATTRIBUTES: [(&str, u64, u64); 20] = [
    ("ro", 0x1, 0),
    ("rw", 0, 0x1),
    ("nosuid", 0x2, 0),
    ("suid", 0, 0x2),
    ("nodev", 0x4, 0),
    ("dev", 0, 0x4),
    ("noexec", 0x8, 0),
    ("exec", 0, 0x8),
    ("relatime", 0, ATIME),
    ("norelatime", 0, 0),
    ("noatime", 0x10, ATIME),
    ("atime", 0, ATIME),
    ("strictatime", 0x20, ATIME),
    ("nostrictatime", 0, ATIME),
    ("nodiratime", 0x80, 0),
    ("diratime", 0, 0x80),
    ("nosymfollow", 0x20_0000, 0),
    ("symfollow", 0, 0x20_0000),
    ("defaults", 0, 0),
    ("silent", 0, 0),
];

/// `MOUNT_ATTR__ATIME`: the bits that only change together.
const ATIME: u64 = 0x70;

const SPREADS: [(&str, Propagation); 4] = [
    ("shared", Propagation::Shared),
    ("slave", Propagation::Slave),
    ("private", Propagation::Private),
    ("unbindable", Propagation::Unbindable),
];

/// What would have to be done in another way, and is not.
const REFUSED: [&str; 5] = ["remount", "tmpcopyup", "idmap", "ridmap", "copy-symlink"];

/// How mounts spread, by its name.
pub(super) fn propagation(name: &str) -> Option<(Propagation, Depth)> {
    let named = |name: &str| SPREADS.iter().find(|(known, _)| *known == name).map(|(_, how)| *how);
    match (named(name), name.strip_prefix('r').and_then(named)) {
        (Some(how), _) => Some((how, Depth::Itself)),
        (None, Some(how)) => Some((how, Depth::All)),
        (None, None) => None,
    }
}

/// One mount of a bundle. `bundle` is what a relative source is below.
pub(super) fn translate(
    at: usize,
    mount: &Mount,
    bundle: &Path,
    warnings: &mut Vec<String>,
) -> Result<PlainMount, Refusal> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    absent(&field("uidMappings"), &mount.uid_mappings)?;
    absent(&field("gidMappings"), &mount.gid_mappings)?;
    // Up to 1.0 a relative destination was taken from the root.
    let target = Path::new("/").join(&mount.destination);
    let mut made = Options::default();
    for option in mount.options.iter().flatten() {
        made.take(option).map_err(|reason| Refusal::new(field("options"), reason))?;
    }
    let kind = mount.kind.as_deref().unwrap_or_default();
    let what = match (made.bind, kind) {
        (Some(depth), _) => bind(&field("source"), mount, bundle, depth)?,
        (None, "bind") => bind(&field("source"), mount, bundle, Depth::Itself)?,
        (None, "" | "none") => return Err(Refusal::new(field("type"), "it is not said")),
        // The runtime shows a container its own group; version 2 is the one that can.
        (None, "cgroup" | "cgroup2") => Mounted::New {
            kind: "cgroup2".to_owned(),
            source: mount.source.clone(),
            options: Vec::new(),
        },
        (None, kind) => Mounted::New {
            kind: kind.to_owned(),
            source: mount.source.clone(),
            options: std::mem::take(&mut made.own),
        },
    };
    if let (Mounted::Bind { .. }, Some((option, _))) = (&what, made.own.first()) {
        // As `mount --bind` does; the file system is there already.
        warnings.push(format!("{}: {option:?} means nothing to a bind mount", field("options")));
    }
    let Options { attributes, deep, propagation, .. } = made;
    Ok(PlainMount { target, what, attributes, deep_attributes: deep, propagation })
}

fn bind(field: &str, mount: &Mount, bundle: &Path, depth: Depth) -> Result<Mounted, Refusal> {
    let source = mount.source.as_ref().ok_or_else(|| Refusal::new(field, "it is not said"))?;
    // The runtime follows no links; whoever wrote the bundle may have meant some.
    let source = bundle.join(source).canonicalize();
    Ok(Mounted::Bind { source: source.map_err(|error| Refusal::new(field, error))?, depth })
}

#[derive(Default)]
struct Options {
    bind: Option<Depth>,
    attributes: (u64, u64),
    deep: (u64, u64),
    propagation: Option<(Propagation, Depth)>,
    own: Vec<(String, Option<String>)>,
}

impl Options {
    fn take(&mut self, option: &str) -> Result<(), String> {
        let attribute = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        if REFUSED.contains(&option) || option.starts_with("idmap=") {
            return Err(format!("{option}: this runtime cannot do that"));
        } else if let Some((_, set, clear)) = attribute(option) {
            change(&mut self.attributes, *set, *clear);
        } else if let Some(how) = propagation(option) {
            self.propagation = Some(how);
        } else if let Some((_, set, clear)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut self.deep, *set, *clear);
        } else if option == "bind" {
            self.bind = self.bind.or(Some(Depth::Itself));
        } else if option == "rbind" {
            self.bind = Some(Depth::All);
        } else {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (option, None),
            };
            self.own.push((key.to_owned(), value));
        }
        Ok(())
    }
}

/// What is said later counts.
fn change(of: &mut (u64, u64), set: u64, clear: u64) {
    *of = ((of.0 & !clear) | set, (of.1 & !set) | clear);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Result<PlainMount, Refusal> {
        let mount = serde_json::from_str(text).expect("a mount");
        translate(3, &mount, Path::new("/"), &mut Vec::new())
    }

    #[test]
    fn options_go_where_they_belong() {
        let tmpfs = plain(
            r#"{"destination":"/dev/shm","type":"tmpfs","source":"shm",
                "options":["nosuid","noexec","nodev","mode=1777","size=65536k","rslave"]}"#,
        )
        .expect("a mount");
        assert_eq!(tmpfs.attributes, (0xe, 0));
        assert_eq!(tmpfs.propagation, Some((Propagation::Slave, Depth::All)));
        let options = [("mode", "1777"), ("size", "65536k")];
        let options = options.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec();
        let source = Some("shm".to_owned());
        assert_eq!(tmpfs.what, Mounted::New { kind: "tmpfs".into(), source, options });
        let bound =
            plain(r#"{"destination":"etc","source":"/usr","options":["rbind","rro","rw"]}"#);
        let bound = bound.expect("a mount");
        assert_eq!((bound.attributes, bound.deep_attributes), ((0, 1), (1, 0)));
        assert_eq!(bound.target, Path::new("/etc"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, field) in [
            (r#"{"destination":"/a","type":"tmpfs","options":["remount"]}"#, "mounts[3].options"),
            (r#"{"destination":"/a","source":"/none/such","type":"bind"}"#, "mounts[3].source"),
            (r#"{"destination":"/a"}"#, "mounts[3].type"),
            (r#"{"destination":"/a","type":"tmpfs","uidMappings":[{}]}"#, "mounts[3].uidMappings"),
        ] {
            assert_eq!(plain(text).expect_err("refused").field, field);
        }
    }
}
