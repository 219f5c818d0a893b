//! Running tasks as users reach into them: `exec`, `attach`, `cp`, `kill`, `pause`,
//! `stats` and `top`, with real agents.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use support::{Host, cluster, is_alive, until};

/// A host with a task `t` that does nothing.
fn idle(host: &Host) {
    host.run(&["run", "-d", "--name", "t", "--exec", "--", "sh", "-c", "echo up; exec sleep 1000"])
        .ok();
    until("it runs", || host.running("t") == 1);
}

#[test]
fn exit_codes_are_the_programs_or_say_whose_failure_it_was() {
    let hosts = cluster(1);
    idle(&hosts[0]);
    let code = |words: &[&str]| hosts[0].run(&[&["exec", "t", "--"], words].concat()).code;
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["false"]), 1);
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["no-such-program"]), 127);
    assert_eq!(code(&["/etc"]), 126);
    let told = hosts[0].run(&["exec", "-w", "/no/such", "t", "--", "true"]);
    assert!(told.code == 125 && told.err.contains("directory"), "{told:?}");
    let told = hosts[0].run(&["exec", "nobody", "--", "true"]);
    assert_eq!(told.code, 125, "{told:?}");
    hosts[0].run(&["stop", "t"]).ok();
    let told = hosts[0].run(&["exec", "t", "--", "true"]);
    assert!(told.code == 125 && told.err.contains("not running"), "{told:?}");
}

#[test]
fn what_is_piped_through_comes_back_whole_from_another_nodes_task_too() {
    let hosts = cluster(2);
    idle(&hosts[0]);
    let sent: Vec<u8> =
        (0..5_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for host in &hosts {
        let mut child = host
            .command(&["exec", "-i", "t", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = sent.clone();
        let feed = std::thread::spawn(move || stdin.write_all(&input));
        let out = child.wait_with_output().expect("ended");
        feed.join().expect("fed").expect("fed");
        assert!(out.status.success() && out.stdout == sent, "{} bytes", out.stdout.len());
        let told = host.run(&["exec", "t", "--", "head", "-c", "20971520", "/dev/zero"]);
        assert_eq!(told.ok().len(), 20 << 20);
    }
}

#[test]
fn a_client_that_is_killed_takes_its_program_along() {
    let hosts = cluster(1);
    idle(&hosts[0]);
    let mut child = hosts[0]
        .command(&["exec", "t", "--", "sh", "-c", "echo $$; exec sleep 999"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    let pid: i32 = line.trim().parse().expect("a number");
    assert!(is_alive(pid));
    child.kill().expect("killed");
    child.wait().expect("ended");
    until("its program is gone", || !is_alive(pid));
    assert_eq!(hosts[0].running("t"), 1);
}

#[test]
fn files_are_copied_both_ways_and_never_from_outside() {
    let hosts = cluster(2);
    idle(&hosts[0]);
    let here = tempfile::tempdir().expect("a directory");
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir_all(here.path().join("conf/deep")).expect("made");
    fs::write(here.path().join("conf/deep/file"), vec![b'x'; 300_000]).expect("written");
    for (at, host) in hosts.iter().enumerate() {
        let into = format!("t:/into{at}");
        host.run(&["cp", &path("conf"), &into]).ok();
        let count =
            host.run(&["exec", "t", "--", "sh", "-c", &format!("wc -c < into{at}/deep/file")]);
        assert_eq!(count.ok().trim(), "300000");
        host.run(&["cp", &format!("{into}/deep/file"), &path(&format!("back{at}"))]).ok();
        assert_eq!(fs::read(path(&format!("back{at}"))).expect("read").len(), 300_000);
        host.run(&["cp", &into, &path("all")]).ok();
        assert!(fs::exists(path("all/deep/file")).expect("looked"));
        fs::remove_dir_all(path("all")).expect("removed");
        let told = host.run(&["cp", "t:../../../../../../etc/passwd", &path("stolen")]);
        assert!(told.code == 1 && !fs::exists(path("stolen")).expect("looked"), "{told:?}");
        let told = host.run(&["cp", &path("none"), "t:/"]);
        assert!(told.code == 1 && told.err.contains("not there"), "{told:?}");
    }
}

#[test]
fn signals_pauses_and_looks_reach_the_task() {
    let hosts = cluster(1);
    idle(&hosts[0]);
    let top = hosts[0].run(&["top", "t"]).ok();
    assert!(top.contains("sleep 1000"), "{top}");
    let stats = hosts[0].json(&["stats", "t"]);
    assert!(stats["items"][0]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");
    let told = hosts[0].run(&["pause", "t"]);
    if told.code == 0 {
        assert_eq!(hosts[0].json(&["stats", "t"])["items"][0]["paused"], true);
        let told = hosts[0].run(&["exec", "t", "--", "true"]);
        assert!(told.code == 125 && told.err.contains("paused"), "{told:?}");
        hosts[0].run(&["unpause", "t"]).ok();
        hosts[0].run(&["exec", "t", "--", "true"]).ok();
    } else {
        eprintln!("SKIPPED: nothing can be paused here: {}", told.err);
    }
    hosts[0].run(&["kill", "-s", "TERM", "t"]).ok();
    until("it ended", || hosts[0].running("t") == 0);
}

#[test]
fn a_paused_task_is_shown_as_such_by_every_node_until_it_goes_on() {
    let hosts = cluster(2);
    idle(&hosts[0]);
    until("both know that it runs", || hosts.iter().all(|host| host.running("t") == 1));
    let told = hosts[1].run(&["pause", "t"]);
    if told.code != 0 {
        eprintln!("SKIPPED: nothing can be paused here: {}", told.err);
        return;
    }
    let states = |host: &Host| host.tasks("t").into_iter().map(|(_, _, state)| state);
    for host in &hosts {
        until("it is shown as paused", || states(host).eq(["paused"]));
        let jobs = host.json(&["jobs"]);
        assert_eq!(
            (&jobs["items"][0]["running"], &jobs["items"][0]["paused"]),
            (&1.into(), &1.into())
        );
        assert!(host.run(&["jobs"]).ok().contains("1 (1 paused)"));
    }
    let at = &hosts[0].tasks("t")[0].1;
    let holder = hosts.iter().find(|host| host.json(&["status"])["name"] == at.as_str());
    let holder = holder.expect("one of the two");
    holder.crash_agent();
    holder.up();
    until("its agent remembers", || states(holder).eq(["paused"]));
    // The other node may not have found the new agent yet.
    until("it is told to go on", || hosts[1].run(&["unpause", "t"]).code == 0);
    for host in &hosts {
        until("it is shown as running", || states(host).eq(["running"]));
    }
    until("it is held again", || hosts[0].run(&["pause", "t"]).code == 0);
    hosts[0].run(&["stop", "t"]).ok();
    until("what was paused is stopped", || states(&hosts[0]).len() == 0);
}

#[test]
fn what_is_piped_into_run_reaches_the_task() {
    let hosts = cluster(1);
    let mut child = hosts[0]
        .command(&["run", "-i", "--exec", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("a pipe").write_all(b"hi\n").expect("fed");
    let out = child.wait_with_output().expect("ended");
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), &b"hi\n"[..]));
}
