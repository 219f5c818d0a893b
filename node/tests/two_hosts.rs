//! The README's first five minutes, in two network namespaces joined by a cable.
//!
//! Each host has an address of its own and the default ports, as two machines
//! would. Needs root and `ip`; says SKIPPED where they are missing.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two namespaces with a cable between them, and a data directory each.
struct Pair {
    names: [String; 2],
    home: tempfile::TempDir,
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output().map_err(|e| format!("no `ip`: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

impl Pair {
    fn lay() -> Result<Self, String> {
        let names = ["a", "b"].map(|end| format!("starling-{}-{end}", std::process::id()));
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))
            .map_err(|e| e.to_string())?;
        let pair = Self { names, home };
        let [a, b] = [pair.names[0].as_str(), pair.names[1].as_str()];
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&[
            "link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b,
        ])?;
        for (name, address) in [(a, "10.84.0.1/24"), (b, "10.84.0.2/24")] {
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "addr", "add", address, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        Ok(pair)
    }

    fn data(&self, host: usize) -> PathBuf {
        self.home.path().join(format!("h{host}"))
    }

    fn starling(&self, host: usize, words: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host], env!("CARGO_BIN_EXE_starling")]);
        command.args(words).env("STARLING_DATA", self.data(host));
        command.env("STARLING_NAME", format!("h{host}")).env_remove("STARLING_SOCKET");
        command.output().expect("`ip` runs")
    }

    fn ok(&self, host: usize, words: &[&str]) -> String {
        let output = self.starling(host, words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for (host, name) in self.names.iter().enumerate() {
            if self.data(host).exists() {
                self.starling(host, &["down", "--stop-tasks"]);
            }
            // A namespace that was not made cannot be removed.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

#[test]
fn the_first_five_minutes_on_two_hosts() {
    let pair = match Pair::lay() {
        Ok(pair) => pair,
        Err(reason) => {
            // Not `println!`: the test harness would keep it to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no network namespaces here: {reason}");
            return;
        }
    };
    pair.ok(0, &["up"]);
    let printed = pair.ok(0, &["invite"]);
    let token = printed.split_whitespace().last().expect("a token");
    pair.ok(1, &["join", token]);
    for host in 0..2 {
        pair.until("both are listed", |pair| {
            let nodes = pair.ok(host, &["node", "ls"]);
            nodes.contains("h0") && nodes.contains("h1") && nodes.matches("ready").count() == 2
        });
        let ran = pair.ok(host, &["run", "--exec", "--", "uname", "-n"]);
        assert!(!ran.trim().is_empty());
    }
    let web = ["run", "-d", "--name", "web", "--replicas", "2", "--exec", "--", "sleep", "1d"];
    pair.ok(0, &web);
    pair.until("one copy on each host", |pair| {
        let tasks = pair.ok(1, &["ps", "web"]);
        tasks.matches("running").count() == 2 && tasks.contains("h0") && tasks.contains("h1")
    });
    let sum = ["run", "--name", "sum", "--array", "10", "--exec", "--", "sh", "-c"];
    let sum = [&sum[..], &["echo $STARLING_INDEX"]].concat();
    assert_eq!(pair.ok(1, &sum).lines().count(), 10);
    assert!(pair.ok(1, &["why", "web"]).contains("h0"));
    pair.ok(1, &["logs", "web"]);
    pair.ok(1, &["stop", "web"]);
    pair.until("it is stopped everywhere", |pair| !pair.ok(0, &["ps"]).contains("web"));
    pair.ok(1, &["down"]);
    pair.ok(0, &["down"]);
}
