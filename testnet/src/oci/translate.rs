//! From a bundle to the runtime's own launch request.
//!
//! ```text
//! config.json ─▶ refuse what cannot be ─▶ Launch { Exact, held }
//! ```
//!
//! Looks at the bundle and at what this process may do, and makes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use runtime::NamespaceKind as Kind;
use runtime::cgroup::DeviceRule;
use runtime::{
    Access, CapabilitySet, Changes, Container, Exact, FirstHold, Ids, Launch, Mounted, Place,
    PlainMount, PlainUser, Powers, Privileges, Rlimit, Root, Share, Start, Streams, TaskId,
};

use super::config::{Config, Linux, Mapping, Process};
use super::refusal::{Refusal, absent};
use super::{devices, filter, groups, mounts};

/// Kernel parameters of the IPC namespace, beside `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// A bundle as we can run it.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) launch: Launch,
    /// What groups of the bundle's own allow of devices, if there are such.
    pub(super) rules: Option<Vec<DeviceRule>>,
    /// What the specification wants warned of.
    pub(super) warnings: Vec<String>,
}

/// Reads a bundle's configuration.
pub(super) fn read(text: &str) -> Result<Config, Refusal> {
    let config: Config =
        serde_json::from_str(text).map_err(|error| Refusal::new("config.json", error))?;
    let version = &config.oci_version;
    let numbers: Vec<_> = version.split(['.', '-', '+']).take(3).map(str::parse::<u32>).collect();
    if numbers.len() == 3 && matches!(numbers[..], [Ok(1), Ok(_), Ok(_)]) {
        Ok(config)
    } else {
        let reason = format!("{version:?} is no version that this runtime knows: 1.0 and 1.1 are");
        Err(Refusal::new("ociVersion", reason))
    }
}

/// Translates it.
pub(super) fn translate(id: TaskId, config: &Config, bundle: &Path) -> Result<Translated, Refusal> {
    for (field, value) in [
        ("windows", &config.windows),
        ("solaris", &config.solaris),
        ("vm", &config.vm),
        ("zos", &config.zos),
    ] {
        absent(field, value)?;
    }
    let linux_of_none = Linux::default();
    let linux = config.linux.as_ref().unwrap_or(&linux_of_none);
    for (field, value) in [
        ("linux.mountLabel", &linux.mount_label),
        ("linux.personality", &linux.personality),
        ("linux.intelRdt", &linux.intel_rdt),
        ("linux.timeOffsets", &linux.time_offsets),
        ("linux.netDevices", &linux.net_devices),
        ("linux.memoryPolicy", &linux.memory_policy),
    ] {
        absent(field, value)?;
    }
    let process = config.process.as_ref();
    let process = process.ok_or_else(|| Refusal::new("process", "it is needed to create, here"))?;
    let mut warnings = Vec::new();
    let (mut container, rules) = container(config, linux, process, bundle, &mut warnings)?;
    let namespaces = container.exact.as_ref().map(|exact| exact.namespaces.clone());
    container.sysctls = parameters(linux, &namespaces.unwrap_or_default())?;
    let mut launch = launch(id, process)?;
    launch.place = Place::Container(Box::new(container));
    Ok(Translated { launch, rules, warnings })
}

