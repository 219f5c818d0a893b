//! The tables of steps, and what must hold after a murder at any of them: the task can
//! be stopped and removed by the next agent, and nothing is left of it.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use runtime::{FoundState, Launch, Mount, Network, Protocol, Publish};
use rustix::process::geteuid;
use rustix::thread::gettid;
use tokio::runtime::{Builder, Runtime as Tokio};

use crate::census::{self, Census};
use crate::hosts;
use crate::image::{Image, root_user};
use crate::stage::{Stage, id, script, until};
use crate::tracer::{Murder, ROLES, Role, Seen, follow};

/// Steps of each role and kind of task that `cargo test` tries.
const SAMPLE: u64 = 2;

/// One whose children flee from it, and which does not stop when it is told.
const SCRIPT: &str = "trap '' TERM; echo hi; setsid sleep 600 & sleep 600 & wait; sleep 600";

/// In the data directory for as long as it is there: an empty store of images, too.
const KEPT: [&str; 10] = [
    "agent.lock",
    "groups.json",
    "images",
    "images/images",
    "images/layers",
    "images/parts",
    "images/version",
    runtime::KEEPER_LOCK,
    "keeper.log",
    "tasks",
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Process,
    /// With everything that leaves something on its host.
    Container,
    /// After others, so that its process was made before its order.
    Ahead,
}

/// Where one kind of task is launched again and again.
struct Ground {
    kind: Kind,
    /// Outlives the runtimes; holds the image.
    home: Stage,
    image: Option<Image>,
}

impl Ground {
    async fn new(kind: Kind) -> Self {
        let home = Stage::set().await;
        let image = (!matches!(kind, Kind::Process)).then(|| Image::of(&home));
        Self { kind, home, image }
    }

    fn launch(&self, mark: &Path) -> Launch {
        let mut launch = match &self.image {
            None => script("t", SCRIPT),
            Some(image) if matches!(self.kind, Kind::Ahead) => image.script("t", SCRIPT, |_| {}),
            Some(image) => image.script("t", SCRIPT, |container| {
                let port =
                    Publish { host_ip: None, host_port: 8080, port: 80, protocol: Protocol::Tcp };
                container.network = Network::Bridge { publish: vec![port] };
                container.mounts.push(Mount::Volume {
                    name: "data".into(),
                    target: "/data".into(),
                    access: runtime::Access::Write,
                });
            }),
        };
        launch.limits.pids_max = Some(64);
        launch.limits.memory_max = Some(64 << 20);
        launch.env.insert("MARK".into(), mark.display().to_string());
        launch
    }

    /// What is launched before it.
    fn first(&self, mark: &Path) -> Option<Launch> {
        let mut first = self.launch(mark);
        first.id = id("first");
        first.argv = ["/bin/true".to_owned()].into();
        matches!(self.kind, Kind::Ahead).then_some(first)
    }

    fn has_network(&self) -> bool {
        matches!(self.kind, Kind::Container)
    }
}

/// Runs on a thread of its own, and for containers on a host of its own.
fn on_ground(kind: Kind, test: impl FnOnce(&Tokio, &Ground) + Send) {
    let body = || {
        let tokio = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ground = tokio.block_on(Ground::new(kind));
        test(&tokio, &ground);
        // Its home must not outlive what it is driven by.
        tokio.block_on(async { drop(ground) });
    };
    match kind {
        Kind::Process | Kind::Ahead => body(),
        Kind::Container => hosts::on_a_host(body),
    }
}

/// An agent in a process of its own.
fn agent(dir: &Path, launches: &[PathBuf]) -> Child {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_keeper-for-tests"));
    agent.arg("agent").arg(dir).args(launches);
    agent.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    agent.spawn().expect("an agent")
}

/// Launches and stops one task, with a murder on the way, and judges what is left.
async fn one(ground: &Ground, murder: Option<Murder>) -> Seen {
    let dir = tempfile::Builder::new().prefix("starling-steps-").tempdir().expect("a directory");
    let path = dir.path().canonicalize().expect("a path");
    let launches = [Some(ground.launch(&path)), ground.first(&path)].into_iter().flatten();
    let written = launches.enumerate().map(|(at, launch)| {
        let file = ground.home.path().join(format!("launch-{at}.json"));
        let text = serde_json::to_vec(&launch).expect("text");
        std::fs::write(&file, text).expect("written");
        file
    });
    let launches: Vec<_> = written.collect();
    let before = Census::of(&path, ground.has_network());
    let mut agent = agent(&path, &launches);
    let (pid, mut stdin) = (i32::try_from(agent.id()).expect("a pid"), agent.stdin.take());
    let (seen, follower) = std::thread::scope(|scope| {
        let go = || stdin.take().expect("a pipe").write_all(b"g").expect("told");
        scope.spawn(|| (follow(pid, murder, go), gettid())).join().expect("followed")
    });
    // It may be joined before the kernel lets go of whom it followed, and until then a wait
    // for the agent is told of its stops, as if it had ended.
    let follower = format!("/proc/self/task/{}", follower.as_raw_nonzero());
    until("the follower is gone", || !Path::new(&follower).exists()).await;
    let what = match (&murder, &seen.killed_at) {
        (Some(Murder { role, step }), Some(call)) => format!("{role:?} {step} ({call})"),
        _ => "nobody was killed".to_owned(),
    };
    let of_agent = murder.is_some_and(|murder| murder.role == Role::Agent);
    if !(of_agent && seen.killed_at.is_some()) {
        ends_well(&mut agent, seen.agent_exit, &what).await;
    }
    // It is gone, or about to be.
    let _ = agent.wait();
    recover(dir, &what, &before, ground.has_network()).await;
    seen
}

