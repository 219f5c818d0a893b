//! The one file that turns a job's task into a launch for the runtime.
//!
//! What the job says in words of the cluster becomes what this machine does.
//! Only here is it looked at what a path of this host is, and who its users are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gossip_core::container::{
    ContainerSpec, DeviceSpec, MountSpec, NetworkSpec, PortSpec, RootSpec, Trust,
};
use gossip_core::spec::{Program, Streams, TaskSpec};
use runtime::{
    Access, Changes, Container, Device, Ids, Init, Limits, Mount, Network, Place, Process,
    Protocol, Publish, Rlimit, Root, SHM_BYTES, Seccomp, SystemPaths, TaskId, User,
};
use starling_core::effect::Launch;

use super::{host, naming};

/// What a process finds programs with, unless its job says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Processes and threads of a task whose job does not say: Podman's number. Far more than
/// an ordinary service has, far fewer than bring a host down.
const PIDS_MAX: u32 = 2048;

/// What everybody's share is called in the kernel's scale, for one core asked.
const WEIGHT_PER_CORE: u64 = 100;

/// A terminal's size until whoever attaches says theirs.
const TERMINAL: runtime::Streams = runtime::Streams::Terminal { rows: 24, columns: 80 };

/// A request that this host cannot turn into a launch.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    /// No such user here.
    #[error("user: there is no {0:?} on this node")]
    User(String),
    /// Nothing there.
    #[error("rootfs: cannot use {path} of this node: {source}")]
    Root {
        /// The path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The launch of a task.
pub(super) async fn of(launch: &Launch, node: &str, id: TaskId) -> Result<runtime::Launch, Flaw> {
    let task = &launch.task;
    let mut request = runtime::Launch::new(id, task.run.argv().iter().map(String::as_str));
    request.env = environment(launch, node);
    request.limits = limits(task);
    request.rlimits = rlimits(task);
    request.streams = match task.streams {
        Streams::Closed => runtime::Streams::Logged,
        Streams::Input => runtime::Streams::Input,
        Streams::Terminal => TERMINAL,
    };
    if let Some(signal) = task.stop_signal_number() {
        request.stop_signal = signal;
    }
    match &task.run {
        Program::Process { directory, user, .. } => {
            request.directory = directory.as_ref().map(PathBuf::from);
            let user = match user {
                Some(user) => Some(host::user(user).ok_or_else(|| Flaw::User(user.clone()))?),
                None => own_user(launch),
            };
            request.place = Place::Process(Process { user, hidden: Vec::new() });
        }
        Program::Container(spec) => {
            request.directory = spec.directory.as_ref().map(PathBuf::from);
            request.place = Place::Container(Box::new(container(spec).await?));
        }
    }
    Ok(request)
}

fn own_user(launch: &Launch) -> Option<User> {
    rustix::process::geteuid().is_root().then(|| naming::user(&launch.id))
}

fn environment(launch: &Launch, node: &str) -> BTreeMap<String, String> {
    let slot = &launch.id.slot;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("STARLING_JOB".to_owned(), launch.job_name.clone()),
        ("STARLING_GROUP".to_owned(), slot.group.to_string()),
        ("STARLING_INDEX".to_owned(), slot.index.to_string()),
        ("STARLING_COUNT".to_owned(), launch.count.to_string()),
        ("STARLING_NODE".to_owned(), node.to_owned()),
        ("STARLING_GENERATION".to_owned(), launch.generation.counter.to_string()),
        ("STARLING_EPOCH".to_owned(), launch.id.epoch.counter.to_string()),
    ]);
    env.extend(launch.task.env.clone());
    env
}

/// What was set aside is its share under contention; only what the job calls a limit is one.
fn limits(task: &TaskSpec) -> Limits {
    let weight = (task.resources.cpu_milli * WEIGHT_PER_CORE / 1000).clamp(1, 10_000);
    Limits {
        cpu_weight: u16::try_from(weight).ok(),
        cpu_quota_milli: task
            .limits
            .cpu_milli
            .map(|milli| u32::try_from(milli).unwrap_or(u32::MAX)),
        memory_max: task.limits.memory_bytes,
        pids_max: Some(u64::from(task.limits.pids.unwrap_or(PIDS_MAX))),
        ..Limits::default()
    }
}

fn rlimits(task: &TaskSpec) -> Vec<Rlimit> {
    let known = task.rlimits().flatten();
    known.map(|(name, soft, hard)| Rlimit { name: name.to_owned(), soft, hard }).collect()
}

async fn container(spec: &ContainerSpec) -> Result<Container, Flaw> {
    let base = Container::new(root(&spec.root).await?);
    Ok(Container {
        changes: if spec.read_only { Changes::Refused } else { Changes::Disk },
        user: spec.user.clone().unwrap_or(base.user),
        ids: if spec.trust.contains(&Trust::HostIds) { Ids::Host } else { Ids::Own },
        network: network(spec),
        hostname: spec.hostname.clone(),
        mounts: spec.mounts.iter().map(mount).collect(),
        devices: spec.devices.iter().map(device).collect(),
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        seccomp: if spec.trust.contains(&Trust::AllCalls) {
            Seccomp::Unconfined
        } else {
            Seccomp::Default
        },
        system_paths: if spec.trust.contains(&Trust::SystemPaths) {
            SystemPaths::Unconfined
        } else {
            SystemPaths::Confined
        },
        sysctls: spec.sysctls.clone(),
        init: if spec.init { Init::Reaper } else { Init::Program },
        shm_bytes: spec.shm_bytes.unwrap_or(SHM_BYTES),
        ..base
    })
}

async fn root(root: &RootSpec) -> Result<Root, Flaw> {
    let RootSpec::Path(path) = root;
    let found = tokio::fs::metadata(path)
        .await
        .map_err(|source| Flaw::Root { path: path.clone(), source })?;
    let path = Path::new(path).to_owned();
    Ok(if found.is_dir() { Root::Directory(path) } else { Root::Tar(path) })
}

fn network(spec: &ContainerSpec) -> Network {
    match spec.network {
        NetworkSpec::Bridge => {
            Network::Bridge { publish: spec.ports.iter().map(publish).collect() }
        }
        NetworkSpec::Host => Network::Host,
        NetworkSpec::None => Network::None,
    }
}

fn publish(port: &PortSpec) -> Publish {
    Publish {
        host_ip: port.host_ip,
        host_port: port.host,
        port: port.container,
        protocol: if port.udp { Protocol::Udp } else { Protocol::Tcp },
    }
}

fn access(read_only: bool) -> Access {
    if read_only { Access::Read } else { Access::Write }
}

fn mount(mount: &MountSpec) -> Mount {
    match mount {
        MountSpec::Bind { source, target, read_only } => {
            Mount::Bind { source: source.into(), target: target.into(), access: access(*read_only) }
        }
        MountSpec::Volume { name, target, read_only } => {
            Mount::Volume { name: name.clone(), target: target.into(), access: access(*read_only) }
        }
        MountSpec::Tmpfs { target, bytes, mode } => Mount::Tmpfs {
            target: target.into(),
            bytes: bytes.unwrap_or_else(|| host::memory_bytes() / 2),
            mode: mode.unwrap_or(0o1777),
        },
    }
}

fn device(device: &DeviceSpec) -> Device {
    let target = device.target.as_ref().unwrap_or(&device.source);
    Device {
        source: PathBuf::from(&device.source),
        target: PathBuf::from(target),
        access: access(device.read_only),
    }
}
