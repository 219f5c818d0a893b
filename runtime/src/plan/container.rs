//! The steps of a container, in the order in which they must be done.

use super::check;
use super::facts::Facts;
use super::flaw::{PlanFlaw, Problem};
use super::namespaces::Namespaces;
use super::step::{Cover, IdMap, MapWriter, Owners, Source, Special, Step, Tree};
use super::{execute, terminal};
use crate::container::{
    Access, Changes, Clocks, Container, IDS, Ids, Init, Mount, Network, Root, Seccomp, SystemPaths,
};
use crate::launch::{Launch, Start, User};

/// Longest host name; a task's id may be longer.
const HOSTNAME_BYTES: usize = 63;

/// The harmless devices, which every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What Docker hides: moby, `oci/defaults.go`.
const HIDDEN: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What Docker makes read-only.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the runtime writes for a container, and where it appears. Files of `etc/` in
/// the task's directory, each if it is there.
pub(crate) const TEXTS: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// The first id that `/etc/subuid` style ranges may have: below are the host's users.
const FIRST_ID: u32 = 65_536;

struct Planner<'a> {
    launch: &'a Launch,
    container: &'a Container,
    facts: &'a Facts,
    /// Trees opened so far.
    trees: usize,
    supervisor: Vec<Step>,
    process: Vec<Step>,
}

pub(super) fn steps(
    launch: &Launch,
    container: &Container,
    facts: &Facts,
    id_base: u32,
) -> Result<Vec<Step>, PlanFlaw> {
    possible(container, facts)?;
    if let Root::Image(id) = &container.root {
        let problem = Problem::Launch(format!("the layers of {id} are not found yet"));
        return Err(PlanFlaw::new("container.root.image", problem));
    }
    let caps = check::capabilities(container)?;
    let own_ids = container.ids == Ids::Own;
    if own_ids && facts.privileged() && id_base.checked_add(IDS).is_none_or(|_| id_base < FIRST_ID)
    {
        let problem = Problem::Range {
            value: id_base.into(),
            least: FIRST_ID.into(),
            most: u64::from(u32::MAX - IDS),
        };
        return Err(PlanFlaw::new("container.ids", problem));
    }
    let mut planner =
        Planner { launch, container, facts, trees: 0, supervisor: Vec::new(), process: Vec::new() };
    planner.begin();
    planner.root(id_base);
    planner.system();
    planner.mounts();
    planner.cover();
    planner.enter();
    planner.renounce(caps);
    let clone = planner.clone_and_map(id_base);
    let Planner { mut supervisor, process, .. } = planner;
    supervisor.extend(clone);
    supervisor.extend(process);
    Ok(supervisor)
}

/// The steps of a further program in a running container: the last ones of the first,
/// after a way in.
pub(super) fn entry(
    launch: &Launch,
    container: &Container,
    facts: &Facts,
) -> Result<Vec<Step>, PlanFlaw> {
    let caps = check::capabilities(container)?;
    let mut planner =
        Planner { launch, container, facts, trees: 0, supervisor: Vec::new(), process: Vec::new() };
    let mut inside = Namespaces::CONTAINER.and(Namespaces::CGROUP);
    if planner.own_ids() {
        inside = inside.and(Namespaces::USER);
    }
    if container.network != Network::Host {
        inside = inside.and(Namespaces::NET);
    }
    if container.clocks == Clocks::Own {
        inside = inside.and(Namespaces::TIME);
    }
    planner.then(Step::JoinGroups);
    planner.then(Step::Enter(inside));
    planner.then(Step::Session);
    if planner.own_ids() {
        planner.then(Step::BeRoot);
    }
    if let Some(step) = terminal(launch) {
        planner.then(step);
    }
    planner.then(Step::FindUser(container.user.clone()));
    planner.then(Step::Directory(launch.directory.clone().unwrap_or_else(|| "/".into())));
    planner.then(Step::Streams);
    planner.renounce(caps);
    Ok([vec![Step::Clone(Namespaces::NONE)], planner.process].concat())
}

