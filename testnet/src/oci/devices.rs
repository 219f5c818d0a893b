//! Nodes and rules of devices: what a bundle names, and what each container has anyway.
//!
//! The default devices and links are those of the specification ("Default Devices", "Dev
//! symbolic links" of `config-linux.md` and `runtime-linux.md`).

use runtime::cgroup::{Access, DeviceKind, DeviceRule};
use runtime::{Node, NodeKind};

use super::config::{Device, DeviceAccess};
use super::refusal::Refusal;

/// Character devices that every container has.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Further ones it may open: console, ptmx, and the terminals of devpts.
const OPENED: [(u32, Option<u32>); 3] = [(5, Some(1)), (5, Some(2)), (136, None)];

/// Links that every container has.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Permissions of a node that says none.
const MODE: u32 = 0o666;

/// All nodes, those of the bundle first.
pub(super) fn nodes(devices: &[Device]) -> Result<Vec<Node>, Refusal> {
    let mut nodes = Vec::new();
    for (at, device) in devices.iter().enumerate() {
        let field = |name: &str| format!("linux.devices[{at}].{name}");
        if !device.path.is_absolute() {
            return Err(Refusal::new(field("path"), "it is not absolute"));
        }
        let number = |name: &str, number: Option<u32>| {
            number.ok_or_else(|| Refusal::new(field(name), "this type of device needs one"))
        };
        let kind = match device.kind.as_str() {
            "c" | "u" => {
                NodeKind::Character(number("major", device.major)?, number("minor", device.minor)?)
            }
            "b" => NodeKind::Block(number("major", device.major)?, number("minor", device.minor)?),
            "p" => NodeKind::Pipe,
            other => {
                return Err(Refusal::new(field("type"), format!("{other:?} is not c, u, b or p")));
            }
        };
        nodes.push(Node {
            path: device.path.clone(),
            kind,
            mode: device.file_mode.unwrap_or(MODE) & 0o7777,
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
        });
    }
    for (path, major, minor) in DEFAULTS {
        if !nodes.iter().any(|node| node.path.as_os_str() == path) {
            let kind = NodeKind::Character(major, minor);
            nodes.push(Node { path: path.into(), kind, mode: MODE, uid: 0, gid: 0 });
        }
    }
    Ok(nodes)
}

/// The links.
pub(super) fn links() -> Vec<(std::path::PathBuf, String)> {
    LINKS.iter().map(|(link, target)| (link.into(), (*target).to_owned())).collect()
}

/// The rules as an allow-list; none if all is allowed.
pub(super) fn rules(
    access: &[DeviceAccess],
    nodes: &[Node],
) -> Result<Option<Vec<DeviceRule>>, Refusal> {
    // As the kernel does without rules: all is allowed.
    let mut allowed: Option<Vec<DeviceRule>> = None;
    for (at, rule) in access.iter().enumerate() {
        let field = |name: &str| format!("linux.resources.devices[{at}].{name}");
        let letters = rule.access.as_deref().unwrap_or("rwm");
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let (major, minor) = (number(rule.major), number(rule.minor));
        let kinds: &[_] = match rule.kind.as_deref() {
            None | Some("" | "a") => &[DeviceKind::Char, DeviceKind::Block],
            Some("c" | "u") => &[DeviceKind::Char],
            Some("b") => &[DeviceKind::Block],
            Some(other) => {
                return Err(Refusal::new(field("type"), format!("{other:?} is not a, c or b")));
            }
        };
        let is_all = kinds.len() == 2 && major.is_none() && minor.is_none();
        let is_whole = ['r', 'w', 'm'].iter().all(|letter| letters.contains(*letter));
        match (rule.allow, is_all && is_whole, &mut allowed) {
            (false, true, _) => allowed = Some(Vec::new()),
            (true, true, _) => allowed = None,
            (false, false, _) => {
                let reason = "only all devices can be denied; allow the others by name";
                return Err(Refusal::new(field("allow"), reason));
            }
            (true, false, None) => {}
            (true, false, Some(list)) => {
                for (kind, access) in kinds.iter().flat_map(|kind| {
                    letters_of(letters).into_iter().flatten().map(move |access| (*kind, access))
                }) {
                    list.push(DeviceRule { kind, major, minor, access });
                }
                if letters_of(letters).is_none() {
                    let reason = format!("{letters:?} is not made of r, rw and m");
                    return Err(Refusal::new(field("access"), reason));
                }
            }
        }
    }
    if let Some(list) = &mut allowed {
        list.extend(own_rules(nodes));
    }
    Ok(allowed)
}

