//! The steps of a container by another's description ([`Exact`]): the isolator's own
//! order, without anything that the description does not name.
//!
//! What differs from ours is in [`ExactStep`]. What is the same is the same step: clone,
//! maps, session, host name, loopback, pivot, streams, limits, hold, exec.

use std::fmt;
use std::path::{Path, PathBuf};

use super::check::{Checked, at_most, check_hostname, flawed, path};
use super::facts::Facts;
use super::flaw::{PlanFlaw, Problem};
use super::namespaces::Namespaces;
use super::step::{Cover, IdMap, MapWriter, Owners, Source, Step, Tree};
use super::{execute, terminal};
use crate::container::{Access, Container, Ids, Root};
use crate::exact::{
    Exact, FirstHold, Mounted, NamespaceKind, Node, PlainMount, PlainUser, Powers, Privileges,
    Propagation, Share,
};
use crate::launch::{Launch, Start};

/// Most mounts, nodes, paths to cover, and groups: each takes a few system calls.
const ENTRIES: usize = 1_024;

/// Most instructions of a filter: `BPF_MAXINSNS` of the kernel.
const INSTRUCTIONS: usize = 4_096;

/// One thing to do for such a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExactStep {
    /// The supervisor enters a namespace before the clone, and leaves it after.
    Join(NamespaceKind, PathBuf),
    /// Joins the control groups that these trees are, and so leaves the runtime's own in
    /// their hierarchies.
    JoinFurther(Vec<usize>),
    /// Enters the mount namespace that this tree is.
    JoinMounts(usize),
    /// Names its NIS domain.
    Domainname(String),
    /// Says how ready the kernel is to kill it.
    OomScore(i32),
    /// Sets a kernel parameter through the host's `/proc`, which shows this process's
    /// namespaces.
    Parameter {
        /// As `sysctl` writes it.
        name: String,
        /// Its new value.
        value: String,
    },
    /// Has this tree as its root.
    Root(usize),
    /// Mounts something; what is bound is this tree.
    Mount(Box<PlainMount>, Option<usize>),
    /// Makes a special file.
    Node(Node, Ids),
    /// Makes a link, where nothing is.
    Link(PathBuf, String),
    /// Covers these paths of the root, where they exist.
    Cover(Cover, Vec<String>),
    /// Finds `/dev` and its terminals.
    Dev,
    /// Says how mounts spread from and to its root.
    Spread(Propagation),
    /// Sets the file mode creation mask.
    Umask(u32),
    /// Becomes this user, with these powers.
    Become(PlainUser, Powers),
    /// Filters its system calls.
    Filter(Vec<u64>),
}

impl ExactStep {
    /// Whether the supervisor does it.
    pub(super) fn is_supervisors(&self) -> bool {
        matches!(self, Self::Join(..))
    }
}

impl fmt::Display for ExactStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(kind, path) => {
                let name = Namespaces::of(*kind).names().next().unwrap_or_default();
                write!(f, "enter the {name} namespace {}", path.display())
            }
            Self::JoinFurther(trees) => {
                f.write_str("join the groups of trees")?;
                trees.iter().try_for_each(|tree| write!(f, " {tree}"))
            }
            Self::JoinMounts(tree) => write!(f, "enter the mount namespace of tree {tree}"),
            Self::Domainname(name) => write!(f, "set the domain name {name}"),
            Self::OomScore(score) => write!(f, "set its oom_score_adj to {score}"),
            Self::Parameter { name, value } => write!(f, "set {name} to {value:?}"),
            Self::Root(tree) => write!(f, "bind tree {tree} at /"),
            Self::Mount(mount, tree) => match (&mount.what, tree) {
                (Mounted::New { kind, .. }, _) => {
                    write!(f, "mount {kind} at {}", mount.target.display())
                }
                (Mounted::Bind { source, .. }, _) => {
                    write!(f, "bind {} at {}", source.display(), mount.target.display())
                }
            },
            Self::Node(node, _) => write!(f, "make the device {}", node.path.display()),
            Self::Link(path, target) => write!(f, "link {} to {target}", path.display()),
            Self::Cover(Cover::Hidden, paths) => write!(f, "hide {}", paths.join(" ")),
            Self::Cover(Cover::ReadOnly, paths) => write!(f, "make read-only {}", paths.join(" ")),
            Self::Dev => f.write_str("find its terminals"),
            Self::Spread(how) => write!(f, "make the root's mounts {how:?}"),
            Self::Umask(mask) => write!(f, "set the umask {mask:o}"),
            Self::Become(user, powers) => {
                write!(f, "become {}:{} with {}", user.uid, user.gid, powers.permitted)
            }
            Self::Filter(words) => write!(f, "filter system calls by {} words", words.len()),
        }
    }
}

