//! Groups on the machine at hand: what the kernel makes of what we write.
//!
//! Each trial chooses by the layout, so the same ones run on v1, v2 and hybrid
//! machines; one that this machine cannot run says so.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

mod deserted;
mod files;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tree of its own for one trial, removed afterwards whatever happened.
struct Ground {
    tree: Tree,
    enforced: Enforced,
}

impl Ground {
    /// A ground for each way in which this machine can be used: as it is, and where it
    /// has both versions, with either alone.
    fn each(name: &str) -> Vec<Self> {
        static SETTLED: Once = Once::new();
        let layout = Layout::probe().expect("a layout");
        SETTLED.call_once(|| {
            eprintln!("{layout}");
            layout.settle().expect("settled");
        });
        let mut layouts = vec![layout.clone()];
        if layout.usable().is_some() && layout.legacy.iter().any(|v1| v1.base.is_some()) {
            layouts.push(Layout { unified: None, ..layout.clone() });
            layouts.push(Layout { legacy: Vec::new(), ..layout });
        }
        let mut grounds = Vec::new();
        for (at, layout) in layouts.iter().enumerate() {
            let tag = format!("trial-{}-{name}-{at}", std::process::id());
            let tree = Tree::open(layout, &tag).expect("a tree");
            assert_eq!(tree.shortfalls(), [""; 0]);
            if tree.is_bare() {
                eprintln!("SKIPPED: {}", layout.enforces().tracked.why);
            } else {
                grounds.push(Self { tree, enforced: layout.enforces() });
            }
        }
        grounds
    }

    /// Only those on which this kind of limit holds.
    fn with(name: &str, kind: impl Fn(&Enforced) -> &Enforcement) -> Vec<Self> {
        let (able, unable): (Vec<_>, Vec<_>) =
            Self::each(name).into_iter().partition(|ground| kind(&ground.enforced).holds());
        if let ([], Some(first)) = (able.as_slice(), unable.first()) {
            eprintln!("SKIPPED: {}", kind(&first.enforced).why);
        }
        able
    }

    fn slot(&self, name: &str) -> Slot {
        Slot::make(&self.tree, name).expect("a slot")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let swept = self.tree.sweep(&BTreeSet::new());
        let removed = self.tree.remove_if_empty();
        if !std::thread::panicking() {
            assert_eq!(swept.expect("swept").stuck, BTreeSet::new());
            assert!(removed.expect("removed"));
        }
    }
}

/// A shell that joins the slot before it runs its script.
fn shell(slot: &Slot, script: &str) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    slot.enter(pid(&child)).expect("entered");
    child.stdin.take().expect("stdin").write_all(b"go\n").expect("told");
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a number")).expect("a pid")
}

/// The next line that a child says.
fn line(child: &mut Child) -> String {
    let mut text = String::new();
    let out = child.stdout.as_mut().expect("stdout");
    BufReader::with_capacity(1, out).read_line(&mut text).expect("a line");
    text.trim().to_owned()
}

fn await_that(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what} did not come to pass");
        std::thread::yield_now();
    }
}

#[test]
fn the_layout_of_this_machine_can_be_told() {
    let layout = Layout::probe().expect("a layout");
    for (name, how) in layout.enforces().all() {
        eprintln!("{name}: {:?}, {}", how.by, how.why);
        assert!(!how.why.is_empty());
    }
}

#[test]
fn memory_beyond_the_limit_kills_and_the_kill_is_counted() {
    for ground in Ground::with("memory", |enforced| &enforced.memory) {
        let mut slot = ground.slot("a");
        let limits = Limits { memory_max: Some(16 << 20), ..Limits::default() };
        assert_eq!(slot.limit(&limits).expect("limited"), [""; 0]);
        assert_eq!(slot.oom_kills(), Some(0));
        // The shell doubles a variable until it is killed.
        let mut child = shell(&slot, "x=0123456789abcdef; while :; do x=$x$x; done");
        let status = child.wait().expect("waited");
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(9), "{status}");
        assert!(slot.wait_empty(Instant::now() + PATIENCE).expect("waited"));
        // Where all die together the kernel (6.1 was seen to) counts the first one twice.
        assert!(slot.oom_kills() >= Some(1), "{:?}", slot.oom_kills());
        let usage = slot.usage();
        assert!(
            usage.memory_peak.is_none_or(|peak| peak > 8 << 20 && peak <= 16 << 20),
            "{usage:?}"
        );
        // The next task in the slot is not charged for it.
        slot.renew();
        assert_eq!(slot.oom_kills(), Some(0));
        let mut child = shell(&slot, "exit 7");
        assert_eq!(child.wait().expect("waited").code(), Some(7));
        let peak = slot.usage().memory_peak;
        assert!(peak.is_none_or(|peak| peak < 8 << 20), "{peak:?}");
    }
}

