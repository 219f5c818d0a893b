//! Whether what a launch says of its container makes sense anywhere.
//!
//! Invariant: whatever passes here names no path with `..`, no zero byte, no
//! number that the kernel would read as another, and bounds every list.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::flaw::{PlanFlaw, Problem};
use crate::capability::CapabilitySet;
use crate::container::{Changes, Container, Device, IDS, Ids, Mount, Network, Root};
use crate::launch::{Launch, LaunchFlaw, Place, Process, Rlimit, Streams};
use crate::names::Names;

/// Longest path the kernel takes, without its final zero.
const PATH_BYTES: usize = 4095;
/// Docker's most layers. Each is one descriptor and one mount.
const LAYERS: usize = 128;
/// Most mounts and devices: each is a descriptor until the program runs.
const MOUNTS: usize = 256;
/// Most kernel parameters and rlimits.
const SETTINGS: usize = 64;
/// `HOST_NAME_MAX`.
const HOSTNAME_BYTES: usize = 64;
/// Hosts, resolvers, domains and options of one container: files of a few pages.
const NAMES: usize = 512;
/// Longest name that DNS knows.
const NAME_BYTES: usize = 253;
/// Longest user: a name, a colon, a name, each as long as `useradd` allows and more.
const USER_BYTES: usize = 256;
/// Longest name of a volume: a file name with room to spare.
const VOLUME_BYTES: usize = 100;
/// Longest value of a kernel parameter: a page.
const SYSCTL_BYTES: usize = 4095;
/// Lines and columns of the largest terminal; beyond, programs misbehave.
const TERMINAL: u64 = 10_000;
/// A tmpfs holds at least a page.
const TMPFS_LEAST: u64 = 4096;
/// Permission bits, the sticky one and the two set-id bits included.
const MODE: u32 = 0o7777;

/// What the kernel takes for how willingly it kills a process.
const OOM_SCORES: std::ops::RangeInclusive<i32> = -1000..=1000;

/// The kernel parameters that belong to namespaces of the container: Docker's list.
const SYSCTLS: [&str; 6] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
];
const SYSCTLS_MORE: [&str; 2] = ["kernel.shmmni", "kernel.shm_rmid_forced"];

pub(super) type Checked = Result<(), PlanFlaw>;

pub(super) fn flawed<T>(field: impl Into<String>, problem: Problem) -> Result<T, PlanFlaw> {
    Err(PlanFlaw::new(field, problem))
}

/// Checks all that does not depend on the machine.
pub(super) fn check(launch: &Launch) -> Checked {
    launch.check().map_err(|flaw| PlanFlaw::new(field_of(&flaw), flaw))?;
    launch.limits.check().map_err(|flaw| PlanFlaw::new(format!("limits.{}", flaw.field), flaw))?;
    if let Some(score) = launch.oom_score_adj.filter(|score| !OOM_SCORES.contains(score)) {
        let problem = Problem::Text { given: score.to_string(), wanted: "one of -1000 to 1000" };
        return flawed("oom_score_adj", problem);
    }
    if let Streams::Terminal { rows, columns } = launch.streams {
        in_range("streams.rows", u64::from(rows), 0, TERMINAL)?;
        in_range("streams.columns", u64::from(columns), 0, TERMINAL)?;
    }
    at_most("rlimits", launch.rlimits.len(), SETTINGS)?;
    for (at, limit) in launch.rlimits.iter().enumerate() {
        rlimit(&format!("rlimits[{at}]"), limit)?;
    }
    if let Some(directory) = &launch.directory {
        path("directory", directory)?;
    }
    match &launch.place {
        Place::Process(process) => check_process(process),
        Place::Container(container) => match &container.exact {
            Some(exact) => super::exact::check(container, exact),
            None => check_container(container),
        },
    }
}

/// Which field of a launch a flaw is of.
fn field_of(flaw: &LaunchFlaw) -> &'static str {
    match flaw {
        LaunchFlaw::NoProgram | LaunchFlaw::TooLong { .. } | LaunchFlaw::Nul => "argv",
        LaunchFlaw::Variable { .. } => "env",
        LaunchFlaw::Directory { .. } => "directory",
        LaunchFlaw::Log { .. } => "log",
        LaunchFlaw::StopSignal { .. } => "stop_signal",
        LaunchFlaw::Held => "start",
    }
}

fn check_process(process: &Process) -> Checked {
    if let Some(user) = process.user {
        for (name, id) in [("uid", user.uid), ("gid", user.gid)] {
            in_range(&format!("process.user.{name}"), id.into(), 0, u64::from(u32::MAX) - 1)?;
        }
    }
    at_most("process.hidden", process.hidden.len(), SETTINGS)?;
    let mut hidden = process.hidden.iter().enumerate();
    hidden.try_for_each(|(at, hidden)| path(&format!("process.hidden[{at}]"), hidden))
}

