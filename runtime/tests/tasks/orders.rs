//! Deadlines, signals, pauses, limits, and what a task is told to have used.

use std::time::{Duration, Instant};

use runtime::{ControlError, End, FoundState, Launch, Limits, Recipient};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::stage::{PATIENCE, Stage, id, kill, lives, numbers, script, until};

fn from_now(after: Duration) -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 + after.as_nanos() as u64
}

/// How far off a deadline is put that something must come before: ever farther, until
/// this machine was quick enough.
fn ever_longer() -> impl Iterator<Item = Duration> {
    let first = Duration::from_millis(400);
    std::iter::successors(Some(first), |last| Some(*last * 4)).take_while(|it| *it < PATIENCE)
}

/// Whether tasks have control groups here, by what the claim of a harmless one says; says
/// so if not. Asked first: without them nothing holds a task that takes all it can get.
async fn has_groups(stage: &mut Stage) -> bool {
    stage.start("asks", "true").await;
    stage.end("asks").await;
    let has = stage.state("asks").contains("\"slot\":\"");
    if !has {
        eprintln!("SKIPPED: no control groups for us on this machine");
    }
    has
}

#[tokio::test]
async fn a_task_is_killed_when_its_deadline_passes() {
    let mut stage = Stage::set().await;
    let deadline_boot_ns = Some(from_now(Duration::from_millis(150)));
    let before = Instant::now();
    let text = "trap '' TERM; (setsid sleep 600 &); echo $$ ready; while :; do sleep 1; done";
    stage.launch(Launch { deadline_boot_ns, ..script("a", text) }).await.expect("started");
    let end = stage.end("a").await;
    assert_eq!((end.exit_code(), end), (124, End::Expired));
    assert!(before.elapsed() >= Duration::from_millis(149));
    // One that has passed before the start.
    let deadline_boot_ns = Some(1);
    let launch = Launch { deadline_boot_ns, ..script("b", "sleep 600") };
    stage.launch(launch).await.expect("started");
    assert_eq!(stage.end("b").await, End::Expired);
}

#[tokio::test]
async fn a_deadline_can_be_moved() {
    let mut stage = Stage::set().await;
    let deadline_boot_ns = Some(from_now(PATIENCE * 10));
    let launch = Launch { deadline_boot_ns, ..script("a", "sleep 600") };
    stage.launch(launch).await.expect("started");
    let near = Some(from_now(Duration::from_millis(20)));
    stage.runtime.set_deadline(&id("a"), near).await.expect("moved");
    assert_eq!(stage.end("a").await, End::Expired);
}

#[tokio::test]
async fn a_deadline_can_be_lifted() {
    let mut stage = Stage::set().await;
    let text = "until [ -e go ]; do sleep 0.005; done; exit 3";
    for (at, allowed) in ever_longer().enumerate() {
        let name = format!("a{at}");
        let deadline = from_now(allowed);
        let launch = Launch { deadline_boot_ns: Some(deadline), ..script(&name, text) };
        if let Err(error) = stage.launch(launch).await {
            assert!(from_now(Duration::ZERO) > deadline, "{error}");
            continue;
        }
        let lifted = stage.runtime.set_deadline(&id(&name), None).await;
        if from_now(Duration::ZERO) > deadline {
            continue;
        }
        lifted.expect("lifted");
        let passed = deadline + 50_000_000;
        until("the deadline is over", || from_now(Duration::ZERO) > passed).await;
        std::fs::write(stage.file(&name, "scratch").join("go"), "").expect("told");
        assert_eq!(stage.end(&name).await, End::Exited { code: 3 });
        return;
    }
    panic!("no deadline was lifted before it passed");
}

#[tokio::test]
async fn a_deadline_holds_without_an_agent_or_a_keeper() {
    for allowed in ever_longer() {
        let stage = Stage::set().await;
        let pid = stage.start("a", "sleep 600").await;
        let deadline = from_now(allowed);
        // A machine that is too slow may be told that the task has ended.
        let _ = stage.runtime.set_deadline(&id("a"), Some(deadline)).await;
        let keeper = stage.keeper().expect("a keeper");
        let dir = stage.close();
        kill(keeper, Signal::KILL);
        let lived = lives(pid as i32);
        let in_time = from_now(Duration::ZERO) < deadline;
        until("it is killed", || !lives(pid as i32)).await;
        let (mut stage, found) = Stage::reopen(dir).await;
        let states: Vec<_> = found.into_iter().map(|found| found.state).collect();
        match states.as_slice() {
            // Its supervisor sees it a moment later than we do.
            [FoundState::Running { .. }] => assert_eq!(stage.end("a").await, End::Expired),
            states => assert_eq!(states, [FoundState::Ended(End::Expired)]),
        }
        stage.runtime.shut_down().await;
        if in_time {
            assert!(lived, "it was killed before its deadline");
            return;
        }
    }
    panic!("no agent was gone before its task's deadline");
}

