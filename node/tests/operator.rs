//! The operators' door of the shipped binary: from afar, by key and grant.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::process::Command;

use support::{Host, Told, cluster};

/// Somebody with a configuration of their own, who is no host.
struct Operator(tempfile::TempDir);

impl Operator {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn run(&self, words: &[&str]) -> Told {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
        command.args(words).env("XDG_CONFIG_HOME", self.0.path()).env("HOME", self.0.path());
        command.env("STARLING_DATA", self.0.path().join("data")).env_remove("STARLING_SOCKET");
        command.output().expect("the binary runs").into()
    }
}

fn door(host: &Host) -> String {
    let status = host.json(&["status"]);
    status["operator_addresses"][0].as_str().expect("an address").to_owned()
}

#[test]
fn an_operator_reaches_any_peer_with_one_login() {
    let hosts = cluster(2);
    let operator = Operator::new();
    let token = hosts[0].run(&["-q", "invite", "--operator"]).ok();
    let told = operator.run(&["login", token.trim()]);
    assert_eq!(told.code, 0, "{told:?}");
    for host in &hosts {
        let peer = door(host);
        let nodes = operator.run(&["--peer", &peer, "node", "ls"]).ok();
        assert!(nodes.contains("h1") && nodes.contains("h2"), "{nodes}");
        let ran =
            operator.run(&["--peer", &peer, "run", "--exec", "--", "sh", "-c", "echo hi; exit 3"]);
        assert_eq!((ran.code, ran.out.as_str()), (3, "hi\n"), "{ran:?}");
    }
    let jobs = hosts[1].json(&["jobs", "-a"]);
    let owners = jobs["items"].as_array().cloned().unwrap_or_default();
    let operators =
        |job: &serde_json::Value| job["owner"].as_str().is_some_and(|o| o.starts_with("operator:"));
    assert!(owners.len() == 2 && owners.iter().all(operators), "{jobs}");
    let again = operator.run(&["login", token.trim()]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("used up"), "{again:?}");
}

#[test]
fn a_stranger_is_not_authorised_and_told_nothing_else() {
    let hosts = cluster(1);
    let peer = door(&hosts[0]);
    let stranger = Operator::new();
    let told = stranger.run(&["--peer", &peer, "ps"]);
    assert_ne!(told.code, 0, "{told:?}");
    assert!(told.err.contains("starling login"), "{told:?}");
    // Somebody with a good login into another cluster.
    let other = cluster(1);
    let token = other[0].run(&["-q", "invite", "--operator"]).ok();
    stranger.run(&["login", token.trim()]).ok();
    let told = stranger.run(&["--peer", &peer, "ps"]);
    assert_ne!(told.code, 0, "{told:?}");
    assert!(told.err.contains("not let this operator in"), "{told:?}");
    assert!(told.out.is_empty(), "{told:?}");
}

#[test]
fn tokens_for_hosts_and_for_operators_are_not_mixed_up() {
    let hosts = cluster(1);
    let operator = Operator::new();
    let told = operator.run(&["login", &hosts[0].invite(1)]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("admits a host"), "{told:?}");
    let late = Host::new("late");
    let token = hosts[0].run(&["-q", "invite", "--operator"]).ok();
    let told = late.run(&["join", token.trim()]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("operator"), "{told:?}");
}

#[test]
fn nobody_there_is_an_error_with_the_address_and_a_hint() {
    let hosts = cluster(1);
    let operator = Operator::new();
    let token = hosts[0].run(&["-q", "invite", "--operator"]).ok();
    operator.run(&["login", token.trim()]).ok();
    let told = operator.run(&["--peer", "127.0.0.1:9", "ps"]);
    assert_eq!(told.code, 69, "{told:?}");
    assert!(told.err.contains("127.0.0.1:9") && told.err.contains("hint"), "{told:?}");
}
