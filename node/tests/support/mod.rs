//! Hosts for tests: directories with the shipped binary in them, driven as users do.
//!
//! A host listens on a loopback port that the system chooses. When it is
//! dropped everything of it is killed and its directory removed, whatever
//! state the test left it in.

pub(crate) mod terminal;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a busy machine; nothing waits this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One host.
pub(crate) struct Host {
    home: tempfile::TempDir,
    name: String,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Told {
    /// The output of a command that must have worked.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "it failed: {self:?}");
        self.out
    }
}

impl Host {
    /// A host that is not up yet.
    pub(crate) fn new(name: &str) -> Self {
        let home =
            tempfile::Builder::new().prefix("starling-test-").tempdir().expect("a directory");
        // Tasks of a root agent run as somebody else.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        Self { home, name: name.to_owned() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// `starling WORDS…` for this host.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
        command
            .args(words)
            .env("STARLING_DATA", self.data())
            .env("STARLING_NAME", &self.name)
            .env("STARLING_LISTEN", "127.0.0.1:0")
            .env("STARLING_CPUS", "1")
            .env("STARLING_MEMORY", "1Gi")
            .env_remove("STARLING_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Told {
        self.command(words).output().expect("the binary runs").into()
    }

    /// Founds a cluster, or comes back.
    pub(crate) fn up(&self) {
        self.run(&["up"]).ok();
    }

    /// A token that this host issues.
    pub(crate) fn invite(&self, uses: u32) -> String {
        let uses = uses.to_string();
        self.run(&["-q", "invite", "--uses", &uses]).ok().trim().to_owned()
    }

    /// Joins with a token.
    pub(crate) fn join(&self, token: &str) {
        self.run(&["join", token]).ok();
    }

    /// What `--json` says.
    pub(crate) fn json(&self, words: &[&str]) -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend(words);
        serde_json::from_str(&self.run(&all).ok()).expect("JSON")
    }

    /// The agent's process.
    pub(crate) fn agent(&self) -> i32 {
        let pid = self.json(&["status"])["pid"].as_i64().expect("a process id");
        i32::try_from(pid).expect("a process id")
    }

    /// Kills the agent alone, as a crash would.
    pub(crate) fn crash_agent(&self) {
        let pid = self.agent();
        kill(pid, "KILL");
        until("the agent is gone", || !is_alive(pid));
    }

    /// Kills everything of this host, as a power cut would.
    pub(crate) fn kill_all(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let alive = processes_of(self.home.path());
            if alive.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "processes survive SIGKILL: {alive:?}");
            for pid in alive {
                kill(pid, "KILL");
            }
        }
    }

    /// `(task, node, state)` of every listed task of a job.
    pub(crate) fn tasks(&self, job: &str) -> Vec<(String, String, String)> {
        let told = self.run(&["--json", "ps", job]);
        let Ok(listing) = serde_json::from_str::<serde_json::Value>(&told.out) else {
            return Vec::new();
        };
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let items = listing["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| (text(&item["task"]), text(&item["node_name"]), text(&item["state"])))
            .collect()
    }

    /// How many tasks of a job run.
    pub(crate) fn running(&self, job: &str) -> usize {
        self.tasks(job).iter().filter(|(_, _, state)| state == "running").count()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in processes_of(self.home.path()) {
            kill(pid, "CONT");
        }
        self.kill_all();
    }
}

/// Hosts that know each other, the first being the founder.
pub(crate) fn cluster(count: usize) -> Vec<Host> {
    let hosts: Vec<_> = (1..=count).map(|n| Host::new(&format!("h{n}"))).collect();
    hosts[0].up();
    let token = hosts[0].invite(u32::try_from(count).expect("few"));
    for host in &hosts[1..] {
        host.join(&token);
    }
    until("all hosts know each other", || {
        hosts.iter().all(|host| {
            let nodes = host.json(&["node", "ls"]);
            let items = nodes["items"].as_array().cloned().unwrap_or_default();
            items.len() == count && items.iter().all(|node| node["free"].is_object())
        })
    });
    hosts
}

/// Looks until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

pub(crate) fn kill(pid: i32, signal: &str) {
    let signal = match signal {
        "STOP" => rustix::process::Signal::STOP,
        "CONT" => rustix::process::Signal::CONT,
        _ => rustix::process::Signal::KILL,
    };
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process exists and is not merely waiting to be collected.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Living processes that mention a directory, and their descendants.
pub(crate) fn processes_of(home: &Path) -> BTreeSet<i32> {
    let home = home.to_str().expect("a plain path").as_bytes();
    let all: Vec<i32> = fs::read_dir("/proc")
        .expect("procfs")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_alive(*pid) && *pid != i32::try_from(std::process::id()).unwrap_or(0))
        .collect();
    let mentions = |pid: &i32| {
        ["cmdline", "environ"].iter().any(|file| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(home.len()).any(|window| window == home)
        })
    };
    let mut found: BTreeSet<i32> = all.iter().copied().filter(mentions).collect();
    loop {
        let more: Vec<i32> = all
            .iter()
            .copied()
            .filter(|pid| !found.contains(pid) && parent(*pid).is_some_and(|p| found.contains(&p)))
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}
