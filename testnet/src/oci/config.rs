//! `config.json` of a bundle, as far as it concerns Linux.
//!
//! What is refused wherever it stands is kept as it came ([`Value`]); what the
//! specification does not know is not kept at all. Null counts as absent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

type Map = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) oci_version: String,
    pub(super) root: Option<Root>,
    pub(super) process: Option<Process>,
    pub(super) hostname: Option<String>,
    pub(super) domainname: Option<String>,
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) hooks: Option<Hooks>,
    pub(super) annotations: Option<Map>,
    pub(super) linux: Option<Linux>,
    pub(super) windows: Option<Value>,
    pub(super) solaris: Option<Value>,
    pub(super) vm: Option<Value>,
    pub(super) zos: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) readonly: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    pub(super) terminal: Option<bool>,
    pub(super) cwd: PathBuf,
    pub(super) env: Option<Vec<String>>,
    pub(super) args: Option<Vec<String>>,
    pub(super) user: Option<User>,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) rlimits: Option<Vec<Rlimit>>,
    pub(super) no_new_privileges: Option<bool>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) apparmor_profile: Option<Value>,
    pub(super) selinux_label: Option<Value>,
    pub(super) scheduler: Option<Value>,
    pub(super) io_priority: Option<Value>,
    #[serde(rename = "execCPUAffinity")]
    pub(super) exec_cpu_affinity: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) umask: Option<u32>,
    pub(super) additional_gids: Option<Vec<u32>>,
    pub(super) username: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Capabilities {
    pub(super) bounding: Option<Vec<String>>,
    pub(super) effective: Option<Vec<String>>,
    pub(super) inheritable: Option<Vec<String>>,
    pub(super) permitted: Option<Vec<String>>,
    pub(super) ambient: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) destination: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) source: Option<String>,
    pub(super) options: Option<Vec<String>>,
    pub(super) uid_mappings: Option<Value>,
    pub(super) gid_mappings: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hooks {
    pub(super) prestart: Option<Vec<Hook>>,
    pub(super) create_runtime: Option<Vec<Hook>>,
    pub(super) create_container: Option<Vec<Hook>>,
    pub(super) start_container: Option<Vec<Hook>>,
    pub(super) poststart: Option<Vec<Hook>>,
    pub(super) poststop: Option<Vec<Hook>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Hook {
    pub(super) path: PathBuf,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    /// Seconds.
    pub(super) timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Linux {
    pub(super) namespaces: Option<Vec<Namespace>>,
    pub(super) uid_mappings: Option<Vec<Mapping>>,
    pub(super) gid_mappings: Option<Vec<Mapping>>,
    pub(super) devices: Option<Vec<Device>>,
    pub(super) cgroups_path: Option<String>,
    pub(super) resources: Option<Resources>,
    pub(super) sysctl: Option<Map>,
    pub(super) seccomp: Option<Seccomp>,
    pub(super) rootfs_propagation: Option<String>,
    pub(super) masked_paths: Option<Vec<PathBuf>>,
    pub(super) readonly_paths: Option<Vec<PathBuf>>,
    pub(super) mount_label: Option<Value>,
    pub(super) personality: Option<Value>,
    pub(super) intel_rdt: Option<Value>,
    pub(super) time_offsets: Option<Value>,
    pub(super) net_devices: Option<Value>,
    pub(super) memory_policy: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Mapping {
    #[serde(rename = "containerID")]
    pub(super) container_id: u32,
    #[serde(rename = "hostID")]
    pub(super) host_id: u32,
    pub(super) size: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) path: PathBuf,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) file_mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resources {
    pub(super) devices: Option<Vec<DeviceAccess>>,
    pub(super) memory: Option<Value>,
    pub(super) cpu: Option<Value>,
    pub(super) pids: Option<Value>,
    #[serde(rename = "blockIO")]
    pub(super) block_io: Option<Value>,
    pub(super) hugepage_limits: Option<Value>,
    pub(super) network: Option<Value>,
    pub(super) rdma: Option<Value>,
    pub(super) unified: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeviceAccess {
    pub(super) allow: bool,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) access: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seccomp {
    pub(super) default_action: String,
    pub(super) default_errno_ret: Option<u32>,
    pub(super) flags: Option<Vec<String>>,
    pub(super) listener_path: Option<Value>,
    pub(super) listener_metadata: Option<Value>,
    pub(super) syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    pub(super) names: Vec<String>,
    pub(super) action: String,
    pub(super) errno_ret: Option<u32>,
    pub(super) args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u32,
    pub(super) value: u64,
    pub(super) value_two: Option<u64>,
    pub(super) op: String,
}