fn launch(id: TaskId, process: &Process) -> Result<Launch, Refusal> {
    if process.terminal == Some(true) {
        return Err(Refusal::unknown("process.terminal"));
    }
    for (field, value) in [
        ("process.apparmorProfile", &process.apparmor_profile),
        ("process.selinuxLabel", &process.selinux_label),
        ("process.scheduler", &process.scheduler),
        ("process.ioPriority", &process.io_priority),
        ("process.execCPUAffinity", &process.exec_cpu_affinity),
    ] {
        absent(field, value)?;
    }
    let argv = process.args.clone().unwrap_or_default();
    if argv.first().is_none_or(String::is_empty) {
        return Err(Refusal::new("process.args", "it names no program"));
    }
    let mut launch = Launch::new(id, argv);
    if !process.cwd.is_absolute() {
        return Err(Refusal::new("process.cwd", "it is not absolute"));
    }
    launch.directory = Some(process.cwd.clone());
    for (at, pair) in process.env.iter().flatten().enumerate() {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Refusal::new(format!("process.env[{at}]"), format!("{pair:?} has no ="))
        })?;
        launch.env.insert(name.to_owned(), value.to_owned());
    }
    launch.rlimits = rlimits(process)?;
    launch.start = Start::Held;
    launch.streams = Streams::Of { pid: std::process::id() };
    Ok(launch)
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>, Refusal> {
    let mut seen = BTreeSet::new();
    let mut limits = Vec::new();
    for (at, limit) in process.rlimits.iter().flatten().enumerate() {
        let field = |name: &str| format!("process.rlimits[{at}].{name}");
        let name = limit.kind.strip_prefix("RLIMIT_").map(str::to_ascii_lowercase);
        let name = name.filter(|name| runtime::Rlimit::is_known(name)).ok_or_else(|| {
            Refusal::new(field("type"), format!("{:?} is no limit of Linux", limit.kind))
        })?;
        if !seen.insert(name.clone()) {
            return Err(Refusal::new(field("type"), "it is there twice"));
        }
        if limit.soft > limit.hard {
            return Err(Refusal::new(field("soft"), "it is more than hard"));
        }
        limits.push(Rlimit { name, soft: limit.soft, hard: limit.hard });
    }
    Ok(limits)
}

fn container(
    config: &Config,
    linux: &Linux,
    process: &Process,
    bundle: &Path,
    warnings: &mut Vec<String>,
) -> Result<(Container, Option<Vec<DeviceRule>>), Refusal> {
    let root = config.root.as_ref().ok_or_else(|| Refusal::new("root", "it is not said"))?;
    let path = bundle.join(&root.path).canonicalize();
    let path = path.map_err(|error| Refusal::new("root.path", error))?;
    if !path.is_dir() {
        return Err(Refusal::new("root.path", "it is no directory"));
    }
    let namespaces = namespaces(linux)?;
    let ids = ids(linux, &namespaces)?;
    let mut container = Container::new(Root::Directory(path));
    container.changes = Changes::Refused;
    container.ids = ids;
    container.id_base = linux.uid_mappings.iter().flatten().map(|map| map.host_id).min();
    container.hostname = own_name("hostname", config.hostname.as_ref(), &namespaces)?;
    let domainname = own_name("domainname", config.domainname.as_ref(), &namespaces)?;
    let powers = powers(process, ids, warnings)?;
    let mounts = config.mounts.iter().flatten().enumerate();
    let mounts = mounts.map(|(at, mount)| mounts::translate(at, mount, bundle, warnings));
    let mounts: Vec<PlainMount> = mounts.collect::<Result<_, _>>()?;
    // Nothing is made in a directory of the host's.
    let is_bound = mounts.iter().any(|mount| {
        mount.target == Path::new("/dev") && matches!(mount.what, Mounted::Bind { .. })
    });
    let mut nodes = devices::nodes(linux.devices.as_deref().unwrap_or_default())?;
    let none = super::config::Resources::default();
    let resources = linux.resources.as_ref().unwrap_or(&none);
    let rules = devices::rules(resources.devices.as_deref().unwrap_or_default(), &nodes)?;
    groups::check(linux.cgroups_path.as_deref(), resources)?;
    if is_bound {
        nodes.truncate(linux.devices.as_ref().map_or(0, Vec::len));
    }
    let has_groups = groups::wanted(linux.cgroups_path.as_deref(), resources);
    let renounced = process.no_new_privileges == Some(true);
    let maps = |maps: &Option<Vec<Mapping>>| {
        let maps = maps.iter().flatten();
        maps.map(|map| [map.container_id, map.host_id, map.size]).collect::<Vec<_>>()
    };
    container.exact = Some(Box::new(Exact {
        uids: if ids == Ids::Own { maps(&linux.uid_mappings) } else { Vec::new() },
        gids: if ids == Ids::Own { maps(&linux.gid_mappings) } else { Vec::new() },
        namespaces,
        domainname,
        root: if root.readonly == Some(true) { Access::Read } else { Access::Write },
        propagation: spread(linux)?,
        mounts,
        nodes,
        links: if is_bound { Vec::new() } else { devices::links() },
        hidden: paths("linux.maskedPaths", linux.masked_paths.as_deref())?,
        read_only: paths("linux.readonlyPaths", linux.readonly_paths.as_deref())?,
        user: user(process)?,
        powers,
        privileges: if renounced { Privileges::Renounced } else { Privileges::Gainable },
        oom_score_adj: oom_score(process)?,
        filter: linux.seccomp.as_ref().map(filter::program).transpose()?,
        devices: rules.clone().filter(|_| !has_groups),
        groups: Vec::new(),
        first_hold: first_hold(config),
    }));
    Ok((container, rules))
}

