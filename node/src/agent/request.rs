//! A job's task as a launch for the runtime.
//!
//! ```text
//! task ──draft──▶ launch as it is written ──settle──▶ launch of this host
//!                      └──▶ vet: before anybody has taken the job
//! ```
//!
//! What the job says in words of the cluster becomes what this machine does. The draft is
//! pure; only [`here`] looks at what a path of this host is, and who its users are. What runs
//! over an image is put together in [`image`].

mod here;
mod image;

use std::collections::BTreeMap;
use std::path::PathBuf;

use gossip_core::container::{
    ContainerSpec, DeviceSpec, ImageSpec, MountSpec, NetworkSpec, PortSpec, RootSpec, Trust,
};
use gossip_core::id::{ContentHash, JobId};
use gossip_core::limits::IoSpec;
use gossip_core::names::NamesSpec;
use gossip_core::slot::{Epoch, Generation, SlotId};
use gossip_core::spec::{GroupSpec, JobSpec, Program, Streams, TaskSpec};
use runtime::cgroup::{self, IoLimit};
use runtime::image::{Digest, ImageConfig};
use runtime::{
    Access, Changes, Container, Device, Ids, Init, Limits, Mount, Names, Network, Place, Process,
    Protocol, Publish, Rlimit, Root, SHM_BYTES, Seccomp, SystemPaths, TaskId,
};
use starling_core::effect::Launch;
use starling_core::ledger::AllocationId;

use super::naming;
use super::words::Fault;
pub(crate) use here::{Flaw, Here};

/// What a process finds programs with, unless its job says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Processes and threads of a task whose job does not say: Podman's number. Far more than
/// an ordinary service has, far fewer than bring a host down.
const PIDS_MAX: u32 = 2048;

/// More swap than any machine has, and as much as the runtime takes: no limit on it.
const SWAP_BYTES_MAX: u64 = 1 << 62;

/// Half of a small machine's memory, until the node that runs it says what half of its is.
const TMPFS_BYTES: u64 = 256 << 20;

/// What everybody's share is called in the kernel's scale, for one core asked.
const WEIGHT_PER_CORE: u64 = 100;

/// The longest hostname of Linux.
const HOSTNAME_BYTES: usize = 63;

/// A terminal's size until whoever attaches says theirs.
const TERMINAL: runtime::Streams = runtime::Streams::Terminal { rows: 24, columns: 80 };

/// The launch of a job's first task, as if this node had won its tender: for whoever wants
/// to see it without running it. None for a job without tasks. Of a task from an image that
/// is known it says what runs; of another, what the job itself says.
pub(crate) async fn preview(
    spec: &JobSpec,
    here: &Here,
    image: Option<&ImageConfig>,
) -> Option<Result<runtime::Launch, Flaw>> {
    let group = spec.groups.first()?;
    let launch = trial(spec, group, group.tasks.first()?);
    let name = naming::task_id(&launch.id, 0)?;
    let unknown = match launch.task.run.image() {
        Some(_unseen) => unknown(),
        None => ImageConfig::default(),
    };
    Some(of(&launch, here, name, image.unwrap_or(&unknown)).await)
}

/// Refuses of a job what no machine could run, before it is anybody's: by the field, in the
/// words of whoever wrote it.
pub(crate) fn vet(spec: &JobSpec) -> Result<(), Fault> {
    for group in &spec.groups {
        for task in &group.tasks {
            let launch = trial(spec, group, task);
            let Some(name) = naming::task_id(&launch.id, 0) else { continue };
            let draft = draft(&launch, &spec.name, name, &unknown());
            runtime::vet(&draft).map_err(|flaw| Fault::of(&flaw, Some(&draft)))?;
        }
    }
    Ok(())
}

/// An image that nobody has looked into yet: it may well say what runs.
fn unknown() -> ImageConfig {
    ImageConfig { cmd: vec!["its command".to_owned()], ..ImageConfig::default() }
}

/// A task as it would be launched first.
fn trial(spec: &JobSpec, group: &GroupSpec, task: &TaskSpec) -> Launch {
    let slot = SlotId { job: JobId::new([0; 16]), group: group.name.clone(), index: 1 };
    Launch {
        id: AllocationId { slot, epoch: Epoch { counter: 1, tender: 0 } },
        generation: Generation { counter: 1, spec: ContentHash::new([0; 32]) },
        count: group.count,
        job_name: spec.name.clone(),
        restarts: 0,
        task: task.clone(),
    }
}

/// The launch of a task, over what its image says; of one without an image, that is nothing.
pub(super) async fn of(
    launch: &Launch,
    here: &Here,
    id: TaskId,
    image: &ImageConfig,
) -> Result<runtime::Launch, Flaw> {
    let mut request = draft(launch, &here.name, id, image);
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(Flaw::no_command());
    }
    // What a job says was vetted when it was submitted; what an image says is seen now.
    if launch.task.run.image().is_some() {
        runtime::vet(&request).map_err(|flaw| Flaw::of(Fault::of(&flaw, Some(&request))))?;
    }
    here::settle(&mut request, launch, here).await?;
    Ok(request)
}

