//! The command from outside, with a stand-in for the agent: a life from `up` to `down`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use testnet::fabric::{netns, prefix_of};

use crate::ground::{can_build, fresh_dir, testnet, until};

/// A fabric that is only spoken to through the command.
struct Life {
    dir: PathBuf,
}

impl Life {
    fn new() -> Self {
        Self { dir: fresh_dir() }
    }

    fn call(&self, line: &str) -> Output {
        Command::new(testnet())
            .args(line.split_whitespace())
            .env("TESTNET_DATA", &self.dir)
            .output()
            .expect("the command runs")
    }

    fn json(&self, line: &str) -> Value {
        let output = self.call(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The exit code, and the three lines.
    fn refusal(&self, line: &str) -> (Option<i32>, String) {
        let output = self.call(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let heads: Vec<_> = said.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(heads, ["error", "why", "hint"], "{line}: {said}");
        (output.status.code(), said)
    }

    fn up(&self, more: &str) -> Value {
        self.json(&format!("up 3 --starling {} {more}", fake().display()))
    }

    /// The host's agent and the number of its processes.
    fn host(&self, number: usize) -> (String, u64) {
        let host = &self.json("ls")["hosts"][number - 1];
        let word = host["agent"].as_str().expect("a word").to_owned();
        (word, host["processes"].as_u64().expect("a number"))
    }

    fn task(&self, number: usize) -> PathBuf {
        let file = self.dir.join(format!("host{number}/task"));
        let text = fs::read_to_string(file).expect("written by the supervisor");
        Path::new("/proc").join(text.trim())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.call("down");
    }
}

fn fake() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fabric/fake-starling.sh")
}

/// Whether a process is more than a name in the process table.
fn lives(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_fabric_comes_up_is_tormented_and_goes() {
    if !can_build() {
        return;
    }
    let life = Life::new();
    let up = life.up("--seed 9 --delay 1.5");
    assert_eq!(up["seed"], 9);
    assert_eq!(up["baseline"]["delay_us"], 1_500);
    let calls = |number| fs::read_to_string(life.dir.join(format!("host{number}.calls")));
    let [first, second] = [1, 2].map(|number| calls(number).expect("called"));
    assert!(first.contains("invite --uses 2"), "{first}");
    assert!(second.contains("join token-of-2"), "{second}");
    assert!(second.contains("--name h2 --listen 10.83.0.2:7827"), "{second}");
    until("all tasks are there", || (1..=3).all(|number| life.host(number).1 >= 4));

    assert_eq!(life.refusal("up 3 --starling /bin/true").0, Some(1));
    assert_eq!(life.refusal("cut h1 h9").0, Some(2));
    assert_eq!(life.refusal("cut h1 h1").0, Some(2));
    assert_eq!(life.refusal("partition h1,h2 h2,h3").0, Some(2));

    torment_links(&life);
    torment_processes(&life);

    let tasks = [1, 2].map(|number| life.task(number));
    assert!(lives(&tasks[0]));
    let swept = &life.json("down")["swept"];
    assert_eq!(swept["namespaces"], 4);
    assert!(tasks.iter().all(|task| !lives(task)));
    assert!(!life.dir.exists());
    assert!(netns::existing(&prefix_of(&life.dir)).is_empty());
    let (code, said) = life.refusal("ls");
    assert_eq!(code, Some(69), "{said}");
    assert_eq!(life.refusal("down").0, Some(69));
}

fn torment_links(life: &Life) {
    assert_eq!(life.json("cut h1 h2")["cut"], 2);
    assert_eq!(life.json("cut h1 h3 --one-way")["cut"], 1);
    assert_eq!(life.json("isolate 2")["cut"], 4);
    assert_eq!(life.json("partition h1,h2 h3")["cut"], 4);
    let links = life.json("link h1 * --loss 2.5 --rate 1000 --one-way");
    assert_eq!(links["links"].as_array().map(Vec::len), Some(2));
    let loss = |links: &Value| links["links"][0]["faults"]["loss_ppm"].clone();
    assert_eq!(loss(&links), 25_000);
    assert_eq!(life.json("heal h1 h2")["healed"], 2);
    assert_eq!(loss(&life.json("link h1 h2")), 0);
    assert_eq!(life.json("heal --cuts")["healed"], 6);
    let kept = life.json("link h1 h3 --one-way");
    assert_eq!(loss(&kept), 25_000);
    assert_eq!(kept["links"][0]["faults"]["cut"], false);
    life.json("heal");
    let healed = life.json("link h1 h3 --one-way");
    assert_eq!(healed["links"][0]["faults"]["delay_us"], 1_500, "the baseline stays");
}

fn torment_processes(life: &Life) {
    assert_eq!(life.json("pause h1")["paused"], 1);
    assert_eq!(life.host(1).0, "paused");
    let state = |task: &Path| fs::read_to_string(task.join("stat")).expect("alive");
    assert!(!state(&life.task(1)).contains(") T "), "its task goes on");
    assert_eq!(life.json("resume h1")["resumed"], 1);
    assert_eq!(life.host(1).0, "running");
    assert!(life.json("pause h1 --all")["paused"].as_u64() >= Some(4));
    assert!(state(&life.task(1)).contains(") T "));
    life.json("resume h1");

    let task = life.task(2);
    assert_eq!(life.json("kill h2 --agent-only")["killed"], 1);
    assert_eq!(life.host(2).0, "stopped");
    assert!(lives(&task), "its task lives on");
    assert_eq!(life.refusal("pause h2").0, Some(1));
    life.json("restart h2");
    assert_eq!(life.host(2).0, "running");
    assert!(lives(&task));
    life.json("restart h2");
    assert!(life.json("kill h2")["killed"].as_u64() >= Some(4));
    assert_eq!(life.host(2), ("stopped".to_owned(), 0));
    assert!(!lives(&task));
    assert_eq!(life.host(1).0, "running");

    assert_eq!(life.refusal("exec h1 -- /not/there").0, Some(1));
    let told = life.call("exec h1 -- printenv STARLING_SOCKET");
    let socket = life.dir.join("host1/api.sock");
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), socket.to_string_lossy());
    let addresses = life.call("exec h3 -- ip -4 -br addr show eth0").stdout;
    assert!(String::from_utf8_lossy(&addresses).contains("10.83.0.3/24"));
    assert_eq!(life.call("exec h1 -- false").status.code(), Some(1));
}

#[test]
fn loopback_hosts_have_processes_but_no_links() {
    let life = Life::new();
    let up = life.up("--loopback");
    assert_eq!(up["hosts"][2]["address"], "127.83.0.3");
    let (code, said) = life.refusal("cut h1 h2");
    assert_eq!(code, Some(1));
    assert!(said.contains("loopback"), "{said}");
    assert_eq!(life.json("pause h1")["paused"], 1);
    assert_eq!(life.host(1).0, "paused");
    assert!(life.json("kill h1")["killed"].as_u64() >= Some(3));
    assert_eq!(life.host(2).0, "running", "and nobody else");
    life.json("restart h1");
    assert_eq!(life.host(1).0, "running");
    life.json("down");
    assert!(!life.dir.exists());
}

#[test]
fn what_fails_halfway_is_taken_away() {
    let life = Life::new();
    let (code, said) = life.refusal("up 2 --loopback --starling /bin/false");
    assert_eq!(code, Some(1));
    assert!(said.contains("starling up"), "{said}");
    assert!(!life.dir.exists());
    assert_eq!(life.refusal("up 2 --loopback --starling /not/there").0, Some(1));
    assert_eq!(life.refusal("up 0 --loopback --starling /bin/true").0, Some(2));
    assert_eq!(life.refusal("up 2 --loopback --loss 5 --starling /bin/true").0, Some(1));
}
