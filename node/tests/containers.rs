//! Containers as users run them, with real agents: isolated, limited, refused with a
//! reason where a node does not trust its jobs.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/archive.rs"]
mod archive;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/image.rs"]
mod image;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use image::text;
use support::{Host, cluster, until};

/// A host and a root file system beside its data.
fn host_with_image() -> (Vec<Host>, PathBuf) {
    let hosts = cluster(1);
    let root = beside(&hosts[0], "image");
    image::make(&root);
    (hosts, root)
}

fn beside(host: &Host, name: &str) -> PathBuf {
    host.data().parent().expect("a home").join(name)
}

#[test]
fn a_container_has_its_own_root_ids_processes_and_name_and_gives_its_exit_code_back() {
    if !image::possible() {
        return;
    }
    let (hosts, root) = host_with_image();
    let script =
        "echo $(id -u) $$ $(hostname); ls /; cat /proc/self/uid_map; echo x > /new; exit 3";
    let told = hosts[0].run(&[
        "run",
        "--name",
        "web",
        "--network",
        "none",
        "--rootfs",
        text(&root),
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(told.code, 3, "{told:?}");
    let mut lines = told.out.lines();
    assert_eq!(lines.next(), Some("0 1 web-1"), "{told:?}");
    assert!(told.out.contains("proc\n") && !told.out.contains("home\n"), "{told:?}");
    let map: Vec<&str> = told.out.lines().last().unwrap_or_default().split_whitespace().collect();
    assert!(matches!(map.as_slice(), ["0", base, "65536"] if *base != "0"), "{told:?}");
    assert!(!root.join("new").exists(), "the image was changed");
    let user = ["run", "-u", "app", "--network", "none", "--rootfs", text(&root), "--", "id"];
    assert!(hosts[0].run(&user).ok().starts_with("uid=7(app) gid=8"));
}

#[test]
fn volumes_keep_what_tasks_write_and_archives_are_roots_too() {
    if !image::possible() {
        return;
    }
    let (hosts, root) = host_with_image();
    let archive = beside(&hosts[0], "image.tar");
    let packed = std::process::Command::new("tar")
        .args(["-C", text(&root), "-cf", text(&archive), "."])
        .status();
    assert!(packed.expect("tar runs").success());
    let run = |script: &str| {
        hosts[0].run(&[
            "run",
            "--network",
            "none",
            "-v",
            "data:/data",
            "--rootfs",
            text(&archive),
            "--",
            "sh",
            "-c",
            script,
        ])
    };
    run("echo kept > /data/file").ok();
    assert_eq!(run("cat /data/file; id -u").ok(), "kept\n0\n");
}

#[test]
fn who_takes_more_memory_than_it_may_is_told_so_and_others_go_on() {
    let hosts = cluster(1);
    if hosts[0].json(&["nodes"])["items"][0]["enforces_limits"] != true {
        eprintln!("SKIPPED: no limits can be enforced here");
        return;
    }
    hosts[0].run(&["run", "-d", "--name", "calm", "--exec", "--", "sleep", "1000"]).ok();
    until("it runs", || hosts[0].running("calm") == 1);
    let alone = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let told = hosts[0].run(&["run", "-m", "20m", "--exec", "--", "sh", "-c", alone]);
    assert!(told.code == 137 && told.err.contains("out of memory"), "{told:?}");
    assert_eq!(hosts[0].running("calm"), 1);
}

#[test]
fn what_leads_to_the_node_itself_takes_trust_however_it_is_written() {
    if !image::possible() {
        return;
    }
    let (hosts, root) = host_with_image();
    let link = beside(&hosts[0], "innocent");
    symlink("/etc", &link).expect("a link");
    let volume = |source: &str| {
        let shown = format!("{source}:/shown:ro");
        hosts[0].run(&[
            "run",
            "--timeout",
            "5s",
            "--network",
            "none",
            "-v",
            &shown,
            "--rootfs",
            text(&root),
            "--",
            "cat",
            "/shown/shadow",
        ])
    };
    // By its words every node declines it; behind a link the node that runs it refuses.
    let told = volume("/etc");
    assert!(told.code == 75 && told.err.contains("starling up --trust-jobs"), "{told:?}");
    assert!(!told.err.contains("ask for less"), "that does not help: {told:?}");
    let told = volume(text(&link));
    assert!(told.code == 125 && told.err.contains("--trust-jobs"), "{told:?}");
    let told = volume(text(&hosts[0].data()));
    assert!(told.code == 125 && told.err.contains("keeps its own"), "{told:?}");
    let open = beside(&hosts[0], "open");
    fs::create_dir(&open).expect("a directory");
    fs::write(open.join("shadow"), "mine").expect("written");
    assert_eq!(volume(text(&open)).ok(), "mine");
}

#[test]
fn a_container_outlives_its_agent() {
    if !image::possible() {
        return;
    }
    let (hosts, root) = host_with_image();
    let script = "while [ ! -e /data/go ]; do sleep 0.05; done; echo gone on; exit 5";
    let shared = beside(&hosts[0], "shared");
    fs::create_dir(&shared).expect("a directory");
    let volume = format!("{}:/data", shared.display());
    hosts[0]
        .run(&[
            "run",
            "-d",
            "--name",
            "job",
            "--network",
            "none",
            "-v",
            &volume,
            "--rootfs",
            text(&root),
            "--",
            "sh",
            "-c",
            script,
        ])
        .ok();
    until("it runs", || hosts[0].running("job") == 1);
    hosts[0].crash_agent();
    fs::write(shared.join("go"), "").expect("written");
    hosts[0].up();
    let told = hosts[0].run(&["wait", "job"]);
    assert_eq!(told.code, 5, "{told:?}");
    assert!(hosts[0].run(&["logs", "job"]).ok().contains("gone on"));
}

#[test]
fn what_is_no_file_is_left_out_of_a_copy_which_fails_then() {
    if !image::possible() {
        return;
    }
    let (hosts, root) = host_with_image();
    let words = ["run", "-d", "--name", "t", "--network", "none", "--rootfs", text(&root)];
    hosts[0].run(&[&words[..], &["--", "sleep", "1000"]].concat()).ok();
    until("it runs", || hosts[0].running("t") == 1);
    let into = beside(&hosts[0], "into");
    fs::create_dir(&into).expect("a directory");
    let left_out = |words: &[&str]| {
        let told = hosts[0].run(words);
        assert!(told.code == 1 && told.err.contains("devices and sockets"), "{told:?}");
        assert!(told.err.contains("not all of it was copied"), "{told:?}");
    };
    left_out(&["cp", "t:/dev/null", text(&into)]);
    assert!(!into.join("null").exists());
    left_out(&["cp", "t:/dev", text(&into)]);
    assert!(into.join("dev/shm").is_dir(), "the rest is there");
    left_out(&["cp", "/dev/null", "t:/"]);
    let told = hosts[0].run(&["cp", text(&root.join("etc/passwd")), "t:/proc/x"]);
    assert!(told.code == 1 && told.err.contains("the kernel makes up"), "{told:?}");
}

#[test]
fn what_would_be_done_for_an_image_is_told_with_and_without_an_agent() {
    let host = Host::new("one");
    let plan = ["runtime", "plan", "--network", "none", "app:1"];
    let alone = host.run(&[&plan[..], &["sh", "-c", "id"]].concat());
    assert!(alone.err.contains("no agent here knows the image app:1"), "{alone:?}");
    let alone = alone.ok();
    assert!(alone.contains("open the layer /layers of app:1"), "{alone}");
    assert!(alone.lines().last().is_some_and(|last| last.contains("execute sh")), "{alone}");
    if !image::possible() {
        return;
    }
    host.up();
    let recipe = archive::Recipe::small("app:1");
    let (archive, _) = recipe.make(&image::beside(&host, "archive"));
    host.run(&["image", "load", text(&archive)]).ok();
    let told = host.run(&plan);
    assert_eq!(told.err, "");
    let told = told.ok();
    assert_eq!(told.matches("open the layer").count(), 3, "{told}");
    // What it opens is there: the agent would open the same.
    let opened = told.lines().filter_map(|line| line.split_once("open the layer "));
    for (_, path) in opened {
        let path = path.trim_end_matches(" read-only");
        assert!(PathBuf::from(path).is_dir(), "{path}");
    }
    // Its own command.
    assert!(told.lines().last().is_some_and(|last| last.contains("execute sh")), "{told}");
}

#[test]
fn a_container_finds_the_hosts_and_resolvers_that_its_job_names() {
    if !image::possible() {
        return;
    }
    let (hosts, root) = host_with_image();
    let run = |network: &str, words: &[&str]| {
        let begin = ["run", "--network", network, "--rootfs", text(&root)];
        let show = ["--", "cat", "/etc/hosts", "/etc/resolv.conf"];
        hosts[0].run(&[&begin[..], words, &show].concat())
    };
    let all = ["--add-host", "db:10.0.0.7", "--add-host=six=fd00::7", "--dns", "10.0.0.1"];
    let all = [&all[..], &["--dns-search", "corp.example", "--dns-opt", "ndots:2"]].concat();
    let own = "10.0.0.7\tdb\nfd00::7\tsix\n";
    let asked = "nameserver 10.0.0.1\nsearch corp.example\noptions ndots:2\n";
    let none = run("none", &all).ok();
    assert!(none.starts_with("127.0.0.1\tlocalhost\n"), "{none}");
    assert!(none.ends_with(&format!("{own}{asked}")), "{none}");
    let node = ["--add-host", "node:host-gateway"];
    let host = run("host", &[&all[..], &node].concat()).ok();
    let of_node = fs::read_to_string("/etc/hosts").expect("a host has one");
    assert!(host.starts_with(of_node.trim_end()), "{host}");
    assert!(host.contains(&format!("{own}127.0.0.1\tnode\n")), "{host}");
    assert!(host.contains("\nnameserver 10.0.0.1\n"), "{host}");
    let of_node = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let replaced = of_node.lines().filter(|line| line.starts_with("nameserver"));
    assert!(replaced.into_iter().all(|line| !host.contains(line)), "{host}");
    // What is no word of those files is refused before anybody has the job.
    for (words, why) in [
        (["--add-host", "db"], "write it like db:10.0.0.7"),
        (["--add-host", "a b:10.0.0.7"], "is no name of a host"),
        (["--dns", "resolver"], "invalid IP address"),
        (["--dns-search", "a\nb"], "is no name of a domain"),
        (["--dns-option", ""], "is no option of a resolver"),
        (node, "cannot be reached from the network `none`"),
    ] {
        let told = run("none", &words);
        assert!(told.code != 0 && told.err.contains(why), "{words:?}: {told:?}");
    }
    assert_eq!(hosts[0].run(&["-q", "jobs", "-a"]).ok().lines().count(), 2);
}