/// Whether this machine can have such a container at all.
fn possible(container: &Container, facts: &Facts) -> Result<(), PlanFlaw> {
    let flaw = |field: &str, lacks| Err(PlanFlaw::new(field, Problem::Machine { lacks }));
    if !facts.overlay {
        return flaw("container.root", "its kernel has no overlayfs");
    }
    if !facts.seccomp && container.seccomp == Seccomp::Default {
        return flaw(
            "container.seccomp",
            "its kernel filters no system calls; unconfined would run",
        );
    }
    for name in Namespaces::CONTAINER.names().chain(["cgroup"]) {
        if !facts.namespaces.iter().any(|known| known == name) {
            return flaw("container", "its kernel lacks a namespace: mnt, pid, uts, ipc or cgroup");
        }
    }
    if container.clocks.are_own() && !facts.namespaces.iter().any(|known| known == "time") {
        return flaw("container.clocks", "its kernel has no time namespaces, which came with 5.6");
    }
    match container.ids {
        Ids::Host if !facts.privileged() => {
            return flaw("container.ids", "only a runtime of root gives out the host's ids");
        }
        Ids::Own if !facts.user_namespaces => {
            return flaw(
                "container.ids",
                "user namespaces are off: see sysctl user.max_user_namespaces",
            );
        }
        Ids::Own if facts.uid == 0 && !facts.mapped_layers() => {
            return flaw(
                "container.ids",
                "mapped layers need CAP_SYS_ADMIN and Linux 5.19; ids of the host would run",
            );
        }
        Ids::Own if !facts.kernel.at_least(5, 11) => {
            return flaw("container.ids", "overlayfs for ordinary users came with Linux 5.11");
        }
        _ => {}
    }
    let bridged = matches!(container.network, Network::Bridge { .. });
    if (bridged || matches!(container.network, Network::Of(_))) && !facts.privileged() {
        return flaw("container.network", "only a runtime of root connects networks");
    }
    if !container.devices.is_empty() && !facts.privileged() {
        return flaw("container.devices", "only a runtime of root gives out devices");
    }
    Ok(())
}

