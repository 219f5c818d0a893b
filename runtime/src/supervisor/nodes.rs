//! Which devices a container may use, as its control group is to enforce it.
//!
//! Whoever has its own ids can neither make nor mount a device, so it has those it was
//! given and no others; only what it may do with them is left to say. Whoever has the
//! host's ids can make any. All others need no rules, and cost nothing here.
//!
//! Invariant: a device that was given for reading only is not given where nothing
//! enforces that.

use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, major, minor, openat2};
use rustix::io::Errno;

use super::group::Group;
use crate::cgroup::{Access as DeviceAccess, DeviceKind, DeviceRule};
use crate::container::{Access, Container, Ids};
use crate::launch::{Launch, Place};
use crate::order;

/// Nodes that every container has, and its terminals: all that Docker allows, but for
/// making what cannot be opened, which needs no list (runc, `libcontainer/specconv`).
/// Character devices; a minor number of none is all of them.
const USUAL: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// The rules of a launch; none if it needs none.
fn rules(launch: &Launch) -> Result<Option<Vec<DeviceRule>>, String> {
    let Place::Container(container) = &launch.place else { return Ok(None) };
    if let Some(exact) = &container.exact {
        return Ok(exact.devices.clone());
    }
    if container.devices.is_empty() && container.ids == Ids::Own {
        return Ok(None);
    }
    let mut rules: Vec<DeviceRule> = [DeviceKind::Char, DeviceKind::Block]
        .map(|kind| DeviceRule { kind, major: None, minor: None, access: DeviceAccess::Make })
        .into();
    rules.extend(USUAL.map(|(major, minor)| DeviceRule {
        kind: DeviceKind::Char,
        major: Some(major),
        minor,
        access: DeviceAccess::All,
    }));
    for device in &container.devices {
        let access = match device.access {
            Access::Read => DeviceAccess::Read,
            Access::Write => DeviceAccess::ReadWrite,
        };
        let rule = rule(&device.source, access);
        let cannot = |error| format!("{}: {error}", device.source.display());
        // What is no device is the plan's to refuse, in its own words.
        rules.extend(rule.map_err(cannot)?);
    }
    Ok(Some(rules))
}

fn rule(path: &Path, access: DeviceAccess) -> Result<Option<DeviceRule>, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(node) = openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve) else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(node)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => DeviceKind::Char,
        FileType::BlockDevice => DeviceKind::Block,
        _ => return Ok(None),
    };
    let (major, minor) = (Some(major(stat.st_rdev)), Some(minor(stat.st_rdev)));
    Ok(Some(DeviceRule { kind, major, minor, access }))
}

/// Restricts the next task of a group to what its launch allows.
pub(super) fn restrict(group: &mut Group, launch: &Launch) -> Result<(), String> {
    let rules = rules(launch)?;
    match group.devices(rules.as_deref()) {
        Ok(()) => Ok(()),
        // The doctor says what that means for containers that have the host's ids.
        Err(_) if !reads_only(launch) => Ok(()),
        Err(error) => Err(format!(
            "what may be done with devices cannot be enforced here; give those for reading only \
             for writing too, or see `starling doctor`: {}",
            order::chain(&error)
        )),
    }
}

/// Whether a device is given for less than writing, or a list is to the letter.
fn reads_only(launch: &Launch) -> bool {
    let read = |container: &Container| {
        if let Some(exact) = &container.exact {
            return exact.devices.is_some();
        }
        container.devices.iter().any(|device| device.access == Access::Read)
    };
    matches!(&launch.place, Place::Container(container) if read(container))
}
