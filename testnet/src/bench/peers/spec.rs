//! The container that crun and runc get: the same isolation as a default one of ours.
//!
//! The filter allows by name what a container's default does; how many calls it
//! names is what it costs.

use serde_json::{Value, json};

/// First id of the range that the container's users have on the host.
pub(crate) const FIRST_ID: u32 = 100_000;

/// Most memory and processes, the same as ours.
pub(crate) const MEMORY_BYTES: u64 = 256 << 20;
pub(crate) const PIDS: u32 = 128;

/// Names of the system calls that are allowed, separated by white space.
const ALLOWED: &str = include_str!("allowed.txt");

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// `config.json`.
pub(crate) fn config() -> Value {
    let map = json!([{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]);
    let kinds = ["user", "pid", "network", "ipc", "uts", "mount", "cgroup"];
    let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    let architecture =
        if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/noop"],
            "env": ["PATH=/"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": true,
        },
        "root": {"path": "m", "readonly": false},
        "hostname": "bench",
        "mounts": mounts(),
        "linux": {
            "uidMappings": map,
            "gidMappings": map,
            "namespaces": namespaces,
            "resources": {
                "memory": {"limit": MEMORY_BYTES},
                "pids": {"limit": PIDS},
                "devices": [{"allow": false, "access": "rwm"}],
            },
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": [architecture],
                "syscalls": [{
                    "names": ALLOWED.split_whitespace().collect::<Vec<_>>(),
                    "action": "SCMP_ACT_ALLOW",
                }],
            },
        },
    })
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
    ])
}
