//! Control groups of version 1 at the path that a bundle names, with what they limit.
//!
//! The runtime has groups of its own by which it tracks and kills; a process is in one
//! group of each hierarchy, so on hosts with version 1 beside (or below) version 2 a
//! bundle's path can be had as well. Where version 2 is all there is it cannot, and is
//! refused.
//!
//! Invariant: [`Groups::remove`] removes only what [`make`] made.

use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use runtime::cgroup::DeviceRule;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Resources;
use super::refusal::{Refusal, absent};

/// What was made, deepest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    made: Vec<PathBuf>,
    /// `cgroup.procs` of each.
    pub(super) procs: Vec<PathBuf>,
}

/// One thing to write: the controller's file, its value, and the field that says so.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: String,
    value: String,
    field: String,
}

/// Numbers of a bundle: object, its field, controller, file.
const NUMBERS: [(&str, &str, &str, &str); 13] = [
    ("memory", "limit", "memory", "memory.limit_in_bytes"),
    ("memory", "swap", "memory", "memory.memsw.limit_in_bytes"),
    ("memory", "reservation", "memory", "memory.soft_limit_in_bytes"),
    ("memory", "kernel", "memory", "memory.kmem.limit_in_bytes"),
    ("memory", "kernelTCP", "memory", "memory.kmem.tcp.limit_in_bytes"),
    ("memory", "swappiness", "memory", "memory.swappiness"),
    ("cpu", "shares", "cpu", "cpu.shares"),
    ("cpu", "period", "cpu", "cpu.cfs_period_us"),
    ("cpu", "quota", "cpu", "cpu.cfs_quota_us"),
    ("cpu", "realtimePeriod", "cpu", "cpu.rt_period_us"),
    ("cpu", "realtimeRuntime", "cpu", "cpu.rt_runtime_us"),
    ("blockIO", "weight", "blkio", "blkio.weight"),
    ("network", "classID", "net_cls", "net_cls.classid"),
];

/// Lists of `major`, `minor`, `rate`.
const RATES: [(&str, &str); 4] = [
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
];

/// Fields that are read here, by object. All others are refused.
const KNOWN: [(&str, &[&str]); 5] = [
    (
        "memory",
        &[
            "limit",
            "swap",
            "reservation",
            "kernel",
            "kernelTCP",
            "swappiness",
            "useHierarchy",
            "disableOOMKiller",
        ],
    ),
    ("cpu", &["shares", "period", "quota", "realtimePeriod", "realtimeRuntime", "cpus", "mems"]),
    ("pids", &["limit"]),
    (
        "blockIO",
        &[
            "weight",
            "throttleReadBpsDevice",
            "throttleWriteBpsDevice",
            "throttleReadIOPSDevice",
            "throttleWriteIOPSDevice",
        ],
    ),
    ("network", &["classID"]),
];

/// Whether a bundle asks for groups of its own at all.
pub(super) fn wanted(path: Option<&str>, resources: &Resources) -> bool {
    let some = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let Resources { memory, cpu, pids, block_io, hugepage_limits, network, .. } = resources;
    path.is_some_and(|path| !path.is_empty())
        || [memory, cpu, pids, block_io, hugepage_limits, network].into_iter().any(some)
}

/// What is to be written, in order.
fn settings(resources: &Resources) -> Result<Vec<Setting>, Refusal> {
    let Resources { memory, cpu, pids, block_io, network, .. } = resources;
    absent("linux.resources.hugepageLimits", &resources.hugepage_limits)?;
    absent("linux.resources.rdma", &resources.rdma)?;
    absent("linux.resources.unified", &resources.unified)?;
    let objects = [
        ("memory", memory),
        ("cpu", cpu),
        ("pids", pids),
        ("blockIO", block_io),
        ("network", network),
    ];
    let mut settings = Vec::new();
    for (object, value) in objects {
        let Some(Value::Object(fields)) = value else { continue };
        let known = KNOWN.iter().find(|(name, _)| *name == object).map_or(&[][..], |(_, it)| it);
        for (name, value) in fields {
            let field = format!("linux.resources.{object}.{name}");
            if !known.contains(&name.as_str()) {
                absent(&field, &Some(value.clone()))?;
            } else if !value.is_null() {
                settings.extend(of_field(object, name, value, field)?);
            }
        }
    }
    // A limit before the one that includes it, a period before what it divides.
    let order = |setting: &Setting| {
        let file = setting.file.as_str();
        NUMBERS.iter().position(|(.., known)| *known == file).unwrap_or(NUMBERS.len())
    };
    settings.sort_by_key(order);
    Ok(settings)
}

