//! Podman, Docker and a registry: what people would use instead, from the distribution.
//!
//! Each keeps its state below the benchmark's directory. Podman and Docker refuse hosts with
//! both versions of cgroups, so they see only the first, in a mount namespace of their own.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::sample::run;

/// Their packages.
pub(crate) const PACKAGES: [&str; 4] = ["podman", "docker-registry", "docker.io", "crun"];

/// How long a server may take to answer.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// Hides the second version of cgroups where both are mounted, then becomes the command.
const WITHOUT_V2: &str =
    "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec \"$@\"";

/// Whether a program can be found.
pub(crate) fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

fn confined(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", WITHOUT_V2, "sh"]).arg(program).stdin(Stdio::null());
    command
}

/// Podman with a storage of its own.
#[derive(Debug)]
pub(crate) struct Podman {
    dir: PathBuf,
}

impl Podman {
    pub(crate) fn new(dir: &Path) -> io::Result<Option<Self>> {
        if !is_installed("podman") {
            return Ok(None);
        }
        let dir = dir.join("podman");
        fs::create_dir_all(&dir)?;
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(dir.join("policy.json"), policy)?;
        let podman = Self { dir };
        // It makes its directories at the first call.
        run(&mut podman.command(&["images", "-q"]))?;
        runtime::move_apart(fs::File::open(podman.dir.join("root/overlay"))?.as_fd());
        Ok(Some(podman))
    }

    /// `podman WORDS…`.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.dir.join("root"));
        command.arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// `podman load` or `pull`, whatever the host's policy says.
    pub(crate) fn fetching(&self, words: &[&str]) -> Command {
        let [verb, rest @ ..] = words else { return self.command(words) };
        let mut command = self.command(&[verb, "--signature-policy"]);
        command.arg(self.dir.join("policy.json")).args(rest);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // It knows how to unmount what it mounted; what stays is below our directory.
        let _ = run(&mut self.command(&["system", "reset", "--force"]));
    }
}

/// A registry on loopback.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
}

impl Registry {
    pub(crate) fn start(dir: &Path) -> io::Result<Option<Self>> {
        if !is_installed("docker-registry") {
            return Ok(None);
        }
        let dir = dir.join("registry");
        fs::create_dir_all(&dir)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n",
            dir.display()
        );
        let file = dir.join("config.yml");
        fs::write(&file, config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let registry = Self { child, port };
        wait("the registry", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(Some(registry))
    }

    /// The name of an image there.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Docker's engine, with its state in our directory and no network.
#[derive(Debug)]
pub(crate) struct Docker {
    child: Child,
    socket: String,
    /// Why it does not run containers here, if it does not.
    pub(crate) broken: Option<String>,
}

impl Docker {
    pub(crate) fn start(dir: &Path) -> io::Result<Option<Self>> {
        if !is_installed("dockerd") || !is_installed("docker") {
            return Ok(None);
        }
        let dir = dir.join("docker");
        fs::create_dir_all(&dir)?;
        let socket = format!("unix://{}", dir.join("docker.sock").display());
        let log = fs::File::create(dir.join("log"))?;
        let mut command = confined(Path::new("dockerd"));
        command.arg("-H").arg(&socket).arg("--data-root").arg(dir.join("data"));
        command.arg("--exec-root").arg(dir.join("exec"));
        command.arg("--pidfile").arg(dir.join("pid"));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut docker = Self { child, socket, broken: None };
        let up = wait("dockerd", || run(&mut docker.command(&["version"])).is_ok());
        docker.broken = up.err().map(|error| error.to_string());
        Ok(Some(docker))
    }

    /// `docker WORDS…`.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket]).args(words).stdin(Stdio::null());
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM lets it unmount; `unshare` became the shell, and that became dockerd.
        let _ = run(Command::new("kill").arg(self.child.id().to_string()));
        let _ = self.child.wait();
    }
}

fn wait(what: &str, mut is_up: impl FnMut() -> bool) -> io::Result<()> {
    let until = Instant::now() + UP_WITHIN;
    while !is_up() {
        if Instant::now() > until {
            return Err(io::Error::other(format!("{what} does not answer")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