fn namespaces(linux: &Linux) -> Result<BTreeMap<Kind, Share>, Refusal> {
    let mut namespaces = BTreeMap::new();
    for (at, namespace) in linux.namespaces.iter().flatten().enumerate() {
        let field = |name: &str| format!("linux.namespaces[{at}].{name}");
        let kind = match namespace.kind.as_str() {
            "pid" => Kind::Pid,
            "network" => Kind::Net,
            "mount" => Kind::Mnt,
            "ipc" => Kind::Ipc,
            "uts" => Kind::Uts,
            "user" => Kind::User,
            "cgroup" => Kind::Cgroup,
            "time" => Kind::Time,
            other => return Err(Refusal::new(field("type"), format!("{other:?} is no namespace"))),
        };
        let share = match &namespace.path {
            None => Share::New,
            Some(path) if path.as_os_str().is_empty() => Share::New,
            Some(path) if !path.is_absolute() => {
                return Err(Refusal::new(field("path"), "it is not absolute"));
            }
            Some(path) if [Kind::User, Kind::Time].contains(&kind) => {
                let reason = format!("{}: this runtime does not join another's", path.display());
                return Err(Refusal::new(field("path"), reason));
            }
            Some(path) => Share::Of(path.clone()),
        };
        if namespaces.insert(kind, share).is_some() {
            return Err(Refusal::new(field("type"), "it is there twice"));
        }
    }
    if !namespaces.contains_key(&Kind::Mnt) {
        let reason = "without a mount namespace what is mounted would stay on the host";
        return Err(Refusal::new("linux.namespaces", reason));
    }
    Ok(namespaces)
}

fn ids(linux: &Linux, namespaces: &BTreeMap<Kind, Share>) -> Result<Ids, Refusal> {
    let maps = [
        ("linux.uidMappings", linux.uid_mappings.as_ref()),
        ("linux.gidMappings", linux.gid_mappings.as_ref()),
    ];
    let is_own = namespaces.contains_key(&Kind::User);
    for (field, map) in maps {
        match (is_own, map.is_some_and(|map| !map.is_empty())) {
            (true, false) => return Err(Refusal::new(field, "a user namespace needs it")),
            (false, true) => {
                return Err(Refusal::new(field, "it needs a user namespace of its own"));
            }
            _ => {}
        }
    }
    Ok(if is_own { Ids::Own } else { Ids::Host })
}

/// A name that may be set: only in a UTS namespace of its own.
fn own_name(
    field: &str,
    name: Option<&String>,
    namespaces: &BTreeMap<Kind, Share>,
) -> Result<Option<String>, Refusal> {
    match name {
        Some(name) if name.is_empty() => Ok(None),
        Some(name) if namespaces.contains_key(&Kind::Uts) => Ok(Some(name.clone())),
        Some(_) => Err(Refusal::new(field, "without a uts namespace it would be the host's")),
        None => Ok(None),
    }
}

fn parameters(
    linux: &Linux,
    namespaces: &BTreeMap<Kind, Share>,
) -> Result<BTreeMap<String, String>, Refusal> {
    for name in linux.sysctl.iter().flatten().map(|(name, _)| name) {
        let needed = match name.as_str() {
            it if it.starts_with("net.") => Kind::Net,
            it if it.starts_with("fs.mqueue.") || IPC.contains(&it) => Kind::Ipc,
            "kernel.domainname" => Kind::Uts,
            _ => {
                let reason = "it is no kernel parameter of a namespace; it would be the host's";
                return Err(Refusal::new(format!("linux.sysctl[{name:?}]"), reason));
            }
        };
        let sound =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        if !sound || name.contains("..") || name.split('/').any(str::is_empty) {
            return Err(Refusal::new(format!("linux.sysctl[{name:?}]"), "it is no name"));
        }
        if !namespaces.contains_key(&needed) {
            let reason = "the namespace that it belongs to is the host's";
            return Err(Refusal::new(format!("linux.sysctl[{name:?}]"), reason));
        }
    }
    Ok(linux.sysctl.clone().unwrap_or_default())
}