/// Waits for an agent whose task, if it started, ended.
async fn ends_well(agent: &mut Child, exited: Option<i32>, what: &str) {
    let mut ended = exited.map(|code| ExitStatus::from_raw(code << 8));
    until(&format!("{what}: the agent leaves"), || {
        if ended.is_none() {
            ended = agent.try_wait().expect("waited");
        }
        ended.is_some()
    })
    .await;
    if let Some(ended) = ended.filter(|ended| !ended.success()) {
        let mut said = String::new();
        let _ = agent.stderr.take().expect("a pipe").read_to_string(&mut said);
        panic!("{what}: the agent ended with {ended}: {said}");
    }
}

/// The next agent stops and removes what it finds.
async fn recover(dir: tempfile::TempDir, what: &str, before: &Census, has_network: bool) {
    let path = dir.path().canonicalize().expect("a path");
    let (mut stage, found) = Stage::reopen(dir).await;
    for task in &found {
        if let FoundState::Running { .. } = task.state {
            // It may be ending already.
            let _ = stage.runtime.stop(&task.id, Duration::from_millis(20)).await;
            stage.any_end().await;
        }
        let removed = stage.runtime.remove(&task.id).await;
        removed.unwrap_or_else(|error| panic!("{what}: {}: {error}", task.id));
    }
    // A keeper that the dead agent was just starting hears it as soon as it listens.
    until(&format!("{what}: all processes are gone"), || {
        stage.runtime.stop_keeper();
        !Census::of(&path, false).has_processes()
    })
    .await;
    stage.runtime.shut_down().await;
    let after = Census::of(&path, has_network);
    assert_eq!(after.beyond(before), Census::nothing(), "{what}");
    let mut left = census::files(&path);
    left.retain(|file| !KEPT.contains(&file.as_str()) && !file.starts_with("volumes"));
    assert_eq!(left, [""; 0], "{what}");
}

/// Every step of each role, or this many of them, another sample with each seed. All of
/// them are tried before the first failure is judged.
fn walk(tokio: &Tokio, ground: &Ground, sample: Option<(u64, u64)>) {
    let quiet = tokio.block_on(one(ground, None));
    println!("{:?}: {:?}", ground.kind, quiet.steps);
    let mut failed = Vec::new();
    for role in ROLES {
        let steps = quiet.steps.get(&role).copied().unwrap_or_default();
        assert!(steps > 0, "{:?}: no step of {role:?} was seen", ground.kind);
        let (seed, wanted) = sample.unwrap_or((0, steps));
        let stride = (steps / wanted).max(1);
        let tried = (1 + seed % stride..=steps).step_by(usize::try_from(stride).expect("small"));
        failed.extend(tried.map(|step| Murder { role, step }).filter(|murder| {
            let tried = || drop(tokio.block_on(one(ground, Some(*murder))));
            // The reason is told as it happens.
            catch_unwind(AssertUnwindSafe(tried)).is_err()
        }));
    }
    assert!(failed.is_empty(), "{:?}: {} steps: {failed:?}", ground.kind, failed.len());
}

/// Whether a process here may follow others that are not its children.
fn may_trace() -> bool {
    if geteuid().is_root() {
        return true;
    }
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let may = !scope.is_ok_and(|scope| scope.trim().parse::<u32>().is_ok_and(|scope| scope > 1));
    if !may {
        eprintln!("SKIPPED: this kernel lets only root follow processes");
    }
    may
}

/// Another sample each time, and one can be tried again: `STARLING_SEED=7`.
fn seed() -> u64 {
    let given = std::env::var("STARLING_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("STARLING_SEED={seed}");
    seed
}

/// All steps, unless `STARLING_SAMPLE=100` wants fewer of each role.
fn sample() -> Option<(u64, u64)> {
    let wanted = std::env::var("STARLING_SAMPLE").ok()?.parse().ok()?;
    Some((seed(), wanted))
}

#[test]
fn a_murder_at_some_steps_of_a_process_leaves_nothing() {
    if may_trace() {
        on_ground(Kind::Process, |tokio, ground| walk(tokio, ground, Some((seed(), SAMPLE))));
    }
}

#[test]
fn a_murder_at_some_steps_of_a_container_leaves_nothing() {
    on_ground(Kind::Container, |tokio, ground| walk(tokio, ground, Some((seed(), SAMPLE))));
}

#[test]
fn a_murder_at_some_steps_of_a_container_made_ahead_leaves_nothing() {
    if root_user() {
        on_ground(Kind::Ahead, |tokio, ground| walk(tokio, ground, Some((seed(), SAMPLE))));
    }
}

#[test]
#[ignore = "every step takes an hour"]
fn a_murder_at_every_step_of_a_container_made_ahead_leaves_nothing() {
    on_ground(Kind::Ahead, |tokio, ground| walk(tokio, ground, sample()));
}

#[test]
#[ignore = "every step takes minutes"]
fn a_murder_at_every_step_of_a_process_leaves_nothing() {
    on_ground(Kind::Process, |tokio, ground| walk(tokio, ground, sample()));
}

#[test]
#[ignore = "every step takes minutes"]
fn a_murder_at_every_step_of_a_container_leaves_nothing() {
    on_ground(Kind::Container, |tokio, ground| walk(tokio, ground, sample()));
}
