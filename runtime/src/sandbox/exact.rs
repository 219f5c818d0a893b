//! The steps of a container by another's description: what [`ExactStep`] says.
//!
//! As everywhere in `sandbox`, what is in the container's root is reached through
//! handles that cannot be led out of it (`place`), and what the kernel is to believe is
//! written only into a real procfs.
//!
//! Invariant: a step that cannot be done as it was said fails; none is done by half.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, major, makedev, minor};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
};
use rustix::process::umask;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::outside::clone_tree;
use super::place::{self, Kind, is_procfs};
use super::report::Failure;
use super::{root, special};
use crate::container::Ids;
use crate::exact::{Depth, Mounted, NamespaceKind, Node, NodeKind, PlainMount, Propagation};
use crate::plan::ExactStep;
use crate::seccomp::Program;
use crate::sys;
use crate::sys::mount::{Reach, change_attributes};

/// What of the process's state these steps use.
pub(super) struct Inside<'a> {
    pub(super) root: &'a mut Option<OwnedFd>,
    pub(super) trees: &'a [Option<OwnedFd>],
}

impl Inside<'_> {
    fn root(&self) -> Result<BorrowedFd<'_>, Failure> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        root.ok_or_else(|| Failure::because("there is no root yet"))
    }

    fn tree(&self, at: usize) -> Result<&OwnedFd, Failure> {
        let tree = self.trees.get(at).and_then(Option::as_ref);
        tree.ok_or_else(|| Failure::because("there is no such tree"))
    }
}

/// Does a step of the process.
pub(super) fn perform(step: &ExactStep, inside: Inside<'_>) -> Result<(), Failure> {
    match step {
        ExactStep::JoinMounts(tree) => {
            let kind = Some(LinkNameSpaceType::Mount);
            Ok(move_into_link_name_space(inside.tree(*tree)?.as_fd(), kind)?)
        }
        ExactStep::JoinFurther(trees) => {
            // The kernel judges by who opened them.
            trees
                .iter()
                .try_for_each(|at| Ok(rustix::io::write(inside.tree(*at)?, b"0").map(drop)?))
        }
        ExactStep::Domainname(name) => Ok(rustix::system::setdomainname(name.as_bytes())?),
        ExactStep::OomScore(score) => write_proc("self/oom_score_adj", &score.to_string()),
        ExactStep::Parameter { name, value } => {
            // In names dots separate, and a slash stands for a dot.
            let parts: Vec<_> = name.split('.').map(|part| part.replace('/', ".")).collect();
            write_proc(&format!("sys/{}", parts.join("/")), value)
        }
        ExactStep::Root(tree) => {
            let tree = inside.tree(*tree)?;
            let private = u64::from(propagation(Propagation::Private));
            change_attributes(tree.as_fd(), (0, 0), private, Reach::All)?;
            *inside.root = Some(root::bind(tree)?);
            Ok(())
        }
        ExactStep::Mount(mount, tree) => match tree {
            Some(tree) => bind(mount, inside.tree(*tree)?, inside.root()?),
            None => mount_new(mount, inside.root()?),
        },
        ExactStep::Node(node, ids) => make_node(node, *ids, inside.root()?),
        ExactStep::Link(link, target) => make_link(link, target, inside.root()?),
        ExactStep::Cover(how, paths) => {
            let root = inside.root()?;
            special::cover(*how, paths, |path| place::open(root, Path::new(path), OFlags::PATH))
        }
        ExactStep::Spread(how) => {
            let flags = MountPropagationFlags::from_bits_retain(propagation(*how));
            Ok(mount_change(c"/", flags)?)
        }
        ExactStep::Umask(mask) => {
            umask(Mode::from_raw_mode(*mask));
            Ok(())
        }
        ExactStep::Become(user, powers) => {
            let groups: Vec<_> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            Ok(sys::capability::become_exactly((user.uid, user.gid), &groups, powers)?)
        }
        ExactStep::Filter(words) => Ok(sys::seccomp::install(&Program::from(words.clone()))?),
        ExactStep::Dev | ExactStep::Join(..) => Err(Failure::because("this is not done here")),
    }
}

/// How the kernel calls a kind of namespace that a supervisor can enter and leave, and
/// where it finds its own.
pub(super) fn namespace(kind: NamespaceKind) -> Result<(LinkNameSpaceType, &'static str), Failure> {
    match kind {
        NamespaceKind::Pid => Ok((LinkNameSpaceType::ProcessID, "self/ns/pid")),
        NamespaceKind::Uts => Ok((LinkNameSpaceType::HostNameAndNISDomainName, "self/ns/uts")),
        NamespaceKind::Ipc => Ok((LinkNameSpaceType::InterProcessCommunication, "self/ns/ipc")),
        NamespaceKind::Net => Ok((LinkNameSpaceType::Network, "self/ns/net")),
        NamespaceKind::Cgroup => Ok((LinkNameSpaceType::ControlGroup, "self/ns/cgroup")),
        _ => Err(Failure::because("a supervisor cannot enter such a namespace")),
    }
}