#[test]
fn forks_beyond_the_limit_fail() {
    for ground in Ground::with("pids", |enforced| &enforced.pids) {
        let mut slot = ground.slot("a");
        slot.limit(&Limits { pids_max: Some(3), ..Limits::default() }).expect("limited");
        // The shell gives up at the third child.
        let script = "exec 3>&1 >&-; sleep 600 3>&- & sleep 600 3>&- & echo two >&3; sleep 600 3>&- & echo three >&3; wait";
        let mut child = shell(&slot, script);
        assert_eq!(line(&mut child), "two");
        assert_ne!(line(&mut child), "three");
        assert!(slot.kill().expect("killed"));
        child.wait().expect("waited");
        // Lifted, the slot has room again, although the kill closed it.
        slot.limit(&Limits::default()).expect("lifted");
        let mut child = shell(&slot, script);
        assert_eq!(line(&mut child), "two");
        assert_eq!(line(&mut child), "three");
        // Unreaped ones count too, so there may be more.
        assert!(slot.usage().pids >= Some(4), "{:?}", slot.usage());
        assert!(slot.kill().expect("killed"));
        child.wait().expect("waited");
    }
}

#[test]
fn a_quota_throttles_and_processor_time_is_counted() {
    for ground in Ground::with("cpu", |enforced| &enforced.cpu) {
        let mut slot = ground.slot("a");
        let limits =
            Limits { cpu_weight: Some(50), cpu_quota_milli: Some(100), ..Limits::default() };
        slot.limit(&limits).expect("limited");
        let begun = Instant::now();
        let mut child = shell(&slot, "while :; do :; done");
        await_that("throttling", || slot.usage().throttled_periods >= Some(4));
        assert!(slot.kill().expect("killed"));
        child.wait().expect("waited");
        let (usage, real) = (slot.usage(), begun.elapsed());
        let cpu = Duration::from_nanos(usage.cpu_ns.expect("counted"));
        assert!(usage.throttled_ns > Some(0), "{usage:?}");
        // A tenth, one slice of 10 ms more for each end, and as much for measuring.
        assert!(cpu < real / 10 + Duration::from_millis(40), "{cpu:?} of {real:?}");
        // Without the quota, the same takes all it can get.
        slot.limit(&Limits::default()).expect("lifted");
        slot.renew();
        let mut child = shell(&slot, "while :; do :; done");
        await_that("running", || slot.usage().cpu_ns >= Some(100_000_000));
        assert_eq!(slot.usage().throttled_periods.unwrap_or(0), 0);
        assert!(slot.kill().expect("killed"));
        child.wait().expect("waited");
    }
}

#[test]
fn a_processor_list_is_obeyed() {
    for ground in Ground::with("cpuset", |enforced| &enforced.cpuset) {
        let mut slot = ground.slot("a");
        slot.limit(&Limits { cpuset_cpus: Some("0".into()), ..Limits::default() })
            .expect("limited");
        let list = "grep Cpus_allowed_list /proc/self/status | tr -d '\\t'";
        assert_eq!(line(&mut shell(&slot, list)), "Cpus_allowed_list:0");
        slot.wait_empty(Instant::now() + PATIENCE).expect("waited");
        slot.limit(&Limits::default()).expect("lifted");
        let all = line(&mut shell(&slot, list));
        let own = std::fs::read_to_string("/proc/self/status").expect("status").replace('\t', "");
        assert!(own.contains(&format!("{all}\n")), "{all}");
    }
}

