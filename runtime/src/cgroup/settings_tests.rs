//! What limits become in the files of either version, and in which order.

use super::*;
use crate::cgroup::Device;

fn written(limits: &Limits, version: Version) -> Vec<String> {
    let (settings, missing) = settings(limits, |_| Some(version));
    let shown = settings.iter().map(|setting| format!("{}={}", setting.file, setting.text()));
    shown.chain(missing.iter().map(|name| format!("missing {name}"))).collect()
}

fn everything() -> Limits {
    Limits {
        cpu_weight: Some(200),
        cpu_quota_milli: Some(1500),
        memory_max: Some(64 << 20),
        memory_high: Some(32 << 20),
        memory_low: Some(16 << 20),
        swap: Some(1 << 20),
        pids_max: Some(10),
        cpuset_cpus: Some("0-1".into()),
        io_weight: Some(4950),
        io: vec![IoLimit {
            device: Device { major: 8, minor: 16 },
            weight: Some(5000),
            read_bps: Some(1000),
            write_bps: None,
            read_iops: None,
            write_iops: Some(7),
        }],
    }
}

#[test]
fn every_limit_has_its_file_in_v2() {
    let wanted = [
        "cpu.weight=200",
        "cpu.max=150000 100000",
        "memory.high=33554432",
        "memory.low=16777216",
        "memory.max=67108864",
        "memory.swap.max=1048576",
        "memory.oom.group=1",
        "pids.max=10",
        "cpuset.cpus=0-1",
        "io.weight=default 4950",
        "io.bfq.weight=500",
        "io.max=8:16 rbps=1000 wbps=max riops=max wiops=7",
        "io.weight=8:16 5000",
    ];
    assert_eq!(written(&everything(), Version::V2), wanted);
}

#[test]
fn every_limit_but_one_has_its_file_in_v1() {
    let wanted = [
        "cpu.shares=2048",
        "cpu.cfs_quota_us=150000",
        "memory.soft_limit_in_bytes=16777216",
        "memory.limit_in_bytes=67108864",
        "memory.memsw.limit_in_bytes=68157440",
        "pids.max=10",
        "cpuset.cpus=0-1",
        "blkio.bfq.weight=500",
        "blkio.throttle.read_bps_device=8:16 1000",
        "blkio.throttle.write_iops_device=8:16 7",
        "blkio.bfq.weight_device=8:16 1000",
        "missing memory_high",
    ];
    assert_eq!(written(&everything(), Version::V1), wanted);
}

#[test]
fn what_no_controller_is_there_for_is_named() {
    let (settings, missing) = settings(&everything(), |_| None);
    assert_eq!(settings, []);
    let wanted = [
        "cpu_weight",
        "cpu_quota_milli",
        "memory_high",
        "memory_low",
        "memory_max",
        "swap",
        "pids_max",
        "cpuset_cpus",
        "io_weight",
        "io",
    ];
    assert_eq!(missing, wanted);
}

#[test]
fn a_limit_is_missing_unless_a_file_of_it_was_there() {
    let (taken, _) = settings(&everything(), |_| Some(Version::V2));
    let part = |files: &[&str]| {
        let (fileless, taken) =
            taken.iter().cloned().partition::<Vec<_>, _>(|setting| files.contains(&setting.file));
        unsaid(&fileless, &taken)
    };
    assert_eq!(part(&["io.max", "memory.high"]), ["memory_high", "io"]);
    // bfq has a weight where nothing else does, and needs none where something does.
    assert_eq!(part(&["io.bfq.weight"]), [""; 0]);
    assert_eq!(part(&["memory.swap.max", "memory.oom.group"]), ["swap"]);
    let all = part(&["io.weight", "io.bfq.weight", "io.max"]);
    assert_eq!(all, ["io_weight", "io"]);
    let (weight, _) = settings(&Limits { io: Vec::new(), ..everything() }, |_| Some(Version::V2));
    let (lost, taken): (Vec<_>, Vec<_>) =
        weight.into_iter().partition(|setting| setting.file == "io.weight");
    assert_eq!(unsaid(&lost, &taken), [""; 0]);
}