fn spread(linux: &Linux) -> Result<Option<runtime::Propagation>, Refusal> {
    let Some(name) = linux.rootfs_propagation.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let how = mounts::propagation(name).map(|(how, _)| how);
    let refused = || Refusal::new("linux.rootfsPropagation", format!("{name:?} is no propagation"));
    how.map(Some).ok_or_else(refused)
}

fn paths(field: &str, paths: Option<&[PathBuf]>) -> Result<Vec<PathBuf>, Refusal> {
    let paths = paths.unwrap_or_default();
    match paths.iter().position(|path| !path.is_absolute()) {
        Some(at) => Err(Refusal::new(format!("{field}[{at}]"), "it is not absolute")),
        None => Ok(paths.to_vec()),
    }
}

fn user(process: &Process) -> Result<PlainUser, Refusal> {
    let Some(user) = &process.user else { return Ok(PlainUser::default()) };
    absent("process.user.username", &user.username)?;
    if user.umask.is_some_and(|mask| mask > 0o777) {
        return Err(Refusal::new("process.user.umask", "it is more than 0777"));
    }
    Ok(PlainUser {
        uid: user.uid.unwrap_or(0),
        gid: user.gid.unwrap_or(0),
        groups: user.additional_gids.clone().unwrap_or_default(),
        umask: user.umask,
    })
}

fn oom_score(process: &Process) -> Result<Option<i32>, Refusal> {
    match process.oom_score_adj {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Refusal::new("process.oomScoreAdj", "it is not between -1000 and 1000"))
        }
        score => Ok(score),
    }
}

/// Its powers. What has no name is refused; what cannot be granted is warned of and left
/// out, as the specification says since 1.1.
fn powers(process: &Process, ids: Ids, warnings: &mut Vec<String>) -> Result<Powers, Refusal> {
    let none = super::config::Capabilities::default();
    let given = process.capabilities.as_ref().unwrap_or(&none);
    // In a user namespace of its own it has them all.
    let own = if ids == Ids::Own { CapabilitySet::ALL } else { own_powers() };
    let mut set = |name: &str, list: &Option<Vec<String>>, most: CapabilitySet, why: &str| {
        let field = format!("process.capabilities.{name}");
        let list = list.as_deref().unwrap_or_default();
        if let Some(name) = list.iter().find(|name| !name.starts_with("CAP_")) {
            return Err(Refusal::new(field, format!("{name:?} is no capability")));
        }
        let set = CapabilitySet::EMPTY.with(list, &[]);
        let set = set.map_err(|error| Refusal::new(field.clone(), error))?;
        let lacks = set.without(most);
        if lacks != CapabilitySet::EMPTY {
            warnings.push(format!("{field}: {lacks} cannot be granted: {why}"));
        }
        Ok(set.intersection(most))
    };
    let root = "this host's root does not have it";
    let bounding = set("bounding", &given.bounding, own, root)?;
    let permitted = set("permitted", &given.permitted, own, root)?;
    let effective = "what is effective must be permitted";
    let effective = set("effective", &given.effective, permitted, effective)?;
    let inheritable = set("inheritable", &given.inheritable, own, root)?;
    let both = permitted.intersection(inheritable);
    let ambient = "what is ambient must be permitted and inheritable";
    let ambient = set("ambient", &given.ambient, both, ambient)?;
    Ok(Powers { bounding, permitted, effective, inheritable, ambient })
}

/// What this process could give: its bounding set, which is what its forks can keep.
fn own_powers() -> CapabilitySet {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits, 16).ok());
    CapabilitySet::from_bits(bits.unwrap_or(0))
}