#[test]
fn a_frozen_task_stands_still_and_can_be_killed() {
    for ground in Ground::each("freeze") {
        let slot = ground.slot("a");
        let mut child = shell(&slot, "trap 'exit 3' TERM; echo on; while :; do :; done");
        // Before that, the signal would be fatal, which no freezer delays.
        assert_eq!(line(&mut child), "on");
        let cpu = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("stat");
        let ticks = || cpu().split(' ').nth(13).and_then(|t| t.parse::<u64>().ok()).expect("ticks");
        await_that("running", || ticks() > 3);
        match slot.freeze() {
            Err(CgroupError::NoFreezer { .. }) => {
                eprintln!("SKIPPED: no freezer here");
                assert!(slot.kill().expect("killed"));
                child.wait().expect("waited");
                continue;
            }
            frozen => assert!(frozen.expect("frozen")),
        }
        let before = ticks();
        // The wait must time out: the signal is not heard.
        kill_process(pid(&child), Signal::TERM).expect("signalled");
        assert!(!slot.wait_empty(Instant::now() + Duration::from_millis(100)).expect("waited"));
        assert_eq!(ticks(), before);
        assert!(slot.thaw().expect("thawed"));
        assert_eq!(child.wait().expect("waited").code(), Some(3));
        let mut child = shell(&slot, "while :; do :; done");
        assert!(slot.freeze().expect("frozen"));
        assert!(slot.kill().expect("killed"));
        child.wait().expect("waited");
        // The slot itself is not frozen for the next one for ever.
        slot.thaw().expect("thawed");
        assert_eq!(line(&mut shell(&slot, "echo on")), "on");
    }
}

/// Daemons that leave their session and go on forking.
const BOMB: &str = "bomb() { setsid sh -c 'while :; do setsid sleep 600 & setsid sleep 0.01; done' & }; \
                    bomb; bomb; bomb; echo on; wait";

#[test]
fn a_fork_bomb_of_daemons_is_killed_whole() {
    for ground in Ground::each("bomb") {
        let mut slot = ground.slot("a");
        slot.limit(&Limits { pids_max: Some(200), ..Limits::default() }).expect("limited");
        let mut child = shell(&slot, BOMB);
        assert_eq!(line(&mut child), "on");
        let group = slot.tracked().expect("a group");
        await_that("a crowd", || group.processes().expect("read").len() > 20);
        let begun = Instant::now();
        assert!(slot.kill().expect("killed"));
        eprintln!("killed in {:?}", begun.elapsed());
        child.wait().expect("waited");
        assert!(slot.is_empty().expect("looked"));
        // And where the kernel cannot kill a group.
        let mut child = shell(&slot, BOMB);
        await_that("a crowd", || group.processes().expect("read").len() > 20);
        assert!(slot.kill_one_by_one(Instant::now() + PATIENCE).expect("killed"));
        child.wait().expect("waited");
        assert!(slot.remove().expect("removed"));
        assert_eq!(ground.tree.slots().expect("read"), BTreeSet::new());
    }
}

#[test]
fn groups_made_by_the_task_are_killed_and_removed_too() {
    for ground in Ground::each("nested") {
        let slot = ground.slot("a");
        let own = slot.tracked().expect("a group").path().join("x");
        let deep = (0..40).fold(own.clone(), |path, _| path.join("y"));
        std::fs::create_dir_all(&deep).expect("made");
        std::fs::create_dir(own.join("z")).expect("made");
        let script =
            format!("echo $$ > {}/cgroup.procs; echo in; sleep 600", own.join("z").display());
        let mut child = shell(&slot, &script);
        assert_eq!(line(&mut child), "in");
        assert!(!slot.is_empty().expect("looked"));
        assert!(!slot.remove().expect("a full one stays"));
        assert!(slot.kill().expect("killed"));
        child.wait().expect("waited");
        assert!(slot.remove().expect("removed"));
        assert!(!own.exists());
    }
}

