//! What every guest starts from: a kernel, the modules up to the disk, and the disk.
//!
//!     apt ─▶ packages ─▶ a tree ─▶ mke2fs ─▶ disk.ext4, vmlinuz, boot/*.ko
//!
//! Made once and kept; a guest writes to a copy that vanishes with it. The disk is
//! ext4 because overlayfs and idmapped mounts work on it in every kernel that
//! matters, and on a tmpfs only since 6.3. Made beside its place and renamed, so
//! half a base is never used. Must never be built as part of a test.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::tool::{call, program};
use super::{Say, VmError, debian, io_error, modules};

/// Part of the cache's name: raise it when what is below makes another base.
const FORMAT: u32 = 2;
/// Room for images and volumes of tests; the file is sparse.
const DISK: &str = "8G";
/// The links that make one tree of what packages put in two places.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Where things are mounted, and what tests take for granted.
const DIRECTORIES: [&str; 12] = [
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "root",
    "home/nobody",
    "var/lib",
    "var/tmp",
    "mnt",
    "etc",
    "usr/local/bin",
];
/// The machine's own files, as an installation would have made them.
const FILES: [(&str, &str); 8] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/home/nobody:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/subuid", "nobody:100000:65536\n"),
    ("etc/subgid", "nobody:100000:65536\n"),
    ("etc/hosts", "127.0.0.1 localhost testnet\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("etc/hostname", "testnet\n"),
    ("etc/machine-id", "746573746e65742d766d2d6775657374\n"),
];

/// A base that is there.
#[derive(Debug)]
pub(super) struct Base {
    dir: PathBuf,
}

impl Base {
    /// The base below this directory, made now if need be.
    pub(super) fn ready(cache: &Path, say: Say<'_>) -> Result<Self, VmError> {
        fs::create_dir_all(cache).map_err(io_error(cache))?;
        let lock = cache.join("lock");
        let held = File::create(&lock).map_err(io_error(&lock))?;
        // Two who start at once: one makes it, the other waits and finds it made.
        flock(&held, FlockOperation::LockExclusive)
            .map_err(|error| io_error(&lock)(error.into()))?;
        let dir = cache.join(format!("base-{FORMAT}"));
        if !dir.is_dir() {
            let beside = cache.join(format!("base-{FORMAT}.new"));
            empty(&beside)?;
            build(&beside, say)?;
            fs::rename(&beside, &dir).map_err(io_error(&dir))?;
        }
        Ok(Self { dir })
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("disk.ext4")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The modules up to the disk, and `order`, which names them.
    pub(super) fn boot(&self) -> PathBuf {
        self.dir.join("boot")
    }

    /// A shell and more, without libraries.
    pub(super) fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }
}

fn empty(dir: &Path) -> Result<(), VmError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(dir)(error)),
        _ => {}
    }
    fs::create_dir_all(dir).map_err(io_error(dir))
}

fn build(dir: &Path, say: Say<'_>) -> Result<(), VmError> {
    if !debian::has_apt() {
        return Err(VmError::NoApt);
    }
    say("asking apt for the kernel and the guest's packages");
    let kernel = debian::kernel()?;
    let mut names = debian::packages(dir)?;
    names.push(kernel.clone());
    say(&format!("downloading {} packages and {kernel}", names.len() - 1));
    let packages = dir.join("packages");
    empty(&packages)?;
    let files = debian::download(&names, &packages)?;
    say("unpacking them");
    let root = dir.join("root");
    skeleton(&root)?;
    files.iter().try_for_each(|file| debian::unpack(file, &root))?;
    let release = kernel.trim_start_matches("linux-image-");
    modules::index(&root, release)?;
    keep_boot(dir, &root, release)?;
    say("making the disk");
    let disk = dir.join("disk.ext4");
    call(
        program("mke2fs")
            .args(["-q", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0", "-d"])
            .args([root.as_os_str(), disk.as_os_str(), DISK.as_ref()]),
    )?;
    [packages, root].iter().try_for_each(|dir| fs::remove_dir_all(dir).map_err(io_error(dir)))
}

/// The tree before any package.
fn skeleton(root: &Path) -> Result<(), VmError> {
    for name in MERGED {
        let target = root.join("usr").join(name);
        fs::create_dir_all(&target).map_err(io_error(&target))?;
        let link = root.join(name);
        symlink(format!("usr/{name}"), &link).map_err(io_error(&link))?;
    }
    for name in DIRECTORIES {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(io_error(&path))?;
    }
    for (name, text) in FILES {
        let path = root.join(name);
        fs::write(&path, text).map_err(io_error(&path))?;
    }
    Ok(())
}

/// Takes out of the tree what is needed before the disk can be read.
fn keep_boot(dir: &Path, root: &Path, release: &str) -> Result<(), VmError> {
    let copy = |from: PathBuf, to: PathBuf| fs::copy(&from, to).map(drop).map_err(io_error(&from));
    copy(root.join("boot").join(format!("vmlinuz-{release}")), dir.join("vmlinuz"))?;
    copy(root.join("usr/bin/busybox"), dir.join("busybox"))?;
    let modules_dir = root.join("usr/lib/modules").join(release);
    let list = modules_dir.join("modules.dep");
    let list = fs::read_to_string(&list).map_err(io_error(&list))?;
    let boot = dir.join("boot");
    empty(&boot)?;
    let mut order = String::new();
    for module in modules::boot_order(&list) {
        let bytes = modules::plain(&modules_dir.join(&module))?;
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = boot.join(&name);
        fs::write(&to, bytes).map_err(io_error(&to))?;
        order.push_str(&format!("{name}\n"));
    }
    let to = boot.join("order");
    fs::write(&to, order).map_err(io_error(&to))?;
    let old = root.join("boot");
    fs::remove_dir_all(&old).map_err(io_error(&old))?;
    // The unprivileged user reads the guest's root too.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).map_err(io_error(root))
}
