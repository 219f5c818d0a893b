//! What of a launch only this host can tell: what its paths lead to, who its users are,
//! which disks and processors it has.
//!
//! Invariant: a path is judged by what it leads to, and what is judged is what the
//! isolator is given.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use gossip_core::container::{ContainerSpec, DeviceSpec, MountSpec, RootSpec, Use, is_guarded};
use gossip_core::limits::IoSpec;
use gossip_core::spec::{Program, TaskSpec};
use runtime::{Container, Mount, Place, Root, cgroup};
use starling_core::effect::Launch;

use crate::agent::words::{Fault, Word, word};
use crate::agent::{host, naming};

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

/// A request that this host cannot turn into a launch.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Flaw {
    /// Which of the job's words it is about.
    pub(crate) word: &'static Word,
    /// What is wrong, without that word.
    pub(crate) what: String,
    /// What helps here, where the word's own hint is not it.
    pub(crate) hint: Option<String>,
}

impl Flaw {
    fn new(field: &str, what: impl Into<String>) -> Self {
        Self { word: word(field), what: what.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a launch cannot be, wherever it would run.
    pub(super) fn of(fault: Fault) -> Self {
        let (word, what) = fault.parts();
        Self { word, what, hint: None }
    }

    /// Neither the job nor its image says what runs.
    pub(super) fn no_command() -> Self {
        Self::new("argv", "neither the job nor its image says what to run")
            .hint("write it behind the image's name: starling run IMAGE CMD")
    }

    /// A path that cannot be used.
    fn path(field: &str, path: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            return Self::new(field, format!("there is no {path} on this node"))
                .hint("paths are those of whichever node runs it: put it on each that may");
        }
        Self::new(field, format!("{path} of this node cannot be used: {error}"))
    }

    /// The job says little of it, but it leads to the node itself.
    fn guarded(field: &str, path: &str, what: &str) -> Self {
        Self::new(field, format!("{path} is {what}, and this node has no --trust-jobs"))
            .hint("keep what jobs share below /srv, or start the node with --trust-jobs")
    }
}

/// Fills in what a drafted launch lacks of this host.
pub(super) async fn settle(
    launch: &mut runtime::Launch,
    of: &Launch,
    here: &Here,
) -> Result<(), Flaw> {
    limits(&mut launch.limits, &of.task).await?;
    match (&mut launch.place, &of.task.run) {
        (Place::Process(process), Program::Process { user: Some(user), .. }) => {
            let found = host::user(user)
                .ok_or_else(|| Flaw::new("process.user", format!("this node has no {user:?}")))?;
            process.user = Some(found);
            process.hidden = vec![here.data.clone()];
        }
        (Place::Process(process), _) if rustix::process::geteuid().is_root() => {
            process.user = Some(naming::user(&of.id));
        }
        (Place::Process(process), _) => process.hidden = here.private().cloned().collect(),
        (Place::Container(container), Program::Container(spec)) => {
            of_container(container, spec, here).await?;
        }
        (Place::Container(_), Program::Process { .. }) => {}
    }
    Ok(())
}

async fn of_container(
    container: &mut Container,
    spec: &ContainerSpec,
    here: &Here,
) -> Result<(), Flaw> {
    if let RootSpec::Path(path) = &spec.root {
        let (root, found) = resolve("container.root", path, Use::Read, here).await?;
        container.root = if found.is_dir() {
            Root::Directory(root)
        } else if found.is_file() {
            Root::Tar(root)
        } else {
            return Err(Flaw::new("container.root", format!("{path} is no directory and no file")));
        };
    }
    for (wanted, mount) in spec.mounts.iter().zip(&mut container.mounts) {
        match (wanted, mount) {
            (MountSpec::Bind { source: path, read_only, .. }, Mount::Bind { source, .. }) => {
                let how = if *read_only { Use::Read } else { Use::Write };
                *source = resolve("container.mounts", path, how, here).await?.0;
            }
            (MountSpec::Tmpfs { bytes: None, .. }, Mount::Tmpfs { bytes, .. }) => {
                *bytes = host::memory_bytes() / 2;
            }
            _ => {}
        }
    }
    for (wanted, device) in spec.devices.iter().zip(&mut container.devices) {
        device.source = open_to_jobs(wanted, here).await?;
    }
    Ok(())
}

/// What a path of this host leads to, which is what the isolator opens, links or no links in
/// between; refused if that is the node itself and the node does not trust its jobs.
async fn resolve(
    field: &str,
    path: &str,
    how: Use,
    here: &Here,
) -> Result<(PathBuf, Metadata), Flaw> {
    let failed = |error| Flaw::path(field, path, &error);
    let leads_to = tokio::fs::canonicalize(path).await.map_err(failed)?;
    let found = tokio::fs::metadata(&leads_to).await.map_err(failed)?;
    let own = here.private().any(|dir| leads_to.starts_with(dir) || dir.starts_with(&leads_to));
    // Whoever listens there takes orders from whoever may open it: Docker's, or this agent's.
    let guarded =
        leads_to.to_str().is_none_or(|text| is_guarded(text, how)) || found.file_type().is_socket();
    if (own || guarded) && !here.trusts_jobs {
        return Err(if own {
            Flaw::guarded(field, path, "where this node keeps its own")
        } else {
            let what = format!("a part of the node itself ({})", leads_to.display());
            Flaw::guarded(field, path, &what)
        });
    }
    Ok((leads_to, found))
}

/// Devices that are the machine's memory, its ports or its log: character devices 1:1, 1:2,
/// 1:4, 1:11 and 1:12 of Linux.
const MACHINE: [u32; 5] = [1, 2, 4, 11, 12];

async fn open_to_jobs(device: &DeviceSpec, here: &Here) -> Result<PathBuf, Flaw> {
    const FIELD: &str = "container.devices";
    let failed = |error| Flaw::path(FIELD, &device.source, &error);
    let source = tokio::fs::canonicalize(&device.source).await.map_err(failed)?;
    let found = tokio::fs::metadata(&source).await.map_err(failed)?;
    let kind = found.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(Flaw::new(FIELD, format!("{} is no device", device.source))
            .hint("files and directories are shown with --volume"));
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let machine = kind.is_char_device() && major == 1 && MACHINE.contains(&minor);
    if (kind.is_block_device() || machine) && !here.trusts_jobs {
        let what = if machine { "the machine's memory or log" } else { "a whole disk" };
        return Err(Flaw::guarded(FIELD, &device.source, what));
    }
    Ok(source)
}

/// Finds disks by their paths, and looks whether the processors are there.
async fn limits(limits: &mut cgroup::Limits, task: &TaskSpec) -> Result<(), Flaw> {
    for (wanted, limit) in task.limits.io.iter().zip(&mut limits.io) {
        let field = match wanted {
            IoSpec { read_bps: Some(_), .. } => "limits.io.read_bps",
            IoSpec { write_bps: Some(_), .. } => "limits.io.write_bps",
            IoSpec { read_iops: Some(_), .. } => "limits.io.read_iops",
            _ => "limits.io.write_iops",
        };
        limit.device = disk(field, &wanted.device).await?;
    }
    let Some(list) = &limits.cpuset_cpus else { return Ok(()) };
    let has = host::processors();
    // Version 2 would take any list, and fall back to what there is.
    if let Some(missing) = cgroup::processors(list).find(|cpu| !has.contains(cpu)) {
        let shown = host::show_processors();
        let what = format!("this node has no processor {missing}; it has {shown}");
        return Err(Flaw::new("limits.cpuset_cpus", what));
    }
    Ok(())
}

async fn disk(field: &str, path: &str) -> Result<cgroup::Device, Flaw> {
    let found = tokio::fs::metadata(path).await.map_err(|e| Flaw::path(field, path, &e))?;
    if !found.file_type().is_block_device() {
        return Err(Flaw::new(field, format!("{path} is no disk"))
            .hint("name a disk, like /dev/sda: lsblk -dp   lists them"));
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let device = cgroup::Device { major, minor };
    if tokio::fs::try_exists(format!("/sys/dev/block/{device}/partition")).await.unwrap_or(false) {
        return Err(Flaw::new(field, format!("{path} is a partition"))
            .hint("the kernel limits whole disks: lsblk -dp   lists them"));
    }
    Ok(device)
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