/// What is allowed for letters; none if we have no words for them.
fn letters_of(letters: &str) -> Option<Vec<Access>> {
    let has = |letter: char| letters.contains(letter);
    if letters.chars().any(|letter| !"rwm".contains(letter)) {
        return None;
    }
    let open = match (has('r'), has('w')) {
        (true, true) => Some(Access::ReadWrite),
        (true, false) => Some(Access::Read),
        (false, true) => return None,
        (false, false) => None,
    };
    Some(open.into_iter().chain(has('m').then_some(Access::Make)).collect())
}

/// What each container may do beside that: use its own nodes and terminals, and make nodes
/// that it cannot open.
fn own_rules(nodes: &[Node]) -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access| DeviceRule { kind, major, minor, access };
    let own = nodes.iter().filter_map(|node| match node.kind {
        NodeKind::Character(major, minor) => Some((DeviceKind::Char, major, minor)),
        NodeKind::Block(major, minor) => Some((DeviceKind::Block, major, minor)),
        NodeKind::Pipe => None,
    });
    let own = own.map(|(kind, major, minor)| rule(kind, Some(major), Some(minor), Access::All));
    let opened = OPENED
        .iter()
        .map(|(major, minor)| rule(DeviceKind::Char, Some(*major), *minor, Access::All));
    let made =
        [DeviceKind::Char, DeviceKind::Block].map(|kind| rule(kind, None, None, Access::Make));
    own.chain(opened).chain(made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(text: &str) -> Vec<DeviceAccess> {
        serde_json::from_str(text).expect("rules")
    }

    #[test]
    fn a_denied_rest_is_an_allow_list_and_nothing_said_allows_all() {
        let nodes = nodes(&[]).expect("nodes");
        assert_eq!(rules(&[], &nodes), Ok(None));
        let denied = access(r#"[{"allow":false,"access":"rwm"}]"#);
        let texts = |rules: Option<Vec<DeviceRule>>| -> Vec<String> {
            rules.expect("a list").iter().map(ToString::to_string).collect()
        };
        let list = texts(rules(&denied, &nodes).expect("a list"));
        assert!(list.contains(&"c 1:3 rwm".to_owned()) && list.contains(&"c 136:* rwm".to_owned()));
        assert!(!list.iter().any(|rule| rule.starts_with("b ") && rule != "b *:* m"), "{list:?}");
        let some =
            r#"[{"allow":false},{"allow":true,"type":"b","major":8,"minor":0,"access":"rm"}]"#;
        let list = texts(rules(&access(some), &nodes).expect("a list"));
        assert!(list.starts_with(&["b 8:0 r".to_owned(), "b 8:0 m".to_owned()]), "{list:?}");
    }

    #[test]
    fn what_has_no_form_here_is_refused_by_name() {
        let nodes = nodes(&[]).expect("nodes");
        let one = access(r#"[{"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#);
        let refused = rules(&one, &nodes).expect_err("refused");
        assert_eq!(refused.field, "linux.resources.devices[0].allow");
        let write = access(r#"[{"allow":false},{"allow":true,"type":"c","access":"w"}]"#);
        let refused = rules(&write, &nodes).expect_err("refused");
        assert_eq!(refused.field, "linux.resources.devices[1].access");
    }
}