/// Writes into the `/proc` of the root that was not left yet.
fn write_proc(path: &str, text: &str) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open(c"/proc", flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&proc, path, flags, Mode::empty()).map_err(Failure::at(path))?;
    is_procfs(&file)?;
    rustix::io::write(&file, text.as_bytes()).map_err(Failure::at(path)).map(drop)
}

/// `MS_SHARED` and its like.
fn propagation(how: Propagation) -> u32 {
    let flags = match how {
        Propagation::Shared => MountPropagationFlags::SHARED,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
    };
    flags.bits()
}

fn reach(depth: Depth) -> Reach {
    match depth {
        Depth::Itself => Reach::This,
        Depth::All => Reach::All,
    }
}

fn bind(mount: &PlainMount, tree: &OwnedFd, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let place = place::make(root, &mount.target, place::kind(tree)?)?;
    place::attach(tree.as_fd(), place.as_fd())?;
    change_attributes(tree.as_fd(), mount.attributes, 0, Reach::This)?;
    finish(mount, tree)
}

fn mount_new(mount: &PlainMount, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let Mounted::New { kind, source, options } = &mount.what else {
        return Err(Failure::because("it was not opened"));
    };
    let place = place::make(root, &mount.target, Kind::Directory)?;
    let context = fsopen(kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(Failure::at(kind))?;
    if let Some(source) = source {
        fsconfig_set_string(&context, "source", source.as_str()).map_err(Failure::at("source"))?;
    }
    for (key, value) in options {
        let set = match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        };
        set.map_err(Failure::at(format!("the option {key}")))?;
    }
    fsconfig_create(&context).map_err(Failure::at(kind))?;
    let attributes = u32::try_from(mount.attributes.0).unwrap_or_default();
    let attributes = MountAttrFlags::from_bits_retain(attributes);
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    place::attach(made.as_fd(), place.as_fd())?;
    finish(mount, &made)
}

/// What is the same for all mounts.
fn finish(mount: &PlainMount, made: &OwnedFd) -> Result<(), Failure> {
    let private = (Propagation::Private, Depth::All);
    let (how, depth) = mount.propagation.unwrap_or(private);
    change_attributes(made.as_fd(), (0, 0), propagation(how).into(), reach(depth))?;
    if mount.deep_attributes != (0, 0) {
        change_attributes(made.as_fd(), mount.deep_attributes, 0, Reach::All)?;
    }
    Ok(())
}

/// What kind of file and which device a node is.
fn number(kind: NodeKind) -> (FileType, u64) {
    match kind {
        NodeKind::Character(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
        NodeKind::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
        NodeKind::Pipe => (FileType::Fifo, 0),
    }
}

fn is_it(node: impl AsFd, kind: NodeKind) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(node)?;
    let (wanted, device) = number(kind);
    let same = (major(stat.st_rdev), minor(stat.st_rdev)) == (major(device), minor(device));
    Ok(FileType::from_raw_mode(stat.st_mode) == wanted && (kind == NodeKind::Pipe || same))
}

fn make_node(node: &Node, ids: Ids, root: BorrowedFd<'_>) -> Result<(), Failure> {
    if ids == Ids::Own && node.kind != NodeKind::Pipe {
        return bind_node(node, root);
    }
    let (parent, name) = parent(root, &node.path)?;
    let (kind, device) = number(node.kind);
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::mknodat(&parent, name, kind, mode, device) {
        Err(Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
            if !is_it(&found, node.kind)? {
                return Err(Failure::because("something else is there"));
            }
        }
        made => made?,
    }
    // The mask of whoever started us has no say.
    rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags)?)
}

/// The host's node of the same path: who has ids of its own can make none that opens.
fn bind_node(node: &Node, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let host = rustix::fs::open(&node.path, flags, Mode::empty());
    let host = host.map_err(Failure::at("the host has no such node to share"))?;
    if !is_it(&host, node.kind)? {
        return Err(Failure::because("the host's node of that path is another device"));
    }
    let place = place::make(root, &node.path, Kind::File)?;
    Ok(place::attach(clone_tree(host.as_fd(), Reach::This)?.as_fd(), place.as_fd())?)
}

fn make_link(link: &Path, target: &str, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let (parent, name) = parent(root, link)?;
    match rustix::fs::symlinkat(target, &parent, name) {
        // What the bundle has there is its own.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The directory that a file is to be made in, made if it is missing, and its name.
fn parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Result<(OwnedFd, &'a Path), Failure> {
    let names = path.parent().zip(path.file_name());
    let (parent, name) = names.ok_or_else(|| Failure::because("it is no file's path"))?;
    Ok((place::make(root, parent, Kind::Directory)?, Path::new(name)))
}
