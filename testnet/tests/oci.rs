//! The life of small bundles, by the shipped `oci`: create, start, state, kill, delete.
//!
//! The public suite is slow and needs the distribution's packages (`testnet oci-validate`);
//! this is the part that every change must pass. As root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testnet::program::Tiny;

/// No single step takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A change to a configuration, and the field that is refused for it.
type Case = (fn(&mut Value), &'static str);

/// A bundle over a root with programs of ours, and a root directory for `oci`.
struct Stage {
    dir: PathBuf,
}

/// Whether bundles can be run here; says so if not.
fn root_user() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: OCI bundles need root");
    }
    root
}

impl Stage {
    fn set(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("starling-oci-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("bundle/rootfs/bin")).expect("made");
        let stage = Self { dir };
        Tiny::Noop.write(&stage.rootfs().join("bin/noop")).expect("a program");
        Tiny::Sleeper.write(&stage.rootfs().join("bin/sleeper")).expect("a program");
        stage
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("bundle/rootfs")
    }

    /// Writes a configuration, changed as is wanted.
    fn configure(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let namespaces: Vec<_> = ["pid", "mount", "ipc", "uts", "network", "cgroup"]
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "args": args, "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin"], "capabilities": {}, "noNewPrivileges": true},
            "root": {"path": "rootfs"},
            "hostname": "bundle",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            ],
            "annotations": {"org.example": "kept"},
            "linux": {"namespaces": namespaces, "maskedPaths": ["/proc/keys"],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        });
        change(&mut config);
        let text = serde_json::to_vec(&config).expect("text");
        fs::write(self.dir.join("bundle/config.json"), text).expect("written");
    }

    /// Runs it; what it says goes through files, since a container keeps the streams of
    /// whoever creates it.
    fn oci(&self, words: &[&str]) -> Output {
        let file = |name: &str| self.dir.join(name);
        let make = |name: &str| fs::File::create(file(name)).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_oci"));
        command.arg("--root").arg(self.dir.join("root")).args(words).stdin(Stdio::null());
        let status = command.stdout(make("out")).stderr(make("err")).status().expect("oci runs");
        let read = |name: &str| fs::read(file(name)).expect("read");
        Output { status, stdout: read("out"), stderr: read("err") }
    }

    fn done(&self, words: &[&str]) -> String {
        let output = self.oci(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The reason of a failure.
    fn refused(&self, words: &[&str]) -> String {
        let output = self.oci(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        for line in ["error: ", "why: ", "hint: "] {
            assert!(said.lines().any(|said| said.starts_with(line)), "{said}");
        }
        said
    }

    fn create(&self) -> String {
        let bundle = self.dir.join("bundle").display().to_string();
        self.done(&["create", "--bundle", &bundle, "box"])
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.done(&["state", "box"])).expect("JSON")
    }

    fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    fn until(&self, status: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.status() != status {
            assert!(Instant::now() < deadline, "never {status}");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.oci(&["delete", "--force", "box"]);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_bundle_lives_from_create_to_delete_and_leaves_nothing() {
    if !root_user() {
        return;
    }
    let stage = Stage::set("life");
    stage.configure(&["/bin/sleeper"], |_| {});
    let pid_file = stage.dir.join("pid");
    let bundle = stage.dir.join("bundle").display().to_string();
    stage.done(&["create", "-b", &bundle, "--pid-file", pid_file.to_str().expect("text"), "box"]);
    let state = stage.state();
    let pid = state["pid"].as_u64().expect("a pid");
    assert_eq!(fs::read_to_string(&pid_file).expect("a pid file"), pid.to_string());
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "box");
    assert_eq!(state["ociVersion"], "1.1.0");
    assert_eq!(state["annotations"], json!({"org.example": "kept"}));
    assert_eq!(Path::new(state["bundle"].as_str().expect("a path")), stage.dir.join("bundle"));
    // The container is there, its program is not.
    let of_process = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&of_process("cmdline")).contains("sleeper"));
    let mounts = String::from_utf8_lossy(&of_process("mountinfo")).into_owned();
    assert!(mounts.contains(" /proc/keys "), "{mounts}");
    assert!(stage.refused(&["delete", "box"]).contains("it is created"));
    assert!(stage.refused(&["create", "-b", &bundle, "box"]).contains("already"));

    stage.done(&["start", "box"]);
    assert_eq!(stage.status(), "running");
    assert!(String::from_utf8_lossy(&of_process("cmdline")).contains("sleeper"));
    assert!(stage.refused(&["start", "box"]).contains("it is running"));
    stage.done(&["kill", "box", "KILL"]);
    stage.until("stopped");
    assert!(stage.refused(&["kill", "box"]).contains("it is stopped"));
    stage.done(&["delete", "box"]);
    assert!(stage.refused(&["state", "box"]).contains("no container"));
    let left = fs::read_dir(stage.dir.join("root/containers")).expect("a directory").count();
    let tasks = fs::read_dir(stage.dir.join("root/runtime/tasks")).expect("a directory").flatten();
    let tasks = tasks.filter(|task| !task.file_name().to_string_lossy().starts_with('.')).count();
    assert_eq!((left, tasks), (0, 0));
}

#[test]
fn a_created_container_can_be_killed_or_deleted_by_force() {
    if !root_user() {
        return;
    }
    let stage = Stage::set("kill");
    stage.configure(&["/bin/sleeper"], |_| {});
    stage.create();
    stage.done(&["kill", "box", "9"]);
    stage.until("stopped");
    assert!(stage.refused(&["start", "box"]).contains("it is stopped"));
    stage.done(&["delete", "box"]);
    stage.create();
    stage.done(&["delete", "--force", "box"]);
    stage.refused(&["state", "box"]);
    // Nothing is no failure then.
    stage.done(&["delete", "--force", "box"]);
}

#[test]
fn hooks_run_when_they_should_and_know_the_state() {
    if !root_user() {
        return;
    }
    let stage = Stage::set("hooks");
    let log = stage.dir.join("log").display().to_string();
    let status = r#"sed -n 's/.*"status": "\([a-z]*\)".*/\1/p'"#;
    let hook = |name: &str| {
        let script = format!("printf '%s ' {name} >> {log}; {status} >> {log}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    stage.configure(&["/bin/sleeper"], |config| {
        config["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
            "createContainer": hook("createContainer"), "poststart": hook("poststart"),
            "poststop": hook("poststop"),
        });
    });
    let said = || fs::read_to_string(&log).unwrap_or_default();
    stage.create();
    let created = "prestart creating\ncreateRuntime creating\ncreateContainer creating\n";
    assert_eq!(said(), created);
    assert_eq!(stage.status(), "created");
    stage.done(&["start", "box"]);
    assert_eq!(said(), format!("{created}poststart running\n"));
    stage.done(&["kill", "box", "KILL"]);
    stage.until("stopped");
    stage.done(&["delete", "box"]);
    assert_eq!(said(), format!("{created}poststart running\npoststop stopped\n"));
}

