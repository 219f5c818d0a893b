//! The image that is loaded, pulled and run: made from Debian packages, so that its files
//! are many and real.
//!
//! Packages are fetched once and kept. The archive is what `docker save` wrote for years:
//! a config, a tar for each layer, `manifest.json`.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use gossip_core::id::ContentHash;
use serde_json::json;

/// What people call the image of several layers.
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

/// The packages of the image that has one layer of some 200 MB.
const ONE_LAYER: &[&str] = &["busybox-static", "golang-1.19-src", "gcc-12", "perl-modules-5.36"];

/// The file that is another one in each version of that image, and its size.
const CHANGED: (&str, usize) = ("srv/changed", 5_000_000);

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
    /// The large image, made in a directory from packages kept in another.
    pub(crate) fn large(dir: &Path, kept: &Path) -> io::Result<Self> {
        let made = Self::make(dir, kept, NAME, &LAYERS, |_tree| Ok(()))?;
        if made.bytes < BYTES_MIN {
            return Err(io::Error::other(format!("the image has only {} bytes", made.bytes)));
        }
        Ok(made)
    }

    /// A version of the image of one layer: all the same but for one file.
    pub(crate) fn version(dir: &Path, kept: &Path, version: u8) -> io::Result<Self> {
        let dir = dir.join(format!("version{version}"));
        Self::make(&dir, kept, &version_name(version), &[ONE_LAYER], |tree| {
            let (file, bytes) = CHANGED;
            let file = tree.join(file);
            fs::create_dir_all(file.parent().unwrap_or(tree))?;
            fs::write(file, noise(version, bytes))
        })
    }

    fn make(
        dir: &Path,
        kept: &Path,
        name: &str,
        layers: &[&[&str]],
        change: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        fs::create_dir_all(kept)?;
        let stage = dir.join("save");
        fs::create_dir_all(&stage)?;
        let mut files = Vec::new();
        for (at, packages) in layers.iter().enumerate() {
            let tree = dir.join(format!("tree{at}"));
            for package in *packages {
                unpack(package, kept, &tree)?;
            }
            if at == 0 {
                std::os::unix::fs::symlink("busybox", tree.join("bin/true"))?;
                std::os::unix::fs::symlink("busybox", tree.join("bin/sleep"))?;
                change(&tree)?;
            }
            let layer = stage.join(format!("{at}.tar"));
            tar(&tree, &layer, &["."])?;
            fs::remove_dir_all(&tree)?;
            files.push(layer);
        }
        let archive = dir.join("image.tar");
        describe(&stage, name, &files)?;
        let mut names = vec!["config.json".to_owned(), "manifest.json".to_owned()];
        names.extend((0..layers.len()).map(|at| format!("{at}.tar")));
        tar(&stage, &archive, &names)?;
        let bytes = fs::metadata(&archive)?.len();
        Ok(Self { archive, layers: files, bytes })
    }
}

/// What people call a version of the image of one layer.
pub(crate) fn version_name(version: u8) -> String {
    format!("starling-bench-one:{version}")
}

/// Bytes that nothing can pack, the same for the same seed: an xorshift's.
fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 0x9e37_79b9_7f4a_7c15;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| word()).take(bytes).collect()
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
fn tar<S: AsRef<OsStr>>(dir: &Path, to: &Path, names: &[S]) -> io::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--numeric-owner", "--mtime=@0", "-cf"]).arg(to);
    run(command.arg("-C").arg(dir).args(names))
}

/// Writes the config and the manifest.
fn describe(stage: &Path, name: &str, layers: &[PathBuf]) -> io::Result<()> {
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
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]);
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