fn check_container(container: &Container) -> Checked {
    check_root(&container.root)?;
    if let Changes::Memory { bytes } = container.changes {
        in_range("container.changes.bytes", bytes, TMPFS_LEAST, i64::MAX as u64)?;
    }
    check_user(container)?;
    if let Some(name) = &container.hostname {
        check_hostname(name)?;
    }
    check_names(&container.names)?;
    in_range("container.shm_bytes", container.shm_bytes, TMPFS_LEAST, i64::MAX as u64)?;
    at_most("container.mounts", container.mounts.len(), MOUNTS)?;
    at_most("container.devices", container.devices.len(), MOUNTS)?;
    let mut targets = BTreeSet::new();
    for (at, mount) in container.mounts.iter().enumerate() {
        check_mount(&format!("container.mounts[{at}]"), mount, &mut targets)?;
    }
    for (at, Device { source, target, .. }) in container.devices.iter().enumerate() {
        let field = format!("container.devices[{at}]");
        path(&format!("{field}.source"), source)?;
        check_target(&format!("{field}.target"), target, &mut targets)?;
    }
    capabilities(container)?;
    at_most("container.sysctls", container.sysctls.len(), SETTINGS)?;
    for (name, value) in &container.sysctls {
        check_sysctl(name, value, &container.network)?;
    }
    if let Network::Bridge { publish } = &container.network {
        for (at, port) in publish.iter().enumerate() {
            let field = format!("container.network.publish[{at}]");
            in_range(&format!("{field}.port"), port.port.into(), 1, u16::MAX.into())?;
            in_range(&format!("{field}.host_port"), port.host_port.into(), 1, u16::MAX.into())?;
        }
    }
    Ok(())
}

fn check_root(root: &Root) -> Checked {
    match root {
        Root::Directory(directory) => path("container.root.directory", directory),
        Root::Tar(_) => flawed(
            "container.root.tar",
            Problem::Launch("an archive is unpacked before its launch is planned".to_owned()),
        ),
        // Whether it is here is found out at its launch.
        Root::Image(_) => Ok(()),
        Root::Layers(layers) if layers.is_empty() => {
            flawed("container.root.layers", Problem::Empty)
        }
        Root::Layers(layers) => {
            at_most("container.root.layers", layers.len(), LAYERS)?;
            let mut layers = layers.iter().enumerate();
            layers.try_for_each(|(at, layer)| path(&format!("container.root.layers[{at}]"), layer))
        }
    }
}

