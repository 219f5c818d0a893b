//! The file systems of the kernel's own that every container has, and what is hidden
//! in them.
//!
//! Each is reached through the handle that its mount gave, never through the root:
//! what an image or a volume has at `/proc` does not matter.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, major, minor};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::outside::clone_tree;
use super::place::{self, Kind, attach, is_procfs, kind, open_plain};
use super::report::Failure;
use super::terminal::{self, Terminal};
use crate::plan::{Cover, Special};
use crate::sys::mount::{MountAttributes, Reach, set_attributes};

/// Docker's size of `/dev`.
const DEV_BYTES: u64 = 64 << 10 << 10;
/// The group `tty`, everywhere.
const TTY_GROUP: u32 = 5;

/// Nothing on it gives privileges or leads to devices.
pub(super) const QUIET: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
/// Nor is executed.
pub(super) const STILL: MountAttrFlags = QUIET.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const STILL_READ_ONLY: MountAttrFlags = STILL.union(MountAttrFlags::MOUNT_ATTR_RDONLY);

/// Device numbers of the harmless devices: `Documentation/admin-guide/devices.txt`.
const NUMBERS: [(&str, (u32, u32)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Whether the container's ids hold the group `tty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TtyGroup {
    Known,
    Unknown,
}

/// Handles to what was mounted.
#[derive(Debug, Default)]
pub(super) struct System {
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    terminals: Option<OwnedFd>,
    host_sys: Option<OwnedFd>,
}

/// How a descriptor is called in the supervisor's `/proc`.
pub(super) fn descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A new file system, mounted nowhere yet.
pub(super) fn make(
    kind: &str,
    options: &[(&str, String)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, value.as_str())?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

impl System {
    /// Takes a copy of the host's `/sys` before it is covered.
    pub(super) fn keep_host_sys(&mut self) -> Result<(), Failure> {
        self.host_sys = Some(host_sys()?);
        Ok(())
    }

    pub(super) fn mount(
        &mut self,
        special: Special,
        root: BorrowedFd<'_>,
        tty: TtyGroup,
    ) -> Result<(), Failure> {
        match special {
            Special::Proc => {
                let mount = make("proc", &[], STILL)?;
                attach(mount.as_fd(), directory(root, "proc")?.as_fd())?;
                self.proc = Some(mount);
            }
            Special::Sys => {
                let mount = make("sysfs", &[], STILL_READ_ONLY)?;
                attach(mount.as_fd(), directory(root, "sys")?.as_fd())?;
                self.sys = Some(mount);
            }
            Special::HostSys => {
                let kept = self.host_sys.take();
                let mount = kept.ok_or_else(|| Failure::because("it was not kept"))?;
                attach(mount.as_fd(), directory(root, "sys")?.as_fd())?;
                self.sys = Some(mount);
            }
            Special::Cgroup => return self.groups(),
            Special::Dev => {
                let options = [("size", DEV_BYTES.to_string()), ("mode", "755".to_owned())];
                let mount = make("tmpfs", &options, QUIET)?;
                attach(mount.as_fd(), directory(root, "dev")?.as_fd())?;
                self.dev = Some(mount);
            }
            Special::Terminals => {
                let mut options =
                    vec![("ptmxmode", "0666".to_owned()), ("mode", "0620".to_owned())];
                if tty == TtyGroup::Known {
                    options.push(("gid", TTY_GROUP.to_string()));
                }
                let attributes =
                    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let mount = make("devpts", &options, attributes)?;
                attach(mount.as_fd(), directory(dev(&self.dev)?, "pts")?.as_fd())?;
                self.terminals = Some(mount);
            }
            Special::Queues => {
                let mount = make("mqueue", &[], STILL)?;
                attach(mount.as_fd(), directory(dev(&self.dev)?, "mqueue")?.as_fd())?;
            }
        }
        Ok(())
    }

    /// Its own control group, read-only. Where the kernel refuses, nothing: never more.
    fn groups(&self) -> Result<(), Failure> {
        let sys = self.sys.as_ref().ok_or_else(|| Failure::because("there is no /sys yet"))?;
        let place = match open_plain(sys.as_fd(), "fs/cgroup", OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(()),
            place => place?,
        };
        let mount = match make("cgroup2", &[], STILL_READ_ONLY) {
            Ok(mount) => mount,
            Err(_) => make("tmpfs", &[("size", "4096".to_owned())], STILL_READ_ONLY)?,
        };
        Ok(attach(mount.as_fd(), place.as_fd())?)
    }

    /// One of the host's devices, by its name in `/dev`, if it is what it should be.
    pub(super) fn device(&self, name: &str) -> Result<(), Failure> {
        let node = host_device(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(dev(&self.dev)?, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(attach(sealed(node.as_fd())?.as_fd(), place.as_fd())?)
    }

    pub(super) fn device_links(&self) -> Result<(), Failure> {
        let dev = dev(&self.dev)?;
        for (name, target) in LINKS {
            rustix::fs::symlinkat(target, dev, name).map_err(Failure::at(name))?;
        }
        Ok(())
    }

    /// Sets a kernel parameter through our own procfs.
    pub(super) fn sysctl(&self, name: &str, value: &str) -> Result<(), Failure> {
        // In names dots separate, and a slash stands for a dot.
        let parts: Vec<_> = name.split('.').map(|part| part.replace('/', ".")).collect();
        let path = format!("sys/{}", parts.join("/"));
        let file = open_plain(self.proc()?, &path, OFlags::WRONLY)?;
        is_procfs(&file)?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    /// Covers what is there of these paths.
    pub(super) fn cover(&self, how: Cover, paths: &[String]) -> Result<(), Failure> {
        cover(how, paths, |path| self.open(path))
    }

    /// What is at a path below `/proc` or `/sys`.
    fn open(&self, path: &str) -> Result<OwnedFd, Errno> {
        let (base, rest) = match (path.strip_prefix("/proc/"), path.strip_prefix("/sys/")) {
            (Some(rest), _) => (&self.proc, rest),
            (None, Some(rest)) => (&self.sys, rest),
            (None, None) => return Err(Errno::NOENT),
        };
        open_plain(base.as_ref().ok_or(Errno::NOENT)?.as_fd(), rest, OFlags::PATH)
    }

    /// A terminal of the container's own. The first one is `/dev/console` too.
    pub(super) fn terminal(&self, size: (u16, u16)) -> Result<(Terminal, OwnedFd), Failure> {
        let terminals = self.terminals.as_ref();
        let terminals = terminals.ok_or_else(|| Failure::because("there is no /dev/pts"))?;
        let (terminal, ours) = terminal::open(terminals.as_fd(), size)?;
        if let Some(dev) = &self.dev {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o600);
            let place = rustix::fs::openat(dev, c"console", flags, mode)?;
            let console = clone_tree(terminal.as_fd(), Reach::This)?;
            attach(console.as_fd(), place.as_fd())?;
        }
        Ok((terminal, ours))
    }

    /// The terminals of a container that is there, if they are what they should be.
    pub(super) fn find_terminals(&mut self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        /// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
        const DEVPTS: u64 = 0x1cd1;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let terminals = place::open(root, Path::new("/dev/pts"), flags);
        let is = |fd: &OwnedFd| rustix::fs::fstatfs(fd).is_ok_and(|s| s.f_type as u64 == DEVPTS);
        self.terminals = terminals.ok().filter(is);
        Ok(())
    }

    /// `/dev` and its terminals of a root that somebody else's description made.
    pub(super) fn find_dev(&mut self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        self.dev = Some(place::open(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY)?);
        self.find_terminals(root)
    }

    fn proc(&self) -> Result<BorrowedFd<'_>, Failure> {
        self.proc.as_ref().map(AsFd::as_fd).ok_or_else(|| Failure::because("there is no /proc yet"))
    }
}

/// Covers what is there of these paths, as `open` finds it.
pub(super) fn cover(
    how: Cover,
    paths: &[String],
    open: impl Fn(&str) -> Result<OwnedFd, Errno>,
) -> Result<(), Failure> {
    let mut empty = None;
    let null = host_device("null")?;
    for path in paths {
        let place = match open(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            place => place.map_err(Failure::at(path))?,
        };
        let cover = match (how, kind(&place)?) {
            (Cover::ReadOnly, _) => {
                let same = clone_tree(place.as_fd(), Reach::All)?;
                let read_only = MountAttributes::READ_ONLY;
                set_attributes(same.as_fd(), read_only, None, Reach::All).map_err(|error| {
                    Failure::at(path)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
                })?;
                same
            }
            (Cover::Hidden, Kind::File) => sealed(null.as_fd())?,
            (Cover::Hidden, Kind::Directory) => match &empty {
                Some(empty) => clone_tree(OwnedFd::as_fd(empty), Reach::This)?,
                None => {
                    let mount = make("tmpfs", &[("size", "4096".to_owned())], STILL_READ_ONLY)?;
                    attach(mount.as_fd(), place.as_fd()).map_err(Failure::at(path))?;
                    empty = Some(mount);
                    continue;
                }
            },
        };
        attach(cover.as_fd(), place.as_fd()).map_err(Failure::at(path))?;
    }
    Ok(())
}

fn dev(dev: &Option<OwnedFd>) -> Result<BorrowedFd<'_>, Failure> {
    dev.as_ref().map(AsFd::as_fd).ok_or_else(|| Failure::because("there is no /dev yet"))
}

/// A real directory of that name, made if nothing is there.
fn directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_plain(parent, name, flags) {
        Err(Errno::NOENT) => {}
        Err(Errno::LOOP) => return Err(Failure::because("the image has a symbolic link there")),
        found => return Ok(found?),
    }
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    Ok(open_plain(parent, name, flags)?)
}

/// The host's `/sys` with all below it, read-only: a network that is not ours lets us
/// mount no sysfs of our own.
fn host_sys() -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(CWD, c"/sys", flags)?;
    let quiet = MountAttributes::READ_ONLY.and(MountAttributes::NO_SETUID);
    set_attributes(mount.as_fd(), quiet.and(MountAttributes::NO_DEVICES), None, Reach::All)?;
    Ok(mount)
}

