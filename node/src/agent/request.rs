//! The one file that turns a job's task into a launch for the runtime.
//!
//! What the job says in words of the cluster becomes what this machine does.
//! Only here is it looked at what a path of this host is, and who its users are.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use gossip_core::container::{
    ContainerSpec, DeviceSpec, MountSpec, NetworkSpec, PortSpec, RootSpec, Trust, Use, is_guarded,
};
use gossip_core::id::{ContentHash, JobId};
use gossip_core::slot::{Epoch, Generation, SlotId};
use gossip_core::spec::{JobSpec, Program, Streams, TaskSpec};
use runtime::{
    Access, Changes, Container, Device, Ids, Init, Limits, Mount, Network, Place, Process,
    Protocol, Publish, Rlimit, Root, SHM_BYTES, Seccomp, SystemPaths, TaskId,
};
use starling_core::effect::Launch;
use starling_core::ledger::AllocationId;

use super::{host, naming};

/// What a process finds programs with, unless its job says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Processes and threads of a task whose job does not say: Podman's number. Far more than
/// an ordinary service has, far fewer than bring a host down.
const PIDS_MAX: u32 = 2048;

/// What everybody's share is called in the kernel's scale, for one core asked.
const WEIGHT_PER_CORE: u64 = 100;

/// The longest hostname of Linux.
const HOSTNAME_BYTES: usize = 63;

/// A terminal's size until whoever attaches says theirs.
const TERMINAL: runtime::Streams = runtime::Streams::Terminal { rows: 24, columns: 80 };

/// A request that this host cannot turn into a launch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    /// It cannot be named in the runtime.
    #[error("name: it cannot be named")]
    Name,
    /// No such user here.
    #[error("user: there is no {0:?} on this node")]
    User(String),
    /// Nothing there.
    #[error("{field}: cannot use {path} of this node: {source}")]
    Path {
        /// Which field.
        field: &'static str,
        /// The path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The job says little of it, but it leads to the node itself.
    #[error("{field}: {path} is {what}, and this node has no --trust-jobs")]
    Guarded {
        /// Which field.
        field: &'static str,
        /// The path.
        path: String,
        /// What it is, in words.
        what: String,
    },
}

/// The launch of a job's first task, as if this node had won its tender: for whoever wants
/// to see it without running it. None for a job without tasks.
pub(crate) async fn preview(spec: &JobSpec, here: &Here) -> Option<Result<runtime::Launch, Flaw>> {
    let group = spec.groups.first()?;
    let task = group.tasks.first()?.clone();
    let slot = SlotId { job: JobId::new([0; 16]), group: group.name.clone(), index: 1 };
    let id = AllocationId { slot, epoch: Epoch { counter: 1, tender: 0 } };
    let generation = Generation { counter: 1, spec: ContentHash::new([0; 32]) };
    let Some(name) = naming::task_id(&id, 0) else { return Some(Err(Flaw::Name)) };
    let launch = Launch {
        id,
        generation,
        count: group.count,
        job_name: spec.name.clone(),
        restarts: 0,
        task,
    };
    Some(of(&launch, here, name).await)
}

/// What of this host a launch depends on.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    /// What people call it.
    pub(crate) name: String,
    /// The agent's own directory, which even a task of root has no business in.
    data: PathBuf,
    /// Where its user's session is reached, if that is an ordinary user: this agent, and
    /// a service manager that starts what it is asked to outside of any task.
    session: Option<PathBuf>,
    /// Whether jobs may take the host over.
    trusts_jobs: bool,
}

impl Here {
    /// This host, for the agent of this directory.
    pub(crate) fn new(name: String, data: &Path, trusts_jobs: bool) -> Self {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_absent| path.to_owned());
        let user = rustix::process::geteuid();
        let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let session = session.filter(|dir| dir.is_absolute() && dir.parent().is_some());
        let session = session.unwrap_or_else(|| format!("/run/user/{}", user.as_raw()).into());
        let session = (!user.is_root()).then(|| real(&session));
        Self { name, data: real(data), session, trusts_jobs }
    }

    /// What nobody who runs as the agent's user shall see.
    fn private(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.data).chain(&self.session)
    }
}

/// The launch of a task.
pub(super) async fn of(launch: &Launch, here: &Here, id: TaskId) -> Result<runtime::Launch, Flaw> {
    let task = &launch.task;
    let mut request = runtime::Launch::new(id, task.run.argv().iter().map(String::as_str));
    request.env = environment(launch, &here.name);
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
            let place = match user {
                Some(user) => Process {
                    user: Some(host::user(user).ok_or_else(|| Flaw::User(user.clone()))?),
                    hidden: vec![here.data.clone()],
                },
                None if rustix::process::geteuid().is_root() => {
                    Process { user: Some(naming::user(&launch.id)), hidden: Vec::new() }
                }
                None => Process { user: None, hidden: here.private().cloned().collect() },
            };
            request.place = Place::Process(place);
        }
        Program::Container(spec) => {
            request.directory = spec.directory.as_ref().map(PathBuf::from);
            request.place = Place::Container(Box::new(container(spec, launch, here).await?));
        }
    }
    Ok(request)
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

