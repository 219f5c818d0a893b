//! What ended and is started again, what is removed when it is over, and what a job says of
//! itself: `run --restart`, `--rm`, `--label`, through the shipped binary.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use support::{Host, cluster, until};

/// What a batch's only task says of itself.
fn task(host: &Host, job: &str) -> serde_json::Value {
    host.json(&["ps", "-a", job])["items"][0].clone()
}

/// A script that counts its starts in a file of everybody's, and says which it is.
fn counting(file: &std::path::Path, then: &str) -> String {
    let file = file.display();
    format!("echo x >> {file}; n=$(wc -l < {file}); echo start $n; {then}")
}

/// A file that tasks, which run as somebody else, may write.
fn open_file(host: &Host, name: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = host.data().parent().expect("a home").join(name);
    std::fs::write(&path, "").expect("made");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("opened");
    path
}

#[test]
fn what_failed_is_started_again_as_often_as_was_said_and_then_its_job_failed() {
    let hosts = cluster(2);
    let script = counting(&open_file(&hosts[0], "starts"), "exit 3");
    let run = ["run", "--name", "t", "--restart", "on-failure:2", "--exec", "--", "sh", "-c"];
    let told = hosts[0].run(&[&run[..], &[&script]].concat());
    assert_eq!((told.code, told.out.as_str()), (3, "start 1\nstart 2\nstart 3\n"), "{told:?}");
    assert!(told.err.contains("it is started again (2)"), "{told:?}");
    assert_eq!(hosts[1].run(&["wait", "t"]).code, 3);
    let listed = task(&hosts[1], "t");
    assert_eq!((listed["state"].as_str(), listed["exit_code"].as_i64()), (Some("failed"), Some(3)));
    assert_eq!(listed["restarts"], 2, "its end forgets none of them: {listed}");
    let logs = hosts[1].run(&["logs", "t"]);
    assert_eq!(logs.out, "start 2\nstart 3\n", "the last two are kept");
    assert!(logs.err.contains("t.1 was started before; what it wrote then"), "{logs:?}");
    let last = hosts[1].run(&["logs", "-n", "1", "t"]);
    assert_eq!((last.out.as_str(), last.err.as_str()), ("start 3\n", ""), "no more was asked for");
}

#[test]
fn a_failure_that_passes_ends_well_and_a_success_is_never_repeated() {
    let host = Host::new("h1");
    host.up();
    let script = counting(&open_file(&host, "starts"), "test $n = 2");
    let run = ["run", "--restart", "on-failure", "--exec", "--", "sh", "-c"];
    let told = host.run(&[&run[..], &[&script]].concat());
    assert_eq!((told.code, told.out.as_str()), (0, "start 1\nstart 2\n"), "{told:?}");
    // What cannot begin is no failure of the task's own.
    let missing = host.run(&["run", "--restart", "on-failure", "--exec", "--", "no-such-command"]);
    assert_eq!(missing.code, 127, "{missing:?}");
}

#[test]
fn an_agents_own_end_forgets_no_restart_and_stop_ends_them() {
    let host = Host::new("h1");
    host.up();
    let gate = open_file(&host, "gate");
    let starts = open_file(&host, "starts");
    // Runs until somebody writes into the gate, which each start empties.
    let wait = format!("until test -s {}; do sleep 0.05; done; exit 1", gate.display());
    // Whoever sees that it is counted knows that the gate is shut.
    let script = format!(": > {}; {}", gate.display(), counting(&starts, &wait));
    let run = ["run", "-d", "--name", "t", "--restart", "on-failure:1", "--exec", "--", "sh", "-c"];
    host.run(&[&run[..], &[&script]].concat()).ok();
    let started = || std::fs::read_to_string(&starts).expect("read").lines().count();
    let open = || std::fs::write(&gate, "open").expect("written");
    until("it runs", || started() == 1 && host.running("t") == 1);
    open();
    until("it runs again", || started() == 2 && host.running("t") == 1);
    assert_eq!(task(&host, "t")["restarts"], 1);
    host.crash_agent();
    host.up();
    until("it is found", || host.running("t") == 1);
    open();
    assert_eq!(host.run(&["wait", "t"]).code, 1, "there is no second restart");
    assert_eq!(started(), 2);

    let run = ["run", "-d", "--name", "u", "--restart", "on-failure", "--exec", "--", "false"];
    host.run(&run).ok();
    until("it fails again and again", || task(&host, "u")["restarts"].as_u64() > Some(1));
    host.run(&["stop", "u"]).ok();
    until("it is stopped", || host.tasks("u").is_empty());
    assert_eq!(host.run(&["wait", "u"]).code, 143);
}

#[test]
fn always_is_a_service_and_a_stop_ends_it_for_good() {
    let host = Host::new("h1");
    host.up();
    let run = ["run", "-d", "--name", "s", "--restart", "unless-stopped", "--exec", "--", "true"];
    host.run(&run).ok();
    until("it is started again", || task(&host, "s")["restarts"].as_u64() > Some(1));
    host.run(&["stop", "s"]).ok();
    until("none runs", || host.tasks("s").is_empty());
}

