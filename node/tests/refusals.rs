//! Bad input at the shipped binary: one clear error each, a stable exit code, no panic.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;

use support::{Host, Told, cluster, until};

fn refused(told: &Told, code: i32, words: &[&str]) {
    assert_eq!(told.code, code, "{told:?}");
    assert!(told.err.starts_with("error: ") || told.err.contains("\nerror: "), "{told:?}");
    assert!(!told.err.contains("panicked"), "{told:?}");
    for word in words {
        assert!(told.err.contains(word), "no {word:?} in {told:?}");
    }
}

#[test]
fn without_an_agent_every_question_says_how_to_start_one() {
    let host = Host::new("h1");
    let run: &[&str] = &["run", "--exec", "--", "true"];
    for words in [&["ps"][..], &["status"], &["node", "ls"], &["why", "x"], &["invite"]] {
        refused(&host.run(words), 69, &["starling up"]);
    }
    let told = host.run(run);
    assert!(matches!(told.code, 69 | 125), "{told:?}");
    assert!(!host.data().exists(), "a question leaves nothing behind");
}

#[test]
fn flags_that_make_no_sense_are_usage_errors() {
    let host = Host::new("h1");
    for words in [
        &["frobnicate"][..],
        &["run"],
        &["run", "--exec", "--"],
        &["run", "--replicas", "2", "--array", "2", "--exec", "--", "true"],
        &["run", "--cpus", "lots", "--exec", "--", "true"],
        &["run", "--memory", "-1", "--exec", "--", "true"],
        &["run", "--name", "Not A Name", "--exec", "--", "true"],
        &["run", "-e", "=x", "--exec", "--", "true"],
        &["up", "--listen", "nowhere"],
        &["invite", "--ttl", "soon"],
    ] {
        let told = host.run(words);
        assert_eq!(told.code, 2, "{words:?}: {told:?}");
        assert!(told.err.starts_with("error: "), "{words:?}: {told:?}");
    }
    let told = host.run(&["--json", "exec"]);
    let failure: serde_json::Value = serde_json::from_str(&told.err).expect("JSON");
    assert!(told.code == 2 && failure["error"]["code"] == "usage", "{told:?}");
    let image = host.run(&["run", "/usr/bin/env"]);
    assert_eq!(image.code, 125, "{image:?}");
    assert!(image.err.contains("no name of an image"), "{image:?}");
    assert!(image.err.contains("--exec"), "{image:?}");
}

#[test]
fn tokens_that_do_not_hold_are_refused_with_the_reason() {
    let hosts = cluster(1);
    let stranger = Host::new("stranger");
    refused(&stranger.run(&["join", "hello"]), 1, &["token"]);
    let token = hosts[0].invite(1);
    refused(&stranger.run(&["join", &token[..token.len() - 2]]), 1, &["damaged"]);
    let second = Host::new("h2");
    second.join(&token);
    refused(&stranger.run(&["join", &token]), 1, &["used up"]);
    let short = hosts[0].run(&["-q", "invite", "--ttl", "1s"]).ok();
    let issued = std::time::Instant::now();
    until("its second is over", || issued.elapsed().as_millis() > 1100);
    refused(&stranger.run(&["join", short.trim()]), 1, &["expired"]);
    let other = Host::new("other");
    other.up();
    refused(&other.run(&["join", &hosts[0].invite(1)]), 1, &["cluster"]);
    hosts[0].run(&["down"]).ok();
    let late = Host::new("late");
    let valid = second.invite(1);
    second.run(&["down"]).ok();
    refused(&late.run(&["join", &valid]), 69, &["answers"]);
}

#[test]
fn a_job_that_nobody_knows_is_named_in_the_error() {
    let hosts = cluster(1);
    for words in [&["stop", "ghost"][..], &["rm", "ghost"], &["logs", "ghost"], &["why", "ghost"]] {
        refused(&hosts[0].run(words), 1, &["ghost"]);
    }
    refused(&hosts[0].run(&["wait", "ghost"]), 1, &["ghost"]);
}

#[test]
fn ports_and_data_in_use_are_told_apart() {
    let first = Host::new("h1");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        free.local_addr().expect("bound").port()
    };
    let listen = format!("127.0.0.1:{port}");
    first.run(&["up", "--listen", &listen]).ok();
    let second = Host::new("h2");
    let told = second.run(&["up", "--listen", &listen, "--operator-listen", "127.0.0.1:0"]);
    refused(&told, 1, &[&port.to_string()]);
    let door = format!("127.0.0.1:{}", port + 1);
    refused(&second.run(&["up", "--operator-listen", &door]), 1, &[&door]);
    assert!(!second.data().join("api.sock").exists(), "a start that failed leaves no door");
    let elsewhere = second.data().join("other.sock");
    let socket = elsewhere.to_str().expect("a plain path");
    refused(&first.run(&["--socket", socket, "up"]), 1, &["in use"]);
}

#[test]
fn a_damaged_journal_is_refused_and_left_as_it_was() {
    let hosts = cluster(1);
    hosts[0].run(&["down"]).ok();
    let journal = fs::read_dir(hosts[0].data())
        .expect("data")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "redb"))
        .expect("a journal");
    let mut bytes = fs::read(&journal).expect("reads");
    for byte in bytes.iter_mut().take(4096) {
        *byte = !*byte;
    }
    fs::write(&journal, &bytes).expect("writes");
    refused(&hosts[0].run(&["up"]), 1, &["damaged"]);
    assert_eq!(fs::read(&journal).expect("reads"), bytes, "not a byte of it was changed");
}

#[test]
fn starting_twice_is_no_error_and_starts_nothing() {
    let hosts = cluster(1);
    let pid = hosts[0].agent();
    hosts[0].up();
    assert_eq!(hosts[0].agent(), pid);
}

#[test]
fn a_service_that_ends_at_once_is_told_of_with_the_reason() {
    let hosts = cluster(1);
    let failing = ["run", "-d", "--name", "t", "--replicas", "1", "--exec", "--"];
    hosts[0].run(&[&failing[..], &["sh", "-c", "exit 3"]].concat()).ok();
    // Between two starts it is shown as running for a moment.
    until("it is started again", || {
        let listed = hosts[0].json(&["ps", "t"]);
        let task = &listed["items"][0];
        task["restarts"].as_u64() > Some(1)
            && task["state"] == "restarting"
            && task["exit_code"] == 3
    });
    until("people see it", || {
        let told = hosts[0].run(&["ps", "t"]);
        told.err.contains("exited with 3") && told.out.contains("restarting")
    });
    until("its job counts it", || hosts[0].run(&["jobs"]).ok().contains("0/1 (1 restarting)"));
}
