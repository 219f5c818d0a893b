//! Bad jobs at the public door: a thousand generated ones, each refused by the field that is
//! wrong, with a hint, before any node has it.
//!
//! The runtime's plan has such a test of its own. This one goes the way a user's job goes:
//! as JSON to a running agent, and as words to the command. The generator has a seed, so that
//! every run tries the same jobs.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use support::{Host, cluster};

/// How many jobs are tried as JSON.
const JOBS: usize = 1000;

/// How many are tried as words: each is a process.
const COMMANDS: usize = 150;

/// A small generator with a seed. SplitMix64.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn of<T: Clone>(&mut self, these: &[T]) -> T {
        these[self.throw(these.len())].clone()
    }
}

/// A job that any node would try to run.
fn good(name: &str) -> Value {
    json!({
        "name": name, "kind": "batch",
        "groups": [{"name": "main", "count": 1, "tasks": [{
            "name": "main",
            "run": {"container": {"root": {"path": "/srv/no-such-root"}, "argv": ["sh"]}},
        }]}],
    })
}

/// Makes one thing wrong; what an error must name.
fn spoil(dice: &mut Dice, job: &mut Value) -> &'static str {
    let long = format!("/{}", "x".repeat(5000));
    let path = dice.of(&["x", "../x", "/a/../b", "/a\0b", "", &long]).to_owned();
    let target = dice.of(&["/", "//", "/proc", "/proc/self", "/sys", "/dev", "/./proc", "x"]);
    let big = dice.of(&[json!(0), json!(1), json!(4095), json!(u64::MAX)]);
    let task = &mut job["groups"][0]["tasks"][0];
    let container = |key: &str, value: Value, task: &mut Value| {
        task["run"]["container"][key] = value;
    };
    match dice.throw(30) {
        0 => {
            task["run"]["container"]["argv"] = dice.of(&[json!([]), json!([""]), json!(["a\0"])]);
            "argv"
        }
        1 => {
            task["env"] = dice.of(&[json!({"": "x"}), json!({"A=B": "x"}), json!({"A": "\0"})]);
            "env"
        }
        2 => {
            container("directory", json!(path), task);
            "directory"
        }
        3 => {
            task["stop_signal"] = json!(dice.of(&["", "0", "SIGNONE", "65", "-1", "term "]));
            "stop_signal"
        }
        4 => {
            task["stop_grace_ms"] = json!(dice.of(&[86_400_001_u64, u64::MAX]));
            "stop_grace_ms"
        }
        5 => {
            let key = dice.of(&["nofiles", "NOFILE", "", "memory"]);
            task["ulimits"] = json!({key: "1"});
            "ulimits"
        }
        6 => {
            let value = dice.of(&["2:1", "x", "", "1:", "-2", "unlimited:1"]);
            task["ulimits"] = json!({"nofile": value});
            "ulimits"
        }
        7 => {
            container("root", json!({"path": path}), task);
            "root"
        }
        8 => {
            let user = dice.of(&[
                "", ":", "a:", ":b", "a:b:c", "65536", "-1", "+1", "a b", "a\0", "a/b", "\n",
            ]);
            container("user", json!(user), task);
            "user"
        }
        9 => {
            let name = dice.of(&["", "a b", "a/b", ".a", "-a", "é", "\0", &long]).to_owned();
            container("hostname", json!(name), task);
            "hostname"
        }
        10 => {
            let bind = json!([{"bind": {"source": path, "target": "/x"}}]);
            container("mounts", bind, task);
            "mounts"
        }
        11 => {
            let bind = json!([{"bind": {"source": "/srv/x", "target": target}}]);
            container("mounts", bind, task);
            "mounts"
        }
        12 => {
            let volume = |at: &str| json!({"volume": {"name": "v", "target": at}});
            container("mounts", json!([volume("/a"), volume("/a/")]), task);
            "mounts"
        }
        13 => {
            let name = dice.of(&["", ".", "..", "a/b", "a\0", ".hidden", "é"]);
            container("mounts", json!([{"volume": {"name": name, "target": "/x"}}]), task);
            "mounts"
        }
        14 => {
            container("mounts", json!([{"tmpfs": {"target": "/x", "bytes": big}}]), task);
            "mounts"
        }
        15 => {
            let mode = dice.of(&[0o10000_u32, u32::MAX]);
            container("mounts", json!([{"tmpfs": {"target": "/x", "mode": mode}}]), task);
            "mounts"
        }
        16 => {
            container("devices", json!([{"source": path}]), task);
            "devices"
        }
        17 => {
            container("devices", json!([{"source": "/dev/null", "target": target}]), task);
            "devices"
        }
        18 => {
            let name = dice.of(&["FOO", "", "SYS_ADMN", "net raw", "CAP_", "\0"]);
            let key = dice.of(&["cap-add", "cap-drop"]);
            container(key, json!([name]), task);
            key
        }
        19 => {
            let name = dice.of(&[
                "kernel.panic",
                "kernel.core_pattern",
                "net..x",
                "net",
                "",
                "vm.swappiness",
                "net.ipv4/../../x",
                "net.a b",
                "fs.mqueue./",
            ]);
            container("sysctls", json!({name: "1"}), task);
            "sysctls"
        }
        20 => {
            container("network", json!("host"), task);
            container("sysctls", json!({"net.ipv4.ip_forward": "1"}), task);
            "sysctls"
        }
        21 => {
            container("shm-bytes", big, task);
            "shm-bytes"
        }
        22 => {
            let port =
                dice.of(&[json!({"host": 0, "container": 80}), json!({"host": 1, "container": 0})]);
            container("ports", json!([port]), task);
            "ports"
        }
        23 => {
            container("network", json!(dice.of(&["host", "none"])), task);
            container("ports", json!([{"host": 80, "container": 80}]), task);
            "ports"
        }
        24 => {
            let key = dice.of(&["memory-bytes", "memory-reservation"]);
            let bytes = dice.of(&[json!(0), json!(u64::MAX)]);
            task["limits"] = json!({key: bytes});
            key
        }
        25 => {
            let (key, value) = dice.of(&[
                ("memory-bytes", json!(1)),
                ("swap-bytes", json!(1)),
                ("pids", json!(0)),
                ("pids", json!(u32::MAX)),
                ("cpu-milli", json!(0)),
                ("cpu-milli", json!(u64::MAX)),
                ("io-weight", json!(9)),
                ("io-weight", json!(1001)),
            ]);
            task["limits"] = json!({key: value});
            key
        }
        26 => {
            let list = dice.of(&["", "x", "1-0", "0,", "0-9999", "all", "-1", "0-3:1/2"]);
            task["limits"] = json!({"cpuset-cpus": list});
            "cpuset-cpus"
        }
        27 => {
            let disk = dice.of(&[
                json!({"device": "sda", "read-bps": 1}),
                json!({"device": "/dev/sda"}),
                json!({"device": "/dev/sda", "read-bps": 0}),
                json!({"device": "/dev/sda", "write-iops": u64::MAX}),
            ]);
            task["limits"] = json!({"io": [disk]});
            "io"
        }
        28 => {
            task["oom_score_adj"] = json!(dice.of(&[-1001, 1001, i32::MIN, i32::MAX]));
            "oom_score_adj"
        }
        _ => {
            let words = vec!["x"; dice.of(&[16_385, 40_000])];
            container("argv", json!(words), task);
            "argv"
        }
    }
}

