//! One supervisor, many tasks: none notices another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use runtime::{End, Event, Launch, Limits, LogStream, Streams};

use crate::stage::{PATIENCE, Stage, id, script, until};

/// Far above what a build without optimisation needs: up to 160, by how many pages of its
/// program others use just then. A release build is measured in `speed`.
const PRIVATE_KIB: u64 = 256;

/// Who ran a task, by its claim.
fn supervisor(stage: &Stage, task: &str) -> String {
    let state = stage.state(task);
    let (_, rest) = state.split_once("\"supervisor\":{\"pid\":").expect("a supervisor");
    rest.split(',').next().expect("a number").to_owned()
}

#[tokio::test]
async fn a_second_task_finds_nothing_of_the_first() {
    let mut stage = Stage::set().await;
    let leave = "trap '' TERM INT; ulimit -n 99; echo x > left; umask 0; exec 7</dev/null
        (setsid sleep 600 &) ; exit 1";
    let look = "ls -A; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=; ls /proc/self/fd | tr '\\n' ' '
        umask; grep -E '^(SigBlk|SigIgn|SigPnd)' /proc/self/status | cut -f 2
        ulimit -n; cat /proc/self/cgroup > cgroup";
    let mut clean = BTreeSet::new();
    let mut seen = BTreeMap::<String, usize>::new();
    for n in 0..40 {
        // The first ones come to supervisors that had no task before.
        stage.start(&format!("look-{n}"), look).await;
        let name = format!("look-{n}");
        stage.end(&name).await;
        clean.insert(stage.text(&name, LogStream::Stdout).await);
        *seen.entry(supervisor(&stage, &name)).or_default() += 1;
        let (name, env) =
            (format!("leave-{n}"), BTreeMap::from([("A".to_owned(), "b".to_owned())]));
        let limits = Limits { pids_max: Some(20), memory_max: Some(32 << 20), ..Limits::default() };
        let streams = Streams::Terminal { rows: 9, columns: 9 };
        let launch = Launch { env, limits, streams, ..script(&name, leave) };
        stage.launch(launch).await.expect("started");
        stage.end(&name).await;
    }
    assert_eq!(clean.len(), 1, "{clean:?}");
    assert!(clean.first().is_some_and(|said| said.starts_with("0 1 2 3 ")), "{clean:?}");
    assert!(seen.len() < 20, "none was reused: {seen:?}");
}

#[tokio::test]
async fn limits_of_one_task_do_not_bind_the_next() {
    let mut stage = Stage::set().await;
    for n in 0..12 {
        let limits = Limits { pids_max: Some(2), ..Limits::default() };
        let (tight, free) = (format!("tight-{n}"), format!("free-{n}"));
        stage.launch(Launch { limits, ..script(&tight, "true") }).await.expect("started");
        stage.end(&tight).await;
        let text = "sleep 600 & sleep 600 & sleep 600 & sleep 600 & exit 0";
        stage.launch(script(&free, text)).await.expect("started");
        assert_eq!(stage.end(&free).await, End::Exited { code: 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_tasks_end_once_each_and_as_they_should() {
    const TASKS: usize = 2_000;
    let mut stage = Stage::set().await;
    let mut started = BTreeSet::new();
    let mut ended = BTreeMap::new();
    let (mut next, mut flying) = (0, 0);
    while ended.len() < TASKS {
        while next < TASKS && flying < 8 {
            let runtime = stage.runtime.clone();
            let text = format!("exit {}", next % 100);
            let launch = script(&next.to_string(), &text);
            tokio::spawn(async move { runtime.launch(launch).await.expect("started") });
            (next, flying) = (next + 1, flying + 1);
        }
        match stage.any_event().await {
            Event::Started { id, .. } => assert!(started.insert(id)),
            Event::Ended { id, end } => {
                assert!(started.contains(&id), "{id} ended before it started");
                assert_eq!(ended.insert(id, end), None);
                flying -= 1;
            }
        }
    }
    for (id, end) in ended {
        let number: i32 = id.as_str().parse().expect("a number");
        assert_eq!(end, End::Exited { code: number % 100 }, "{id}");
    }
    assert_eq!(started.len(), TASKS);
    until("no supervisor has a task", || stage.supervisors().is_empty()).await;
    assert!(stage.waiting().len() <= 16, "{:?}", stage.waiting());
}

/// What a process has waited for, and how long it ran.
fn activity(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let switches = status.lines().filter(|line| line.contains("ctxt_switches"));
    format!("{stat} {}", switches.collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn the_idle_cost_nothing_and_a_running_supervisor_little() {
    let mut stage = Stage::set().await;
    for n in 0..3 {
        let name = format!("warm-{n}");
        stage.start(&name, "true").await;
        stage.end(&name).await;
    }
    stage.start("a", "exec sleep 600").await;
    until("enough wait", || stage.waiting().len() >= 4).await;
    let all = || [vec![stage.keeper().expect("a keeper")], stage.waiting(), stage.supervisors()];
    let look = || -> Vec<String> { all().concat().into_iter().map(activity).collect() };
    // They come to rest, and then none of them runs for a while.
    let (mut last, mut since) = (look(), Instant::now());
    until("they rest", || {
        let now = look();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(300)
    })
    .await;
    let supervisors = stage.supervisors();
    assert_eq!(supervisors.len(), 1);
    for pid in supervisors {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("its memory");
        let private = text.lines().filter(|line| line.starts_with("Private_"));
        let private =
            private.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
        let private: u64 = private.sum();
        assert!((1..PRIVATE_KIB).contains(&private), "{private} KiB: {text}");
    }
    stage.runtime.stop(&id("a"), Duration::ZERO).await.expect("ordered");
    stage.end("a").await;
}

#[tokio::test]
async fn a_keeper_that_leaves_takes_the_waiting_along_and_leaves_nothing() {
    let mut stage = Stage::set().await;
    stage.start("a", "exec sleep 600").await;
    stage.runtime.stop_keeper();
    assert!(stage.keeper().is_some(), "a task runs");
    stage.runtime.stop(&id("a"), PATIENCE).await.expect("ordered");
    stage.end("a").await;
    until("all are gone", || stage.keeper().is_none() && stage.waiting().is_empty()).await;
    let names = fs::read_dir(stage.path().join("tasks")).expect("listed").flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["a"]);
    assert!(stage.groups().is_empty(), "{:?}", stage.groups());
}
