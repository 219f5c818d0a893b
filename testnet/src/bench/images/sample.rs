//! The image that is loaded, pulled and run: made from Debian packages, so that its files
//! are many and real.
//!
//! Packages are fetched once and kept. The archive is what `docker save` wrote for years:
//! a config, a tar for each layer, `manifest.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use gossip_core::id::ContentHash;
use serde_json::json;

/// What people call it.
pub(crate) const NAME: &str = "starling-bench:1";

/// The packages of each layer, lowest first: programs, headers, sources, scripts, data. More
/// than 300 MB unpacked on Debian 12.
const LAYERS: [&[&str]; 3] = [
    &["busybox-static", "libicu72", "locales"],
    &["gcc-12", "cpp-12", "g++-12", "git", "perl-modules-5.36"],
    &["golang-1.19-src", "vim-runtime"],
];

/// The least that counts as a large image, in bytes of its archive.
const BYTES_MIN: u64 = 300_000_000;

/// An image as files.
#[derive(Debug)]
pub(crate) struct Sample {
    /// What `docker load` takes.
    pub(crate) archive: PathBuf,
    /// The uncompressed layers, lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// Bytes of the archive.
    pub(crate) bytes: u64,
}

impl Sample {
    /// Makes it in a directory, from packages kept in another.
    pub(crate) fn make(dir: &Path, kept: &Path) -> io::Result<Self> {
        fs::create_dir_all(kept)?;
        let stage = dir.join("save");
        fs::create_dir_all(&stage)?;
        let mut layers = Vec::new();
        for (at, packages) in LAYERS.iter().enumerate() {
            let tree = dir.join(format!("tree{at}"));
            for package in *packages {
                unpack(package, kept, &tree)?;
            }
            if at == 0 {
                std::os::unix::fs::symlink("busybox", tree.join("bin/true"))?;
            }
            let layer = stage.join(format!("{at}.tar"));
            tar(&tree, &layer, &["."])?;
            fs::remove_dir_all(&tree)?;
            layers.push(layer);
        }
        let archive = dir.join("image.tar");
        describe(&stage, &layers)?;
        let names = ["config.json", "0.tar", "1.tar", "2.tar", "manifest.json"];
        tar(&stage, &archive, &names)?;
        let bytes = fs::metadata(&archive)?.len();
        if bytes < BYTES_MIN {
            return Err(io::Error::other(format!("the image has only {bytes} bytes")));
        }
        Ok(Self { archive, layers, bytes })
    }
}

/// Unpacks one package, fetching it if it was not before.
fn unpack(package: &str, kept: &Path, tree: &Path) -> io::Result<()> {
    let is_it = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&format!("{package}_")) && name.ends_with(".deb"))
    };
    let find = || -> io::Result<Option<PathBuf>> {
        let entries = fs::read_dir(kept)?.map(|entry| entry.map(|entry| entry.path()));
        Ok(entries.collect::<io::Result<Vec<_>>>()?.into_iter().find(is_it))
    };
    let file = match find()? {
        Some(file) => file,
        None => {
            run(Command::new("apt-get").args(["-qq", "download", package]).current_dir(kept))?;
            find()?.ok_or_else(|| io::Error::other(format!("apt-get brought no {package}")))?
        }
    };
    fs::create_dir_all(tree)?;
    run(Command::new("dpkg-deb").arg("-x").arg(file).arg(tree))
}

/// Always the same bytes for the same files.
fn tar(dir: &Path, to: &Path, names: &[&str]) -> io::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--numeric-owner", "--mtime=@0", "-cf"]).arg(to);
    run(command.arg("-C").arg(dir).args(names))
}

/// Writes the config and the manifest.
fn describe(stage: &Path, layers: &[PathBuf]) -> io::Result<()> {
    let mut diff_ids = Vec::new();
    let mut names = Vec::new();
    for layer in layers {
        diff_ids.push(format!("sha256:{}", ContentHash::of(&fs::read(layer)?)));
        names.extend(layer.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/true"], "Env": ["PATH=/usr/bin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    fs::write(stage.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": names }]);
    fs::write(stage.join("manifest.json"), manifest.to_string())
}

/// Runs a command to its end; what it complained of is the error.
pub(crate) fn run(command: &mut Command) -> io::Result<()> {
    let done = command.output()?;
    if done.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&done.stderr);
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("`{program}` failed: {}", told.trim())))
}
