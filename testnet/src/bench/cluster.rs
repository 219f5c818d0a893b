//! Three real agents on loopback for a benchmark, gone when it ends.
//!
//! The first host offers too little for any task, so that what is submitted
//! there always runs on another one.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How many hosts.
pub(crate) const HOSTS: usize = 3;

/// What the two working hosts offer, in cores.
pub(crate) const CPUS: &str = "4";

/// What the asked host offers: less than the smallest ask.
const CPUS_OF_ASKED: &str = "50m";

/// How long the hosts may take to know each other.
const READY_FOR: Duration = Duration::from_secs(20);

/// A cluster of [`HOSTS`] agents.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: PathBuf,
    starling: PathBuf,
}

impl Cluster {
    /// Starts it.
    pub(crate) fn start(starling: &Path) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("starling-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
        let cluster = Self { dir, starling: starling.to_owned() };
        cluster.run(0, &["up"])?;
        let token = cluster.run(0, &["-q", "invite", "--uses", "8"])?;
        for host in 1..HOSTS {
            cluster.run(host, &["join", token.trim()])?;
        }
        let until = Instant::now() + READY_FOR;
        while !cluster.is_ready()? {
            if Instant::now() > until {
                return Err(io::Error::other("the hosts do not know each other"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(cluster)
    }

    fn is_ready(&self) -> io::Result<bool> {
        let listing = self.run(0, &["--json", "node", "ls"])?;
        let listing: serde_json::Value = serde_json::from_str(&listing)?;
        let nodes = listing["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(nodes.iter().filter(|node| node["free"].is_object()).count() == HOSTS)
    }

    /// `starling WORDS…` on one host.
    pub(crate) fn command(&self, host: usize, words: &[&str]) -> Command {
        let mut command = Command::new(&self.starling);
        command
            .args(words)
            .env("STARLING_DATA", self.dir.join(format!("h{host}")))
            .env("STARLING_NAME", format!("h{host}"))
            .env("STARLING_LISTEN", "127.0.0.1:0")
            .env("STARLING_CPUS", if host == 0 { CPUS_OF_ASKED } else { CPUS })
            .env("STARLING_MEMORY", "2Gi")
            .env_remove("STARLING_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// Runs it; its output, or what it complained of.
    pub(crate) fn run(&self, host: usize, words: &[&str]) -> io::Result<String> {
        let Output { status, stdout, stderr } = self.command(host, words).output()?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&stderr);
        Err(io::Error::other(format!("`starling {}` failed: {}", words.join(" "), told.trim())))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for host in 0..HOSTS {
            // What is left of a host that did not go down is told by the next run's busy ports.
            let _ = self.run(host, &["down", "--stop-tasks"]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
