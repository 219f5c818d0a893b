//! Files that a process brings along: they are on the machine of whoever submits it alone,
//! and where it starts wherever that is.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use support::{Host, cluster, until};

/// A program that needs a file beside it.
fn program(dir: &Path, says: &str) {
    fs::create_dir_all(dir.join("conf")).expect("made");
    fs::write(dir.join("conf/words"), says).expect("written");
    let prog = dir.join("prog");
    fs::write(&prog, "#!/bin/sh\necho $STARLING_NODE $(cat conf/words)\n").expect("written");
    fs::set_permissions(&prog, fs::Permissions::from_mode(0o755)).expect("set");
}

fn images(host: &Host) -> usize {
    host.run(&["-q", "image", "ls"]).ok().lines().count()
}

#[test]
fn a_program_runs_where_it_never_was() {
    let hosts = cluster(2);
    let here = tempfile::tempdir().expect("a directory");
    program(here.path(), "as shipped");
    let (prog, conf) = (here.path().join("prog"), here.path().join("conf"));
    let (prog, conf) = (prog.to_str().expect("plain"), conf.to_str().expect("plain"));
    // Each takes a whole node.
    let wide = ["run", "-d", "--name", "wide", "--array", "2", "--reserve-cpu", "1", "--exec"];
    hosts[0].run(&[&wide[..], &["--ship", prog, "--ship", conf, "--", "./prog"]].concat()).ok();
    assert_eq!(hosts[0].run(&["wait", "wide"]).code, 0, "{:?}", hosts[0].run(&["logs", "wide"]));
    let said = hosts[0].run(&["logs", "wide"]).ok();
    assert!(said.contains("h1 as shipped") && said.contains("h2 as shipped"), "{said}");
    let spec = hosts[0].json(&["bundle", "export", "-o", "/dev/null", "wide"]);
    let run = &spec["bundle"]["jobs"][0]["spec"]["groups"][0]["tasks"][0]["run"]["process"];
    assert_eq!(run["files"]["name"], "./conf,prog", "{spec}");

    // The same again is the same, from wherever and whenever; other content is other.
    let copy = tempfile::tempdir().expect("a directory");
    program(copy.path(), "as shipped");
    let path = |name: &str| copy.path().join(name).to_str().expect("plain").to_owned();
    let (prog, conf, all) = (path("prog"), path("conf/"), path("."));
    let foreground = ["run", "--exec", "--ship", &conf, "--ship", &prog, "--", "./prog"];
    assert!(hosts[0].run(&foreground).ok().contains("as shipped"));
    assert_eq!(images(&hosts[0]), 1);
    let foreground = ["run", "--exec", "--ship", &all, "--", "./prog"];
    program(copy.path(), "changed");
    assert!(hosts[0].run(&foreground).ok().contains("changed"));
    assert_eq!(images(&hosts[0]), 2);
}

#[test]
fn what_a_live_job_brought_along_is_not_pruned() {
    let host = Host::new("one");
    host.up();
    let here = tempfile::tempdir().expect("a directory");
    program(here.path(), "kept");
    let all = here.path().join(".");
    let all = all.to_str().expect("plain");
    // Nobody has room for it, so nobody runs from it.
    let wait = ["run", "-d", "--name", "waits", "--reserve-cpu", "64", "--exec"];
    host.run(&[&wait[..], &["--ship", all, "--", "./prog"]].concat()).ok();
    host.run(&["image", "prune", "-a"]).ok();
    assert_eq!(images(&host), 1);
    host.run(&["rm", "waits"]).ok();
    host.run(&["image", "prune"]).ok();
    until("they are gone with the job", || images(&host) == 0);
}

#[test]
fn what_cannot_be_shipped_starts_nothing() {
    let host = Host::new("one");
    host.up();
    let refused = |words: &[&str], why: &str| {
        let told = host.run(&[&["run"][..], words].concat());
        assert!(told.code != 0 && told.err.contains(why), "{told:?}");
    };
    let exec = |path| ["--exec", "--ship", path, "--", "./prog"];
    refused(&exec("/no/such/thing"), "No such file");
    refused(&exec("/dev/null"), "neither a file nor a directory");
    refused(&exec(".."), "no name");
    refused(&["--ship", "/etc/hostname", "app"], "--exec");
    let with_workdir = ["--exec", "--ship", "/etc/hostname", "-w", "/srv", "--", "./x"];
    refused(&with_workdir, "--workdir");
    assert_eq!(host.run(&["-q", "jobs", "-a"]).ok(), "");
    assert_eq!(images(&host), 0);
}
