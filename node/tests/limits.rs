//! Limits as a user asks for them, read back from the control groups of the task.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::PathBuf;

use support::{Host, cluster, until};

/// A task's group in the hierarchy of a controller: v1's, or v2's where it is there.
struct Group {
    dir: PathBuf,
    is_v2: bool,
}

impl Group {
    fn of(pid: i64, legacy: &str) -> Self {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mounted = |kind: &str, option: &str| {
            let line = mounts.lines().find(|line| {
                let Some((_, rest)) = line.split_once(" - ") else { return false };
                let fields: Vec<_> = rest.split(' ').collect();
                fields[0] == kind
                    && (option.is_empty() || fields[2].split(',').any(|word| word == option))
            })?;
            line.split(' ').nth(4).map(PathBuf::from)
        };
        let path = |wanted: &str| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let controllers = parts.next()?;
                let is_it = controllers.split(',').any(|controller| controller == wanted);
                is_it.then(|| parts.next())?.map(|path| path.trim_start_matches('/').to_owned())
            })
        };
        if let Some((mount, path)) = mounted("cgroup", legacy).zip(path(legacy)) {
            return Self { dir: mount.join(path), is_v2: false };
        }
        let mount = mounted("cgroup2", "").expect("v2");
        Self { dir: mount.join(path("").expect("a v2 group")), is_v2: true }
    }

    fn read(&self, v1: &str, v2: &str) -> String {
        let file = self.dir.join(if self.is_v2 { v2 } else { v1 });
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }
}

/// The process of job `t`, started with these flags; none where the node says that it lacks
/// the means.
fn started(host: &Host, flags: &[&str]) -> Option<i64> {
    let words = [&["run", "-d", "--name", "t"], flags, &["--exec", "--", "sleep", "1000"]].concat();
    host.run(&words).ok();
    let mut lacks = None;
    until("it runs, or it is said why not", || {
        let why = host.json(&["why", "t"]);
        let reason = why["opinions"][0]["reason"].as_str().unwrap_or_default().to_owned();
        if reason.contains("cannot enforce") {
            lacks = Some(reason);
        }
        let ended = host.json(&["ps", "-a", "t"]);
        let detail = ended["items"][0]["detail"].as_str().unwrap_or_default().to_owned();
        if detail.contains("nothing for it") {
            lacks = Some(detail);
        }
        lacks.is_some() || host.running("t") == 1
    });
    if let Some(lacks) = lacks {
        // It is said in the words of whoever asked.
        let words = ["cpuset-cpus", "blkio-weight", "io-weight", " io", "device", "memory", "swap"];
        assert!(words.iter().any(|word| lacks.contains(word)), "{lacks}");
        eprintln!("SKIPPED: {flags:?}: {lacks}");
        host.run(&["rm", "t"]).ok();
        return None;
    }
    let processes = host.json(&["top", "t"]);
    processes["items"][0]["pid"].as_i64()
}

fn gone(host: &Host) {
    host.run(&["rm", "t"]).ok();
    until("it is gone", || host.tasks("t").is_empty());
}

#[test]
fn memory_is_shared_out_as_docker_counts_it() {
    let hosts = cluster(1);
    let flags = ["-m", "64m", "--memory-swap", "96m", "--memory-reservation", "16m"];
    let Some(pid) = started(&hosts[0], &flags) else { return };
    let group = Group::of(pid, "memory");
    assert_eq!(group.read("memory.limit_in_bytes", "memory.max").trim(), "67108864");
    assert_eq!(group.read("memory.soft_limit_in_bytes", "memory.low").trim(), "16777216");
    let swap = if group.is_v2 { "33554432" } else { "100663296" };
    assert_eq!(group.read("memory.memsw.limit_in_bytes", "memory.swap.max").trim(), swap);
    gone(&hosts[0]);
    let Some(pid) = started(&hosts[0], &["-m", "64m", "--memory-swap", "-1"]) else { return };
    let group = Group::of(pid, "memory");
    let swap = group.read("memory.memsw.limit_in_bytes", "memory.swap.max");
    let is_any = swap.trim() == "max" || swap.trim().parse().is_ok_and(|n: u64| n >= 1 << 60);
    assert!(is_any, "{swap}");
}