#[test]
fn a_job_that_is_over_is_removed_with_its_output_if_it_said_so() {
    let hosts = cluster(2);
    let is_gone = |name: &str| hosts.iter().all(|host| host.run(&["ps", "-a", name]).code != 0);
    let told =
        hosts[0].run(&["run", "--rm", "--name", "f", "--exec", "--", "sh", "-c", "echo a; exit 4"]);
    assert_eq!((told.code, told.out.as_str()), (4, "a\n"), "{told:?}");
    until("the one in the foreground is gone", || is_gone("f"));
    let run = ["run", "-d", "--rm", "--name", "d", "--array", "3", "--exec", "--", "true"];
    hosts[1].run(&run).ok();
    until("the one that nobody waited for is gone", || is_gone("d"));
    let run = ["run", "-d", "--rm", "--name", "s", "--exec", "--", "sleep", "86400"];
    hosts[0].run(&run).ok();
    until("it runs", || hosts[1].running("s") == 1);
    hosts[1].run(&["stop", "s"]).ok();
    until("the one that was stopped is gone", || is_gone("s"));
    for host in &hosts {
        let tasks = host.data().join("run/tasks");
        until("nothing that they wrote is left", || {
            let is_task = |name: std::ffi::OsString| !name.as_encoded_bytes().starts_with(b".");
            std::fs::read_dir(&tasks)
                .is_ok_and(|entries| !entries.flatten().any(|entry| is_task(entry.file_name())))
        });
    }
}

#[test]
fn labels_variables_and_the_id_come_from_files_and_go_where_they_are_wanted() {
    let hosts = cluster(2);
    let home = hosts[0].data().parent().expect("a home").to_owned();
    let file = |name: &str| home.join(name).display().to_string();
    std::fs::write(home.join("vars"), "# some\nA=of the file \nB=file\n").expect("written");
    std::fs::write(home.join("labels"), "tier=front\nkeep\n").expect("written");
    let (vars, labels, id) = (file("vars"), file("labels"), file("id"));
    let run = [
        "run",
        "--name",
        "t",
        "--env-file",
        &vars,
        "-e",
        "B=flag",
        "--label-file",
        &labels,
        "-l",
        "owner=me",
        "--cidfile",
        &id,
        "--exec",
        "--",
        "sh",
        "-c",
        "echo \"[$A][$B]\"",
    ];
    assert_eq!(hosts[0].run(&run).ok(), "[of the file ][flag]\n");
    let wanted = serde_json::json!({"tier": "front", "keep": "", "owner": "me"});
    until("the other host knows it", || task(&hosts[1], "t")["labels"] == wanted);
    let found = |filter: &str| hosts[1].run(&["-q", "ps", "-a", "-f", filter]).ok();
    assert_eq!(found("label=tier=front"), "t.1\n");
    assert_eq!((found("label=tier=back"), found("label=other")), (String::new(), String::new()));
    let jobs = hosts[1].json(&["jobs", "-a", "--filter", "label=keep"]);
    assert_eq!(jobs["items"][0]["labels"], wanted);
    let written = std::fs::read_to_string(home.join("id")).expect("there");
    assert_eq!(jobs["items"][0]["id"], serde_json::json!(written));
    let again = hosts[0].run(&run);
    assert!(again.code == 125 && again.err.contains("--cidfile"), "{again:?}");
}

#[test]
fn whoever_waits_in_the_foreground_is_told_why_and_when_that_changes() {
    let host = Host::new("h1");
    host.up();
    let mut command =
        host.command(&["run", "--name", "t", "--reserve-cpu", "64", "--exec", "true"]);
    let said = host.data().parent().expect("a home").join("said");
    let stderr = std::fs::File::create(&said).expect("made");
    let mut waiting = command.stderr(stderr).spawn().expect("starts");
    let heard = |what: &str| {
        until(what, || std::fs::read_to_string(&said).expect("read").contains(what));
    };
    heard("t waits for a node; starling why t");
    heard(" h1: too large for this node: cpu 1 < 64");
    let other = Host::new("h2");
    other.join(&host.invite(1));
    heard("t still waits for a node");
    heard(" h2: too large for this node: cpu 1 < 64");
    host.run(&["stop", "t"]).ok();
    assert_eq!(waiting.wait().expect("it ends").code(), Some(143));
}

/// How many tasks have a directory on a host.
fn directories(host: &Host) -> usize {
    let entries = std::fs::read_dir(host.data().join("run/tasks")).expect("a directory");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // Beside what is there to be used again.
    let of_a_task = |name: &String| {
        name.split_once('-').is_some_and(|(tender, _)| u64::from_str_radix(tender, 16).is_ok())
    };
    names.filter(of_a_task).count()
}

#[test]
fn what_ended_before_an_agents_restart_goes_with_its_job() {
    let host = Host::new("h1");
    host.up();
    for name in ["a", "b"] {
        host.run(&["run", "--name", name, "--exec", "--", "true"]).ok();
    }
    assert_eq!(directories(&host), 2);
    host.crash_agent();
    host.up();
    host.run(&["rm", "a"]).ok();
    until("its directory is gone", || directories(&host) == 1);
    assert_eq!(host.run(&["logs", "b"]).code, 0, "the other one stays");
}