#[tokio::test]
async fn a_signal_goes_to_the_main_process_or_to_all() {
    let mut stage = Stage::set().await;
    let text = "trap 'echo main' USR1
        setsid sh -c 'trap \"echo far; exit 0\" USR1; echo far ready; while :; do sleep 0.01; done' &
        echo main ready; while :; do sleep 0.01; done";
    stage.start("a", text).await;
    stage.says("a", "main ready").await;
    stage.says("a", "far ready").await;
    let usr1 = Signal::USR1.as_raw();
    stage.runtime.signal(&id("a"), usr1, Recipient::Main).await.expect("sent");
    stage.says("a", "main\n").await;
    assert!(!stage.says("a", "main\n").await.contains("far\n"));
    // The sleeps die of it; the shells go on.
    stage.runtime.signal(&id("a"), usr1, Recipient::All).await.expect("sent");
    stage.says("a", "far\n").await;
    let odd = stage.runtime.signal(&id("a"), 4711, Recipient::Main).await;
    assert!(matches!(odd, Err(ControlError::Refused { .. })), "{odd:?}");
    stage.runtime.signal(&id("a"), 9, Recipient::Main).await.expect("sent");
    assert_eq!(stage.end("a").await, End::Signalled { signal: 9 });
}

#[tokio::test]
async fn a_paused_task_stands_still_and_can_be_stopped() {
    let mut stage = Stage::set().await;
    if !has_groups(&mut stage).await {
        return;
    }
    stage.start("a", "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.002; done").await;
    stage.says("a", "3\n").await;
    stage.runtime.pause(&id("a")).await.expect("paused");
    let size = || std::fs::metadata(stage.file("a", "log.0")).map_or(0, |file| file.len());
    // What was in the pipe may still come; then nothing does.
    let (mut last, mut since) = (0, Instant::now());
    until("it stands still", || {
        if size() != last {
            (last, since) = (size(), Instant::now());
        }
        since.elapsed() > Duration::from_millis(100)
    })
    .await;
    stage.runtime.resume(&id("a")).await.expect("resumed");
    until("it goes on", || size() > last).await;
    stage.runtime.pause(&id("a")).await.expect("paused");
    stage.runtime.stop(&id("a"), PATIENCE).await.expect("ordered");
    assert_eq!(stage.end("a").await, End::Signalled { signal: 15 });
}

#[tokio::test]
async fn a_task_that_is_killed_while_it_is_paused_does_not_freeze_the_next_ones() {
    let mut stage = Stage::set().await;
    if !has_groups(&mut stage).await {
        return;
    }
    for n in 0..8 {
        let (paused, next) = (format!("paused-{n}"), format!("next-{n}"));
        stage.start(&paused, "sleep 1000").await;
        stage.runtime.pause(&id(&paused)).await.expect("paused");
        stage.runtime.signal(&id(&paused), 9, Recipient::Main).await.expect("killed");
        assert_eq!(stage.end(&paused).await, End::Signalled { signal: 9 });
        stage.start(&next, "exit 3").await;
        assert_eq!(stage.end(&next).await, End::Exited { code: 3 });
    }
}

#[tokio::test]
async fn a_task_that_wants_too_much_memory_is_told_from_one_that_was_killed() {
    let mut stage = Stage::set().await;
    if !has_groups(&mut stage).await {
        return;
    }
    let limits = Limits { memory_max: Some(16 << 20), ..Limits::default() };
    let text = "x=x; while :; do x=$x$x; done";
    stage.launch(Launch { limits: limits.clone(), ..script("a", text) }).await.expect("started");
    let end = stage.end("a").await;
    assert_eq!((end.exit_code(), end), (137, End::OutOfMemory));
    stage.launch(Launch { limits, ..script("b", "kill -9 $$") }).await.expect("started");
    assert_eq!(stage.end("b").await, End::Signalled { signal: 9 });
}

#[tokio::test]
async fn what_a_task_uses_is_told_while_it_runs() {
    let mut stage = Stage::set().await;
    let text = "n=0; while [ $n -lt 50000 ]; do n=$((n + 1)); done; echo ready; sleep 600";
    let began = Instant::now();
    stage.start("a", text).await;
    stage.says("a", "ready").await;
    let usage = stage.runtime.usage(&id("a")).await.expect("told");
    // One process cannot work for longer than it has been there, but for what the kernel rounds.
    let longest = began.elapsed().as_nanos() as u64 + 1_000_000_000;
    assert!(usage.cpu_ns.is_some_and(|cpu| (1_000_000..longest).contains(&cpu)), "{usage:?}");
    assert!(usage.memory_bytes.is_some_and(|bytes| bytes > 4096), "{usage:?}");
    assert!(usage.pids.is_some_and(|pids| pids >= 1), "{usage:?}");
    stage.runtime.stop(&id("a"), Duration::ZERO).await.expect("ordered");
    stage.end("a").await;
    let usage = stage.runtime.usage(&id("a")).await;
    assert!(matches!(usage, Err(ControlError::NotRunning { .. })), "{usage:?}");
}

#[tokio::test]
async fn a_limit_on_processes_holds() {
    let mut stage = Stage::set().await;
    if !has_groups(&mut stage).await {
        return;
    }
    let limits = Limits { pids_max: Some(4), ..Limits::default() };
    let text = "for n in 1 2 3 4 5 6; do sleep 600 & echo $!; done";
    stage.launch(Launch { limits, ..script("a", text) }).await.expect("started");
    assert_ne!(stage.end("a").await, End::Exited { code: 0 });
    let said = stage.text("a", runtime::LogStream::Stdout).await;
    assert_eq!(numbers(&said).len(), 3, "{said}");
}
