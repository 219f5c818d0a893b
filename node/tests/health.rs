//! Checks of tasks through the shipped binary: what `ps` shows on every host, what makes a
//! service start again, and what a check may never do.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

#[path = "support/archive.rs"]
mod archive;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;

use std::path::{Path, PathBuf};

use support::{Host, cluster, until};

/// A file that tasks, which run as somebody else, may write.
fn open_file(host: &Host, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = host.data().parent().expect("a home").join(name);
    std::fs::write(&path, "").expect("made");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("opened");
    path
}

fn task(host: &Host, job: &str) -> serde_json::Value {
    host.json(&["ps", "-a", job])["items"][0].clone()
}

fn health(host: &Host, job: &str) -> String {
    task(host, job)["health"]["state"].as_str().unwrap_or_default().to_owned()
}

/// A detached job that sleeps, and is asked by this line.
fn run(host: &Host, name: &str, flags: &[&str], line: &str) {
    let first = ["run", "-d", "--name", name, "--health-interval", "100ms", "--health-cmd", line];
    let last = ["--exec", "--", "sleep", "86400"];
    host.run(&[&first[..], flags, &last[..]].concat()).ok();
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).expect("read").lines().count()
}

#[test]
fn a_task_is_shown_to_be_well_or_not_on_every_host() {
    let hosts = cluster(2);
    let ill = open_file(&hosts[0], "ill");
    let line = format!("! test -s {0} || {{ echo told; cat {0}; exit 1; }}", ill.display());
    run(&hosts[0], "web", &["--health-retries", "2"], &line);
    until("it is well", || hosts.iter().all(|host| health(host, "web") == "healthy"));
    assert!(hosts[1].run(&["ps"]).ok().contains("running (healthy)"));
    std::fs::write(&ill, "of an illness").expect("written");
    until("it is not", || hosts.iter().all(|host| health(host, "web") == "unhealthy"));
    assert_eq!(task(&hosts[1], "web")["health"]["output"], "told of an illness");
    assert!(hosts[1].run(&["ps"]).ok().contains("running (unhealthy)"));
    assert!(hosts[1].run(&["jobs"]).ok().contains("1 (1 unhealthy)"));
    assert!(hosts[1].run(&["why", "web"]).ok().contains("told of an illness"));
    // A batch's task is only told of.
    assert_eq!(task(&hosts[0], "web")["restarts"], 0);
    std::fs::write(&ill, "").expect("written");
    until("it is well again", || hosts.iter().all(|host| health(host, "web") == "healthy"));
}

#[test]
fn a_service_that_is_not_well_is_started_again() {
    let host = Host::new("h1");
    host.up();
    let asked = open_file(&host, "asked");
    // The first task is never well, the second is.
    let line = format!("echo x >> {0}; test $(wc -l < {0}) -gt 2", asked.display());
    run(&host, "web", &["--health-retries", "2", "--restart", "always"], &line);
    until("another is well", || {
        health(&host, "web") == "healthy" && task(&host, "web")["restarts"] == 1
    });
    assert!(lines(&asked) >= 3);
}

#[test]
fn a_check_that_hangs_is_ended_and_counts_as_a_failure() {
    let host = Host::new("h1");
    host.up();
    let pids = open_file(&host, "pids");
    let line = format!("echo $$ >> {}; echo slow; exec sleep 86400", pids.display());
    run(&host, "web", &["--health-timeout", "200ms", "--health-retries", "1"], &line);
    until("it is not well", || health(&host, "web") == "unhealthy");
    let output = task(&host, "web")["health"]["output"].as_str().unwrap_or_default().to_owned();
    assert!(output.contains("200 ms") && output.contains("slow"), "{output}");
    host.run(&["stop", "web"]).ok();
    until("none runs", || host.tasks("web").is_empty());
    let asked = std::fs::read_to_string(&pids).expect("read");
    let asked: Vec<i32> = asked.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(!asked.is_empty());
    until("no check is left", || asked.iter().all(|pid| !support::is_alive(*pid)));
}

#[test]
fn failures_of_the_start_do_not_count_and_a_restarted_agent_goes_on_asking() {
    let host = Host::new("h1");
    host.up();
    let asked = open_file(&host, "asked");
    let line = format!("echo x >> {0}; test $(wc -l < {0}) -gt 4", asked.display());
    let flags = ["--health-start-period", "1h", "--health-retries", "1", "--restart", "always"];
    run(&host, "web", &flags, &line);
    until("it is well", || health(&host, "web") == "healthy");
    assert_eq!(task(&host, "web")["restarts"], 0, "four failures were forgiven");
    host.crash_agent();
    host.up();
    let before = lines(&asked);
    until("it is asked again", || lines(&asked) > before + 1);
    assert_eq!(health(&host, "web"), "healthy");
}

#[test]
fn a_task_that_is_held_still_is_not_blamed_for_it() {
    let host = Host::new("h1");
    host.up();
    let asked = open_file(&host, "asked");
    let line = format!("echo x >> {}", asked.display());
    run(&host, "web", &["--health-timeout", "200ms", "--health-retries", "1"], &line);
    until("it is well", || health(&host, "web") == "healthy");
    let paused = host.run(&["pause", "web"]);
    if paused.code != 0 {
        println!("SKIPPED: nothing can be held still here: {}", paused.err.trim());
        return;
    }
    until("it is held", || task(&host, "web")["state"] == "paused");
    let events = host.run(&["--json", "events"]).ok();
    assert!(!events.contains("unhealthy"));
    host.run(&["unpause", "web"]).ok();
    let before = lines(&asked);
    until("it is asked again", || lines(&asked) > before + 1);
    assert_eq!(health(&host, "web"), "healthy");
}

#[test]
fn an_image_says_how_its_tasks_are_asked_unless_the_job_does() {
    if !image::possible() {
        return;
    }
    let host = Host::new("h1");
    host.up();
    let says = r#"{"Env":["PATH=/bin"],"Cmd":["sleep","86400"],"Healthcheck":{
        "Test":["CMD","cat","/etc/motd"],"Interval":100000000,"Retries":1}}"#;
    let recipe = archive::Recipe { says, ..archive::Recipe::small("app:1") };
    let dir = host.data().parent().expect("a home").join("image");
    std::fs::create_dir_all(&dir).expect("made");
    let (archive, _) = recipe.make(&dir);
    host.run(&["image", "load", archive.to_str().expect("a plain path")]).ok();
    let run = |name: &str, flags: &[&str]| {
        let first =
            ["run", "-d", "--network", "none", "--name", name, "-m", "64m", "--cpus", "0.1"];
        host.run(&[&first[..], flags, &["app:1"]].concat()).ok();
    };
    run("theirs", &[]);
    run("mine", &["--health-cmd", "echo mine; exit 1"]);
    run("none", &["--no-healthcheck"]);
    until("the image's check is asked", || health(&host, "theirs") == "healthy");
    assert_eq!(task(&host, "theirs")["health"]["output"], "of the image");
    // The line is the job's, the interval and the retries are the image's.
    until("the job's check is asked", || health(&host, "mine") == "unhealthy");
    assert_eq!(task(&host, "mine")["health"]["output"], "mine");
    until("the third runs", || host.running("none") == 1);
    assert_eq!(health(&host, "none"), "");
}
