//! The programs that ours is measured against, and the small process that calls them.
//!
//! crun, runc and bubblewrap come from the distribution, and get the same task: a
//! static `true` in every namespace, over an overlay. What is in each peer's time:
//! its own start, the overlay's mount and unmount, and for crun and runc cgroups
//! with limits on memory and processes, the filter, masks and read-only paths.
//! What is not: writing the bundle, and for bubblewrap, which has neither, the
//! cgroups and the filter.
//!
//! Must never leave a mount or a cgroup: mounts are the spawner's own and end with it.

mod spec;

pub(crate) use spec::{MEMORY_BYTES, PIDS};

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::json;
use testnet::program::Tiny;

/// Bundles: so many runs are in flight at most.
pub(crate) const SLOTS: u32 = 8;

/// What each peer is called, and its package.
pub(crate) const PACKAGES: [&str; 4] = ["crun", "runc", "bubblewrap", "busybox-static"];

/// Where a container of a peer's has a file system of its own, so a directory must be.
const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "sys"];

/// A program to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Floor,
    Spawned,
    Bare,
    Bubblewrap,
    Crun,
    Runc,
}

impl Peer {
    pub(crate) const ALL: [Self; 6] =
        [Self::Floor, Self::Spawned, Self::Bare, Self::Bubblewrap, Self::Crun, Self::Runc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "fork+exec+wait",
            Self::Spawned => "posix_spawn+wait",
            Self::Bare => "bare clone3 program",
            Self::Bubblewrap => "bubblewrap",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Floor | Self::Spawned | Self::Bare => None,
            Self::Bubblewrap => Some("bwrap"),
            Self::Crun => Some("crun"),
            Self::Runc => Some("runc"),
        }
    }

    /// Whether it can be run here.
    pub(crate) fn is_installed(self) -> bool {
        self.program().is_none_or(|program| {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
        })
    }
}

/// Installs peers with the distribution's own tool.
pub(crate) fn install(packages: &[&str]) -> io::Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "install", "-y", "--no-install-recommends"]).args(packages);
    let status = command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("apt-get cannot install the peers"))
    }
}

/// How long runs took.
#[derive(Debug, Deserialize)]
pub(crate) struct Times {
    pub(crate) each_ns: Vec<u64>,
    pub(crate) total_ns: u64,
}

/// The small process, and what it starts.
#[derive(Debug)]
pub(crate) struct Spawner {
    child: Child,
    /// None once it was told to leave.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    dir: PathBuf,
    bare: PathBuf,
}

impl Spawner {
    /// Starts it, with bundles for all peers in a directory of its own.
    pub(crate) fn start(dir: &Path) -> io::Result<Self> {
        prepare(dir)?;
        let bare = testnet::program::build("bare")?;
        let mut command = Command::new(testnet::program::build("spawner")?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let gone = || io::Error::other("the spawner has no pipes");
        let orders = Some(child.stdin.take().ok_or_else(gone)?);
        let answers = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        Ok(Self { child, orders, answers, dir: dir.to_owned(), bare })
    }

    /// Runs a peer so often, so many at once, each a `true`.
    pub(crate) fn run(&mut self, peer: Peer, runs: u32, at_once: u32) -> io::Result<Times> {
        let slot = format!("{}/slot{{slot}}", self.dir.display());
        let (argv, is_container) = match peer {
            Peer::Floor | Peer::Spawned => (vec![self.noop()], false),
            Peer::Bare => {
                (vec![self.bare.display().to_string(), format!("{slot}/m"), "/noop".into()], true)
            }
            Peer::Bubblewrap => (bubblewrap(&slot), true),
            Peer::Crun | Peer::Runc => {
                let program = peer.program().unwrap_or_default();
                (words(&[program, "run", "--bundle", &slot, "bench-{id}"]), true)
            }
        };
        let overlay = is_container.then_some(slot);
        let how = if peer == Peer::Floor { "fork" } else { "spawn" };
        self.ask(&json!({
            "runs": runs, "at_once": at_once, "argv": argv, "how": how, "overlay": overlay,
        }))
    }

    /// `xargs -P8` over so many.
    pub(crate) fn xargs(&mut self, runs: u32) -> io::Result<Times> {
        let line = format!("seq {runs} | xargs -P8 -n1 {}", self.noop());
        let argv = words(&["sh", "-c", &line]);
        self.ask(&json!({"runs": 1, "at_once": 1, "argv": argv, "how": "spawn", "overlay": null}))
    }

    fn noop(&self) -> String {
        self.dir.join("root/noop").display().to_string()
    }

    fn ask(&mut self, request: &serde_json::Value) -> io::Result<Times> {
        let gone = || io::Error::other("the spawner is gone");
        writeln!(self.orders.as_mut().ok_or_else(gone)?, "{request}")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(gone());
        }
        serde_json::from_str(&line).map_err(|_told| io::Error::other(line.trim().to_owned()))
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.orders.take());
        // It leaves at the end of its orders, and its mounts with it.
        let _ = self.child.wait();
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn bubblewrap(slot: &str) -> Vec<String> {
    let root = format!("{slot}/m");
    words(&[
        "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "0",
        "--gid",
        "0",
        "--bind",
        &root,
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/dev/shm",
        "--",
        "/noop",
    ])
}

/// `root`, the files of all containers, and a bundle per slot.
fn prepare(dir: &Path) -> io::Result<()> {
    let root = dir.join("root");
    for name in MOUNT_POINTS {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(testnet::program::build("true")?, root.join("noop"))?;
    Tiny::Sleeper.write(&root.join("sleeper"))?;
    for slot in 0..SLOTS {
        let bundle = dir.join(format!("slot{slot}"));
        for name in ["u", "w", "m"] {
            fs::create_dir_all(bundle.join(name))?;
        }
        std::os::unix::fs::symlink(&root, bundle.join("l"))?;
        // The range of ids that is root in the container must own what it changes.
        std::os::unix::fs::chown(bundle.join("u"), Some(spec::FIRST_ID), Some(spec::FIRST_ID))?;
        let text = serde_json::to_vec_pretty(&spec::config())?;
        fs::write(bundle.join("config.json"), text)?;
    }
    Ok(())
}