fn of_field(
    object: &str,
    name: &str,
    value: &Value,
    field: String,
) -> Result<Vec<Setting>, Refusal> {
    let one = |controller, file: &str, value: String, field: String| Setting {
        controller,
        file: file.to_owned(),
        value,
        field,
    };
    let number = || {
        value
            .as_i64()
            .map(|it| it.to_string())
            .or(value.as_u64().map(|it| it.to_string()))
            .ok_or_else(|| Refusal::new(field.clone(), "it is no number"))
    };
    if let Some((.., controller, file)) =
        NUMBERS.iter().find(|(o, n, ..)| (*o, *n) == (object, name))
    {
        return Ok(vec![one(controller, file, number()?, field)]);
    }
    if let Some((_, file)) = RATES.iter().find(|(known, _)| *known == name) {
        let mut settings = Vec::new();
        for (at, device) in value.as_array().into_iter().flatten().enumerate() {
            let part = |name: &str| device.get(name).and_then(Value::as_u64);
            let parts = part("major").zip(part("minor")).zip(part("rate"));
            let field = format!("{field}[{at}]");
            let ((major, minor), rate) = parts
                .ok_or_else(|| Refusal::new(field.clone(), "it needs major, minor and rate"))?;
            settings.push(one("blkio", file, format!("{major}:{minor} {rate}"), field));
        }
        return Ok(settings);
    }
    let text = || value.as_str().map(str::to_owned).unwrap_or_default();
    Ok(match name {
        "cpus" | "mems" if text().is_empty() => Vec::new(),
        "cpus" => vec![one("cpuset", "cpuset.cpus", text(), field)],
        "mems" => vec![one("cpuset", "cpuset.mems", text(), field)],
        "disableOOMKiller" if value == true => {
            vec![one("memory", "memory.oom_control", "1".to_owned(), field)]
        }
        "useHierarchy" if value == true => {
            vec![one("memory", "memory.use_hierarchy", "1".to_owned(), field)]
        }
        "limit" => {
            let most = value.as_i64().unwrap_or(0);
            let most = if most > 0 { most.to_string() } else { "max".to_owned() };
            vec![one("pids", "pids.max", most, field)]
        }
        _ => Vec::new(),
    })
}

/// The hierarchies of version 1: controllers, where they are mounted.
fn hierarchies() -> io::Result<Vec<(Vec<String>, PathBuf)>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let line = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, place, "cgroup", options, ..] = fields[..] else { return None };
        let names: Vec<_> = options.split(',').map(str::to_owned).collect();
        (!names.iter().any(|name| name.starts_with("name="))).then(|| (names, PathBuf::from(place)))
    };
    Ok(mounts.lines().filter_map(line).collect())
}

/// A path of groups that stays below their root.
fn inside(path: &str) -> Result<PathBuf, Refusal> {
    let field = "linux.cgroupsPath";
    if path.contains(':') {
        let reason = "this is systemd's form; this runtime makes groups by itself, at a path";
        return Err(Refusal::new(field, reason));
    }
    let parts = Path::new(path).components().filter(|part| !matches!(part, Component::RootDir));
    let sound = parts.clone().all(|part| matches!(part, Component::Normal(_)));
    let path: PathBuf = parts.collect();
    if sound && path.components().next().is_some() {
        Ok(path)
    } else {
        Err(Refusal::new(field, "it does not lead to a group below the root of groups"))
    }
}

/// Checks what can be without making anything.
pub(super) fn check(path: Option<&str>, resources: &Resources) -> Result<(), Refusal> {
    let settings = settings(resources)?;
    if !wanted(path, resources) {
        return Ok(());
    }
    path.filter(|path| !path.is_empty()).map_or(Ok(()), |path| inside(path).map(drop))?;
    let hierarchies = hierarchies().map_err(|error| Refusal::new("linux.cgroupsPath", error))?;
    if hierarchies.is_empty() {
        let field = if path.is_some() { "linux.cgroupsPath" } else { "linux.resources" };
        let reason = "this host has control groups of version 2 only, where the runtime's own \
            are all that a process can be in";
        return Err(Refusal::new(field, reason));
    }
    let has = |controller: &str| {
        hierarchies.iter().any(|(names, _)| names.iter().any(|it| it == controller))
    };
    match settings.into_iter().find(|setting| !has(setting.controller)) {
        Some(Setting { controller, field, .. }) => {
            Err(Refusal::new(field, format!("this host has no controller {controller}")))
        }
        None => Ok(()),
    }
}

