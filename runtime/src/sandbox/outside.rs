//! The supervisor's part of starting a container: what needs the host's rights.
//!
//! Handles are made before the clone and inherited by it, or sent to a process that was
//! made before them: showing a tree's owners through the new user namespace changes the
//! mount that both sides hold.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, umask, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::chamber::Chamber;
use super::exact;
use super::held::Held;
use super::place::is_procfs;
use super::program::Program;
use super::report::{self, Failure, Heard, Outcome};
use super::standby::{self, Born};
use super::{Connect, NotStarted, Order, Spawned, rlimit};
use crate::container::Access;
use crate::exact::Depth;
use crate::launch::User;
use crate::plan::{ExactStep, IdMap, MapWriter, Namespaces, Owners, Plan, Source, Step, Tree};
use crate::sys::clone;
use crate::sys::mount::{MountAttributes, Reach, set_attributes};
use crate::sys::{self, Fork};
use crate::unpack::remove_tree;

/// Where changes to the root go, below the task's directory.
pub(crate) const CHANGES: &str = "root";
/// Files that the runtime wrote for the container, below the task's directory.
const TEXTS: &str = "etc";

/// The first port that needs no right to bind, in the network of whoever opens it.
const LOW_PORTS: &str = "sys/net/ipv4/ip_unprivileged_port_start";

struct Outside<'a> {
    plan: &'a Plan,
    order: &'a Order<'a>,
    /// What `Open` opened, in its order; none for a file that is not there.
    trees: Vec<Option<OwnedFd>>,
    /// Namespaces that were left for those the process is to be born in.
    homes: Vec<(LinkNameSpaceType, OwnedFd)>,
    proc: OwnedFd,
}

struct Child<'a> {
    pid: Pid,
    socket: &'a OwnedFd,
    users: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
    /// Its mounts may not be its own yet, and it will hand them over.
    was_ahead: bool,
}

pub(super) fn spawn(
    plan: &Plan,
    mut order: Order<'_>,
    connect: Connect<'_>,
) -> Result<Spawned, NotStarted> {
    let standby = order.standby.take();
    let system = |what: &str, error: Errno| NotStarted::system(what, error);
    let failed = |at: usize, failure: Failure| report::in_words(plan, at, &failure);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())
        .map_err(|error| system("cannot open /proc", error))?;
    let mut outside = Outside { plan, order: &order, trees: Vec::new(), homes: Vec::new(), proc };
    let mut steps = plan.steps().iter().enumerate();
    let (at, namespaces) = loop {
        match steps.next() {
            Some((at, Step::Clone(namespaces))) => break (at, *namespaces),
            Some((at, step)) => {
                let done = outside.before(step);
                if done.is_err() {
                    let _ = outside.go_home();
                }
                done.map_err(|failure| failed(at, failure))?;
            }
            None => return Err(NotStarted::system("cannot start", "the plan makes no process")),
        }
    };
    let ahead = standby::ahead(plan, order.facts);
    let standby = standby.filter(|it| ahead == Some(it.namespaces()));
    let commissioned = standby.and_then(|it| it.commission(&order, &outside.trees));
    let (pid, socket, mark) = match commissioned {
        Some(Born { pid, socket, mark }) => (pid, socket, Some(mark)),
        None => {
            let (pid, socket) = outside.clone_into(namespaces).map_err(|f| failed(at, f))?;
            (pid, socket, None)
        }
    };
    let left = outside.go_home();
    let was_ahead = mark.is_some();
    let mut child = Child { pid, socket: &socket, users: None, mounts: None, was_ahead };
    let mut done = left.map_err(|failure| (at, failure));
    for (at, step) in steps.take_while(|(_, step)| step.is_supervisors()) {
        done = done.and_then(|()| {
            outside.after(step, &mut child, connect).map_err(|failure| (at, failure))
        });
    }
    let Child { mounts, .. } = child;
    let outcome = done.and_then(|()| report::receive(&socket).map_err(|e| (at, e.into())));
    match outcome {
        Ok(Heard { outcome: Outcome::Failed(at, failure), .. }) => {
            end(pid);
            Err(failed(at, failure))
        }
        Ok(Heard { outcome, terminal, mounts: sent, .. }) => {
            let is_held = matches!(outcome, Outcome::Held);
            let held = is_held.then(|| Held { socket, plan: plan.clone() });
            Ok(Spawned { pid, mark, ahead, terminal, mounts: sent.or(mounts), held })
        }
        Err((at, failure)) => {
            // If the process failed first, that is why, and it has said so.
            let said = rustix::fs::fcntl_setfl(&socket, OFlags::NONBLOCK)
                .and_then(|()| report::receive(&socket));
            end(pid);
            match said {
                Ok(Heard { outcome: Outcome::Failed(at, first), .. }) => Err(failed(at, first)),
                _ => Err(failed(at, failure)),
            }
        }
    }
}

