//! Which kernel modules a first root needs, and in which order.
//!
//! `modules.dep` has one line a module: its file, then all it depends on, the
//! deepest last. A name that it lacks is built into the kernel. Must never be
//! asked for more than reaching the disk: from there on, modprobe does it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use super::tool::{call, last_words, program};
use super::{VmError, io_error};

/// What is between a kernel and its root disk.
const BOOT: [&str; 6] =
    ["crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_blk", "virtio_rng", "ext4"];

/// The files to load, in this order, below the modules' directory.
pub(super) fn boot_order(dependencies: &str) -> Vec<PathBuf> {
    let mut order = Vec::new();
    for name in BOOT {
        let Some(line) = dependencies.lines().find(|line| is(line, name)) else { continue };
        let mut files: Vec<_> =
            line.split([':', ' ']).filter(|file| !file.is_empty()).map(PathBuf::from).collect();
        files.reverse();
        files.retain(|file| !order.contains(file));
        order.extend(files);
    }
    order
}

/// Dash and underscore are one letter to the kernel.
fn is(line: &str, name: &str) -> bool {
    let file = line.split(':').next().unwrap_or_default();
    let stem = file.rsplit('/').next().and_then(|file| file.split('.').next());
    stem.is_some_and(|stem| stem.replace('-', "_") == name)
}

/// A module as `insmod` takes it: newer releases compress theirs.
pub(super) fn plain(module: &Path) -> Result<Vec<u8>, VmError> {
    let unpacker = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return std::fs::read(module).map_err(io_error(module)),
    };
    let output = program(unpacker)
        .args(["--decompress", "--stdout"])
        .arg(module)
        .output()
        .map_err(|source| VmError::Start { program: unpacker.to_owned(), source })?;
    if !output.status.success() {
        let said = last_words(&String::from_utf8_lossy(&output.stderr));
        let program = unpacker.to_owned();
        return Err(VmError::Failed { program, status: output.status, said });
    }
    Ok(output.stdout)
}

/// Writes `modules.dep` and its like below `root`, with the `depmod` unpacked there.
pub(super) fn index(root: &Path, release: &str) -> Result<(), VmError> {
    // Not installed here perhaps, but built for this release: it runs with its own libraries.
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    // `depmod` is a link to this program, which goes by the name it is called.
    let kmod = root.join("usr/bin/kmod");
    let mut command = program(&kmod.to_string_lossy());
    command.arg0("depmod").env("LD_LIBRARY_PATH", libraries);
    command.arg("--basedir").arg(root).arg(release);
    call(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let text = "kernel/virtio.ko.xz:\n\
                    kernel/drivers/virtio_pci.ko.xz: kernel/ring.ko.xz kernel/virtio.ko.xz\n\
                    kernel/drivers/virtio-blk.ko.xz: kernel/ring.ko.xz kernel/virtio.ko.xz\n\
                    kernel/other.ko.xz: kernel/virtio.ko.xz\n";
        let order = boot_order(text);
        let names: Vec<_> = order.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "kernel/virtio.ko.xz",
                "kernel/ring.ko.xz",
                "kernel/drivers/virtio_pci.ko.xz",
                "kernel/drivers/virtio-blk.ko.xz",
            ]
        );
    }
}