#[test]
fn a_task_divides_its_group_when_that_was_given_to_it() {
    for ground in Ground::each("delegate") {
        let slot = ground.slot("a");
        let user = rustix::process::geteuid().as_raw();
        match slot.delegate(user, rustix::process::getegid().as_raw()) {
            Err(CgroupError::NotDelegable { .. }) if slot.unified().is_none() => continue,
            given => given.expect("given"),
        }
        let path = slot.tracked().expect("a group").path();
        let deep = (0..6).fold(path.to_owned(), |path, _| path.join("y"));
        assert!(std::fs::create_dir_all(&deep).is_err(), "the depth is bounded");
        assert!(deep.parent().expect("a parent").exists());
        let made = (0..64).map(|at| std::fs::create_dir(path.join(format!("g{at}"))));
        assert_eq!(made.take_while(Result::is_ok).count(), 32 - 5, "the number is bounded");
        assert!(slot.remove().expect("removed"));
    }
}

#[test]
fn a_slot_is_adopted_by_name_and_swept_with_what_runs_in_it() {
    for ground in Ground::each("adopt") {
        let mut slot = ground.slot("kept");
        slot.renew();
        let mut child = shell(&slot, "while :; do :; done");
        let mut other = shell(&ground.slot("dead"), "sleep 600");
        // The same name again would mix two tasks.
        assert!(matches!(Slot::make(&ground.tree, "kept"), Err(CgroupError::Occupied { .. })));
        let baseline = slot.baseline();
        drop(slot);

        let mut adopted = Slot::open(&ground.tree, "kept").expect("opened").expect("a slot");
        adopted.resume(baseline);
        await_that("counting", || adopted.usage().cpu_ns > Some(0));
        assert!(Slot::open(&ground.tree, "none").expect("opened").is_none());
        let keep = BTreeSet::from(["kept".to_owned()]);
        let swept = ground.tree.sweep(&keep).expect("swept");
        assert_eq!(swept.removed, BTreeSet::from(["dead".to_owned()]));
        other.wait().expect("killed with its slot");
        assert_eq!(ground.tree.slots().expect("read"), keep);
        assert!(!ground.tree.remove_if_empty().expect("a full tree stays"));
        assert!(adopted.kill().expect("killed"));
        child.wait().expect("waited");
        // What is empty is made anew.
        drop(ground.slot("kept"));
    }
}

#[test]
fn two_who_bury_a_slot_at_once_both_find_it_buried() {
    for ground in Ground::each("bury") {
        for round in 0..200 {
            let name = format!("grave-{round}");
            drop(ground.slot(&name));
            std::thread::scope(|scope| {
                let bury = || crate::supervisor::bury(&ground.tree, &name).expect("buried");
                let other = scope.spawn(bury);
                assert!(bury() && other.join().expect("no panic"));
            });
        }
    }
}

#[test]
fn an_adopted_slot_loses_the_limits_of_its_last_owner() {
    for ground in Ground::with("regain", |enforced| &enforced.memory) {
        let limits =
            |memory, pids| Limits { memory_max: memory, pids_max: pids, ..Limits::default() };
        ground.slot("a").limit(&limits(Some(8 << 20), Some(1))).expect("limited");
        let mut adopted = Slot::open(&ground.tree, "a").expect("opened").expect("a slot");
        let read = |slot: &Slot, controller, v1: &str, v2: &str| {
            let (version, group) = slot.of(controller).expect("a group");
            group.number(if version == Version::V1 { v1 } else { v2 })
        };
        let memory = |slot: &Slot| {
            read(slot, Controller::Memory, "memory.limit_in_bytes", "memory.max")
                .unwrap_or(u64::MAX)
        };
        assert_eq!(memory(&adopted), 8 << 20);
        adopted.limit(&limits(Some(64 << 20), None)).expect("limited");
        assert_eq!(memory(&adopted), 64 << 20);
        assert_eq!(read(&adopted, Controller::Pids, "pids.max", "pids.max"), None);
        adopted.limit(&Limits::default()).expect("lifted");
        assert!(memory(&adopted) > 1 << 50);
    }
}

