//! Tests of the pure plan.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::container::{
    Access, Changes, Container, Device, IDS, Ids, Mount, Network, Protocol, Publish, Root,
};
use crate::launch::{Rlimit, Streams, User};

const BASE: u32 = 524_288;

fn facts() -> Facts {
    let namespaces = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    Facts {
        kernel: Kernel { major: 6, minor: 1 },
        uid: 0,
        gid: 0,
        capabilities: u64::MAX,
        namespaces: namespaces.map(str::to_owned).to_vec(),
        user_namespaces: true,
        own_mounts: false,
        overlay: true,
        seccomp: true,
        landlock: 3,
        subuids: Vec::new(),
        subgids: Vec::new(),
        id_helpers: false,
    }
}

fn launch() -> Launch {
    let container = Container::new(Root::Layers(vec!["/low".into(), "/high".into()]));
    let place = Place::Container(Box::new(container));
    Launch { place, ..Launch::new("web".parse().expect("an id"), ["/bin/server", "-v"]) }
}

fn changed(change: impl FnOnce(&mut Launch, &mut Container)) -> Launch {
    let mut launch = launch();
    let Place::Container(mut container) = launch.place.clone() else { panic!("a container") };
    change(&mut launch, &mut container);
    if matches!(launch.place, Place::Container(_)) {
        launch.place = Place::Container(container);
    }
    launch
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.to_string().lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_container_is_planned_in_this_order() {
    let plan = plan(&launch(), &facts(), BASE).expect("a plan");
    let wanted = "\
1 supervisor open the layer /low read-only
2 supervisor open the layer /high read-only
3 supervisor make the directories for changes, owned by 524288:524288
4 supervisor open the directory for changes for writing
5 supervisor open the runtime's hostname for writing
6 supervisor open the runtime's hosts for writing
7 supervisor open the runtime's resolv.conf for writing
8 supervisor make a process in its own namespaces: user mnt pid uts ipc net
9 supervisor map users 0->524288+65536, groups 0->524288+65536
10 supervisor show the owners of tree 0 through the user namespace
11 supervisor show the owners of tree 1 through the user namespace
12 supervisor show the owners of tree 3 through the user namespace
13 supervisor show the owners of tree 4 through the user namespace
14 supervisor show the owners of tree 5 through the user namespace
15 supervisor let it go on
16 task       join its control groups
17 task       see its control group as the root
18 task       begin a session
19 task       set the hostname web
20 task       bring the loopback device up
21 task       wait for the supervisor
22 task       be root of the user namespace
23 task       mount overlay at / (2 layers, changes on disk)
24 task       mount proc at /proc
25 task       mount sysfs at /sys
26 task       mount cgroup2 at /sys/fs/cgroup
27 task       mount tmpfs at /dev
28 task       bind the host's /dev/null
29 task       bind the host's /dev/zero
30 task       bind the host's /dev/full
31 task       bind the host's /dev/random
32 task       bind the host's /dev/urandom
33 task       bind the host's /dev/tty
34 task       link fd, stdin, stdout, stderr, core and ptmx in /dev
35 task       mount devpts at /dev/pts
36 task       mount mqueue at /dev/mqueue
37 task       mount tmpfs at /dev/shm (67108864 bytes, mode 1777)
38 task       mount tree 3 at /etc/hostname
39 task       mount tree 4 at /etc/hosts
40 task       mount tree 5 at /etc/resolv.conf
41 task       hide /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys \
/proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats \
/sys/devices/virtual/powercap /sys/firmware
42 task       make read-only /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger
43 task       pivot into the root
44 task       find the user \"0:0\"
45 task       enter /
46 task       take its standard streams
47 task       become that user with CAP_CHOWN,CAP_DAC_OVERRIDE,CAP_FOWNER,CAP_FSETID,CAP_KILL,\
CAP_SETGID,CAP_SETUID,CAP_SETPCAP,CAP_NET_BIND_SERVICE,CAP_NET_RAW,CAP_SYS_CHROOT,CAP_MKNOD,\
CAP_AUDIT_WRITE,CAP_SETFCAP
48 task       renounce new privileges
49 task       filter system calls
50 task       execute /bin/server";
    assert_eq!(lines(&plan), wanted.lines().collect::<Vec<_>>());
}

#[test]
fn a_process_is_planned_in_this_order() {
    let mut launch = Launch::new("p".parse().expect("an id"), ["true"]);
    let user = Some(User { uid: 5, gid: 6 });
    launch.place =
        Place::Process(Process { user, hidden: vec!["/var/lib/starling".into()], files: None });
    launch.rlimits = vec![Rlimit { name: "nofile".into(), soft: 1, hard: 2 }];
    let planned = plan(&launch, &facts(), 0).expect("a plan");
    let wanted = "\
1 supervisor make a process in no namespace of its own
2 task       join its control groups
3 task       begin a session
4 task       take its standard streams
5 task       enter scratch
6 task       set the limit nofile to 1:2
7 task       run as 5:6
8 task       renounce new privileges
9 task       renounce /var/lib/starling
10 task       execute true";
    assert_eq!(lines(&planned), wanted.lines().collect::<Vec<_>>());
    let ordinary = Facts { uid: 1000, capabilities: 0, ..facts() };
    let flaw = plan(&launch, &ordinary, 0).expect_err("not its user");
    assert_eq!(flaw.field, "process.user");
}

#[test]
fn a_process_of_an_ordinary_user_is_kept_from_its_agent_as_well_as_can_be() {
    let mut launch = Launch::new("p".parse().expect("an id"), ["true"]);
    launch.place =
        Place::Process(Process { user: None, hidden: vec!["/home/a/data".into()], files: None });
    let ordinary = Facts { uid: 1000, capabilities: 0, ..facts() };
    let steps = |own_mounts, landlock| {
        let facts = Facts { own_mounts, landlock, ..ordinary.clone() };
        lines(&plan(&launch, &facts, 0).expect("a plan"))
    };
    let wanted = "\
1 supervisor make a process in its own namespaces: user mnt
2 task       join its control groups
3 task       begin a session
4 task       take its standard streams
5 task       cover /home/a/data and enter scratch
6 task       renounce new privileges
7 task       renounce the processes outside
8 task       execute true";
    assert_eq!(steps(true, 6), wanted.lines().collect::<Vec<_>>());
    let apart = |lines: Vec<String>| {
        let has = |what: &str| lines.iter().any(|line| line.contains(what));
        (has("its own namespaces"), has("cover"), has("the processes outside"))
    };
    assert_eq!(apart(steps(true, 5)), (true, true, false));
    assert_eq!(apart(steps(false, 2)), (false, false, true));
    assert_eq!(apart(steps(false, 1)), (false, false, false));
}

#[test]
fn a_user_without_root_maps_itself_and_what_it_was_granted() {
    let ordinary = Facts { uid: 1000, gid: 1001, capabilities: 0, ..facts() };
    let map_of = |facts: &Facts| {
        let planned = plan(&launch(), facts, 0).expect("a plan");
        let map = planned.steps.iter().find_map(|step| match step {
            Step::MapIds(map) => Some(map.clone()),
            _ => None,
        });
        assert!(planned.steps.contains(&Step::Reopen { tree: 0, access: Access::Read }));
        assert!(!planned.steps.iter().any(|step| matches!(step, Step::ShowOwners { .. })));
        map.expect("a map")
    };
    let map = map_of(&ordinary);
    assert_eq!(
        (map.writer, map.uids, map.gids),
        (MapWriter::Owner, vec![[0, 1000, 1]], vec![[0, 1001, 1]])
    );
    let grant = vec![IdRange { first: 100_000, count: 200_000 }];
    let granted = Facts { subuids: grant.clone(), subgids: grant, id_helpers: true, ..ordinary };
    let map = map_of(&granted);
    assert_eq!(map.uids, [[0, 1000, 1], [1, 100_000, IDS - 1]]);
    assert_eq!(map.writer, MapWriter::Helpers);
}

#[test]
fn what_a_machine_lacks_is_said_with_the_field_that_wants_it() {
    let lacking = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        facts
    };
    let host_ids = changed(|_, c| c.ids = Ids::Host);
    let bridged = changed(|_, c| c.network = Network::Bridge { publish: Vec::new() });
    let cases: [(&Launch, Facts, &str); 7] = [
        (&launch(), lacking(&|f| f.overlay = false), "container.root"),
        (&launch(), lacking(&|f| f.seccomp = false), "container.seccomp"),
        (&launch(), lacking(&|f| f.user_namespaces = false), "container.ids"),
        (&launch(), lacking(&|f| f.kernel = Kernel { major: 5, minor: 15 }), "container.ids"),
        (&launch(), lacking(&|f| f.namespaces.clear()), "container"),
        (&host_ids, lacking(&|f| f.uid = 1), "container.ids"),
        (&bridged, lacking(&|f| f.uid = 1), "container.network"),
    ];
    for (launch, facts, field) in cases {
        let flaw = plan(launch, &facts, BASE).expect_err("refused");
        assert_eq!(flaw.field, field, "{flaw}");
    }
    assert_eq!(plan(&launch(), &facts(), 7).expect_err("refused").field, "container.ids");
    assert_eq!(plan(&launch(), &facts(), u32::MAX).expect_err("refused").field, "container.ids");
}