impl Planner<'_> {
    fn then(&mut self, step: Step) {
        self.process.push(step);
    }

    fn own_ids(&self) -> bool {
        self.container.ids == Ids::Own
    }

    /// Whether its network namespace is made for it.
    fn own_network(&self) -> bool {
        matches!(self.container.network, Network::None | Network::Bridge { .. })
    }

    /// Opens something of the host; says by which number it is known then.
    fn open(&mut self, source: Source, access: Access, owners: Owners) -> usize {
        let mapped = self.own_ids() && self.facts.privileged();
        let owners = if mapped { owners } else { Owners::Disk };
        self.supervisor.push(Step::Open(Tree { source, access, owners }));
        if !self.facts.privileged() {
            self.then(Step::Reopen { tree: self.trees, access });
        }
        self.trees += 1;
        self.trees - 1
    }

    /// The steps before anything is mounted.
    fn begin(&mut self) {
        // What needs no ids comes before the wait, while the supervisor writes the maps.
        self.then(Step::JoinGroups);
        self.then(Step::OwnGroupView);
        self.then(Step::Session);
        if self.container.clocks == Clocks::Own {
            self.then(Step::OwnClocks);
        }
        let name = self.container.hostname.clone().unwrap_or_else(|| {
            let id = self.launch.id.as_str();
            id.get(..HOSTNAME_BYTES).unwrap_or(id).trim_start_matches(['-', '.']).to_owned()
        });
        self.then(Step::Hostname(name));
        if self.own_network() {
            self.then(Step::Loopback);
        }
        self.then(Step::Await);
        self.then(if self.own_ids() { Step::BeRoot } else { Step::LeavePropagation });
    }

    fn root(&mut self, id_base: u32) {
        let layers = match &self.container.root {
            Root::Directory(path) | Root::Tar(path) => vec![path.clone()],
            Root::Layers(layers) => layers.clone(),
            // Refused at the beginning.
            Root::Image(_) => Vec::new(),
        };
        let count = layers.len();
        for layer in layers {
            self.open(Source::Layer(layer), Access::Read, Owners::Mapped);
        }
        let changes = self.container.changes;
        let upper = (changes == Changes::Disk).then(|| {
            let owner = self.root_on_disk(id_base);
            self.supervisor.push(Step::PrepareChanges { owner });
            self.open(Source::Changes, Access::Write, Owners::Disk)
        });
        if !self.own_network() {
            self.then(Step::KeepHostSys);
        }
        self.then(Step::Root { layers: count, upper, changes });
    }

    /// Who the container's root is outside.
    fn root_on_disk(&self, id_base: u32) -> User {
        let Facts { uid, gid, .. } = *self.facts;
        match (self.own_ids(), self.facts.privileged()) {
            (true, true) => User { uid: id_base, gid: id_base },
            _ => User { uid, gid },
        }
    }

    fn system(&mut self) {
        self.then(Step::Special(Special::Proc));
        let sys = if self.own_network() { Special::Sys } else { Special::HostSys };
        self.then(Step::Special(sys));
        self.then(Step::Special(Special::Cgroup));
        self.then(Step::Special(Special::Dev));
        for name in DEVICES {
            self.then(Step::Device(name.to_owned()));
        }
        self.then(Step::DeviceLinks);
        self.then(Step::Special(Special::Terminals));
        self.then(Step::Special(Special::Queues));
        let bytes = self.container.shm_bytes;
        let shm = Step::Tmpfs { target: "/dev/shm".into(), bytes, mode: 0o1777 };
        // A launch may put something else there.
        if !self.targets().any(|target| target == "/dev/shm") {
            self.then(shm);
        }
    }

    fn targets(&self) -> impl Iterator<Item = &std::path::Path> {
        self.container.mounts.iter().map(|mount| match mount {
            Mount::Bind { target, .. }
            | Mount::Volume { target, .. }
            | Mount::Tmpfs { target, .. } => target.as_path(),
        })
    }

    fn mounts(&mut self) {
        for name in TEXTS {
            let tree = self.open(Source::Text(name.to_owned()), Access::Write, Owners::Mapped);
            let target = format!("/etc/{name}").into();
            self.then(Step::Attach { tree, target });
        }
        for mount in &self.container.mounts {
            let step = match mount.clone() {
                Mount::Bind { source, target, access } => {
                    let tree = self.open(Source::Host(source), access, Owners::MappedIfPossible);
                    Step::Attach { tree, target }
                }
                Mount::Volume { name, target, access } => {
                    let tree = self.open(Source::Volume(name), access, Owners::Mapped);
                    Step::Attach { tree, target }
                }
                Mount::Tmpfs { target, bytes, mode } => Step::Tmpfs { target, bytes, mode },
            };
            self.then(step);
        }
        for device in &self.container.devices {
            let source = Source::Device(device.source.clone());
            let tree = self.open(source, device.access, Owners::Disk);
            self.then(Step::HostDevice { tree, target: device.target.clone() });
        }
    }

    fn cover(&mut self) {
        for (name, value) in &self.container.sysctls {
            self.then(Step::Sysctl { name: name.clone(), value: value.clone() });
        }
        if self.container.system_paths == SystemPaths::Confined {
            let texts = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
            self.then(Step::Cover { how: Cover::Hidden, paths: texts(&HIDDEN) });
            self.then(Step::Cover { how: Cover::ReadOnly, paths: texts(&READ_ONLY) });
        }
    }

    fn enter(&mut self) {
        if let Some(step) = terminal(self.launch) {
            self.then(step);
        }
        self.then(Step::Pivot);
        self.then(Step::FindUser(self.container.user.clone()));
        let directory = self.launch.directory.clone().unwrap_or_else(|| "/".into());
        self.then(Step::Directory(directory));
        if self.container.changes == Changes::Refused {
            self.then(Step::FreezeRoot);
        }
        if self.container.init == Init::Reaper {
            self.then(Step::Reaper);
        }
        self.then(Step::Streams);
    }

    fn renounce(&mut self, caps: crate::capability::CapabilitySet) {
        for limit in &self.launch.rlimits {
            self.then(Step::Limit(limit.clone()));
        }
        self.then(Step::BecomeFound(caps));
        self.then(Step::NoNewPrivileges);
        // The filter comes last, so that it need not allow what waiting takes.
        if self.launch.start == Start::Held {
            self.then(Step::Hold);
        }
        if self.container.seccomp == Seccomp::Default {
            self.then(Step::FilterCalls(caps));
        }
        self.then(execute(self.launch));
    }

    /// The supervisor's steps from the clone on.
    fn clone_and_map(&self, id_base: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut namespaces = Namespaces::CONTAINER;
        if self.own_ids() {
            namespaces = namespaces.and(Namespaces::USER);
        }
        if self.own_network() {
            namespaces = namespaces.and(Namespaces::NET);
        }
        if matches!(self.container.network, Network::Of(_)) {
            steps.push(Step::JoinNetwork);
        }
        steps.push(Step::Clone(namespaces));
        if self.own_ids() {
            steps.push(Step::MapIds(id_map(self.facts, id_base)));
        }
        let opened = self.supervisor.iter().filter_map(|step| match step {
            Step::Open(tree) => Some(tree.owners),
            _ => None,
        });
        let mapped = opened.enumerate().filter(|(_, owners)| *owners != Owners::Disk);
        steps.extend(mapped.map(|(tree, owners)| Step::ShowOwners { tree, owners }));
        steps.extend(self.launch.rlimits.iter().cloned().map(Step::RaiseLimit));
        // From a user namespace it could be raised only.
        steps.extend(self.launch.oom_score_adj.map(Step::ScoreIt));
        if matches!(self.container.network, Network::Bridge { .. }) {
            steps.push(Step::Connect);
        }
        steps.push(Step::Go);
        steps
    }
}

/// Which ids a container has, and who may say so.
pub(crate) fn id_map(facts: &Facts, id_base: u32) -> IdMap {
    let Facts { uid, gid, subuids, subgids, id_helpers, .. } = facts;
    if facts.privileged() {
        let line = vec![[0, id_base, IDS]];
        return IdMap { uids: line.clone(), gids: line, writer: MapWriter::Root };
    }
    let (mut uids, mut gids) = (vec![[0, *uid, 1]], vec![[0, *gid, 1]]);
    let grants = subuids.first().zip(subgids.first()).filter(|_| *id_helpers);
    let Some((granted_uids, granted_gids)) = grants else {
        return IdMap { uids, gids, writer: MapWriter::Owner };
    };
    uids.push([1, granted_uids.first, granted_uids.count.min(IDS - 1)]);
    gids.push([1, granted_gids.first, granted_gids.count.min(IDS - 1)]);
    IdMap { uids, gids, writer: MapWriter::Helpers }
}