/// Posts a job; the status and the answer.
fn post(host: &Host, spec: &Value, key: &str) -> (u16, Value) {
    let body = json!({"spec": spec, "key": key}).to_string();
    let mut stream = UnixStream::connect(host.data().join("api.sock")).expect("the door");
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
}

#[test]
fn a_thousand_bad_jobs_are_each_refused_by_the_field_that_is_wrong() {
    let hosts = cluster(1);
    let mut dice = Dice(11);
    for round in 0..JOBS {
        let mut job = good("bad");
        let field = spoil(&mut dice, &mut job);
        let (status, answer) = post(&hosts[0], &job, &format!("bad-{round}"));
        let error = &answer["error"];
        let shown = || job.to_string().chars().take(600).collect::<String>();
        assert_eq!(status, 422, "round {round}, {field}: {answer}: {}", shown());
        let why = error["why"][0].as_str().unwrap_or_default();
        assert!(why.starts_with(&format!("{field}: ")), "round {round}: {why:?} for {field}");
        let hint = error["hint"].as_str().unwrap_or_default();
        assert!(!hint.is_empty(), "round {round}: {answer}");
    }
    let jobs = hosts[0].json(&["jobs", "-a"]);
    assert_eq!(jobs["items"], json!([]), "nothing of them was taken");
    // What was spoiled is a job that is taken where nothing is wrong with it.
    let (status, answer) = post(&hosts[0], &good("good"), "good");
    assert_eq!(status, 202, "{answer}");
}

