//! The shipped binary on several hosts of this machine, through its command line.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use support::{Host, cluster, is_alive, kill, until};

#[test]
fn a_command_runs_somewhere_and_gives_its_output_and_exit_code_back() {
    let hosts = cluster(3);
    for host in &hosts {
        let script = "echo out; echo err >&2; exit 7";
        let told = host.run(&["run", "--exec", "--", "sh", "-c", script]);
        assert_eq!((told.code, told.out.as_str()), (7, "out\n"), "{told:?}");
        assert!(told.err.contains("err\n"), "{told:?}");
    }
    let bytes = "printf '\\000\\377\\n'";
    let mut command = hosts[1].command(&["run", "--exec", "--", "sh", "-c", bytes]);
    assert_eq!(command.output().expect("runs").stdout, b"\0\xff\n", "byte for byte");
    let killed = hosts[2].run(&["run", "--exec", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137);
    let missing = hosts[0].run(&["run", "--exec", "--", "no-such-command-here"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err.contains("error:"), "{missing:?}");
}

#[test]
fn a_service_is_spread_listed_read_and_stopped_from_any_host() {
    let hosts = cluster(3);
    let script = "echo here is $STARLING_INDEX; exec sleep 86400";
    let run = ["run", "-d", "--name", "web", "--replicas", "3", "--exec", "--", "sh", "-c", script];
    hosts[0].run(&run).ok();
    until("three run", || hosts[2].running("web") == 3);
    // A task runs before it writes, and each host hears of it in its own time.
    until("one copy on each host", || {
        let tasks = hosts[1].tasks("web");
        let mut nodes: Vec<_> = tasks.iter().map(|(_, node, _)| node.as_str()).collect();
        nodes.sort_unstable();
        nodes == ["h1", "h2", "h3"]
    });
    for host in &hosts {
        let lines = || -> Vec<String> {
            host.run(&["logs", "web"]).ok().lines().map(str::to_owned).collect()
        };
        until("each copy's line is read", || lines().len() == 3);
        let mut lines = lines();
        lines.sort();
        assert!(lines.iter().zip(1..).all(|(line, n)| line.contains(&format!("here is {n}"))));
    }
    let twice = hosts[1].run(&run);
    assert_eq!(twice.code, 1, "{twice:?}");
    assert!(twice.err.contains("web") || twice.err.contains("name"), "{twice:?}");
    hosts[1].run(&["stop", "web"]).ok();
    until("none runs", || hosts[0].tasks("web").is_empty());
    hosts[2].run(&["rm", "web"]).ok();
    until("it is forgotten", || hosts[0].run(&["ps", "web"]).code != 0);
    for host in &hosts {
        let tasks = host.data().join("run/tasks");
        until("its output is gone with it", || {
            // What waiting supervisors have ready for the next ones begins with a dot.
            let is_tasks = |name: std::ffi::OsString| !name.as_encoded_bytes().starts_with(b".");
            std::fs::read_dir(&tasks)
                .is_ok_and(|entries| !entries.flatten().any(|entry| is_tasks(entry.file_name())))
        });
    }
}

#[test]
fn an_array_runs_every_index_once_and_wait_tells_how_it_ended() {
    let hosts = cluster(2);
    let script = "echo $STARLING_INDEX of $STARLING_COUNT; test $STARLING_INDEX != 3";
    let run = ["run", "-d", "--name", "sum", "--array", "5", "--exec", "--", "sh", "-c", script];
    hosts[0].run(&run).ok();
    let told = hosts[1].run(&["wait", "sum"]);
    assert_eq!(told.code, 1, "index 3 failed: {told:?}");
    let logs = hosts[1].run(&["logs", "sum"]).ok();
    for index in 1..=5 {
        assert!(logs.contains(&format!("{index} of 5")), "{logs}");
    }
    assert_eq!(logs.lines().count(), 5);
    for host in &hosts {
        host.run(&["down"]).ok();
        let home = host.data().parent().expect("a home").to_owned();
        until("a host without tasks leaves nothing", || support::processes_of(&home).is_empty());
    }
}

#[test]
fn a_crashed_agent_finds_its_task_again_with_pid_output_and_exit_code() {
    let hosts = cluster(1);
    let host = &hosts[0];
    let file = host.data().parent().expect("a home").join("go");
    let script = format!(
        "echo $$; while [ ! -e {} ]; do sleep 0.05; done; echo gone on; exit 5",
        file.display()
    );
    host.run(&["run", "-d", "--name", "job", "--exec", "--", "sh", "-c", &script]).ok();
    until("it runs", || host.running("job") == 1);
    until("it wrote", || !host.run(&["logs", "job"]).out.is_empty());
    let pid: i32 = host.run(&["logs", "job"]).ok().trim().parse().expect("a pid");
    host.crash_agent();
    assert!(is_alive(pid), "the task did not notice");
    host.up();
    until("it is found", || host.running("job") == 1);
    assert!(is_alive(pid), "the same process");
    host.crash_agent();
    std::fs::write(&file, "").expect("writes");
    until("it ended while no agent lived", || !is_alive(pid));
    host.up();
    let told = host.run(&["wait", "job"]);
    assert_eq!(told.code, 5, "{told:?}");
    assert!(host.run(&["logs", "job"]).ok().contains("gone on"));
}

#[test]
fn the_work_of_a_dead_host_runs_elsewhere_and_is_not_doubled_when_it_returns() {
    let hosts = cluster(3);
    let sleep = ["run", "-d", "--name", "web", "--replicas", "3", "--exec", "--", "sleep", "86400"];
    hosts[0].run(&sleep).ok();
    until("three run", || hosts[0].running("web") == 3);
    hosts[2].kill_all();
    let all_alive = |tasks: &[(String, String, String)]| {
        tasks.iter().filter(|(_, node, state)| node != "h3" && state == "running").count() == 3
    };
    until("the survivors run all three", || all_alive(&hosts[0].tasks("web")));
    hosts[2].up();
    until("the dead host gave up its claim", || {
        let tasks = hosts[2].tasks("web");
        tasks.len() == 3 && all_alive(&tasks)
    });
}

#[test]
fn a_paused_agent_comes_back_to_exactly_one_copy() {
    let hosts = cluster(2);
    let sleep = ["run", "-d", "--name", "web", "--replicas", "2", "--exec", "--", "sleep", "86400"];
    hosts[0].run(&sleep).ok();
    until("two run", || hosts[0].running("web") == 2);
    let agent = hosts[1].agent();
    kill(agent, "STOP");
    until("both slots run on the other", || {
        let tasks = hosts[0].tasks("web");
        tasks.iter().filter(|(_, node, state)| node == "h1" && state == "running").count() == 2
    });
    kill(agent, "CONT");
    for host in &hosts {
        until("one copy of each", || {
            let tasks = host.tasks("web");
            tasks.len() == 2 && tasks.iter().all(|(_, _, state)| state == "running")
        });
    }
}

#[test]
fn a_job_that_fits_nowhere_says_why_and_waits() {
    let hosts = cluster(2);
    let big = ["run", "-d", "--name", "big", "--cpus", "64", "--exec", "--", "true"];
    hosts[0].run(&big).ok();
    until("it is pending", || {
        hosts[1].tasks("big").first().is_some_and(|(_, _, state)| state == "pending")
    });
    let why = hosts[1].run(&["why", "big"]).ok();
    assert!(why.contains("h1") && why.contains("h2") && why.contains("cpu 1 < 64"), "{why}");
}

#[test]
fn logs_follow_a_task_on_another_host_until_it_ends() {
    let hosts = cluster(2);
    let home = hosts[0].data().parent().expect("a home").to_owned();
    let gate = home.join("go");
    let script =
        format!("echo first; while [ ! -e {} ]; do sleep 0.05; done; echo last", gate.display());
    let run = ["run", "-d", "--name", "talk", "--array", "2", "--exec", "--", "sh", "-c", &script];
    hosts[0].run(&run).ok();
    let mut command = hosts[1].command(&["logs", "-f", "talk"]);
    let mut follower = command.stdout(Stdio::piped()).spawn().expect("follows");
    until("both run", || hosts[1].running("talk") == 2);
    std::fs::write(&gate, "").expect("writes");
    let mut text = String::new();
    follower.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    assert!(follower.wait().expect("ends").success());
    assert_eq!(text.matches("first").count(), 2, "{text}");
    assert_eq!(text.matches("last").count(), 2, "{text}");
}

#[test]
fn logs_of_a_service_that_was_started_often_tell_its_last_starts_and_go_on_with_the_next() {
    let hosts = cluster(2);
    let home = hosts[0].data().parent().expect("a home").to_owned();
    let count = home.join("count");
    std::fs::write(&count, "0").expect("writes");
    std::fs::set_permissions(&count, std::fs::Permissions::from_mode(0o666)).expect("permissions");
    let script =
        format!("n=$(($(cat {0}) + 1)); echo $n >{0}; echo start $n; exit 1", count.display());
    let run = ["run", "-d", "--name", "flaky", "--replicas", "1", "--exec", "--"];
    hosts[0].run(&[&run[..], &["sh", "-c", &script]].concat()).ok();
    let started = || -> u32 {
        std::fs::read_to_string(&count).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    };
    until("it runs often", || started() >= 2);
    let followers = hosts.iter().map(|host| {
        let mut command = host.command(&["logs", "-f", "flaky"]);
        command.stdout(Stdio::piped()).spawn().expect("follows")
    });
    let mut followers: Vec<_> = followers.collect();
    until("it was started six times", || started() >= 6);
    for host in &hosts {
        let told = host.run(&["logs", "flaky"]).ok();
        assert!((1..=2).contains(&told.lines().count()), "the last starts alone: {told}");
        assert!(!told.contains("start 1\n") && told.contains("start "), "{told}");
        let last = host.run(&["logs", "-n", "1", "flaky"]).ok();
        assert_eq!(last.lines().count(), 1, "{last}");
        let told = host.run(&["logs", "flaky.2"]);
        assert!(told.code == 1 && told.err.contains("main with 1 to 1"), "{told:?}");
        let told = host.run(&["logs", "flaky.other.1"]);
        assert!(told.code == 1 && told.err.contains("hint"), "{told:?}");
        assert!(host.run(&["logs", "flaky.main.1"]).ok().contains("start"));
    }
    hosts[0].run(&["stop", "flaky"]).ok();
    for follower in &mut followers {
        let mut text = String::new();
        follower.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        assert!(follower.wait().expect("ends").success());
        let starts: Vec<_> = text.lines().collect();
        assert!(starts.len() >= 4, "several starts, one after the other: {starts:?}");
        let mut once = starts.clone();
        once.dedup();
        assert_eq!(once, starts, "nothing twice");
    }
    until("it is stopped", || hosts[0].tasks("flaky").is_empty());
    assert!(!hosts[1].run(&["logs", "flaky"]).ok().is_empty(), "its last starts are kept");
}

#[test]
fn no_output_of_a_wide_job_is_lost_in_silence() {
    let hosts = cluster(2);
    let check = |told: support::Told| {
        assert_eq!(told.code, 0, "{told:?}");
        for index in 1..=100 {
            // A host that a busy machine kept silent for too long is named instead.
            let noted = told.err.contains(&format!("note: wide.{index}: "));
            let line = format!("line {index}");
            assert!(noted || told.out.lines().any(|l| l.ends_with(&line)), "{line}: {told:?}");
        }
    };
    let run = ["run", "--name", "wide", "--array", "100", "--cpus", "0.05", "--exec", "--"];
    check(hosts[0].run(&[&run[..], &["sh", "-c", "echo line $STARLING_INDEX"]].concat()));
    for host in &hosts {
        // Until it knows of every end.
        host.run(&["wait", "wide"]).ok();
        check(host.run(&["logs", "wide"]));
        check(host.run(&["logs", "-f", "wide"]));
    }
}

#[test]
fn nobody_waits_for_a_stopped_job_because_of_a_lost_host() {
    let hosts = cluster(2);
    let sleep = ["run", "-d", "--name", "web", "--replicas", "2", "--exec", "--", "sleep", "86400"];
    hosts[0].run(&sleep).ok();
    until("two run", || hosts[0].running("web") == 2);
    hosts[1].kill_all();
    // There is no other disk to have it on.
    assert_eq!(hosts[0].run(&["stop", "web"]).code, 3);
    let mut follower = hosts[0].command(&["logs", "-f", "web"]).spawn().expect("follows");
    let waited = hosts[0].run(&["wait", "--timeout", "30s", "web"]);
    assert_eq!(waited.code, 143, "{waited:?}");
    let mut ended = None;
    until("the follower ends", || {
        ended = follower.try_wait().expect("waits");
        ended.is_some()
    });
    assert!(ended.is_some_and(|status| status.success()));
}

#[test]
fn going_down_with_tasks_leaves_nothing_and_hands_the_work_on() {
    let hosts = cluster(2);
    let sleep = ["run", "-d", "--name", "web", "--replicas", "2", "--exec", "--", "sleep", "86400"];
    hosts[0].run(&sleep).ok();
    until("two run", || hosts[0].running("web") == 2);
    hosts[1].run(&["down", "--stop-tasks"]).ok();
    until("nothing of it is left", || {
        support::processes_of(hosts[1].data().parent().expect("a home")).is_empty()
    });
    until("the other runs both", || {
        let tasks = hosts[0].tasks("web");
        tasks.iter().filter(|(_, node, state)| node == "h1" && state == "running").count() == 2
    });
    hosts[1].run(&["down"]).ok();
}

#[test]
fn an_idle_host_has_nothing_to_say_but_says_it() {
    let host = Host::new("lonely");
    host.up();
    assert!(host.run(&["ps"]).ok().contains("TASK"));
    assert!(host.run(&["node", "ls"]).ok().contains("lonely"));
    assert!(host.run(&["status"]).ok().contains("lonely"));
    assert!(host.run(&["events"]).ok().contains("lonely"));
}

#[test]
fn logs_of_a_task_that_never_stops_writing_come_to_an_end() {
    let hosts = cluster(1);
    hosts[0].run(&["run", "-d", "--name", "chatty", "--exec", "--", "yes"]).ok();
    until("it writes", || !hosts[0].run(&["logs", "-n", "1", "chatty"]).out.is_empty());
    let told = hosts[0].run(&["logs", "-n", "3", "chatty"]);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(told.out.lines().all(|line| line.contains('y')), "{}", told.out);
    hosts[0].run(&["stop", "chatty"]).ok();
}

#[test]
fn going_down_with_tasks_says_so_when_the_agent_is_gone_already() {
    let hosts = cluster(1);
    hosts[0].run(&["run", "-d", "--name", "left", "--exec", "--", "sleep", "86400"]).ok();
    until("it runs", || hosts[0].running("left") == 1);
    hosts[0].crash_agent();
    let told = hosts[0].run(&["down", "--stop-tasks"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("starling up"), "{told:?}");
    hosts[0].up();
    hosts[0].run(&["down", "--stop-tasks"]).ok();
    until("nothing of it is left", || {
        support::processes_of(hosts[0].data().parent().expect("a home")).is_empty()
    });
}

#[test]
fn a_foreground_run_whose_agent_dies_says_so_with_a_code_of_its_own() {
    let hosts = cluster(1);
    let script = "echo begun; sleep 86400";
    let mut command =
        hosts[0].command(&["run", "--name", "long", "--exec", "--", "sh", "-c", script]);
    let runner = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    until("it runs", || hosts[0].running("long") == 1);
    hosts[0].crash_agent();
    let told = support::Told::from(runner.wait_with_output().expect("ends"));
    assert_eq!(told.code, 125, "{told:?}");
    assert!(told.err.contains("hint"), "{told:?}");
}