#[test]
fn a_hook_that_fails_leaves_no_container() {
    if !root_user() {
        return;
    }
    let stage = Stage::set("failing");
    stage.configure(&["/bin/noop"], |config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    });
    let bundle = stage.dir.join("bundle").display().to_string();
    let said = stage.refused(&["create", "-b", &bundle, "box"]);
    assert!(said.contains("hooks.createRuntime[0]"), "{said}");
    stage.refused(&["state", "box"]);
}

#[test]
fn run_does_all_of_it_and_gives_the_exit_code() {
    if !root_user() {
        return;
    }
    let stage = Stage::set("run");
    stage.configure(&["/bin/noop"], |_| {});
    let bundle = stage.dir.join("bundle").display().to_string();
    stage.done(&["run", "-b", &bundle, "box"]);
    stage.refused(&["state", "box"]);
    stage.configure(&["/bin/nowhere"], |_| {});
    let said = stage.refused(&["run", "-b", &bundle, "box"]);
    assert!(said.contains("/bin/nowhere"), "{said}");
    stage.refused(&["state", "box"]);
}

#[test]
fn what_cannot_be_done_is_refused_by_its_field_and_nothing_is_made() {
    if !root_user() {
        return;
    }
    let stage = Stage::set("refused");
    let bundle = stage.dir.join("bundle").display().to_string();
    let cases: [Case; 4] = [
        (|config| config["process"]["terminal"] = json!(true), "process.terminal"),
        (|config| config["linux"]["intelRdt"] = json!({"closID": "x"}), "linux.intelRdt"),
        (|config| config["mounts"][0]["options"] = json!(["idmap"]), "mounts[0].options"),
        (|config| config["process"]["apparmorProfile"] = json!("x"), "process.apparmorProfile"),
    ];
    for (change, field) in cases {
        stage.configure(&["/bin/noop"], change);
        let said = stage.refused(&["create", "-b", &bundle, "box"]);
        assert!(said.contains(field), "{said}");
        assert!(!stage.dir.join("root/runtime").exists(), "{field}");
    }
    let words = stage.oci(&["kill", "box", "NOPE"]);
    assert_eq!(words.status.code(), Some(2));
}