/// Checks all that does not depend on the machine.
pub(super) fn check(container: &Container, exact: &Exact) -> Checked {
    let field = |name: &str| format!("container.exact.{name}");
    match &container.root {
        Root::Directory(directory) => path("container.root.directory", directory)?,
        _ => return flawed("container.root", Problem::Launch("only a directory will do".into())),
    }
    if exact.namespaces.contains_key(&NamespaceKind::User) != (container.ids == Ids::Own) {
        let problem = "a user namespace and ids of its own go together";
        return flawed(field("namespaces"), Problem::Launch(problem.into()));
    }
    if !exact.namespaces.contains_key(&NamespaceKind::Mnt) {
        let problem = "the mount namespace is never the host's: what is mounted would stay there";
        return flawed(field("namespaces"), Problem::Launch(problem.into()));
    }
    for kind in [NamespaceKind::User, NamespaceKind::Time] {
        if matches!(exact.namespaces.get(&kind), Some(Share::Of(_))) {
            let problem = "a user or a time namespace cannot be another's";
            return flawed(field("namespaces"), Problem::Launch(problem.into()));
        }
    }
    let joins_mounts = matches!(exact.namespaces.get(&NamespaceKind::Mnt), Some(Share::Of(_)));
    if joins_mounts && container.ids == Ids::Own {
        let problem = "another's mounts cannot be entered with ids of its own";
        return flawed(field("namespaces"), Problem::Launch(problem.into()));
    }
    if let Some(name) = &container.hostname {
        check_hostname(name)?;
    }
    for (name, count) in [
        ("mounts", exact.mounts.len()),
        ("nodes", exact.nodes.len()),
        ("links", exact.links.len()),
        ("hidden", exact.hidden.len()),
        ("read_only", exact.read_only.len()),
        ("groups", exact.groups.len()),
        ("uids", exact.uids.len()),
        ("gids", exact.gids.len()),
    ] {
        at_most(&field(name), count, ENTRIES)?;
    }
    at_most(&field("filter"), exact.filter.as_ref().map_or(0, Vec::len), INSTRUCTIONS)?;
    check_paths(exact)
}

fn check_paths(exact: &Exact) -> Checked {
    let all = |name: &str, paths: &mut dyn Iterator<Item = &Path>| {
        paths
            .enumerate()
            .try_for_each(|(at, it)| path(&format!("container.exact.{name}[{at}]"), it))
    };
    all("mounts", &mut exact.mounts.iter().map(|mount| mount.target.as_path()))?;
    all("nodes", &mut exact.nodes.iter().map(|node| node.path.as_path()))?;
    all("links", &mut exact.links.iter().map(|(link, _)| link.as_path()))?;
    all("hidden", &mut exact.hidden.iter().map(PathBuf::as_path))?;
    all("read_only", &mut exact.read_only.iter().map(PathBuf::as_path))?;
    all("groups", &mut exact.groups.iter().map(PathBuf::as_path))
}

struct Planner<'a> {
    launch: &'a Launch,
    container: &'a Container,
    exact: &'a Exact,
    opened: Vec<Step>,
    process: Vec<Step>,
}

pub(super) fn steps(
    launch: &Launch,
    container: &Container,
    exact: &Exact,
    facts: &Facts,
) -> Result<Vec<Step>, PlanFlaw> {
    if !facts.privileged() {
        let lacks = "only a runtime of root makes containers by another's description";
        return Err(PlanFlaw::new("container.exact", Problem::Machine { lacks }));
    }
    let (opened, process) = (Vec::new(), Vec::new());
    let mut planner = Planner { launch, container, exact, opened, process };
    planner.begin();
    planner.root();
    planner.enter();
    planner.renounce();
    let clone = planner.clone_and_map();
    Ok([planner.opened, clone, planner.process].concat())
}

