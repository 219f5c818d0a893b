//! How a task starts, what it finds, and how it ends by itself.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use runtime::{
    End, Event, Launch, LaunchError, Limits, LogStream, Place, Process, RemoveError, StartFault,
    User,
};

use crate::stage::{Stage, id, lives, numbers, script, until};

#[tokio::test]
async fn an_exit_code_comes_as_an_event_after_the_start() {
    let mut stage = Stage::set().await;
    let pid = stage.start("a", "exit 42").await;
    assert_eq!(stage.event("a").await, Event::Started { id: id("a"), pid });
    let end = End::Exited { code: 42 };
    assert_eq!(end.exit_code(), 42);
    assert_eq!(stage.event("a").await, Event::Ended { id: id("a"), end });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_told_from_an_exit_code() {
    let mut stage = Stage::set().await;
    stage.start("a", "kill -USR1 $$").await;
    let end = stage.end("a").await;
    assert_eq!(end, End::Signalled { signal: 10 });
    assert_eq!(end.exit_code(), 138);
}

async fn fault(stage: &Stage, launch: Launch) -> StartFault {
    match stage.launch(launch).await {
        Err(LaunchError::NotStarted { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn programs_that_cannot_run_are_told_apart() {
    let stage = Stage::set().await;
    let plain = stage.path().join("plain");
    std::fs::write(&plain, "no program").expect("written");
    let plain = plain.to_str().expect("UTF-8");
    let path = |path: &str| BTreeMap::from([("PATH".to_owned(), path.to_owned())]);

    let cases = [
        (Launch::new(id("gone"), ["/no/such/program"]), StartFault::NotFound),
        (Launch::new(id("gone-in-path"), ["no-such-program"]), StartFault::NotFound),
        (Launch::new(id("plain"), [plain]), StartFault::NotExecutable),
        (Launch::new(id("directory"), ["/etc"]), StartFault::NotExecutable),
        (
            Launch { env: path("/no/where"), ..Launch::new(id("path"), ["sh"]) },
            StartFault::NotFound,
        ),
        (
            Launch { directory: Some("/no/where".into()), ..script("place", "true") },
            StartFault::Directory,
        ),
    ];
    for (launch, wanted) in cases {
        let name = launch.id.clone();
        assert_eq!(fault(&stage, launch).await, wanted, "{name}");
        let end = stage.state(name.as_str());
        assert!(end.contains("not_started"), "{end}");
    }
    let dir = stage.close();
    let (_stage, found) = Stage::reopen(dir).await;
    let codes: Vec<i32> = found
        .iter()
        .map(|found| match &found.state {
            runtime::FoundState::Ended(end) => end.exit_code(),
            running => panic!("{running:?}"),
        })
        .collect();
    // In the order of ids: directory, gone, gone-in-path, path, place, plain.
    assert_eq!(codes, [126, 127, 127, 127, 125, 126]);
}

#[tokio::test]
async fn a_worse_program_earlier_in_the_path_does_not_hide_a_better_one() {
    let mut stage = Stage::set().await;
    for (place, mode) in [("bad", 0o600), ("good", 0o755)] {
        let place = stage.path().join(place);
        std::fs::create_dir(&place).expect("made");
        std::fs::write(place.join("tool"), "#!/bin/sh\nexit 9\n").expect("written");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(place.join("tool"), mode).expect("permitted");
    }
    let root = stage.path().display();
    let env = BTreeMap::from([("PATH".to_owned(), format!("{root}/bad:{root}/good"))]);
    stage.launch(Launch { env, ..Launch::new(id("a"), ["tool"]) }).await.expect("started");
    assert_eq!(stage.end("a").await, End::Exited { code: 9 });
}

#[tokio::test]
async fn the_environment_is_the_given_one_and_nothing_else() {
    let stage = Stage::set().await;
    let env = BTreeMap::from([("A".to_owned(), "1 2".to_owned()), ("B".to_owned(), String::new())]);
    stage.launch(Launch { env, ..Launch::new(id("a"), ["env"]) }).await.expect("started");
    assert_eq!(stage.text("a", LogStream::Stdout).await, "A=1 2\nB=\n");
}

#[tokio::test]
async fn how_willingly_it_is_killed_for_memory_is_its_own_and_nobody_elses() {
    let stage = Stage::set().await;
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("read");
    let text = "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj";
    stage.launch(Launch { oom_score_adj: Some(777), ..script("a", text) }).await.expect("started");
    assert_eq!(stage.text("a", LogStream::Stdout).await, format!("777\n{own}"));
    // The next task of the same supervisor.
    stage.start("b", "cat /proc/self/oom_score_adj").await;
    assert_eq!(stage.text("b", LogStream::Stdout).await, own);
}

#[tokio::test]
async fn an_ordinary_user_cannot_make_a_task_less_likely_to_be_killed_and_is_told() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: for ordinary users; root may lower it");
        return;
    }
    let stage = Stage::set().await;
    let launch = Launch { oom_score_adj: Some(-1000), ..script("a", "true") };
    let refused = stage.launch(launch).await.expect_err("refused");
    let LaunchError::NotStarted { fault: StartFault::System, reason } = refused else {
        panic!("{refused:?}");
    };
    for part in ["OOM score adjustment to -1000", "only root"] {
        assert!(reason.contains(part), "{reason}");
    }
}

#[tokio::test]
async fn a_limit_that_was_asked_for_by_name_and_cannot_be_had_keeps_it_from_starting() {
    let stage = Stage::set().await;
    let limits = Limits { cpuset_cpus: Some("8191".into()), ..Limits::default() };
    let refused = stage.launch(Launch { limits, ..script("a", "true") }).await;
    match refused {
        // v2 takes any list, and falls back to what there is.
        Ok(_) if runtime::cgroup::Layout::probe().expect("probed").legacy.is_empty() => {}
        Err(LaunchError::NotStarted { fault: StartFault::System, reason }) => {
            assert!(reason.contains("cpuset"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_process_starts_clean() {
    let stage = Stage::set().await;
    let text = "pwd; ls /proc/self/fd | tr '\\n' ' '; echo; readlink /proc/self/fd/0; umask
        grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status
        cut -d' ' -f 1,5,6 /proc/$$/stat; echo $$";
    stage.start("a", text).await;
    let said = stage.text("a", LogStream::Stdout).await;
    let mut lines = said.lines();
    let scratch = stage.file("a", "scratch").canonicalize().expect("a path");
    assert_eq!(lines.next(), scratch.to_str());
    // 3 is the directory that `ls` reads.
    assert_eq!(lines.next(), Some("0 1 2 3 "));
    assert_eq!(lines.next(), Some("/dev/null"));
    assert_eq!(lines.next(), Some("0022"));
    let status: Vec<_> =
        lines.by_ref().take(3).map(|line| line.split_once(":\t").expect("a field")).collect();
    let zero = "0000000000000000";
    assert_eq!(status, [("SigBlk", zero), ("SigIgn", zero), ("NoNewPrivs", "1")], "{said}");
    let rest = lines.collect::<Vec<_>>().join(" ");
    let pids = numbers(&rest);
    // Process, group and session are one.
    assert!(pids.len() == 4 && pids.iter().all(|pid| Some(pid) == pids.first()), "{said}");
}

#[tokio::test]
async fn an_id_is_launched_once_until_it_is_removed() {
    let mut stage = Stage::set().await;
    stage.start("a", "sleep 600").await;
    let again = stage.launch(script("a", "true")).await;
    assert!(matches!(again, Err(LaunchError::Exists { .. })), "{again:?}");
    let removed = stage.runtime.remove(&id("a")).await;
    assert!(matches!(removed, Err(RemoveError::Running { .. })), "{removed:?}");

    stage.runtime.stop(&id("a"), std::time::Duration::ZERO).await.expect("ordered");
    stage.end("a").await;
    let again = stage.launch(script("a", "true")).await;
    assert!(matches!(again, Err(LaunchError::Exists { .. })), "{again:?}");

    stage.runtime.remove(&id("a")).await.expect("removed");
    assert!(stage.directories().is_empty());
    let removed = stage.runtime.remove(&id("a")).await;
    assert!(matches!(removed, Err(RemoveError::Unknown { .. })), "{removed:?}");
    stage.start("a", "exit 5").await;
    assert_eq!(stage.end("a").await, End::Exited { code: 5 });
}

#[tokio::test]
async fn one_of_many_launches_of_an_id_at_once_wins() {
    let stage = Stage::set().await;
    let (a, b, c) = tokio::join!(
        stage.launch(script("a", "echo once")),
        stage.launch(script("a", "echo once")),
        stage.launch(script("a", "echo once")),
    );
    assert_eq!([a.is_ok(), b.is_ok(), c.is_ok()].iter().filter(|ok| **ok).count(), 1);
    assert_eq!(stage.text("a", LogStream::Stdout).await, "once\n");
}

#[tokio::test]
async fn what_a_task_leaves_behind_dies_with_its_main_process() {
    let mut stage = Stage::set().await;
    // One in the session, one in its own, one whose parents are all dead; all of
    // them hold the pipes.
    let text = "sleep 600 & a=$!; setsid sleep 600 & b=$!
        (setsid sh -c 'echo $$ > far; exec sleep 600' &)
        until [ -s far ]; do sleep 0.01; done; echo $$ $a $b $(cat far) ready
        until [ -e go ]; do sleep 0.01; done; exit 3";
    stage.start("a", text).await;
    let said = stage.says("a", "ready").await;
    assert_eq!(numbers(&said).len(), 4, "{said}");
    assert!(numbers(&said).iter().all(|pid| lives(*pid)), "{said}");
    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
    assert_eq!(stage.end("a").await, End::Exited { code: 3 });
    for pid in numbers(&said) {
        assert!(!lives(pid), "{pid} of {said}");
    }
    until("no supervisor is left", || stage.supervisors().is_empty()).await;
}

#[tokio::test]
async fn the_keeper_leaves_when_told_and_comes_back_when_needed() {
    let mut stage = Stage::set().await;
    stage.start("a", "true").await;
    stage.end("a").await;
    assert!(stage.keeper().is_some());
    stage.runtime.stop_keeper();
    until("the keeper leaves", || stage.keeper().is_none()).await;
    stage.start("b", "exit 6").await;
    assert_eq!(stage.end("b").await, End::Exited { code: 6 });
}

#[tokio::test]
async fn a_task_runs_as_its_user_where_that_is_possible() {
    let mut stage = Stage::set().await;
    let user = Some(User { uid: 65_534, gid: 65_534 });
    let launched = stage
        .launch(Launch {
            place: Place::Process(Process { user, hidden: Vec::new(), files: None }),
            ..script("a", "id -u; id -g; id -G; echo x > here; ls -ln here")
        })
        .await;
    if !rustix::process::geteuid().is_root() {
        let refused =
            matches!(&launched, Err(LaunchError::NotStarted { fault: StartFault::User, .. }));
        let own = rustix::process::geteuid().as_raw() == 65_534;
        assert!(refused || own, "{launched:?}");
        return;
    }
    launched.expect("started");
    let said = stage.text("a", LogStream::Stdout).await;
    assert!(said.starts_with("65534\n65534\n65534\n") && said.contains("here"), "{said}");
    assert_eq!(stage.end("a").await, End::Exited { code: 0 });
}

#[tokio::test]
async fn a_launch_nobody_waits_for_is_still_watched() {
    let mut stage = Stage::set().await;
    {
        let launch = stage.runtime.launch(script("a", "exit 8"));
        tokio::pin!(launch);
        let polled = poll_once(launch.as_mut()).await;
        assert!(polled.is_none());
    }
    assert_eq!(stage.end("a").await, End::Exited { code: 8 });
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    use std::pin::Pin;
    use std::task::Poll;
    std::future::poll_fn(move |context| match Pin::new(&mut future).poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn fifty_tasks_at_once_all_end_well() {
    let mut stage = Stage::set().await;
    let mut launches = tokio::task::JoinSet::new();
    for n in 0..50 {
        let runtime = stage.runtime.clone();
        launches.spawn(async move {
            runtime.launch(script(&format!("t{n}"), &format!("exit {n}"))).await
        });
    }
    while let Some(launched) = launches.join_next().await {
        launched.expect("joined").expect("started");
    }
    for n in 0..50 {
        assert_eq!(stage.end(&format!("t{n}")).await, End::Exited { code: n });
    }
}