#[test]
fn processors_and_processes_are_those_that_were_asked_for() {
    let hosts = cluster(1);
    if let Some(pid) = started(&hosts[0], &["--cpuset-cpus", "0", "--pids-limit", "77"]) {
        assert_eq!(Group::of(pid, "cpuset").read("cpuset.cpus", "cpuset.cpus").trim(), "0");
        assert_eq!(Group::of(pid, "pids").read("pids.max", "pids.max").trim(), "77");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        gone(&hosts[0]);
    }
    if let Some(pid) = started(&hosts[0], &["--pids-limit", "-1"]) {
        let most = Group::of(pid, "pids").read("pids.max", "pids.max");
        assert!(matches!(most.trim(), "4194304" | "max"), "{most}");
    }
}

#[test]
fn disks_are_shared_and_no_faster_than_asked_for() {
    let hosts = cluster(1);
    if let Some(pid) = started(&hosts[0], &["--blkio-weight", "300"]) {
        let group = Group::of(pid, "blkio");
        let weight = group.read("blkio.bfq.weight", "io.weight");
        let wanted = if group.is_v2 { "default 2930" } else { "300" };
        assert!(weight.lines().any(|line| line == wanted), "{weight}");
        gone(&hosts[0]);
    }
    let Some((disk, number)) = disk() else {
        eprintln!("SKIPPED: this machine has no disk");
        return;
    };
    let (bytes, count) = (format!("{disk}:1m"), format!("{disk}:500"));
    let flags = ["--device-read-bps", &bytes, "--device-write-iops", &count];
    let Some(pid) = started(&hosts[0], &flags) else { return };
    let group = Group::of(pid, "blkio");
    if group.is_v2 {
        let line = format!("{number} rbps=1048576 wbps=max riops=max wiops=500");
        assert!(group.read("", "io.max").contains(&line), "{}", group.read("", "io.max"));
    } else {
        let read = group.read("blkio.throttle.read_bps_device", "");
        assert!(read.contains(&format!("{number} 1048576")), "{read}");
        let written = group.read("blkio.throttle.write_iops_device", "");
        assert!(written.contains(&format!("{number} 500")), "{written}");
    }
}

/// A whole disk by its path and numbers.
fn disk() -> Option<(String, String)> {
    let entries = fs::read_dir("/sys/block").ok()?.flatten();
    entries.into_iter().find_map(|entry| {
        let path = format!("/dev/{}", entry.file_name().to_str()?);
        let number = fs::read_to_string(entry.path().join("dev")).ok()?.trim().to_owned();
        // Memory as a disk is no disk to the kernel's groups.
        let is_disk = entry.path().join("device").exists() && fs::exists(&path).ok()?;
        is_disk.then_some((path, number))
    })
}

#[test]
fn what_only_the_node_can_tell_ends_the_task_in_the_users_words() {
    let hosts = cluster(1);
    let text = hosts[0].data().join("../text");
    fs::write(&text, "no archive\n").expect("written");
    let text = text.display().to_string();
    let cases: [(&[&str], i32, &[&str]); 8] = [
        (&["--exec", "--cpuset-cpus", "8191"], 125, &["--cpuset-cpus: ", "processors"]),
        (
            &["--exec", "--device-read-bps", "/dev/none:1m"],
            125,
            &["--device-read-bps: ", "/dev/none"],
        ),
        (
            &["--exec", "--device-write-iops", "/dev/null:9"],
            125,
            &["--device-write-iops: ", "lsblk"],
        ),
        (&["--exec", "-w", "/no/such"], 125, &["/no/such", "--workdir"]),
        (&["--rootfs", "/srv/no-such-root"], 125, &["--rootfs: ", "/srv/no-such-root"]),
        (&["--rootfs", &text], 125, &["--rootfs: ", "tar archive"]),
        (&["--rootfs", "/srv", "--device", "/dev/none"], 125, &["--device: ", "/dev/none"]),
        (&["--rootfs", "/srv", "--volume", "/srv/none:/x"], 125, &["--volume: ", "/srv/none"]),
    ];
    for (flags, code, words) in cases {
        let told = hosts[0].run(&[&["run"], flags, &["--", "true"]].concat());
        assert_eq!(told.code, code, "{flags:?}: {told:?}");
        let (_, hint) = told.err.split_once("\n hint: ").unwrap_or_else(|| panic!("{told:?}"));
        assert!(!hint.trim().is_empty() && !told.err.contains("container."), "{told:?}");
        for word in words {
            assert!(told.err.contains(word), "no {word:?} in {told:?}");
        }
    }
    for (program, code) in [("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let told = hosts[0].run(&["run", "--exec", "--", program]);
        assert_eq!(told.code, code, "{told:?}");
        assert!(told.err.contains(program) && told.err.contains("\n hint: "), "{told:?}");
    }
}