/// Leaves nothing of a process that will not run its program.
pub(crate) fn end(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
}

impl Outside<'_> {
    /// Makes the container's process; returns it and what it is talked to by.
    fn clone_into(&mut self, namespaces: Namespaces) -> Result<(Pid, OwnedFd), Failure> {
        let forked = report::channel().map_err(Failure::at("a socket")).and_then(|pair| {
            Ok((pair, clone::fork_into(namespaces.bits(), self.order.birthplace())?))
        });
        let ((socket, theirs), (side, birth)) = match forked {
            Ok(forked) => forked,
            Err(failure) => {
                let _ = self.go_home();
                return Err(failure);
            }
        };
        match side {
            Fork::Parent(pid) => Ok((pid, socket)),
            // It stays in the namespaces that it was born in.
            Fork::Child => {
                drop(socket);
                let trees = std::mem::take(&mut self.trees);
                Chamber::new(self.plan, self.order, trees, theirs, birth).live()
            }
        }
    }

    fn before(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Open(tree) => {
                let opened = self.open(tree)?;
                self.trees.push(opened);
                Ok(())
            }
            Step::PrepareChanges { owner } => prepare_changes(self.order.dir, *owner),
            Step::JoinNetwork => {
                let other = self.order.network_of;
                let other = other.ok_or_else(|| Failure::because("the other task does not run"))?;
                self.visit(other, LinkNameSpaceType::Network, "self/ns/net")?;
                // The network belongs to the other's root, so ours could bind no low port.
                // Kernels before 4.11 have no such switch.
                let switch =
                    rustix::fs::openat(&self.proc, LOW_PORTS, OFlags::WRONLY, Mode::empty());
                let _ = switch.map(|switch| rustix::io::write(&switch, b"0"));
                Ok(())
            }
            Step::Exact(ExactStep::Join(kind, path)) => {
                let (kind, own) = exact::namespace(*kind)?;
                let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
                self.visit(file.as_fd(), kind, own)
            }
            _ => Err(Failure::because("this is not the supervisor's to do")),
        }
    }

    fn after(
        &mut self,
        step: &Step,
        child: &mut Child<'_>,
        connect: &mut dyn FnMut(OwnedFd) -> Result<(), String>,
    ) -> Result<(), Failure> {
        match step {
            Step::MapIds(map) => {
                self.map_ids(map, child.pid)?;
                child.users = Some(self.of_process(child.pid, "ns/user", OFlags::RDONLY)?);
                Ok(())
            }
            Step::ShowOwners { tree, owners } => self.show_owners(*tree, *owners, child),
            Step::RaiseLimit(limit) => Ok(rlimit::raise(child.pid, limit)?),
            Step::ScoreIt(score) => {
                let file = self.of_process(child.pid, "oom_score_adj", OFlags::WRONLY)?;
                Ok(rustix::io::write(file, score.to_string().as_bytes()).map(drop)?)
            }
            Step::Connect => {
                let network = self.of_process(child.pid, "ns/net", OFlags::RDONLY)?;
                connect(network).map_err(Failure::because)
            }
            Step::Go => {
                if !child.was_ahead {
                    child.mounts = Some(self.of_process(child.pid, "ns/mnt", OFlags::RDONLY)?);
                }
                Ok(report::send_go(child.socket)?)
            }
            _ => Err(Failure::because("this is not the supervisor's to do")),
        }
    }

    /// A node of the same device that belongs to the container's root: the host's own
    /// belongs to a user it does not have. Where none can be made, the host's.
    fn own_device(&self, device: OwnedFd) -> Result<OwnedFd, Failure> {
        let Some(base) = self.order.launch.id_base() else { return Ok(device) };
        let stat = rustix::fs::fstat(&device)?;
        match rustix::fs::mkdirat(self.order.dir, DEVICES, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let nodes = below(self.order.dir, DEVICES, OFlags::PATH | OFlags::DIRECTORY)?;
        let name = self.trees.len().to_string();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::RUSR | Mode::WUSR;
        if rustix::fs::mknodat(&nodes, &name, kind, mode, stat.st_rdev).is_err() {
            return Ok(device);
        }
        let (uid, gid) = (Uid::from_raw(base), Gid::from_raw(base));
        rustix::fs::chownat(&nodes, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(below(nodes.as_fd(), &name, OFlags::PATH)?)
    }

    fn open(&self, tree: &Tree) -> Result<Option<OwnedFd>, Failure> {
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let source = match &tree.source {
            Source::Layer(layer) => open_host(layer, path | OFlags::DIRECTORY)?,
            Source::Host(source) => open_host(source, path)?,
            Source::Device(source) => self.own_device(open_device(source, path)?)?,
            Source::Volume(name) => self.open_volume(name)?,
            Source::Changes => below(self.order.dir, CHANGES, path | OFlags::DIRECTORY)?,
            Source::Plain(source, _) => open_host(source, path)?,
            Source::Namespace(file) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                return Ok(Some(rustix::fs::open(file, flags, Mode::empty())?));
            }
            Source::Procs(file) => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                return Ok(Some(rustix::fs::open(file, flags, Mode::empty())?));
            }
            Source::Text(name) => match open_text(self.order.dir, name) {
                Err(Errno::NOENT) => return Ok(None),
                found => found?,
            },
        };
        if !self.order.facts.privileged() {
            // It cannot be cloned here; the process opens it again where it can.
            return Ok(Some(source));
        }
        let clone = clone_tree(source.as_fd(), reach(&tree.source))?;
        if matches!(tree.source, Source::Plain(..)) {
            return Ok(Some(clone));
        }
        if tree.owners == Owners::Disk {
            set_attributes(clone.as_fd(), attributes(tree), None, reach(&tree.source))?;
        }
        Ok(Some(clone))
    }

    fn open_volume(&self, name: &str) -> Result<OwnedFd, Failure> {
        let none = || Failure::because("this runtime keeps no volumes");
        let volumes = self.order.volumes.ok_or_else(none)?;
        make_directory(volumes, name, 0o755)?;
        Ok(below(volumes, name, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    fn show_owners(&self, tree: usize, owners: Owners, child: &Child<'_>) -> Result<(), Failure> {
        let Some(mount) = self.trees.get(tree).and_then(Option::as_ref) else { return Ok(()) };
        let Some(opened) = self.plan.trees().nth(tree) else {
            return Err(Failure::because("there is no such tree"));
        };
        let attributes = attributes(opened);
        let users = child.users.as_ref().map(AsFd::as_fd);
        let reach = reach(&opened.source);
        match set_attributes(mount.as_fd(), attributes, users, reach) {
            Err(error) if owners == Owners::MappedIfPossible => {
                let refused = [libc::EINVAL, libc::EPERM].map(Some);
                if !refused.contains(&error.raw_os_error()) {
                    return Err(error.into());
                }
                Ok(set_attributes(mount.as_fd(), attributes, None, reach)?)
            }
            Err(error) => {
                let hint = format!("{} (its file system may not map owners)", opened.source);
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Err(Failure { errno, detail: hint })
            }
            Ok(()) => Ok(()),
        }
    }

    /// Enters a namespace that the process shall be born in, and remembers the way home.
    fn visit(
        &mut self,
        other: BorrowedFd<'_>,
        kind: LinkNameSpaceType,
        own: &str,
    ) -> Result<(), Failure> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = rustix::fs::openat(&self.proc, own, flags, Mode::empty())?;
        move_into_link_name_space(other, Some(kind))?;
        self.homes.push((kind, home));
        Ok(())
    }

    fn go_home(&mut self) -> Result<(), Failure> {
        let homes = self.homes.drain(..);
        // Each is tried: one that fails must not keep us from the others.
        let mut done = Ok(());
        for (kind, home) in homes {
            done = done.and(move_into_link_name_space(home.as_fd(), Some(kind)));
        }
        Ok(done?)
    }

    /// A file of `/proc/PID`; the process is our unreaped child, so it is this one.
    fn of_process(&self, pid: Pid, name: &str, flags: OFlags) -> Result<OwnedFd, Failure> {
        is_procfs(&self.proc)?;
        let path = format!("{}/{name}", pid.as_raw_nonzero());
        Ok(rustix::fs::openat(&self.proc, path, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn map_ids(&self, map: &IdMap, pid: Pid) -> Result<(), Failure> {
        if map.writer == MapWriter::Helpers {
            return map_by_helpers(map, pid).map_err(Failure::because);
        }
        let write = |name: &str, text: &str| -> Result<(), Failure> {
            let file = self.of_process(pid, name, OFlags::WRONLY)?;
            is_procfs(&file)?;
            rustix::io::write(&file, text.as_bytes()).map_err(Failure::at(name))?;
            Ok(())
        };
        if map.writer == MapWriter::Owner {
            write("setgroups", "deny")?;
        }
        for (name, lines) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
            let lines = lines.iter();
            let text: String = lines
                .map(|[inside, outside, count]| format!("{inside} {outside} {count}\n"))
                .collect();
            write(name, &text)?;
        }
        Ok(())
    }
}

/// Opens what a launch names of the host. Whoever launches has resolved the path and
/// judged what it leads to: a link that somebody puts there since is not followed.
fn open_host(path: &Path, flags: OFlags) -> Result<OwnedFd, Failure> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve) {
        Err(Errno::LOOP) => Err(Failure::because(format!(
            "{} leads through a symbolic link; name what it leads to",
            path.display()
        ))),
        opened => Ok(opened?),
    }
}

/// The names of device nodes that a task has of its own.
const DEVICES: &str = "devices";

fn open_device(path: &Path, flags: OFlags) -> Result<OwnedFd, Failure> {
    let device = open_host(path, flags)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&device)?.st_mode) {
        FileType::CharacterDevice | FileType::BlockDevice => Ok(device),
        _ => Err(Failure::because("it is no device")),
    }
}

