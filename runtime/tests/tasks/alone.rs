//! A keeper without an agent: stays while it has a task, leaves when it has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime::{End, FoundState};
use rustix::process::Signal;

use crate::stage::{Stage, helpers, kill, lives, look_often, trees, until};

/// Looks for an agent that a keeper is given, far more than it takes to leave.
const LOOKS: u64 = 8;

/// How often a process went to sleep.
fn sleeps(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Waits until a process that is left alone has woken up often.
async fn looks(pid: i32) {
    let before = sleeps(pid);
    until("it looks", || !lives(pid) || sleeps(pid) >= before + LOOKS).await;
}

fn has_socket(dir: &Path) -> bool {
    let files = fs::read_dir(dir).expect("listed").flatten();
    let mut names = files.map(|file| file.path());
    names.any(|name| name.extension().is_some_and(|extension| extension == "sock"))
}

fn keepers(dir: &Path) -> Vec<i32> {
    helpers(dir, "starling-keeper")
}

/// Waits until the keeper has left, with all that waited with it.
async fn leaves(dir: &Path) {
    // It is there before anybody is told that the keeper is, and goes before it does.
    until("the door is closed", || !has_socket(dir)).await;
    let is_gone = || keepers(dir).is_empty() && helpers(dir, "starling-waits").is_empty();
    until("the keeper leaves", is_gone).await;
    assert_eq!(trees(dir), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn it_stays_with_its_agent_or_a_task_and_leaves_without_either() {
    let mut stage = Stage::set().await;
    look_often(stage.path());
    stage.start("first", "true").await;
    stage.end("first").await;
    let keeper = stage.keeper().expect("a keeper");
    let pid = stage.start("a", "exec sleep 600").await.cast_signed();
    let dir = stage.close();
    looks(keeper).await;
    assert!(lives(keeper) && lives(pid), "it left a task");
    kill(pid, Signal::TERM);
    leaves(dir.path()).await;
    // The next agent finds what there is to find, and starts another.
    let (mut stage, found) = Stage::reopen(dir).await;
    let states: Vec<_> = found.into_iter().map(|found| found.state).collect();
    let [FoundState::Ended(End::Signalled { signal: 15 }), FoundState::Ended(_)] = &states[..]
    else {
        panic!("{states:?}");
    };
    stage.start("b", "exit 4").await;
    assert_eq!(stage.end("b").await, End::Exited { code: 4 });
}

/// As one whose agent was killed right after it was started.
#[tokio::test]
async fn one_that_never_had_an_agent_leaves() {
    let dir = Stage::set().await.close();
    look_often(dir.path());
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_keeper-for-tests"));
    let started = keeper.arg("keeper").arg(dir.path().canonicalize().expect("a path")).status();
    assert!(started.expect("run").success());
    leaves(dir.path()).await;
}