/// A small generator with a seed: the same specs in every run.
struct Dice(u64);

impl Dice {
    /// Less than `sides`. SplitMix64.
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

    fn bad_path(&mut self) -> PathBuf {
        let long = format!("/{}", "x".repeat(5000));
        self.of(&["", "x", "../x", "/a/../b", "/a\0b", "/..", ".", long.as_str()]).into()
    }
}

/// Makes one thing of a launch wrong; says which field an error must name.
fn spoil(dice: &mut Dice, launch: &mut Launch, c: &mut Container) -> &'static str {
    let bind =
        |source: PathBuf, target: PathBuf| Mount::Bind { source, target, access: Access::Read };
    match dice.throw(34) {
        0 => {
            launch.argv = dice.of(&[vec![], vec![String::new()], vec!["a\0".into()]]);
            "argv: "
        }
        1 => {
            launch.env.insert(dice.of(&["", "A=B"]).into(), "x".into());
            "env: "
        }
        2 => {
            launch.directory = Some(dice.bad_path());
            "directory"
        }
        3 => {
            launch.stop_signal = dice.of(&[0, -1, 65, i32::MAX]);
            "stop_signal: "
        }
        4 => {
            launch.streams = Streams::Terminal { rows: 60_000, columns: 80 };
            "streams.rows"
        }
        5 => {
            let name = dice.of(&["", "NOFILE", "files", "\0"]).into();
            launch.rlimits = vec![Rlimit { name, soft: 0, hard: 0 }];
            "rlimits[0].name"
        }
        6 => {
            launch.rlimits = vec![Rlimit { name: "core".into(), soft: 2, hard: 1 }];
            "rlimits[0].soft"
        }
        7 => {
            c.root = Root::Directory(dice.bad_path());
            "container.root.directory"
        }
        8 => {
            c.root = Root::Layers(vec!["/ok".into(), dice.bad_path()]);
            "container.root.layers[1]"
        }
        9 => {
            c.root = Root::Layers(vec![PathBuf::from("/ok"); dice.of(&[0, 129, 4000])]);
            "container.root.layers"
        }
        10 => {
            c.root = Root::Tar("/x.tar".into());
            "container.root.tar"
        }
        11 => {
            c.changes = Changes::Memory { bytes: dice.of(&[0, 1, u64::MAX]) };
            "container.changes.bytes"
        }
        12 => {
            c.user = dice
                .of(&[
                    "",
                    ":",
                    "a:",
                    ":b",
                    "a:b:c",
                    "4294967296",
                    "0:4294967295",
                    "65536",
                    "-1",
                    "+1",
                    "a b",
                    "a\0",
                    "99999999999999999999999",
                    "a/b",
                    "\n",
                ])
                .into();
            "container.user"
        }
        13 => {
            let long = "x".repeat(65);
            c.hostname = Some(dice.of(&["", "a b", "a/b", ".a", "-a", "é", "\0", &long]).into());
            "container.hostname"
        }
        14 => {
            c.mounts = vec![bind(dice.bad_path(), "/x".into())];
            "container.mounts[0].source"
        }
        15 => {
            let mut target = dice.bad_path();
            if dice.throw(2) == 0 {
                target =
                    dice.of(&["/", "//", "/proc", "/proc/sys", "/dev", "/sys/", "/./proc"]).into();
            }
            c.mounts = vec![bind("/x".into(), target)];
            "container.mounts[0].target"
        }
        16 => {
            c.mounts = vec![bind("/x".into(), "/a".into()), bind("/y".into(), "/a/".into())];
            "container.mounts[1].target"
        }
        17 => {
            let name = dice.of(&["", ".", "..", "a/b", "../x", "a\0", ".hidden", "é"]).into();
            c.mounts = vec![Mount::Volume { name, target: "/x".into(), access: Access::Write }];
            "container.mounts[0].name"
        }
        18 => {
            c.mounts = vec![Mount::Tmpfs { target: "/x".into(), bytes: 0, mode: 0 }];
            "container.mounts[0].bytes"
        }
        19 => {
            c.mounts = vec![Mount::Tmpfs { target: "/x".into(), bytes: 4096, mode: 0o10000 }];
            "container.mounts[0].mode"
        }
        20 => {
            c.devices = vec![Device {
                source: dice.bad_path(),
                target: "/dev/x".into(),
                access: Access::Read,
            }];
            "container.devices[0].source"
        }
        21 => {
            c.devices = vec![Device {
                source: "/dev/x".into(),
                target: dice.bad_path(),
                access: Access::Read,
            }];
            "container.devices[0].target"
        }
        22 => {
            let name = dice.of(&["", "SYS_ADMN", "net raw", "CAP_", "\0"]).to_owned();
            if dice.throw(2) == 0 {
                c.cap_add = BTreeSet::from([name]);
                "container.cap_add"
            } else {
                c.cap_drop = BTreeSet::from([name]);
                "container.cap_drop"
            }
        }
        23 => {
            let name = dice
                .of(&[
                    "kernel.core_pattern",
                    "net..x",
                    "net.",
                    "net",
                    "",
                    "vm.swappiness",
                    "net.ipv4/../../x",
                    "net.a b",
                    "kernel.shmmax.x",
                    "fs.mqueue./",
                    "net/ipv4/ip_forward",
                ])
                .to_owned();
            c.sysctls.insert(name, "1".into());
            "container.sysctls["
        }
        24 => {
            c.shm_bytes = dice.of(&[0, 4095, u64::MAX]);
            "container.shm_bytes"
        }
        25 => {
            launch.limits.memory_max = Some(dice.of(&[0, 1, 4096, u64::MAX]));
            "limits.memory_max: "
        }
        26 => {
            launch.limits.memory_low = Some(dice.of(&[0, u64::MAX]));
            "limits.memory_low: "
        }
        27 => {
            launch.limits.swap = Some(1);
            "limits.swap: "
        }
        28 => {
            launch.limits.pids_max = Some(dice.of(&[0, u64::MAX]));
            "limits.pids_max: "
        }
        29 => {
            let list = dice.of(&["", "x", "1-0", "0,", "0-9999", "all", "-1"]);
            launch.limits.cpuset_cpus = Some(list.into());
            "limits.cpuset_cpus: "
        }
        30 => {
            launch.limits.io_weight = Some(dice.of(&[0, 10_001, u16::MAX]));
            "limits.io_weight: "
        }
        31 => {
            launch.oom_score_adj = Some(dice.of(&[-1001, 1001, i32::MIN, i32::MAX]));
            "oom_score_adj: "
        }
        32 => {
            launch.limits.cpu_quota_milli = Some(dice.of(&[0, u32::MAX]));
            "limits.cpu_quota_milli: "
        }
        _ => {
            let port = Publish {
                host_ip: None,
                host_port: 0,
                port: dice.of(&[0, 80]),
                protocol: Protocol::Tcp,
            };
            c.network = Network::Bridge { publish: vec![port] };
            "container.network.publish[0]"
        }
    }
}