#[test]
fn a_task_joins_no_more_than_is_asked_of_it() {
    for ground in Ground::each("measure") {
        let mut slot = ground.slot("a");
        // Its hierarchies, by the directory that all trees have.
        let joined = |slot: &Slot| {
            let count = line(&mut shell(slot, "grep -c starling-trial /proc/self/cgroup"));
            assert!(slot.wait_empty(Instant::now() + PATIENCE).expect("waited"));
            count.parse::<usize>().expect("a number")
        };
        let everything = joined(&slot);
        assert!(slot.usage().cpu_ns > Some(0), "{:?}", slot.usage());
        slot.measure(Measure::Limited);
        assert_eq!(joined(&slot), 1);
        assert_eq!(ground.enforced.memory.by == Some(Version::V1), everything > 1);
        slot.limit(&Limits { memory_max: Some(64 << 20), ..Limits::default() }).expect("limited");
        let more = ground.enforced.memory.by == Some(Version::V1);
        assert_eq!(joined(&slot), 1 + usize::from(more));
    }
}

#[test]
fn only_devices_on_the_list_are_opened() {
    for ground in Ground::with("devices", |enforced| &enforced.devices) {
        let mut slot = ground.slot("a");
        let null = |minor, access| DeviceRule {
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(minor),
            access,
        };
        if let Err(error @ CgroupError::Bpf { .. }) = slot.devices(&[]) {
            eprintln!("SKIPPED: {error}");
            continue;
        }
        let try_both = "(: > /dev/null) && echo -n null; (: < /dev/zero) && echo -n zero; echo";
        for (rules, wanted) in [
            (vec![null(3, Access::ReadWrite)], "null"),
            (vec![null(5, Access::Read)], "zero"),
            (vec![null(3, Access::Read)], ""),
            (vec![null(3, Access::All), null(5, Access::All)], "nullzero"),
        ] {
            slot.devices(&rules).expect("restricted");
            let mut child = shell(&slot, try_both);
            assert_eq!(line(&mut child), wanted, "{rules:?}");
            child.wait().expect("waited");
            assert!(slot.wait_empty(Instant::now() + PATIENCE).expect("waited"));
        }
        slot.all_devices().expect("lifted");
        assert_eq!(line(&mut shell(&slot, try_both)), "nullzero");
    }
}

#[test]
fn a_flawed_limit_is_refused_before_anything_is_written() {
    for ground in Ground::each("flawed") {
        let mut slot = ground.slot("a");
        let flawed = Limits { pids_max: Some(0), ..Limits::default() };
        assert!(matches!(slot.limit(&flawed), Err(CgroupError::Limits { .. })));
        assert!(matches!(Slot::make(&ground.tree, "../a"), Err(CgroupError::Name { .. })));
        assert!(matches!(Slot::open(&ground.tree, ""), Err(CgroupError::Name { .. })));
    }
}

#[test]
fn a_disk_is_written_no_faster_than_allowed() {
    let dir = tempfile::tempdir().expect("a directory");
    let number = rustix::fs::stat(dir.path()).expect("read").st_dev;
    let device = Device { major: rustix::fs::major(number), minor: rustix::fs::minor(number) };
    let known = std::path::PathBuf::from(format!("/sys/dev/block/{device}"));
    if !known.exists() || known.join("partition").exists() {
        eprintln!("SKIPPED: {} is not on a whole disk", dir.path().display());
        return;
    }
    for ground in Ground::with("io", |enforced| &enforced.io) {
        let mut slot = ground.slot("a");
        let write_bps = Some(4 << 20);
        let limit = IoLimit {
            device,
            weight: None,
            read_bps: None,
            write_bps,
            read_iops: None,
            write_iops: None,
        };
        let limits = Limits { io: vec![limit], ..Limits::default() };
        assert_eq!(slot.limit(&limits).expect("limited"), [""; 0]);
        let file = dir.path().join("file");
        let script = format!("dd if=/dev/zero of={} bs=1M count=4 oflag=direct", file.display());
        let begun = Instant::now();
        assert!(shell(&slot, &script).wait().expect("waited").success());
        // The first slice of a second may come at once.
        assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(slot.usage().write_bytes >= Some(4 << 20), "{:?}", slot.usage());
        slot.limit(&Limits::default()).expect("lifted");
    }
}