#[test]
fn memory_alone_means_no_swap_and_all_die_together() {
    let limits = Limits { memory_max: Some(1 << 20), ..Limits::default() };
    let (settings, _) = settings(&limits, |_| Some(Version::V2));
    let shown: Vec<_> = settings.iter().map(|s| (s.file, &*s.value, s.implied)).collect();
    let wanted = [
        ("memory.max", "1048576", false),
        ("memory.swap.max", "0", true),
        ("memory.oom.group", "1", true),
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn quotas_below_the_shortest_get_a_longer_period() {
    assert_eq!(quota(1500), (150_000, 100_000));
    assert_eq!(quota(10), (1000, 100_000));
    assert_eq!(quota(9), (1000, 111_112));
    assert_eq!(quota(1), (1000, 1_000_000));
    assert_eq!(quota(8_192_000), (819_200_000, 100_000));
}

#[test]
fn weights_become_shares_as_the_kernel_converts_them() {
    assert_eq!([1, 100, 200, 10_000].map(shares), [10, 1024, 2048, 102_400]);
}

/// The writes from one set of limits to the next.
fn steps(old: &Limits, new: &Limits, version: Version) -> Vec<String> {
    let (now, _) = settings(old, |_| Some(version));
    let (wanted, _) = settings(new, |_| Some(version));
    let text = |(setting, set): &(&Setting, bool)| {
        let text = if *set { setting.text() } else { setting.free_text() };
        format!("{}={text}", setting.file)
    };
    changes(&now, &wanted).iter().map(text).collect()
}

#[test]
fn only_what_differs_is_written_and_what_is_gone_is_taken_back() {
    let old = everything();
    assert_eq!(steps(&old, &old, Version::V2), [""; 0]);
    let new = Limits { pids_max: Some(11), io: Vec::new(), cpu_quota_milli: None, ..old.clone() };
    let wanted = [
        "cpu.max=max 100000",
        "io.max=8:16 rbps=max wbps=max riops=max wiops=max",
        "io.weight=8:16 default",
        "pids.max=11",
    ];
    assert_eq!(steps(&old, &new, Version::V2), wanted);
    let tiny = Limits { cpu_quota_milli: Some(1), ..Limits::default() };
    let wanted = ["cpu.cfs_quota_us=-1", "cpu.cfs_period_us=100000"];
    assert_eq!(steps(&tiny, &Limits::default(), Version::V1), wanted);
}

#[test]
fn in_v1_memory_never_exceeds_memory_and_swap_on_the_way() {
    let with = |bytes: Option<u64>| Limits { memory_max: bytes, ..Limits::default() };
    for (old, new) in
        [(None, Some(4)), (Some(4), None), (Some(4), Some(8)), (Some(8), Some(4)), (None, None)]
    {
        let (mut lower, mut upper) = (old.unwrap_or(u64::MAX), old.unwrap_or(u64::MAX));
        for step in steps(&with(old), &with(new), Version::V1) {
            let (file, value) = step.split_once('=').expect("a step");
            let value = value.parse().unwrap_or(u64::MAX);
            if file == MEMORY {
                lower = value
            } else {
                upper = value
            }
            assert!(lower <= upper, "{old:?} to {new:?} at {step}");
        }
        assert_eq!((lower, upper), (new.unwrap_or(u64::MAX), new.unwrap_or(u64::MAX)));
    }
}

#[test]
fn dockers_weights_come_back_as_they_were_said() {
    // How whoever reads Docker's words turns them into ours: runc's way.
    for weight in 10_u32..=1000 {
        let ours = u16::try_from(1 + (weight - 10) * 9999 / 990).expect("within v2's range");
        assert_eq!(legacy_io_weight(ours), weight);
    }
}
