//! The operators' door of the shipped binary: from afar, by key and grant.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead as _, Write as _};
use std::process::{Command, Stdio};

use support::terminal::Terminal;
use support::{Host, Told, cluster, until};

/// Somebody with a configuration of their own, who is no host.
struct Operator(tempfile::TempDir);

impl Operator {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn run(&self, words: &[&str]) -> Told {
        self.command(words).output().expect("the binary runs").into()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
        command.args(words).env("XDG_CONFIG_HOME", self.0.path()).env("HOME", self.0.path());
        command.env("STARLING_DATA", self.0.path().join("data")).env_remove("STARLING_SOCKET");
        command
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
fn an_operator_reaches_into_tasks_from_afar() {
    let hosts = cluster(2);
    let operator = Operator::new();
    let token = hosts[0].run(&["-q", "invite", "--operator"]).ok();
    operator.run(&["login", token.trim()]).ok();
    let script = "echo up; while read line; do echo got $line; test $line = end && exit 5; done";
    let begin = ["run", "-d", "-i", "--name", "t", "--exec", "--", "sh", "-c", script];
    hosts[0].run(&begin).ok();
    until("it runs", || hosts.iter().all(|host| host.running("t") == 1));
    let here = tempfile::tempdir().expect("a directory");
    let path = |name: &str| here.path().join(name).display().to_string();
    let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    fs::write(path("sent"), &sent).expect("written");
    // One of the two runs it, the other passes on.
    for (at, host) in hosts.iter().enumerate() {
        let peer = door(host);
        let of = |words: &[&str]| operator.command(&[&["--peer", &peer], words].concat());
        let told =
            Told::from(of(&["exec", "t", "--", "sh", "-c", "exit 7"]).output().expect("ran"));
        assert_eq!(told.code, 7, "{told:?}");
        let told = Told::from(of(&["exec", "t", "no-such-program"]).output().expect("ran"));
        assert!(told.code == 127 && told.err.contains(" hint: "), "{told:?}");
        let out = fed(of(&["exec", "-i", "t", "--", "cat"]), &sent);
        assert_eq!((out.status.code(), out.stdout == sent), (Some(0), true));
        let into = format!("t:/into{at}");
        Told::from(of(&["cp", &path("sent"), &into]).output().expect("ran")).ok();
        Told::from(of(&["cp", &into, &path("back")]).output().expect("ran")).ok();
        assert_eq!(fs::read(path("back")).expect("read"), sent);
        fs::remove_file(path("back")).expect("removed");
        let mut terminal = Terminal::of(&of(&["exec", "-it", "t", "sh"]), 30, 90);
        terminal.types(b"echo size_$(stty size)\n");
        terminal.shows("size_30 90");
        terminal.types(b"exit 6\n");
        assert_eq!(terminal.ends(), 6);
        let mut terminal = Terminal::of(&of(&["attach", "t"]), 30, 90);
        terminal.types(format!("{at}\n").as_bytes());
        terminal.shows(&format!("got {at}"));
        terminal.types(&[16, 17]);
        assert_eq!(terminal.ends(), 0);
        assert_eq!(host.running("t"), 1);
    }
    let peer = door(&hosts[1]);
    let out = fed(operator.command(&["--peer", &peer, "attach", "t"]), b"end\n");
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(5), &b"got end\n"[..]));
}

fn fed(mut command: Command, input: &[u8]) -> std::process::Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().expect("ended");
    feed.join().expect("fed").expect("fed");
    out
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

/// Goal: who removes a member without its grants is rid of the operators it made, at once.
#[test]
fn an_operator_whose_maker_was_removed_is_let_in_no_more() {
    let hosts = cluster(2);
    let operator = Operator::new();
    let token = hosts[0].run(&["-q", "invite", "--operator"]).ok();
    operator.run(&["login", token.trim()]).ok();
    let peer = door(&hosts[1]);
    let mut command = operator.command(&["--peer", &peer, "events", "-f"]);
    let mut follower =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("follows");
    let mut first = String::new();
    let told = follower.stdout.as_mut().expect("piped");
    std::io::BufReader::new(told).read_line(&mut first).expect("an event");
    assert!(!first.is_empty(), "it is connected");
    hosts[1].run(&["node", "rm", "--drop-grants", "h1"]).ok();
    let mut ended = None;
    until("it is cut off", || {
        ended = follower.try_wait().expect("waits");
        ended.is_some()
    });
    let told = operator.run(&["--peer", &peer, "ps"]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("was removed from the cluster"), "{told:?}");
}