fn open_text(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let texts = below(dir, TEXTS, OFlags::PATH | OFlags::DIRECTORY)?;
    below(texts.as_fd(), name, OFlags::PATH)
}

fn below(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// A detached copy of a mount, which nobody else sees.
pub(super) fn clone_tree(source: BorrowedFd<'_>, reach: Reach) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match reach {
        Reach::This => open_tree(source, c"", flags),
        Reach::All => open_tree(source, c"", flags | OpenTreeFlags::AT_RECURSIVE),
    }
}

/// Whether mounts below a source come with it.
pub(super) fn reach(source: &Source) -> Reach {
    match source {
        Source::Host(_) | Source::Plain(_, Depth::All) => Reach::All,
        _ => Reach::This,
    }
}

pub(super) fn attributes(tree: &Tree) -> MountAttributes {
    let devices = match &tree.source {
        Source::Device(_) => MountAttributes::NONE,
        _ => MountAttributes::NO_DEVICES,
    };
    let write = match tree.access {
        Access::Read => MountAttributes::READ_ONLY,
        Access::Write => MountAttributes::NONE,
    };
    MountAttributes::NO_SETUID.and(devices).and(write)
}

/// What overlayfs wants in `root/`.
const PARTS: [(&str, u32); 2] = [("upper", 0o755), ("work", 0o700)];