#[test]
fn a_thousand_bad_specs_are_each_refused_by_the_field_that_is_wrong() {
    let mut dice = Dice(7);
    for round in 0..5000 {
        let mut field = "";
        let launch = changed(|launch, container| field = spoil(&mut dice, launch, container));
        match plan(&launch, &facts(), BASE) {
            Err(flaw) => {
                let text = flaw.to_string();
                assert!(text.contains(field), "round {round}: {text:?} does not name {field}");
            }
            Ok(_) => panic!("round {round}: {field} was wrong and nobody minded: {launch:?}"),
        }
    }
}

#[test]
fn specs_at_the_bounds_are_planned() {
    let longest = format!("/{}", "x".repeat(4094));
    let good = [
        changed(|_, c| c.user = "65535:65535".into()),
        changed(|_, c| {
            c.ids = Ids::Host;
            c.user = "4294967294".into()
        }),
        changed(|_, c| c.hostname = Some("x".repeat(64))),
        changed(|_, c| c.root = Root::Layers(vec!["/x".into(); 128])),
        changed(|_, c| {
            c.mounts = vec![Mount::Tmpfs { target: longest.into(), bytes: 4096, mode: 0o7777 }]
        }),
        changed(|_, c| {
            c.sysctls.insert("net.ipv4.conf.eth0/1.rp_filter".into(), "1".into());
        }),
        changed(|_, c| {
            c.cap_drop.insert("all".into());
            c.cap_add.insert("cap_kill".into());
        }),
    ];
    for launch in good {
        plan(&launch, &facts(), BASE).unwrap_or_else(|flaw| panic!("{flaw}: {launch:?}"));
    }
}