/// Makes the groups of a container and writes what they limit; nothing stays after a failure.
pub(super) fn make(
    id: &str,
    path: Option<&str>,
    resources: &Resources,
    devices: Option<&[DeviceRule]>,
) -> Result<Groups, Refusal> {
    let own = format!("/starling-oci/{id}");
    let path = inside(path.filter(|path| !path.is_empty()).unwrap_or(&own))?;
    let mut groups = Groups::default();
    let done = groups.fill(&path, resources, devices);
    if done.is_err() {
        let _ = groups.remove();
    }
    done.map(|()| groups)
}

impl Groups {
    fn fill(
        &mut self,
        path: &Path,
        resources: &Resources,
        devices: Option<&[DeviceRule]>,
    ) -> Result<(), Refusal> {
        let failed = |error: io::Error| Refusal::new("linux.cgroupsPath", error);
        let settings = settings(resources)?;
        for (controllers, root) in hierarchies().map_err(failed)? {
            let group = root.join(path);
            let is = |name: &str| controllers.iter().any(|it| it == name);
            self.make(&root, path, is("cpuset")).map_err(failed)?;
            for Setting { file, value, field, .. } in settings.iter().filter(|it| is(it.controller))
            {
                write(&group.join(file), value)
                    .map_err(|error| Refusal::new(field, format!("{file}: {error}")))?;
            }
            if let Some(rules) = devices.filter(|_| is("devices")) {
                let all = std::iter::once(("devices.deny", "a".to_owned()));
                let some = rules.iter().map(|rule| ("devices.allow", rule.to_string()));
                for (file, value) in all.chain(some) {
                    let wrong = |error| {
                        Refusal::new("linux.resources.devices", format!("{value}: {error}"))
                    };
                    write(&group.join(file), &value).map_err(wrong)?;
                }
            }
            self.procs.push(group.join("cgroup.procs"));
        }
        Ok(())
    }

    /// Makes a group and what leads to it. A new cpuset has no processors until it is told.
    fn make(&mut self, root: &Path, path: &Path, is_cpuset: bool) -> io::Result<()> {
        let mut group = root.to_owned();
        for part in path.components() {
            let parent = group.clone();
            group.push(part);
            match fs::create_dir(&group) {
                Ok(()) => self.made.push(group.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| is_cpuset) {
                let above = fs::read_to_string(parent.join(file))?;
                write(&group.join(file), above.trim())?;
            }
        }
        Ok(())
    }

    /// Removes what was made, as far as nobody else uses it now.
    pub(super) fn remove(&self) -> io::Result<()> {
        for group in self.made.iter().rev() {
            match fs::remove_dir(group) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Another container's group is below.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && has_below(group) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn has_below(group: &Path) -> bool {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// The kernel takes a value in one write.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write(value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        serde_json::from_str(text).expect("resources")
    }

    #[test]
    fn limits_become_the_controllers_files_in_a_good_order() {
        let some = resources(
            r#"{"memory":{"swap":20,"limit":10},"cpu":{"quota":5,"period":9,"cpus":"0-1"},"pids":{"limit":-1}}"#,
        );
        let lines: Vec<_> = settings(&some)
            .expect("settings")
            .into_iter()
            .map(|it| format!("{} {}", it.file, it.value))
            .collect();
        let wanted = [
            "memory.limit_in_bytes 10",
            "memory.memsw.limit_in_bytes 20",
            "cpu.cfs_period_us 9",
            "cpu.cfs_quota_us 5",
            "cpuset.cpus 0-1",
            "pids.max max",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        for (text, field) in [
            (r#"{"memory":{"limit":"much"}}"#, "linux.resources.memory.limit"),
            (r#"{"cpu":{"burst":5}}"#, "linux.resources.cpu.burst"),
            (r#"{"unified":{"memory.high":"5"}}"#, "linux.resources.unified"),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8}]}}"#,
                "linux.resources.blockIO.throttleReadBpsDevice[0]",
            ),
        ] {
            assert_eq!(settings(&resources(text)).expect_err("refused").field, field);
        }
        for path in ["/../x", "a:b:c", "/", "x/../.."] {
            assert_eq!(inside(path).expect_err("refused").field, "linux.cgroupsPath");
        }
    }
}