/// Hooks that want the host's root still there need a hold of their own.
fn first_hold(config: &Config) -> FirstHold {
    let some =
        |hooks: &Option<Vec<super::config::Hook>>| hooks.as_ref().is_some_and(|h| !h.is_empty());
    let wanted = config.hooks.as_ref().is_some_and(|hooks| {
        some(&hooks.prestart) || some(&hooks.create_runtime) || some(&hooks.create_container)
    });
    if wanted { FirstHold::BeforeRoot } else { FirstHold::None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A bundle that can be translated, changed at a place.
    fn changed(pointer: &str, value: Value) -> Result<Translated, Refusal> {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "."},
            "process": {"cwd": "/", "args": ["true"], "user": {"uid": 1}, "capabilities": {},
                "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "resources": {}},
        });
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        match config.pointer_mut(pointer) {
            Some(there) => *there = value,
            None => config.pointer_mut(parent).expect("a place")[name] = value,
        }
        let config = read(&config.to_string())?;
        translate("t".parse().expect("an id"), &config, Path::new("/"))
    }

    #[test]
    fn each_thing_that_cannot_be_is_refused_by_the_name_of_its_field() {
        let cases = [
            ("/ociVersion", json!("invalid"), "ociVersion"),
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/windows", json!({"layerFolders": ["x"]}), "windows"),
            ("/process", json!(null), "process"),
            ("/process/args", json!([]), "process.args"),
            ("/process/cwd", json!("tmp"), "process.cwd"),
            ("/process/env", json!(["A=1", "B"]), "process.env[1]"),
            ("/process/terminal", json!(true), "process.terminal"),
            ("/process/apparmorProfile", json!("x"), "process.apparmorProfile"),
            ("/process/selinuxLabel", json!("x"), "process.selinuxLabel"),
            ("/process/capabilities/ambient", json!(["CAP_TEST"]), "process.capabilities.ambient"),
            ("/process/capabilities/bounding", json!(["ALL"]), "process.capabilities.bounding"),
            ("/process/oomScoreAdj", json!(2000), "process.oomScoreAdj"),
            ("/process/user/umask", json!(4096), "process.user.umask"),
            (
                "/process/rlimits/0",
                json!({"type": "RLIMIT_X", "soft": 0, "hard": 0}),
                "process.rlimits[0].type",
            ),
            (
                "/process/rlimits/0",
                json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 0}),
                "process.rlimits[0].soft",
            ),
            ("/root", json!(null), "root"),
            ("/root/path", json!("/none/such"), "root.path"),
            ("/hostname", json!("x"), "hostname"),
            ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces"),
            ("/linux/namespaces/1", json!({"type": "mount"}), "linux.namespaces[1].type"),
            ("/linux/namespaces/1", json!({"type": "odd"}), "linux.namespaces[1].type"),
            (
                "/linux/namespaces/1",
                json!({"type": "pid", "path": "x"}),
                "linux.namespaces[1].path",
            ),
            ("/linux/namespaces/1", json!({"type": "user"}), "linux.uidMappings"),
            (
                "/linux/uidMappings",
                json!([{"containerID": 0, "hostID": 1, "size": 1}]),
                "linux.uidMappings",
            ),
            ("/linux/sysctl", json!({"vm.swappiness": "1"}), "linux.sysctl[\"vm.swappiness\"]"),
            (
                "/linux/sysctl",
                json!({"net.ipv4.ip_forward": "1"}),
                "linux.sysctl[\"net.ipv4.ip_forward\"]",
            ),
            ("/linux/maskedPaths", json!(["/a", "b"]), "linux.maskedPaths[1]"),
            ("/linux/rootfsPropagation", json!("odd"), "linux.rootfsPropagation"),
            ("/linux/mountLabel", json!("x"), "linux.mountLabel"),
            ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
            ("/linux/personality", json!({"domain": "LINUX32"}), "linux.personality"),
            ("/linux/seccomp", json!({"defaultAction": "odd"}), "linux.seccomp.defaultAction"),
            ("/linux/resources/rdma", json!({"mlx": {}}), "linux.resources.rdma"),
        ];
        for (pointer, value, field) in cases {
            let refused = changed(pointer, value.clone()).expect_err(pointer);
            assert_eq!(refused.field, field, "{pointer} {value}: {refused}");
        }
    }

    #[test]
    fn what_nobody_knows_is_ignored() {
        for (pointer, value) in [("/unknown", json!(1)), ("/linux/unknown", json!({"a": 1}))] {
            changed(pointer, value).expect("translated");
        }
        changed("/annotations", json!({"org.x": ""})).expect("translated");
    }
}