/// A device of the host, mounted so that its owner, mode and times cannot be changed
/// through it, which a root with the host's ids could. A read-only mount hinders
/// nobody from writing to a device.
pub(super) fn sealed(node: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let node = clone_tree(node, Reach::This)?;
    set_attributes(node.as_fd(), MountAttributes::READ_ONLY, None, Reach::This)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(node)
}

/// `/dev/null` for the streams of a container that has the host's own ids: through a
/// read-only mount, for a descriptor's mode can be changed as well as a path's. It shows
/// as `/` in `/proc/self/fd`, so whoever has no power over the host's node gets that.
pub(crate) fn sealed_null() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let node = rustix::fs::open(c"/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let node = sealed(node.as_fd())?;
    rustix::fs::open(descriptor(node.as_fd()), flags, Mode::empty())
}

/// One of the host's harmless devices. It is looked at, not believed.
fn host_device(name: &str) -> Result<OwnedFd, Failure> {
    let path = CString::new(format!("/dev/{name}")).unwrap_or_default();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::open(&*path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&node)?;
    let number = NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let is = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && Some((major(stat.st_rdev), minor(stat.st_rdev))) == number;
    if is {
        Ok(node)
    } else {
        Err(Failure::because(format!(
            "the host's {} is another device",
            Path::new("/dev").join(name).display()
        )))
    }
}