/// `USER[:GROUP]`. What is all digits is a number and never a name: a number that
/// is too large must not be looked for among names, where an image may have put it.
fn check_user(container: &Container) -> Checked {
    const FIELD: &str = "container.user";
    const WANTED: &str = "USER or USER:GROUP by name or number";
    let given = &container.user;
    let text = || Problem::Text { given: given.clone(), wanted: WANTED };
    if given.is_empty() {
        return flawed(FIELD, Problem::Empty);
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ',';
    if given.len() > USER_BYTES || given.contains(odd) {
        return flawed(FIELD, text());
    }
    let mut parts = 0;
    for part in given.split(':') {
        parts += 1;
        if part.is_empty() || parts > 2 {
            return flawed(FIELD, text());
        }
        let signless = part.strip_prefix(['-', '+']).unwrap_or(part);
        if !signless.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let most = match container.ids {
            Ids::Own => u64::from(IDS) - 1,
            Ids::Host => u64::from(u32::MAX) - 1,
        };
        let Ok(value) = part.parse::<u64>() else { return flawed(FIELD, text()) };
        in_range(FIELD, value, 0, most)?;
        if signless.len() != part.len() {
            return flawed(FIELD, text());
        }
    }
    Ok(())
}

pub(super) fn check_hostname(name: &str) -> Checked {
    let sound = (1..=HOSTNAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        && !name.starts_with(['-', '.']);
    let wanted = "1 to 64 of A-Z a-z 0-9 . - _, not beginning with . or -";
    let problem = || Problem::Text { given: name.to_owned(), wanted };
    if sound { Ok(()) } else { flawed("container.hostname", problem()) }
}

/// Nothing of it may be more than one word of its file.
fn check_names(names: &Names) -> Checked {
    let hosts = names.hosts.iter().map(|(name, _)| name);
    let words = hosts.chain(&names.search).chain(&names.options);
    let servers = names.servers.len();
    at_most("container.names", words.clone().count() + servers, NAMES)?;
    let odd = |word: &&String| {
        !(1..=NAME_BYTES).contains(&word.len()) || !word.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match words.into_iter().find(odd) {
        Some(word) => {
            let wanted = "a word of 1 to 253 visible characters";
            flawed("container.names", Problem::Text { given: word.clone(), wanted })
        }
        None => Ok(()),
    }
}

fn check_mount(field: &str, mount: &Mount, targets: &mut BTreeSet<PathBuf>) -> Checked {
    match mount {
        Mount::Bind { source, target, .. } => {
            path(&format!("{field}.source"), source)?;
            check_target(&format!("{field}.target"), target, targets)
        }
        Mount::Volume { name, target, .. } => {
            if !is_volume_name(name) {
                let wanted = "1 to 100 of A-Z a-z 0-9 . _ - with no leading dot";
                let problem = Problem::Text { given: name.clone(), wanted };
                return flawed(format!("{field}.name"), problem);
            }
            check_target(&format!("{field}.target"), target, targets)
        }
        Mount::Tmpfs { target, bytes, mode } => {
            in_range(&format!("{field}.bytes"), *bytes, TMPFS_LEAST, i64::MAX as u64)?;
            in_range(&format!("{field}.mode"), (*mode).into(), 0, MODE.into())?;
            check_target(&format!("{field}.target"), target, targets)
        }
    }
}

/// Whether a volume may be called so. It is the name of a directory.
pub(crate) fn is_volume_name(name: &str) -> bool {
    (1..=VOLUME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A place that a launch wants something at. Not the root, and nothing in `/proc`:
/// what we hide and set there must stay what it is.
fn check_target(field: &str, target: &Path, targets: &mut BTreeSet<PathBuf>) -> Checked {
    path(field, target)?;
    let target: PathBuf = target.components().collect();
    let own = ["/", "/sys", "/dev", "/dev/pts", "/dev/console"];
    if target.starts_with("/proc") || own.iter().any(|own| target == Path::new(own)) {
        return flawed(field, Problem::Reserved { path: target });
    }
    if targets.contains(&target) {
        return flawed(field, Problem::Taken { path: target });
    }
    targets.insert(target);
    Ok(())
}

/// The most powers its processes can have.
pub(super) fn capabilities(container: &Container) -> Result<CapabilitySet, PlanFlaw> {
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
    let (add, drop) = (list(&container.cap_add), list(&container.cap_drop));
    // One by one, so that the error names the right field.
    CapabilitySet::EMPTY.with(&add, &[]).map_err(|e| PlanFlaw::new("container.cap_add", e))?;
    CapabilitySet::EMPTY.with(&drop, &[]).map_err(|e| PlanFlaw::new("container.cap_drop", e))?;
    let set = CapabilitySet::CONTAINER.with(&add, &drop);
    set.map_err(|e| PlanFlaw::new("container.cap_add", e))
}

fn check_sysctl(name: &str, value: &str, network: &Network) -> Checked {
    let field = || format!("container.sysctls[{name:?}]");
    let sound = name.split('.').all(|part| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b))
            && part.split('/').all(|piece| !piece.is_empty())
    });
    let known = SYSCTLS.contains(&name)
        || SYSCTLS_MORE.contains(&name)
        || ["net.", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    if !sound || !known {
        let wanted = "a kernel parameter of a namespace: net.*, fs.mqueue.*, kernel.{msg,sem,shm}*";
        return flawed(field(), Problem::Text { given: name.to_owned(), wanted });
    }
    if name.starts_with("net.") && !matches!(network, Network::None | Network::Bridge { .. }) {
        let lacks = "the network is not its own; set it where the network is";
        return flawed(field(), Problem::Machine { lacks });
    }
    if value.len() > SYSCTL_BYTES || value.contains(['\0', '\n']) {
        let wanted = "one line of at most a page";
        return flawed(field(), Problem::Text { given: value.chars().take(80).collect(), wanted });
    }
    Ok(())
}

fn rlimit(field: &str, limit: &Rlimit) -> Checked {
    if crate::sandbox::rlimit::resource(&limit.name).is_none() {
        let wanted = "one of Docker's names of limits, such as nofile";
        let problem = Problem::Text { given: limit.name.clone(), wanted };
        return flawed(format!("{field}.name"), problem);
    }
    in_range(&format!("{field}.soft"), limit.soft, 0, limit.hard)
}

pub(super) fn path(field: &str, path: &Path) -> Checked {
    let sound = path.is_absolute()
        && path.to_str().is_some_and(|text| text.len() <= PATH_BYTES && !text.contains('\0'))
        && path.components().all(|part| !matches!(part, Component::ParentDir));
    let problem = || Problem::Path { path: path.to_owned(), most: PATH_BYTES };
    if sound { Ok(()) } else { flawed(field, problem()) }
}

fn in_range(field: &str, value: u64, least: u64, most: u64) -> Checked {
    let sound = (least..=most).contains(&value);
    if sound { Ok(()) } else { flawed(field, Problem::Range { value, least, most }) }
}

pub(super) fn at_most(field: &str, count: usize, most: usize) -> Checked {
    if count <= most { Ok(()) } else { flawed(field, Problem::TooMany { count, most }) }
}
