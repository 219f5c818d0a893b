//! How a task is made to end.

use std::time::Duration;

use runtime::{ControlError, End, Launch};

use crate::stage::{PATIENCE, Stage, id, lives, numbers, script, until};

#[tokio::test]
async fn a_task_that_obeys_ends_in_its_own_way() {
    let mut stage = Stage::set().await;
    stage
        .start("a", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
        .await;
    stage.says("a", "ready").await;
    stage.runtime.stop(&id("a"), PATIENCE).await.expect("ordered");
    assert_eq!(stage.end("a").await, End::Exited { code: 7 });
    stage.says("a", "bye").await;
}

#[tokio::test]
async fn a_task_is_stopped_by_the_signal_it_asked_for_even_when_it_is_paused() {
    let mut stage = Stage::set().await;
    let launch =
        script("a", "trap 'exit 4' INT; echo ready; kill -STOP $$; while :; do sleep 0.01; done");
    let pid = stage.launch(Launch { stop_signal: 2, ..launch }).await.expect("started");
    let stat = format!("/proc/{pid}/stat");
    until("it pauses", || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T")))
        .await;
    stage.runtime.stop(&id("a"), PATIENCE).await.expect("ordered");
    assert_eq!(stage.end("a").await, End::Exited { code: 4 });
}

#[tokio::test]
async fn a_tree_that_ignores_the_signal_is_killed_after_the_grace() {
    let mut stage = Stage::set().await;
    let text = "trap '' TERM
        sh -c 'sleep 600' & a=$!
        setsid sh -c 'sleep 600; :' & echo $$ $a $! ready; while :; do sleep 0.01; done";
    stage.start("a", text).await;
    let pids = numbers(&stage.says("a", "ready").await);
    assert_eq!(pids.len(), 3);
    let before = std::time::Instant::now();
    stage.runtime.stop(&id("a"), Duration::from_millis(200)).await.expect("ordered");
    assert_eq!(stage.end("a").await, End::Signalled { signal: 9 });
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert!(!pids.iter().any(|pid| lives(*pid)), "{pids:?}");
}

#[tokio::test]
async fn a_second_order_shortens_the_grace() {
    let mut stage = Stage::set().await;
    stage.start("a", "trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    stage.says("a", "ready").await;
    stage.runtime.stop(&id("a"), Duration::from_secs(3600)).await.expect("ordered");
    stage.runtime.stop(&id("a"), Duration::ZERO).await.expect("ordered");
    assert_eq!(stage.end("a").await, End::Signalled { signal: 9 });
}

#[tokio::test]
async fn a_task_is_stopped_even_where_its_supervisor_cannot_listen() {
    let mut stage = Stage::set().await;
    stage.start("a", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done").await;
    stage.says("a", "ready").await;
    std::fs::create_dir(stage.file("a", "control.sock")).expect("in its place");
    stage.runtime.stop(&id("a"), PATIENCE).await.expect("told");
    assert_eq!(stage.end("a").await, End::Exited { code: 7 });
}

#[tokio::test]
async fn only_a_running_task_can_be_stopped() {
    let mut stage = Stage::set().await;
    let stopped = stage.runtime.stop(&id("a"), Duration::ZERO).await;
    assert!(matches!(stopped, Err(ControlError::Unknown { .. })), "{stopped:?}");
    stage.start("a", "true").await;
    stage.end("a").await;
    let stopped = stage.runtime.stop(&id("a"), Duration::ZERO).await;
    assert!(matches!(stopped, Err(ControlError::NotRunning { .. })), "{stopped:?}");
}
