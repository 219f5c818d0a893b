//! Containers that wait before their program, until they are told to start.

use std::fs;
use std::time::Duration;

use runtime::{ControlError, End, Event, FoundState, Hold, Launch, LaunchError, LogStream, Start};
use rustix::process::Signal;

use crate::image::{Image, containers};
use crate::stage::{PATIENCE, Stage, id, kill, lives, script, until};

fn held(launch: Launch) -> Launch {
    Launch { start: Start::Held, ..launch }
}

/// A held container that will say a word.
async fn hold(stage: &Stage, name: &str) -> u32 {
    let launch = Image::of(stage).script(name, "echo began; exit 5", |_| {});
    stage.launch(held(launch)).await.expect("held")
}

#[tokio::test]
async fn all_is_made_and_nothing_runs_until_it_is_told() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let pid = hold(&stage, "t").await;
    assert_eq!(stage.event("t").await, Event::Started { id: id("t"), pid });
    assert_eq!(stage.runtime.hold(&id("t")).await.expect("asked"), Hold::Held);
    // The container's own root, and what surrounds it, are there.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    assert!(mounts.lines().any(|line| line.contains(" / / ") && line.contains("overlay")));
    // Its program is not.
    let command = fs::read(format!("/proc/{pid}/cmdline")).expect("a command line");
    assert!(!String::from_utf8_lossy(&command).contains("began"));
    assert_eq!(stage.runtime.start(&id("t")).await.expect("told"), Hold::Released);
    assert_eq!(stage.text("t", LogStream::Stdout).await, "began\n");
    assert_eq!(stage.end("t").await, End::Exited { code: 5 });
}

#[tokio::test]
async fn what_runs_cannot_be_started_again() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    // The first process of a container hears no TERM; a shell would end with its child's.
    let launch = Image::of(&stage).script("t", "echo began; exec sleep 600", |_| {});
    stage.launch(held(launch)).await.expect("held");
    stage.runtime.start(&id("t")).await.expect("told");
    stage.says("t", "began").await;
    let again = stage.runtime.start(&id("t")).await;
    assert!(matches!(again, Err(ControlError::Refused { .. })), "{again:?}");
    assert_eq!(stage.runtime.hold(&id("t")).await.expect("asked"), Hold::Released);
    stage.runtime.stop(&id("t"), Duration::ZERO).await.expect("ordered");
    assert_eq!(stage.end("t").await, End::Signalled { signal: 9 });
    let over = stage.runtime.start(&id("t")).await;
    assert!(matches!(over, Err(ControlError::NotRunning { .. })), "{over:?}");
}

#[tokio::test]
async fn a_held_task_is_stopped_at_once_whatever_the_grace() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let pid = hold(&stage, "t").await;
    stage.runtime.stop(&id("t"), PATIENCE * 10).await.expect("ordered");
    assert_eq!(stage.end("t").await, End::Signalled { signal: 9 });
    assert!(!lives(pid.cast_signed()));
    assert_eq!(stage.text("t", LogStream::Stdout).await, "");
    stage.runtime.remove(&id("t")).await.expect("removed");
}

#[tokio::test]
async fn it_waits_through_the_death_of_agent_and_keeper() {
    if !containers() {
        return;
    }
    let stage = Stage::set().await;
    let pid = hold(&stage, "t").await;
    let keeper = stage.keeper().expect("a keeper");
    let dir = stage.close();
    kill(keeper, Signal::KILL);
    let (mut stage, found) = Stage::reopen(dir).await;
    let states: Vec<_> = found.into_iter().map(|found| found.state).collect();
    assert_eq!(states, [FoundState::Running { pid }]);
    assert_eq!(stage.runtime.hold(&id("t")).await.expect("asked"), Hold::Held);
    assert_eq!(stage.runtime.start(&id("t")).await.expect("told"), Hold::Released);
    assert_eq!(stage.end("t").await, End::Exited { code: 5 });
}

#[tokio::test]
async fn it_does_not_outlive_its_supervisor() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let pid = hold(&stage, "t").await;
    // The held process is still a copy of it, by name too.
    let supervisors = stage.supervisors().into_iter().filter(|it| *it != pid.cast_signed());
    supervisors.for_each(|pid| kill(pid, Signal::KILL));
    assert!(matches!(stage.end("t").await, End::Lost { .. }));
    until("the held process is gone", || !lives(pid.cast_signed())).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_at_the_start_with_the_usual_code() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let launch = Image::of(&stage).script("t", "", |_| {});
    let launch = Launch { argv: vec!["/nowhere".into()], ..launch };
    stage.launch(held(launch)).await.expect("held");
    match stage.runtime.start(&id("t")).await {
        Err(ControlError::Refused { reason, .. }) => assert!(reason.contains("/nowhere")),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.end("t").await.exit_code(), 127);
}

#[tokio::test]
async fn its_deadline_holds() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    hold(&stage, "t").await;
    stage.runtime.set_deadline(&id("t"), Some(1)).await.expect("set");
    assert_eq!(stage.end("t").await, End::Expired);
}

#[tokio::test]
async fn a_plain_process_cannot_be_held() {
    let stage = Stage::set().await;
    let refused = stage.launch(held(script("t", "true"))).await;
    assert!(
        matches!(&refused, Err(LaunchError::Flawed(flaw)) if flaw.to_string().contains("start"))
    );
}