/// One wrong thing as words, and the flag that an error must name.
const WRONG: &[(&[&str], &str)] = &[
    (&["--cap-drop", "FOO"], "--cap-drop"),
    (&["--cap-add", "sys admin"], "--cap-add"),
    (&["-m", "1"], "--memory"),
    (&["--memory", "511k"], "--memory"),
    (&["--sysctl", "kernel.panic=1"], "--sysctl"),
    (&["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"], "--sysctl"),
    (&["--ulimit", "nofiles=1"], "--ulimit"),
    (&["--ulimit", "nofile=2:1"], "--ulimit"),
    (&["--tmpfs", "/x:size=1"], "--tmpfs"),
    (&["--tmpfs", "/proc/x"], "--tmpfs"),
    (&["-v", "/srv/x:/proc"], "--volume"),
    (&["-v", "/srv/../x:/y"], "--volume"),
    (&["-v", "a:/x", "-v", "b:/x"], "--volume"),
    (&["--device", "/dev/null:/dev/pts"], "--device"),
    (&["--hostname=-x"], "--hostname"),
    (&["--user", "65536"], "--user"),
    (&["--user", "a:b:c"], "--user"),
    (&["--shm-size", "1"], "--shm-size"),
    (&["--workdir", "/a/../b"], "--workdir"),
    (&["--stop-signal", "NONE"], "--stop-signal"),
    (&["--stop-timeout", "25h"], "--stop-timeout"),
    (&["-p", "80", "--network", "none"], "--publish"),
    (&["--cpuset-cpus", "3-1"], "--cpuset-cpus"),
    (&["--memory-reservation", "2g", "-m", "1g"], "--memory-reservation"),
    (&["--memory-swap", "1g"], "--memory-swap"),
    (&["--device-read-bps", "/dev/sda:9999999999999999999"], "--device-read-bps"),
    (&["-e", "A=\u{1}", "--env", "A B==", "--ulimit", "x=1"], "--ulimit"),
];

#[test]
fn bad_words_are_refused_by_the_flag_before_an_agent_is_asked() {
    // There is no agent: whoever asked one would end with 69.
    let host = Host::new("h1");
    let mut dice = Dice(5);
    for round in 0..COMMANDS.max(WRONG.len()) {
        let (words, flag) = WRONG.get(round).copied().unwrap_or_else(|| dice.of(WRONG));
        let others: &[&str] = dice.of(&[
            &[][..],
            &["-d"],
            &["--replicas", "2", "-d"],
            &["--read-only", "--init"],
            &["--cpus", "0.5", "--pids-limit", "9"],
        ]);
        let all = [&["run", "--rootfs", "/srv/x"], others, words, &["--", "sh"]].concat();
        let told = host.run(&all);
        assert!(matches!(told.code, 2 | 125), "{all:?}: {told:?}");
        assert!(told.err.starts_with("error: ") && told.err.contains(flag), "{all:?}: {told:?}");
        assert!(told.out.is_empty() && !told.err.contains("panicked"), "{all:?}: {told:?}");
        assert!(told.err.contains(" hint: "), "{all:?}: {told:?}");
    }
}