async fn container(spec: &ContainerSpec, launch: &Launch, here: &Here) -> Result<Container, Flaw> {
    let base = Container::new(root(&spec.root, here).await?);
    let mut mounts = Vec::new();
    for wanted in &spec.mounts {
        mounts.push(mount(wanted, here).await?);
    }
    let mut devices = Vec::new();
    for wanted in &spec.devices {
        devices.push(device(wanted, here).await?);
    }
    Ok(Container {
        changes: if spec.read_only { Changes::Refused } else { Changes::Disk },
        user: spec.user.clone().unwrap_or(base.user),
        ids: if spec.trust.contains(&Trust::HostIds) { Ids::Host } else { Ids::Own },
        network: network(spec),
        hostname: Some(spec.hostname.clone().unwrap_or_else(|| hostname(launch))),
        mounts,
        devices,
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

/// `JOB-INDEX`, which is what people look for in a prompt.
fn hostname(launch: &Launch) -> String {
    let index = format!("-{}", launch.id.slot.index);
    let room = HOSTNAME_BYTES.saturating_sub(index.len());
    let job: String = launch.job_name.chars().take(room).collect();
    job + &index
}

async fn root(root: &RootSpec, here: &Here) -> Result<Root, Flaw> {
    let RootSpec::Path(path) = root;
    let (path, found) = resolve("rootfs", path, Use::Read, here).await?;
    Ok(if found.is_dir() { Root::Directory(path) } else { Root::Tar(path) })
}

/// What a path of this host leads to, which is what the isolator opens, links or no links in
/// between; refused if that is the node itself and the node does not trust its jobs.
async fn resolve(
    field: &'static str,
    path: &str,
    how: Use,
    here: &Here,
) -> Result<(PathBuf, Metadata), Flaw> {
    let failed = |source| Flaw::Path { field, path: path.to_owned(), source };
    let leads_to = tokio::fs::canonicalize(path).await.map_err(failed)?;
    let found = tokio::fs::metadata(&leads_to).await.map_err(failed)?;
    let own = here.private().any(|dir| leads_to.starts_with(dir) || dir.starts_with(&leads_to));
    // Whoever listens there takes orders from whoever may open it: Docker's, or this agent's.
    let guarded =
        leads_to.to_str().is_none_or(|text| is_guarded(text, how)) || found.file_type().is_socket();
    if (own || guarded) && !here.trusts_jobs {
        let what = if own {
            "where this node keeps its own".to_owned()
        } else {
            format!("a part of the node itself ({})", leads_to.display())
        };
        return Err(Flaw::Guarded { field, path: path.to_owned(), what });
    }
    Ok((leads_to, found))
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

async fn mount(mount: &MountSpec, here: &Here) -> Result<Mount, Flaw> {
    Ok(match mount {
        MountSpec::Bind { source, target, read_only } => {
            let how = if *read_only { Use::Read } else { Use::Write };
            let (source, _) = resolve("volume", source, how, here).await?;
            Mount::Bind { source, target: target.into(), access: access(*read_only) }
        }
        MountSpec::Volume { name, target, read_only } => {
            Mount::Volume { name: name.clone(), target: target.into(), access: access(*read_only) }
        }
        MountSpec::Tmpfs { target, bytes, mode } => Mount::Tmpfs {
            target: target.into(),
            bytes: bytes.unwrap_or_else(|| host::memory_bytes() / 2),
            mode: mode.unwrap_or(0o1777),
        },
    })
}

/// Devices that are the machine's memory, its ports or its log: character devices 1:1, 1:2,
/// 1:4, 1:11 and 1:12 of Linux.
const MACHINE: [u32; 5] = [1, 2, 4, 11, 12];

async fn device(device: &DeviceSpec, here: &Here) -> Result<Device, Flaw> {
    let failed = |source| Flaw::Path { field: "device", path: device.source.clone(), source };
    let source = tokio::fs::canonicalize(&device.source).await.map_err(failed)?;
    let found = tokio::fs::metadata(&source).await.map_err(failed)?;
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let machine = major == 1 && MACHINE.contains(&minor);
    if (found.file_type().is_block_device() || machine) && !here.trusts_jobs {
        let what = if machine { "the machine's memory or log" } else { "a whole disk" };
        let (path, what) = (device.source.clone(), what.to_owned());
        return Err(Flaw::Guarded { field: "device", path, what });
    }
    let target = PathBuf::from(device.target.as_ref().unwrap_or(&device.source));
    Ok(Device { source, target, access: access(device.read_only) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_that_shows_the_agents_directory_is_bound_into_a_container() {
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("share/starling");
        std::fs::create_dir_all(data.join("run")).expect("made");
        std::fs::create_dir(home.path().join("project")).expect("made");
        std::os::unix::fs::symlink(&data, home.path().join("project/link")).expect("a link");
        let here = |trusts_jobs| Here::new("a".to_owned(), &data, trusts_jobs);
        let bound = |path: PathBuf, here: Here| async move {
            resolve("volume", path.to_str().expect("text"), Use::Read, &here).await.is_ok()
        };
        for place in ["", "share", "share/starling", "share/starling/run", "project/link"] {
            let path = home.path().join(place);
            assert!(!bound(path.clone(), here(false)).await, "{place}");
            assert!(bound(path, here(true)).await, "{place}, on a node that trusts its jobs");
        }
        assert!(bound(home.path().join("project"), here(false)).await);
    }
}