/// The launch as the job says it: paths as they are written, disks by their place in the
/// list, the process's user not found yet.
fn draft(launch: &Launch, node: &str, id: TaskId, image: &ImageConfig) -> runtime::Launch {
    let task = &launch.task;
    let mut request = runtime::Launch::new(id, task.run.argv().iter().map(String::as_str));
    request.limits = limits(task);
    request.rlimits = rlimits(task);
    request.oom_score_adj = task.oom_score_adj;
    request.streams = match task.streams {
        Streams::Closed => runtime::Streams::Logged,
        Streams::Input => runtime::Streams::Input,
        Streams::Terminal => TERMINAL,
    };
    if let Some(signal) = task.stop_signal_number() {
        request.stop_signal = signal;
    }
    match &task.run {
        Program::Process { directory, files, .. } => {
            request.env = environment(launch, node, &[]);
            request.directory = directory.as_ref().map(PathBuf::from);
            let files = files.as_ref().map(digest);
            request.place = Place::Process(Process { files, ..Process::default() });
        }
        Program::Container(spec) => {
            let call = image::call(task, spec, image);
            request.argv = call.argv;
            request.env = environment(launch, node, &call.env);
            request.directory = call.directory;
            request.stop_signal = call.stop_signal.unwrap_or(request.stop_signal);
            let mut container = container(spec, launch);
            container.user = call.user.unwrap_or(container.user);
            request.place = Place::Container(Box::new(container));
        }
    }
    request
}

/// What it runs with: what its image says, then where it is, then what its job says.
fn environment(
    launch: &Launch,
    node: &str,
    image: &[(String, String)],
) -> BTreeMap<String, String> {
    let slot = &launch.id.slot;
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    env.extend(image.iter().cloned());
    env.extend([
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
        memory_low: task.limits.memory_reservation,
        swap: task.limits.swap_bytes.map(|bytes| bytes.min(SWAP_BYTES_MAX)),
        pids_max: Some(u64::from(task.limits.pids.unwrap_or(PIDS_MAX))),
        cpuset_cpus: task.limits.cpuset_cpus.clone(),
        io_weight: task.limits.io_weight.map(io_weight),
        io: (0..).zip(&task.limits.io).map(|(at, io)| rates(at, io)).collect(),
        ..Limits::default()
    }
}

/// Docker's 10 to 1000 as version 2's 1 to 10000: runc's `ConvertBlkIOToIOWeightValue`.
fn io_weight(weight: u16) -> u16 {
    let steps = u32::from(weight.saturating_sub(10)) * 9999 / 990;
    u16::try_from(1 + steps).unwrap_or(u16::MAX)
}

/// Which disk it is, only the host knows.
fn rates(at: u32, io: &IoSpec) -> IoLimit {
    IoLimit {
        device: cgroup::Device { major: 0, minor: at },
        weight: None,
        read_bps: io.read_bps,
        write_bps: io.write_bps,
        read_iops: io.read_iops,
        write_iops: io.write_iops,
    }
}

fn rlimits(task: &TaskSpec) -> Vec<Rlimit> {
    let known = task.rlimits().flatten();
    known.map(|(name, soft, hard)| Rlimit { name: name.to_owned(), soft, hard }).collect()
}

fn container(spec: &ContainerSpec, launch: &Launch) -> Container {
    let base = Container::new(match &spec.root {
        RootSpec::Path(root) => Root::Directory(root.into()),
        RootSpec::Image(image) => Root::Image(digest(image)),
    });
    Container {
        changes: if spec.read_only { Changes::Refused } else { Changes::Disk },
        ids: if spec.trust.contains(&Trust::HostIds) { Ids::Host } else { Ids::Own },
        network: network(spec),
        hostname: Some(spec.hostname.clone().unwrap_or_else(|| hostname(launch))),
        names: names(&spec.names),
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
    }
}

/// The image by its content; all zeros until that is known.
fn digest(image: &ImageSpec) -> Digest {
    Digest::new(image.id.map_or([0; 32], |id| *id.as_bytes()))
}

/// `JOB-INDEX`, which is what people look for in a prompt.
fn hostname(launch: &Launch) -> String {
    let index = format!("-{}", launch.id.slot.index);
    let room = HOSTNAME_BYTES.saturating_sub(index.len());
    let job: String = launch.job_name.chars().take(room).collect();
    job + &index
}

fn names(spec: &NamesSpec) -> Names {
    Names {
        hosts: spec.hosts.iter().map(|host| (host.name.clone(), host.address)).collect(),
        servers: spec.servers.clone(),
        search: spec.search.clone(),
        options: spec.options.clone(),
    }
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
            bytes: bytes.unwrap_or(TMPFS_BYTES),
            mode: mode.unwrap_or(0o1777),
        },
    }
}

fn device(device: &DeviceSpec) -> Device {
    let target = PathBuf::from(device.target.as_ref().unwrap_or(&device.source));
    Device { source: (&device.source).into(), target, access: access(device.read_only) }
}