/// Makes `root/` of a task's directory, with what overlayfs wants in it: ahead of the
/// launch, since new directories are what takes longest on a disk.
pub(crate) fn make_changes(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    make_directory(dir, CHANGES, 0o711)?;
    let root = below(dir, CHANGES, OFlags::RDONLY | OFlags::DIRECTORY)?;
    PARTS
        .iter()
        .try_for_each(|(name, mode)| make_directory(root.as_fd(), name, *mode).map(drop))?;
    Ok(root)
}

/// Removes what that made and nobody used.
pub(crate) fn unmake_changes(dir: BorrowedFd<'_>) {
    let Ok(root) = below(dir, CHANGES, OFlags::RDONLY | OFlags::DIRECTORY) else { return };
    for (name, _) in PARTS {
        let _ = rustix::fs::unlinkat(&root, name, AtFlags::REMOVEDIR);
    }
    let _ = rustix::fs::unlinkat(dir, CHANGES, AtFlags::REMOVEDIR);
}

/// Makes the `root/` of a task that is removed fit for another; false if it has changes.
///
/// What took the changes goes even when empty: a container may have handed a way into
/// it to another that lives.
pub(crate) fn forget_changes(dir: BorrowedFd<'_>) -> std::io::Result<bool> {
    let root = below(dir, CHANGES, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let [(upper, _), (work, _)] = PARTS;
    match rustix::fs::unlinkat(&root, upper, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(_) => return Ok(false),
    }
    // The kernel makes its own below, and refuses what a volatile mount left.
    match below(root.as_fd(), work, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(work) => remove_tree(work.as_fd(), b"work")?,
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

/// Makes `root/` the task's that begins.
fn prepare_changes(dir: BorrowedFd<'_>, owner: User) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let give = |root: &OwnedFd| {
        PARTS.iter().try_for_each(|(name, _)| {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(root, *name, Some(uid), Some(gid), flags)
        })
    };
    // Most often it was made ahead.
    let made = below(dir, CHANGES, OFlags::RDONLY | OFlags::DIRECTORY);
    let root = match made.and_then(|root| give(&root).map(|()| root)) {
        Err(Errno::NOENT) => {
            let root = make_changes(dir)?;
            give(&root)?;
            root
        }
        root => root?,
    };
    // A volatile mount leaves its mark, and the next one would refuse it.
    if rustix::fs::unlinkat(&root, "work/work/incompat/volatile/dirty", AtFlags::empty()).is_ok() {
        let _ = rustix::fs::unlinkat(&root, "work/work/incompat/volatile", AtFlags::REMOVEDIR);
    }
    Ok(())
}

/// Whether the directory is new. Then it has these permissions, whatever the mask is.
fn make_directory(dir: BorrowedFd<'_>, name: &str, mode: u32) -> Result<bool, Errno> {
    let mask = umask(Mode::empty());
    let made = rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode));
    umask(mask);
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a child's namespace the ids that its user was granted, by those who may; why not,
/// in words.
pub(crate) fn map_by_helpers(map: &IdMap, pid: Pid) -> Result<(), String> {
    let lines = [("newuidmap", &map.uids), ("newgidmap", &map.gids)];
    lines.into_iter().try_for_each(|(name, lines)| {
        run_helper(name, pid, lines).map_err(|failure| failure.detail)
    })
}

/// Runs `newuidmap` or its twin, which writes a map that only root may.
fn run_helper(name: &str, pid: Pid, lines: &[[u32; 3]]) -> Result<(), Failure> {
    let mut argv = vec![name.to_owned(), pid.as_raw_nonzero().to_string()];
    argv.extend(lines.iter().flatten().map(u32::to_string));
    let program = Program::new(&argv, &std::collections::BTreeMap::new());
    let program = program.ok_or_else(|| Failure::because("no program"))?;
    let helper = match sys::fork()? {
        Fork::Parent(helper) => helper,
        Fork::Child => {
            sys::default_dispositions();
            sys::block_only(&[]);
            program.execute();
            sys::exit_now(127)
        }
    };
    let status = rustix::io::retry_on_intr(|| waitpid(Some(helper), WaitOptions::empty()))?;
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::because(format!("{name} exited with {code}"))),
        None => Err(Failure::because(format!("{name} was killed"))),
    }
}
