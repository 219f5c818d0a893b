//! The stage: three hosts' directories and agents, driven as a user would.
//!
//! A host is a directory. Its processes are found by that directory in their
//! command lines and environments, and by descent; they are killed and counted
//! from outside, never by asking the agent that is being judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gossip_core::resources::Resources;
use gossip_core::spec::{JobKind, JobSpec, Program, TaskSpec};
use rand::Rng as _;
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use starling_core::view::{JobView, Listing, NodeView, TaskView};
use tokio::process::Command;

use super::{failed, process};
use crate::api::types::{LogItem, Status, Submission};
use crate::cli::client::{Client, Patience};
use crate::cli::door::Door;
use crate::cli::errors::Failed;

/// How often a condition is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long processes may take to vanish after SIGKILL.
const VANISH_FOR: Duration = Duration::from_secs(5);

/// Three hosts.
#[derive(Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    program: PathBuf,
    mark: String,
}

/// What is submitted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Kept running, so many copies.
    Service(u32),
    /// Run once each.
    Array(u32),
}

impl Stage {
    /// Makes the directory, with a copy of this program that tasks may execute.
    pub(super) fn build() -> Result<Self, Failed> {
        let mark = format!("{:08x}", rand::rng().next_u32());
        let dir = std::env::temp_dir().join(format!("starling-demo-{mark}"));
        let broken = |e: std::io::Error| failed(format!("cannot prepare {}: {e}", dir.display()));
        fs::create_dir_all(&dir).map_err(broken)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).map_err(broken)?;
        let program = dir.join("starling");
        let own = std::env::current_exe().map_err(broken)?;
        fs::copy(own, &program).map_err(broken)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(broken)?;
        Ok(Self { dir, program, mark })
    }

    /// A host's name.
    pub(super) fn name(&self, host: usize) -> String {
        format!("h{}", host + 1)
    }

    fn home(&self, host: usize) -> PathBuf {
        self.dir.join(self.name(host))
    }

    /// A host's local door.
    pub(super) fn door(&self, host: usize) -> Door {
        Door::Unix(self.home(host).join("data/api.sock"))
    }

    async fn command(
        &self,
        host: usize,
        words: &[&str],
        input: Option<&str>,
    ) -> Result<String, Failed> {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("STARLING_DATA", self.home(host).join("data"))
            .env("STARLING_NAME", self.name(host))
            .env_remove("STARLING_SOCKET")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let broken = |e: std::io::Error| failed(format!("cannot run {}: {e}", words.join(" ")));
        let mut child = command.spawn().map_err(broken)?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            use tokio::io::AsyncWriteExt as _;
            pipe.write_all(input.as_bytes()).await.map_err(broken)?;
        }
        let output = child.wait_with_output().await.map_err(broken)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(format!("`starling {}` on {} failed: {told}", words[0], self.name(host))))
    }

    /// `starling up`.
    pub(super) async fn up(&self, host: usize, each: Resources) -> Result<(), Failed> {
        self.begin(host, &["up"], each, None).await
    }

    /// `starling join -`, the token on its standard input.
    pub(super) async fn join(
        &self,
        host: usize,
        each: Resources,
        token: &str,
    ) -> Result<(), Failed> {
        self.begin(host, &["join", "-"], each, Some(token)).await
    }

    async fn begin(
        &self,
        host: usize,
        verb: &[&str],
        each: Resources,
        input: Option<&str>,
    ) -> Result<(), Failed> {
        let (cpus, memory) = (format!("{}m", each.cpu_milli), each.memory_bytes.to_string());
        let mut words = verb.to_vec();
        words.extend(["--listen", "127.0.0.1:0", "--cpus", &cpus, "--memory", &memory]);
        self.command(host, &words, input).await.map(|_printed| ())
    }

    /// `starling invite`.
    pub(super) async fn invite(&self, host: usize, uses: u32) -> Result<String, Failed> {
        let uses = uses.to_string();
        let printed = self.command(host, &["-q", "invite", "--uses", &uses], None).await?;
        Ok(printed.trim().to_owned())
    }

    async fn get<T: DeserializeOwned>(&self, host: usize, path: &str) -> Result<T, Failed> {
        Client::new(self.door(host)).get(path).await?.parse()
    }

    /// Submits through one host's door.
    pub(super) async fn submit(
        &self,
        host: usize,
        name: &str,
        kind: Kind,
        ask: Resources,
        argv: Vec<String>,
    ) -> Result<(), Failed> {
        let (kind, count) = match kind {
            Kind::Service(copies) => (JobKind::Service, copies),
            Kind::Array(tasks) => (JobKind::Batch, tasks),
        };
        let run = Program::process(argv, Some("/".to_owned()));
        let task = TaskSpec {
            env: BTreeMap::from([("STARLING_DEMO".to_owned(), self.mark.clone())]),
            resources: ask,
            stop_grace_ms: 2000,
            ..TaskSpec::of(run)
        };
        let spec = JobSpec::of_task(name.to_owned(), kind, count, task);
        let submission = Submission { spec, key: format!("{name}-{}", self.mark) };
        let mut client = Client::new(self.door(host));
        client.post("/v1/jobs", &submission, Patience::Ordinary).await.map(|_accepted| ())
    }

    /// What the service runs: marked, so that its copies can be counted.
    pub(super) fn service_command(&self) -> Vec<String> {
        vec!["sleep".to_owned(), "86400".to_owned()]
    }

    /// What a task of the array runs.
    pub(super) fn pi_command(&self) -> Vec<String> {
        vec![self.program.display().to_string(), "pi-slice".to_owned()]
    }

    /// How many processes of the service run, by index: counted in the process table.
    pub(super) fn service_copies(&self) -> BTreeMap<u32, u32> {
        let mut copies = BTreeMap::new();
        for process in process::all() {
            if process.argv().first().is_some_and(|program| program == "sleep")
                && process.variable("STARLING_DEMO") == Some(&self.mark)
                && let Some(index) = process.variable("STARLING_INDEX").and_then(|i| i.parse().ok())
            {
                *copies.entry(index).or_default() += 1;
            }
        }
        copies
    }

    /// The first of `hosts` on which both kinds run.
    pub(super) fn host_with_both(&self, hosts: &[usize]) -> Option<usize> {
        let all = process::all();
        let on = |host: usize, job: &str| {
            let name = self.name(host);
            all.iter().any(|process| {
                process.variable("STARLING_DEMO") == Some(&self.mark)
                    && process.variable("STARLING_NODE") == Some(&name)
                    && process.variable("STARLING_JOB") == Some(job)
            })
        };
        hosts.iter().copied().find(|host| on(*host, "web") && on(*host, "pi"))
    }

    /// How many hosts one host hears.
    pub(super) async fn ready_nodes(&self, host: usize) -> Result<usize, Failed> {
        let nodes: Listing<NodeView> = self.get(host, "/v1/nodes").await?;
        let ready = nodes.items.iter().filter(|node| node.state == "ready" && node.free.is_some());
        Ok(ready.count())
    }

    /// A job, as one host sees it.
    pub(super) async fn job(&self, host: usize, job: &str) -> Result<JobView, Failed> {
        self.get(host, &format!("/v1/jobs/{job}")).await
    }

    async fn tasks(&self, host: usize, job: &str) -> Result<Vec<TaskView>, Failed> {
        let tasks: Listing<TaskView> = self.get(host, &format!("/v1/tasks?job={job}")).await?;
        Ok(tasks.items)
    }

    /// Claims of a job, by index, as one host sees them.
    pub(super) async fn claims(
        &self,
        host: usize,
        job: &str,
    ) -> Result<BTreeMap<u32, u32>, Failed> {
        let mut claims = BTreeMap::new();
        for task in self.tasks(host, job).await?.iter().filter(|task| task.node.is_some()) {
            *claims.entry(task.slot.index).or_default() += 1;
        }
        Ok(claims)
    }

    /// Which copies run on a host, as another sees it.
    pub(super) async fn indices_on(
        &self,
        asked: usize,
        host: usize,
        job: &str,
    ) -> Result<BTreeSet<u32>, Failed> {
        let name = self.name(host);
        let tasks = self.tasks(asked, job).await?;
        Ok(tasks.iter().filter(|t| t.node_name == name).map(|t| t.slot.index).collect())
    }

    /// Whether every task of a job that a dead host claims is claimed by another
    /// host or done, as one host sees it.
    pub(super) async fn nothing_left_on(
        &self,
        asked: usize,
        dead: usize,
        job: &str,
    ) -> Result<bool, Failed> {
        let name = self.name(dead);
        let tasks = self.tasks(asked, job).await?;
        let by = |of_dead: bool| -> BTreeSet<u32> {
            let claimed =
                tasks.iter().filter(|t| t.node.is_some() && (t.node_name == name) == of_dead);
            claimed.map(|t| t.slot.index).collect()
        };
        let open: BTreeSet<u32> = by(true).difference(&by(false)).copied().collect();
        let done: Listing<TaskView> =
            self.get(asked, &format!("/v1/tasks?all=true&job={job}")).await?;
        let ended: BTreeSet<u32> =
            done.items.iter().filter(|t| t.exit_code == Some(0)).map(|t| t.slot.index).collect();
        Ok(open.is_subset(&ended))
    }

    /// The output of one task, whole.
    pub(super) async fn logs(&self, host: usize, task: &str) -> Result<String, Failed> {
        let mut lines =
            Client::new(self.door(host)).stream(&format!("/v1/jobs/{task}/logs")).await?;
        let mut text = String::new();
        while let Some(line) = lines.next().await? {
            if let Ok(LogItem::Output { data, .. }) = serde_json::from_slice(&line)
                && let Ok(bytes) = data_encoding::BASE64.decode(data.as_bytes())
            {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        Ok(text)
    }

    fn home_text(&self, host: usize) -> String {
        self.home(host).display().to_string()
    }

    /// SIGKILL to everything of a host; answers how many processes that was.
    pub(super) fn kill(&self, host: usize) -> Result<usize, Failed> {
        self.kill_all_of(&self.home_text(host))
    }

    fn kill_all_of(&self, text: &str) -> Result<usize, Failed> {
        let mut killed = BTreeSet::new();
        let until = Instant::now() + VANISH_FOR;
        loop {
            let alive = process::of(text);
            if alive.is_empty() {
                return Ok(killed.len());
            }
            if Instant::now() > until {
                return Err(failed(format!("{} processes survive SIGKILL", alive.len())));
            }
            for pid in alive {
                process::signal(pid, Signal::KILL);
                killed.insert(pid);
            }
            std::thread::yield_now();
        }
    }

    async fn agent(&self, host: usize) -> Result<i32, Failed> {
        let status: Status = self.get(host, "/v1/status").await?;
        i32::try_from(status.pid).map_err(|_absurd| failed("an absurd process id"))
    }

    fn agent_of(&self, host: usize) -> Result<i32, Failed> {
        let name = self.home(host).join("data/agent.pid");
        let text = fs::read_to_string(name).ok().and_then(|text| text.trim().parse().ok());
        text.ok_or_else(|| failed(format!("{} has no agent", self.name(host))))
    }

    /// SIGSTOP to a host's agent alone.
    pub(super) async fn pause(&self, host: usize) -> Result<(), Failed> {
        let pid = self.agent(host).await?;
        let noted = fs::write(self.home(host).join("data/agent.pid"), pid.to_string());
        noted.map_err(|e| failed(format!("cannot note a process id: {e}")))?;
        process::signal(pid, Signal::STOP);
        Ok(())
    }

    /// SIGCONT to it.
    pub(super) fn resume(&self, host: usize) -> Result<(), Failed> {
        process::signal(self.agent_of(host)?, Signal::CONT);
        Ok(())
    }

    /// Looks until a condition holds; failing to ask counts as not yet.
    pub(super) async fn until(
        &mut self,
        limit: Duration,
        what: &str,
        mut holds: impl AsyncFnMut(&mut Self) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let until = Instant::now() + limit;
        loop {
            match holds(self).await {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < until => {}
                Ok(false) => {
                    return Err(failed(format!("not within {} s: {what}", limit.as_secs())));
                }
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_not_yet) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes everything down and removes it, whatever state it is in.
    pub(super) async fn strike(&mut self) -> Result<(), Failed> {
        for host in 0..3 {
            if let Ok(pid) = self.agent_of(host) {
                process::signal(pid, Signal::CONT);
            }
            if let Err(error) = self.command(host, &["down", "--stop-tasks"], None).await {
                tracing::debug!(?error, "an agent did not go down by itself");
            }
        }
        let left = self.kill_all_of(&self.dir.display().to_string())?;
        if left > 0 {
            tracing::debug!(left, "processes had to be killed");
        }
        fs::remove_dir_all(&self.dir)
            .map_err(|e| failed(format!("cannot remove {}: {e}", self.dir.display())))
    }
}
