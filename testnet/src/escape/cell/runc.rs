//! Payloads in containers of an old runc, as `runc spec` makes them for root.
//!
//! No user namespace and no filter, and inheritable capabilities, as specs had them
//! until 2022: what that lets happen is what rows must see.
//! Limits are set where a payload would otherwise harm the host.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Ask, Files, Running, Streams, Told};

/// How long a payload may run.
const END_WITHIN: Duration = Duration::from_secs(60);

/// How long runc may take to make a container.
const START_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// runc, and what it runs.
#[derive(Debug)]
pub struct Runc {
    dir: PathBuf,
    program: PathBuf,
    next: u32,
    running: Vec<(String, Child)>,
}

impl Runc {
    /// runc in this directory, if it is installed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&paths)
            .map(|path| path.join("runc"))
            .find(|path| path.is_file())
            .ok_or_else(|| io::Error::other("runc is not installed: apt-get install runc"))?;
        Ok(Self { dir: dir.to_owned(), program, next: 0, running: Vec::new() })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.dir.join("state"));
        command
    }

    pub(super) fn start(&mut self, ask: &Ask) -> io::Result<Result<Running, String>> {
        let Some(Files::Directory(root)) = &ask.files else {
            return Ok(Err("runc runs directories only".to_owned()));
        };
        if ask.streams == Streams::Terminal {
            return Ok(Err("runc's terminals need a console socket".to_owned()));
        }
        self.next += 1;
        let id = format!("escape-{}-{}", std::process::id(), self.next);
        let bundle = self.dir.join(&id);
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), config(ask, root).to_string())?;
        let out = File::create(bundle.join("out"))?;
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(&bundle).arg("--pid-file").arg(bundle.join("pid"));
        command.arg(&id).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut child = command.spawn()?;
        let until = Instant::now() + START_WITHIN;
        loop {
            let pid = fs::read_to_string(bundle.join("pid")).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse() {
                self.running.push((id.clone(), child));
                return Ok(Ok(Running { pid, id }));
            }
            if child.try_wait()?.is_some() || Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                let _ = self.command().args(["delete", "--force", &id]).output();
                let told = fs::read_to_string(bundle.join("out")).unwrap_or_default();
                return Ok(Err(told.trim().to_owned()));
            }
            sleep(LOOK_AGAIN);
        }
    }

    pub(super) fn wait(&mut self, running: &Running) -> io::Result<Told> {
        let at = self.running.iter().position(|(id, _)| *id == running.id);
        let (_, mut child) =
            at.map(|at| self.running.remove(at)).ok_or_else(|| io::Error::other("not running"))?;
        let until = Instant::now() + END_WITHIN;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                let _ = self.command().args(["delete", "--force", &running.id]).output();
                let _ = child.wait();
                return Err(io::Error::other(format!("{} does not end", running.id)));
            }
            sleep(LOOK_AGAIN);
        };
        let lines = self.so_far(running)?;
        let _ = self.command().args(["delete", "--force", &running.id]).output();
        fs::remove_dir_all(self.dir.join(&running.id))?;
        Ok(Told { refused: None, lines, end: status.to_string() })
    }

    pub(super) fn so_far(&mut self, running: &Running) -> io::Result<Vec<String>> {
        let text = fs::read(self.dir.join(&running.id).join("out"))?;
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    pub(super) fn exec(
        &mut self,
        running: &Running,
        argv: &[&str],
        directory: Option<&str>,
    ) -> io::Result<Told> {
        let mut command = self.command();
        command.arg("exec");
        if let Some(directory) = directory {
            command.arg("--cwd").arg(directory);
        }
        let output = command.arg(&running.id).args(argv).stdin(Stdio::null()).output()?;
        let failure = String::from_utf8_lossy(&output.stderr).into_owned();
        if failure.contains("exec failed") {
            return Ok(Told { refused: Some(failure), ..Told::default() });
        }
        let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        Ok(Told { refused: None, lines, end: output.status.to_string() })
    }

    pub(super) fn stop(&mut self, running: &Running) -> io::Result<()> {
        self.command().args(["kill", &running.id, "TERM"]).output()?;
        sleep(Duration::from_secs(1));
        // It may have ended by itself.
        self.command().args(["kill", &running.id, "KILL"]).output().map(drop)
    }
}

fn config(ask: &Ask, root: &Path) -> Value {
    let few = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let ids: Vec<u64> = ask.user.split(':').map(|id| id.parse().unwrap_or(0)).collect();
    let env: Vec<_> = ask.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if !ask.host_network {
        kinds.push("network");
    }
    let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": ids.first().unwrap_or(&0), "gid": ids.get(1).unwrap_or(&0)},
            "args": ask.argv,
            "env": env,
            "cwd": ask.directory.as_deref().unwrap_or("/"),
            "capabilities": {
                "bounding": few, "effective": few, "permitted": few, "inheritable": few, "ambient": few,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": root, "readonly": false},
        "hostname": "runc",
        "mounts": mounts(ask),
        "linux": {
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": ask.memory},
                "pids": {"limit": ask.pids},
            },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

fn mounts(ask: &Ask) -> Vec<Value> {
    let mount = |to: &str, kind: &str, options: &[&str]| {
        json!({
            "destination": to, "type": kind, "source": kind, "options": options,
        })
    };
    let mut mounts = vec![
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    for (source, target) in &ask.binds {
        mounts.push(json!({
            "destination": target, "type": "bind", "source": source, "options": ["rbind", "rw"],
        }));
    }
    for target in &ask.tmpfs {
        mounts.push(mount(target, "tmpfs", &["size=8m", "mode=1777"]));
    }
    mounts
}
