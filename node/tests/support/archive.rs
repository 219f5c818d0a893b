//! Archives of images as `docker save` writes them, made of this machine's own programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gossip_core::id::ContentHash;

use crate::image;

/// What an image says of itself, and how large it is.
pub(crate) struct Recipe<'a> {
    /// What it is called.
    pub(crate) name: &'a str,
    /// The config's `config`, as JSON.
    pub(crate) says: &'a str,
    /// What `/etc/motd` of its last layer says.
    pub(crate) motd: &'a str,
    /// Bytes that nothing can pack, in a layer between.
    pub(crate) noise: usize,
    /// What it says that it is made for, if not for this machine.
    pub(crate) architecture: Option<&'a str>,
}

impl Recipe<'_> {
    /// A small one of this name.
    pub(crate) fn small(name: &str) -> Recipe<'_> {
        let says = r#"{"Env":["GREETING=hello","PATH=/bin"],"Cmd":["sh","-c","cat /etc/motd"]}"#;
        Recipe { name, says, motd: "of the image\n", noise: 0, architecture: None }
    }

    /// Writes the archive into a directory that it makes; answers the archive and the id.
    pub(crate) fn make(&self, dir: &Path) -> (PathBuf, String) {
        let stage = dir.join("stage");
        fs::create_dir_all(&stage).expect("a directory");
        let mut layers = Vec::new();
        let mut layer = |fill: &dyn Fn(&Path)| {
            let tree = dir.join("tree");
            fill(&tree);
            let name = format!("{}.tar", layers.len());
            tar(&tree, &stage.join(&name), &["."]);
            fs::remove_dir_all(&tree).expect("removed");
            layers.push(name);
        };
        layer(&image::make);
        layer(&|tree| {
            fs::create_dir_all(tree.join("srv")).expect("a directory");
            fs::write(tree.join("srv/noise"), noise(self.motd, self.noise)).expect("written");
        });
        layer(&|tree| {
            fs::create_dir_all(tree.join("etc")).expect("a directory");
            fs::write(tree.join("etc/motd"), self.motd).expect("written");
        });
        let id = self.describe(&stage, &layers);
        let archive = dir.join("image.tar");
        let mut names = vec!["manifest.json", "config.json"];
        names.extend(layers.iter().map(String::as_str));
        tar(&stage, &archive, &names);
        fs::remove_dir_all(&stage).expect("removed");
        (archive, id)
    }

    fn describe(&self, stage: &Path, layers: &[String]) -> String {
        let diff_id = |name: &String| {
            let bytes = fs::read(stage.join(name)).expect("readable");
            format!("sha256:{}", ContentHash::of(&bytes))
        };
        let says: serde_json::Value = serde_json::from_str(self.says).expect("JSON");
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::json!({
            "architecture": self.architecture.unwrap_or(architecture),
            "os": "linux",
            "config": says,
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(diff_id).collect::<Vec<_>>(),
            },
        });
        let config = config.to_string();
        let manifest = serde_json::json!([
            { "Config": "config.json", "RepoTags": [self.name], "Layers": layers }
        ]);
        fs::write(stage.join("config.json"), &config).expect("written");
        fs::write(stage.join("manifest.json"), manifest.to_string()).expect("written");
        ContentHash::of(config.as_bytes()).to_string()
    }
}

fn tar(of: &Path, to: &Path, names: &[&str]) {
    let mut command = Command::new("tar");
    command.arg("-C").arg(of).arg("-cf").arg(to).args(names);
    assert!(command.status().expect("tar runs").success());
}

/// An xorshift's bytes, other ones for each seed.
fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut state = seed
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15, |sum: u64, byte| sum.rotate_left(7) ^ u64::from(byte));
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| word()).take(bytes).collect()
}
