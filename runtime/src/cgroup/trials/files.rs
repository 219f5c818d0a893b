//! What stands in a group's files once its limits were written, and when they were taken back.
//!
//! Each limit is one row with the words of both versions, so the same trials run on v1, v2 and
//! hybrid machines. A file that the kernel does not have is passed over, and then the limit must
//! be said to be missing.

use super::*;

/// A disk that has no limits yet: the first whole one of this machine.
fn disk() -> Option<Device> {
    let mut disks: Vec<_> = std::fs::read_dir("/sys/block").ok()?.flatten().collect();
    disks.sort_by_key(|disk| disk.file_name());
    // The kernel refuses weights for what has no requests to order.
    disks.retain(|disk| disk.path().join("device").exists());
    let numbers = std::fs::read_to_string(disks.first()?.path().join("dev")).ok()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// What is written, and how either version's file says it: the field, the controller, and
/// file and words in v1 and in v2.
type Stands<'a> = (&'a str, Controller, Option<(&'a str, String)>, Option<(&'a str, String)>);

/// Every limit there is.
fn all_limits(disk: Option<Device>) -> (Limits, Vec<Stands<'static>>) {
    let limits = Limits {
        cpu_weight: Some(50),
        cpu_quota_milli: Some(1500),
        memory_max: Some(64 << 20),
        memory_high: Some(48 << 20),
        memory_low: Some(16 << 20),
        swap: Some(8 << 20),
        pids_max: Some(77),
        cpuset_cpus: Some("0".into()),
        io_weight: Some(4950),
        io: disk.map_or_else(Vec::new, |device| {
            let (read_bps, write_iops) = (Some(1 << 20), Some(30));
            let (write_bps, read_iops) = (None, None);
            vec![IoLimit { device, weight: None, read_bps, write_bps, read_iops, write_iops }]
        }),
    };
    let says = |file, words: &str| Some((file, words.to_owned()));
    let number = |file, number: u64| Some((file, number.to_string()));
    let (cpu, memory, io) = (Controller::Cpu, Controller::Memory, Controller::Io);
    let mut stand: Vec<Stands<'_>> = vec![
        ("cpu_weight", cpu, says("cpu.shares", "512"), says("cpu.weight", "50")),
        (
            "cpu_quota_milli",
            cpu,
            says("cpu.cfs_quota_us", "150000"),
            says("cpu.max", "150000 100000"),
        ),
        (
            "memory_max",
            memory,
            number("memory.limit_in_bytes", 64 << 20),
            number("memory.max", 64 << 20),
        ),
        ("memory_max", memory, None, says("memory.oom.group", "1")),
        ("memory_high", memory, None, number("memory.high", 48 << 20)),
        (
            "memory_low",
            memory,
            number("memory.soft_limit_in_bytes", 16 << 20),
            number("memory.low", 16 << 20),
        ),
        (
            "swap",
            memory,
            number("memory.memsw.limit_in_bytes", 72 << 20),
            number("memory.swap.max", 8 << 20),
        ),
        ("pids_max", Controller::Pids, number("pids.max", 77), number("pids.max", 77)),
        ("cpuset_cpus", Controller::Cpuset, says("cpuset.cpus", "0"), says("cpuset.cpus", "0")),
        ("io_weight", io, says("blkio.bfq.weight", "500"), says("io.weight", "default 4950")),
        ("io_weight", io, None, says("io.bfq.weight", "default 500")),
    ];
    if let Some(disk) = disk {
        let v2 = format!("{disk} rbps=1048576 wbps=max riops=max wiops=30");
        let read = format!("{disk} 1048576");
        let written = format!("{disk} 30");
        let of = |way| match way {
            "read" => Some(("blkio.throttle.read_bps_device", read.clone())),
            _ => Some(("blkio.throttle.write_iops_device", written.clone())),
        };
        stand.push(("io", io, of("read"), Some(("io.max", v2))));
        stand.push(("io", io, of("write"), None));
    }
    (limits, stand)
}

/// What a slot's file for this says; none where the version or the kernel has no such file.
fn stands(slot: &Slot, row: &Stands<'_>) -> Option<(String, String)> {
    let (_, controller, v1, v2) = row;
    let (version, group) = slot.of(*controller)?;
    let (file, wanted) = if version == Version::V1 { v1.as_ref()? } else { v2.as_ref()? };
    let text = group.text(file).expect("read")?;
    Some((format!("{file}: {}", text.trim()), format!("{file}: {wanted}")))
}

#[test]
fn every_limit_stands_in_the_groups_files_until_it_is_taken_back() {
    let (limits, rows) = all_limits(disk());
    for ground in Ground::each("stands") {
        // Nothing is ever written to this one but what it takes to join.
        let mut fresh = ground.slot("fresh");
        rows.iter().for_each(|row| fresh.join(row.1).expect("joined"));
        let as_before = |slot: &Slot, when: &str| {
            // v1's list of processors has no "as above"; it is not joined without one.
            let kept = |row: &&Stands<'_>| {
                row.1 == Controller::Cpuset
                    && slot.of(row.1).is_some_and(|(version, _)| version == Version::V1)
            };
            for row in rows.iter().filter(|row| !kept(row)) {
                let said = |slot| stands(slot, row).map(|(found, _)| found);
                assert_eq!(said(slot), said(&fresh), "{when}");
            }
        };
        let mut slot = ground.slot("a");
        let missing = slot.limit(&limits).expect("limited");
        for (found, wanted) in rows.iter().filter_map(|row| stands(&slot, row)) {
            assert_eq!(found, wanted);
        }
        for field in &missing {
            println!("nothing here enforces {field}, which is said");
            let found =
                rows.iter().filter(|row| row.0 == *field).find_map(|row| stands(&slot, row));
            assert_eq!(found, None, "{field} is said to be missing, and stands");
        }
        let more = Limits { pids_max: Some(78), ..limits.clone() };
        assert_eq!(slot.limit(&more).expect("limited"), missing, "in a slot that is used again");
        slot.limit(&Limits::default()).expect("lifted");
        as_before(&slot, "lifted by who wrote it");
        slot.limit(&limits).expect("limited");
        drop(slot);
        let mut adopted = Slot::open(&ground.tree, "a").expect("opened").expect("a slot");
        adopted.limit(&Limits::default()).expect("lifted");
        as_before(&adopted, "lifted by who adopted it");
    }
}