impl Planner<'_> {
    fn then(&mut self, step: Step) {
        self.process.push(step);
    }

    fn exactly(&mut self, step: ExactStep) {
        self.process.push(Step::Exact(step));
    }

    fn open(&mut self, source: Source) -> usize {
        let tree = Tree { source, access: Access::Write, owners: Owners::Disk };
        self.opened.push(Step::Open(tree));
        self.opened.len() - 1
    }

    fn is_new(&self, kind: NamespaceKind) -> bool {
        self.exact.namespaces.get(&kind) == Some(&Share::New)
    }

    fn begin(&mut self) {
        let (container, exact) = (self.container, self.exact);
        let mounts = match exact.namespaces.get(&NamespaceKind::Mnt) {
            Some(Share::Of(file)) => Some(self.open(Source::Namespace(file.clone()))),
            _ => None,
        };
        let groups = exact.groups.iter().map(|file| self.open(Source::Procs(file.clone())));
        let groups: Vec<_> = groups.collect();
        self.then(Step::JoinGroups);
        if !groups.is_empty() {
            self.exactly(ExactStep::JoinFurther(groups));
        }
        self.then(Step::Session);
        if self.is_new(NamespaceKind::Time) {
            self.then(Step::OwnClocks);
        }
        self.process.extend(container.hostname.clone().map(Step::Hostname));
        if let Some(name) = exact.domainname.clone() {
            self.exactly(ExactStep::Domainname(name));
        }
        if self.is_new(NamespaceKind::Net) {
            self.then(Step::Loopback);
        }
        self.then(Step::Await);
        if self.is_new(NamespaceKind::Cgroup) {
            // The groups that it is put into from outside count too.
            self.then(Step::OwnGroupView);
        }
        if container.ids == Ids::Own {
            self.then(Step::BeRoot);
        }
        if let Some(tree) = mounts {
            self.exactly(ExactStep::JoinMounts(tree));
        }
        self.then(Step::LeavePropagation);
        if let Some(score) = exact.oom_score_adj {
            self.exactly(ExactStep::OomScore(score));
        }
        for (name, value) in &container.sysctls {
            let (name, value) = (name.clone(), value.clone());
            self.exactly(ExactStep::Parameter { name, value });
        }
    }

    fn root(&mut self) {
        let exact = self.exact;
        if let Root::Directory(directory) = &self.container.root {
            let source = Source::Plain(directory.clone(), crate::exact::Depth::All);
            let tree = self.open(source);
            self.exactly(ExactStep::Root(tree));
        }
        for mount in &exact.mounts {
            let tree = match &mount.what {
                Mounted::Bind { source, depth } => {
                    Some(self.open(Source::Plain(source.clone(), *depth)))
                }
                Mounted::New { .. } => None,
            };
            self.exactly(ExactStep::Mount(Box::new(mount.clone()), tree));
        }
        for node in &exact.nodes {
            self.exactly(ExactStep::Node(node.clone(), self.container.ids));
        }
        for (link, target) in &exact.links {
            self.exactly(ExactStep::Link(link.clone(), target.clone()));
        }
        for (how, paths) in [(Cover::Hidden, &exact.hidden), (Cover::ReadOnly, &exact.read_only)] {
            let texts = paths.iter().filter_map(|path| path.to_str().map(str::to_owned));
            let texts: Vec<_> = texts.collect();
            if !texts.is_empty() {
                self.exactly(ExactStep::Cover(how, texts));
            }
        }
    }

    fn enter(&mut self) {
        let exact = self.exact;
        if exact.first_hold == FirstHold::BeforeRoot {
            self.then(Step::Hold);
        }
        if let Some(step) = terminal(self.launch) {
            self.exactly(ExactStep::Dev);
            self.then(step);
        }
        self.then(Step::Pivot);
        if let Some(how) = exact.propagation {
            self.exactly(ExactStep::Spread(how));
        }
        self.then(Step::Directory(self.launch.directory.clone().unwrap_or_else(|| "/".into())));
        if exact.root == Access::Read {
            self.then(Step::FreezeRoot);
        }
        if let Some(mask) = exact.user.umask {
            self.exactly(ExactStep::Umask(mask));
        }
        self.then(Step::Streams);
    }

    /// A filter needs either no new privileges or root's power: so it comes last, or before
    /// that power is given up.
    fn renounce(&mut self) {
        let exact = self.exact;
        let mut filter = exact.filter.clone().map(ExactStep::Filter);
        for limit in &self.launch.rlimits {
            self.then(Step::Limit(limit.clone()));
        }
        if exact.privileges == Privileges::Gainable
            && let Some(filter) = filter.take()
        {
            self.exactly(filter);
        }
        self.exactly(ExactStep::Become(exact.user.clone(), exact.powers));
        if exact.privileges == Privileges::Renounced {
            self.then(Step::NoNewPrivileges);
        }
        if self.launch.start == Start::Held {
            self.then(Step::Hold);
        }
        if let Some(filter) = filter {
            self.exactly(filter);
        }
        self.then(execute(self.launch));
    }

    /// The supervisor's steps behind those that open.
    fn clone_and_map(&self) -> Vec<Step> {
        let exact = self.exact;
        let mut namespaces = Namespaces::NONE;
        let mut steps = Vec::new();
        for (kind, share) in &exact.namespaces {
            match (kind, share) {
                // Entered and made by the process itself.
                (NamespaceKind::Cgroup | NamespaceKind::Time, Share::New) => {}
                (NamespaceKind::Mnt, Share::Of(_)) => {}
                (kind, Share::New) => namespaces = namespaces.and(Namespaces::of(*kind)),
                (kind, Share::Of(file)) => {
                    steps.push(Step::Exact(ExactStep::Join(*kind, file.clone())));
                }
            }
        }
        steps.push(Step::Clone(namespaces));
        if self.container.ids == Ids::Own {
            let (uids, gids) = (exact.uids.clone(), exact.gids.clone());
            steps.push(Step::MapIds(IdMap { uids, gids, writer: MapWriter::Root }));
        }
        steps.extend(self.launch.rlimits.iter().cloned().map(Step::RaiseLimit));
        steps.push(Step::Go);
        steps
    }
}
