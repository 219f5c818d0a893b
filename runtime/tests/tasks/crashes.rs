//! The agent, the keeper, the supervisor die; what the task and the next agent
//! notice of it.

use std::time::Duration;

use runtime::{End, FoundState, LaunchError, LogStream, OpenError, StartFault};
use rustix::process::Signal;

use crate::stage::{PATIENCE, Stage, id, kill, lives, numbers, script, until};

fn states(found: Vec<runtime::Found>) -> Vec<(String, FoundState)> {
    found.into_iter().map(|found| (found.id.to_string(), found.state)).collect()
}

fn only_end(found: Vec<runtime::Found>) -> End {
    match states(found).as_slice() {
        [(_, FoundState::Ended(end))] => end.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs() {
    let stage = Stage::set().await;
    let pid = stage
        .start("a", "echo one; until [ -e go ]; do sleep 0.005; done; echo two; exit 11")
        .await;
    stage.says("a", "one").await;
    let dir = stage.close();

    let (mut stage, found) = Stage::reopen(dir).await;
    assert_eq!(states(found), [("a".to_owned(), FoundState::Running { pid })]);
    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
    assert_eq!(stage.end("a").await, End::Exited { code: 11 });
    assert_eq!(stage.text("a", LogStream::Stdout).await, "one\ntwo\n");
}

#[tokio::test]
async fn a_restarted_agent_can_stop_what_it_did_not_start() {
    let stage = Stage::set().await;
    stage.start("a", "trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    stage.says("a", "ready").await;
    let (mut stage, _) = Stage::reopen(stage.close()).await;
    stage.runtime.stop(&id("a"), Duration::from_millis(50)).await.expect("ordered");
    assert_eq!(stage.end("a").await, End::Signalled { signal: 9 });
}

#[tokio::test]
async fn an_end_that_no_agent_saw_is_told_to_the_next() {
    let stage = Stage::set().await;
    let go = stage.file("a", "scratch").join("go");
    let state = stage.file("a", "state");
    stage.start("a", "until [ -e go ]; do sleep 0.005; done; echo heard; exit 12").await;
    let dir = stage.close();
    std::fs::write(go, "").expect("told");
    let ended = || std::fs::read_to_string(&state).is_ok_and(|text| text.contains("{\"end\""));
    until("the supervisor records the end", ended).await;
    let (stage, found) = Stage::reopen(dir).await;
    let ended = FoundState::Ended(End::Exited { code: 12 });
    assert_eq!(states(found), [("a".to_owned(), ended)]);
    assert_eq!(stage.text("a", LogStream::Stdout).await, "heard\n");
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory() {
    let stage = Stage::set().await;
    let program = env!("CARGO_BIN_EXE_keeper-for-tests").into();
    let config = runtime::Config { dir: stage.path().to_owned(), program };
    let second = runtime::Runtime::open(config.clone()).await;
    assert!(matches!(second, Err(OpenError::Busy { .. })), "{second:?}");
    stage.runtime.shut_down().await;
    let second = runtime::Runtime::open(config).await.expect("opened");
    second.runtime.shut_down().await;
}

#[tokio::test]
async fn a_killed_keeper_harms_no_task_and_is_replaced() {
    let mut stage = Stage::set().await;
    stage.start("a", "until [ -e go ]; do sleep 0.005; done; echo alive; exit 13").await;
    let keeper = stage.keeper().expect("a keeper");
    kill(keeper, Signal::KILL);
    until("the keeper is dead", || !lives(keeper)).await;

    stage.start("b", "exit 14").await;
    assert_eq!(stage.end("b").await, End::Exited { code: 14 });
    assert_ne!(stage.keeper(), Some(keeper));

    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
    assert_eq!(stage.end("a").await, End::Exited { code: 13 });
    assert_eq!(stage.text("a", LogStream::Stdout).await, "alive\n");
}

/// A task with a process in its session and one far from it.
const FAMILY: &str = "sleep 600 & echo $!; setsid sleep 600 & echo $! $$ ready; wait; sleep 600";

#[tokio::test]
async fn a_killed_supervisor_means_a_lost_task_of_which_nothing_is_left() {
    let mut stage = Stage::set().await;
    stage.start("a", FAMILY).await;
    let pids = numbers(&stage.says("a", "ready").await);
    assert_eq!(pids.len(), 3);
    for supervisor in stage.supervisors() {
        kill(supervisor, Signal::KILL);
    }
    let end = stage.end("a").await;
    assert!(matches!(end, End::Lost { .. }), "{end:?}");
    until("the whole family is dead", || !pids.iter().any(|pid| lives(*pid))).await;
    // The next agent says the same, and the log has its end.
    let (stage, found) = Stage::reopen(stage.close()).await;
    assert_eq!(states(found), [("a".to_owned(), FoundState::Ended(end))]);
    stage.output("a").await;
}

#[tokio::test]
async fn without_keeper_and_agent_a_lost_task_is_ended_by_the_next_agent() {
    let stage = Stage::set().await;
    stage.start("a", "sleep 600 & echo $! $$ ready; wait; sleep 600").await;
    let pids = numbers(&stage.says("a", "ready").await);
    let (keeper, supervisors) = (stage.keeper().expect("a keeper"), stage.supervisors());
    let dir = stage.close();
    kill(keeper, Signal::KILL);
    until("the keeper is dead", || !lives(keeper)).await;
    for supervisor in &supervisors {
        kill(*supervisor, Signal::KILL);
    }
    until("the supervisor is dead", || !supervisors.iter().any(|pid| lives(*pid))).await;
    assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");

    let (stage, found) = Stage::reopen(dir).await;
    let end = only_end(found);
    assert!(matches!(end, End::Lost { .. }), "{end:?}");
    assert!(!pids.iter().any(|pid| lives(*pid)), "{pids:?}");
    stage.runtime.shut_down().await;
}

#[tokio::test]
async fn a_claim_of_nobody_is_given_up_for_good() {
    let stage = Stage::set().await;
    stage.start("a", "sleep 600").await;
    stage.runtime.stop(&id("a"), Duration::ZERO).await.expect("ordered");
    until("no supervisor is left", || stage.supervisors().is_empty()).await;
    // As an agent leaves it that died while it gave a launch up.
    let state = stage.state("a");
    let claim = state.lines().nth(1).expect("a claim");
    let (before, _) = claim.split_once("\"supervisor\":").expect("a supervisor");
    let text = format!("{{\"version\":2}}\n{before}\"supervisor\":null,\"slot\":null}}}}\n");
    std::fs::write(stage.file("a", "state"), text).expect("written");
    let (stage, found) = Stage::reopen(stage.close()).await;
    let end = only_end(found);
    let given_up = matches!(&end, End::NotStarted { fault: StartFault::Interrupted, .. });
    assert!(given_up, "{end:?}");
    assert_eq!(end.exit_code(), 125);
    let again = stage.launch(script("a", "true")).await;
    assert!(matches!(again, Err(LaunchError::Exists { .. })), "{again:?}");
}

#[tokio::test]
async fn a_task_of_another_boot_is_lost() {
    let mut stage = Stage::set().await;
    stage.start("a", "true").await;
    stage.end("a").await;
    until("no supervisor is left", || stage.supervisors().is_empty()).await;
    let text = stage.state("a");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    let other = text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
    assert_ne!(text, other);
    let (other, _) = other.split_once("{\"end\"").expect("an end");
    std::fs::write(stage.file("a", "state"), other).expect("written");
    let (_stage, found) = Stage::reopen(stage.close()).await;
    let end = only_end(found);
    assert!(matches!(&end, End::Lost { reason } if reason.contains("rebooted")), "{end:?}");
}

#[tokio::test]
async fn a_deep_directory_does_not_matter() {
    let outer = tempfile::tempdir().expect("a directory");
    let dir = outer.path().join("deep-".repeat(20)).join("deeper-".repeat(20)).join("d");
    let program = env!("CARGO_BIN_EXE_keeper-for-tests").into();
    let opened = runtime::Runtime::open(runtime::Config { dir, program }).await;
    let runtime::Opened { runtime, mut events, .. } = opened.expect("opened");
    let launch = runtime::Launch::new(id("a"), ["true"]);
    runtime.launch(launch).await.expect("started");
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event");
    }
    runtime.stop_keeper();
}

/// An agent never gives an older program's supervisors orders that they may not understand.
#[tokio::test]
async fn the_keeper_of_an_older_program_is_asked_to_leave_and_not_to_launch() {
    let dir = Stage::set().await.close();
    let older = std::os::unix::net::UnixListener::bind(dir.path().join("keeper-2.sock"));
    let older = older.expect("a socket");
    let (mut stage, _) = Stage::reopen(dir).await;
    let mut said = Vec::new();
    let (mut asked, _) = older.accept().expect("somebody");
    std::io::Read::read_to_end(&mut asked, &mut said).expect("read");
    assert!(said.ends_with(br#""leave""#), "{}", String::from_utf8_lossy(&said));
    stage.start("a", "exit 3").await;
    assert_eq!(stage.end("a").await, End::Exited { code: 3 });
    older.set_nonblocking(true).expect("set");
    assert!(older.accept().is_err(), "it was given the order");
}
