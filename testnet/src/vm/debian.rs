//! Packages of this machine's Debian release: which, from where, into what tree.
//!
//! Only apt's own clients are used. All that the guest holds is downloaded and
//! unpacked, never installed; only QEMU must be installed, as it runs here.
//! Must never change this machine except in [`install`].

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::tool::{call, find, program};
use super::{VmError, io_error};

/// Depends on the newest kernel for virtual machines that the release has.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What the guest's root is made of, with all that these depend on.
const PACKAGES: [&str; 25] = [
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "e2fsprogs",
    "findutils",
    "grep",
    "hostname",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libc6",
    "libcap2-bin",
    "libgcc-s1",
    "libstdc++6",
    "mawk",
    "mount",
    "nftables",
    "perl-base",
    "procps",
    "psmisc",
    "sed",
    "tar",
    "uidmap",
    "util-linux",
];
/// Dependencies that matter only to an installation: nothing here runs their scripts.
const LEFT_OUT: [&str; 8] = [
    "debconf",
    "dpkg",
    "gcc-",
    "init-system-helpers",
    "libfile-find-rule-perl",
    "libperl",
    "perl",
    "usrmerge",
];
/// Words and pictures nobody reads in the guest.
const NOT_UNPACKED: [&str; 8] = [
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/info",
    "./usr/share/locale",
    "./usr/share/bash-completion",
    "./usr/share/lintian",
    "./usr/lib/x86_64-linux-gnu/gconv",
    "./boot/System.map*",
];
/// The programs that must run on this machine, each with its package.
const NEEDED: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
];

/// The packages whose programs are missing on this machine.
pub(super) fn missing() -> Vec<&'static str> {
    let missing = NEEDED.iter().filter(|(program, _)| find(program).is_none());
    missing.map(|(_, package)| *package).collect()
}

/// Whether this machine has apt at all.
pub(super) fn has_apt() -> bool {
    ["apt-get", "apt-cache", "dpkg-deb"].iter().all(|name| find(name).is_some())
}

/// Installs packages on this machine; needs root.
pub(super) fn install(packages: &[&str]) -> Result<(), VmError> {
    let command = || {
        let mut command = program("apt-get");
        command
            .args(["install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"])
            .args(packages);
        command
    };
    if call(&mut command()).is_ok() {
        return Ok(());
    }
    // A list of packages that is missing or old is the usual reason.
    call(program("apt-get").arg("update"))?;
    call(&mut command()).map(drop)
}

/// The name of the newest kernel package.
pub(super) fn kernel() -> Result<String, VmError> {
    let ask = || call(program("apt-cache").args(["depends", KERNEL])).unwrap_or_default();
    let mut said = ask();
    if newest(&said).is_none() && rustix::process::geteuid().is_root() {
        call(program("apt-get").arg("update"))?;
        said = ask();
    }
    newest(&said).map(str::to_owned).ok_or(VmError::NoKernel { package: KERNEL })
}

fn newest(said: &str) -> Option<&str> {
    let mut depends = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    depends.find(|name| name.starts_with("linux-image-"))
}

/// Everything the guest's root is made of, but the kernel. `scratch` is a directory.
pub(super) fn packages(scratch: &Path) -> Result<Vec<String>, VmError> {
    // As if nothing were installed: then apt names every dependency.
    let nothing = scratch.join("status");
    std::fs::write(&nothing, "").map_err(io_error(&nothing))?;
    let status = format!("Dir::State::status={}", nothing.display());
    let said = call(
        program("apt-get")
            .args(["install", "--dry-run", "--no-install-recommends", "-o", &status])
            .args(PACKAGES),
    )?;
    Ok(wanted(&said))
}

fn wanted(said: &str) -> Vec<String> {
    let names = said.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    names
        .filter(|name| {
            PACKAGES.contains(name) || !LEFT_OUT.iter().any(|prefix| name.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

/// Downloads packages into a directory and gives the files.
pub(super) fn download(names: &[String], dir: &Path) -> Result<Vec<PathBuf>, VmError> {
    call(program("apt-get").arg("download").args(names).current_dir(dir))?;
    let entries = dir.read_dir().map_err(io_error(dir))?.flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    Ok(files)
}

/// Unpacks a package below `root`, where /bin and the like may be links.
pub(super) fn unpack(package: &Path, root: &Path) -> Result<(), VmError> {
    let start = |source| VmError::Start { program: "dpkg-deb".to_owned(), source };
    let mut reader = program("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let mut tar = program("tar");
    if let Some(stream) = reader.stdout.take() {
        tar.stdin(stream);
    }
    tar.args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--directory"])
        .arg(root)
        .args(NOT_UNPACKED.map(|path| format!("--exclude={path}")));
    let done = call(&mut tar);
    // The reader's end of the pipe must be gone before it is awaited.
    drop(tar);
    let status = reader.wait().map_err(start)?;
    done?;
    if !status.success() {
        let said = format!("it could not read {}", package.display());
        return Err(VmError::Failed { program: "dpkg-deb".to_owned(), status, said });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_what_the_release_depends_on() {
        let said = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(newest(said), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("N: Unable to locate package\n"), None);
    }

    #[test]
    fn packages_are_taken_from_a_dry_run_without_what_only_installs() {
        let said = "Reading package lists...\nInst libc6 (2.36 Debian:12 [amd64])\n\
                    Inst perl-modules-5.36 (5 [all])\nInst perl-base (5 [amd64])\n\
                    Inst dash (0.5 [amd64])\nConf libc6 (2.36)\n";
        assert_eq!(wanted(said), ["libc6", "perl-base", "dash"]);
    }
}
