//! Layouts of real machines, as their `/proc` shows them.

use std::collections::BTreeMap;

use super::*;

/// Directories by path, with the letters: w writable, o owned, d delegated, i inner.
struct Machine {
    mountinfo: &'static str,
    cgroup: &'static str,
    root: bool,
    dirs: BTreeMap<&'static str, (&'static str, &'static str)>,
}

impl Machine {
    fn layout(&self) -> Layout {
        let look = |path: &Path| {
            let (flags, controllers) = self.dirs.get(path.to_str()?)?;
            Some(Look {
                writable: flags.contains('w'),
                owned: flags.contains('o'),
                delegated: flags.contains('d'),
                inner: flags.contains('i'),
                controllers: (*controllers).to_owned(),
            })
        };
        plan(self.mountinfo, self.cgroup, self.root, &look)
    }

    /// The names of what holds, and by which version.
    fn holds(&self) -> String {
        let enforced = self.layout().enforces();
        let names = enforced.all().map(|(name, how)| match how.by {
            Some(Version::V1) => format!("{name}=1 "),
            Some(Version::V2) => format!("{name}=2 "),
            None => String::new(),
        });
        names.concat().trim_end().to_owned()
    }
}

const ALL: &str = "cpuset cpu io memory hugetlb pids rdma misc";

const PURE_V2: &str = "\
23 28 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
30 23 0:27 / /sys/fs/pstore rw,nosuid shared:10 - pstore pstore rw
";

fn pure_v2() -> Machine {
    Machine {
        mountinfo: PURE_V2,
        cgroup: "0::/system.slice/starling.service\n",
        root: true,
        dirs: BTreeMap::from([
            ("/sys/fs/cgroup", ("wo", ALL)),
            ("/sys/fs/cgroup/system.slice/starling.service", ("woi", "memory pids")),
        ]),
    }
}

#[test]
fn on_a_v2_machine_root_works_in_a_delegated_service_or_at_the_top() {
    let mut machine = pure_v2();
    let found = machine.layout().unified.expect("v2");
    assert_eq!(found.standing, Standing::Top);
    assert_eq!(machine.holds(), "cpu=2 memory=2 pids=2 io=2 cpuset=2 devices=2 tracked=2");

    machine.dirs.insert("/sys/fs/cgroup/system.slice/starling.service", ("wodi", ALL));
    let base = PathBuf::from("/sys/fs/cgroup/system.slice/starling.service");
    let delegated = Standing::Delegated { base };
    assert_eq!(machine.layout().unified.expect("v2").standing, delegated);
    // And again when an earlier start has moved us to the leaf.
    machine.dirs.insert("/sys/fs/cgroup/system.slice/starling.service/agent", ("woi", ALL));
    machine.cgroup = "0::/system.slice/starling.service/agent\n";
    assert_eq!(machine.layout().unified.expect("v2").standing, delegated);
}

#[test]
fn a_user_works_only_in_what_its_manager_delegated() {
    let mut machine = Machine {
        cgroup: "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n",
        root: false,
        dirs: BTreeMap::from([
            ("/sys/fs/cgroup", ("", ALL)),
            (
                "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope",
                ("woi", "memory pids"),
            ),
        ]),
        ..pure_v2()
    };
    assert_eq!(machine.holds(), "memory=2 pids=2 tracked=2");
    let cpu = machine.layout().enforces().cpu.why;
    assert!(cpu.contains("not delegated"), "{cpu}");

    // A login session belongs to root.
    machine.cgroup = "0::/user.slice/user-1000.slice/session-3.scope\n";
    machine.dirs.insert("/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope", ("i", ""));
    assert_eq!(machine.holds(), "");
    let enforced = machine.layout().enforces();
    assert!(enforced.memory.why.contains("Delegate=yes"), "{}", enforced.memory.why);
    assert!(enforced.tracked.why.contains("descent"), "{}", enforced.tracked.why);
}

#[test]
fn in_a_container_with_a_cgroup_namespace_its_root_is_ours() {
    let mut machine = Machine {
        mountinfo: "1234 1210 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n",
        cgroup: "0::/\n",
        root: true,
        dirs: BTreeMap::from([("/sys/fs/cgroup", ("woi", "cpuset cpu io memory pids"))]),
    };
    let base = PathBuf::from("/sys/fs/cgroup");
    assert_eq!(machine.layout().unified.expect("v2").standing, Standing::Delegated { base });
    // Without --privileged it is mounted read-only.
    machine.dirs.insert("/sys/fs/cgroup", ("oi", "cpuset cpu io memory pids"));
    assert_eq!(machine.holds(), "");
    let why = machine.layout().enforces().pids.why;
    assert!(why.contains("read-only"), "{why}");
}

const SYSTEMD_V1: &str = "\
25 30 0:23 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
33 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct
34 25 0:31 / /sys/fs/cgroup/memory rw,nosuid shared:17 - cgroup cgroup rw,memory
35 25 0:32 / /sys/fs/cgroup/pids rw,nosuid shared:18 - cgroup cgroup rw,pids
36 25 0:33 / /sys/fs/cgroup/freezer rw,nosuid shared:19 - cgroup cgroup rw,freezer
37 25 0:34 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:20 - cgroup cgroup rw,net_cls,net_prio
38 25 0:35 / /sys/fs/cgroup/devices rw,nosuid shared:21 - cgroup cgroup rw,devices
";

const SYSTEMD_V1_OWN: &str = "\
11:freezer:/
9:memory:/system.slice/starling.service
8:pids:/system.slice/starling.service
5:devices:/system.slice/starling.service
4:cpu,cpuacct:/system.slice/starling.service
1:name=systemd:/system.slice/starling.service
";

fn systemd_v1() -> Machine {
    let service = |controller: &'static str| (controller, ("wo", ""));
    Machine {
        mountinfo: SYSTEMD_V1,
        cgroup: SYSTEMD_V1_OWN,
        root: true,
        dirs: BTreeMap::from([
            ("/sys/fs/cgroup/freezer", ("wo", "")),
            service("/sys/fs/cgroup/memory/system.slice/starling.service"),
            service("/sys/fs/cgroup/pids/system.slice/starling.service"),
            service("/sys/fs/cgroup/devices/system.slice/starling.service"),
            service("/sys/fs/cgroup/cpu,cpuacct/system.slice/starling.service"),
        ]),
    }
}

#[test]
fn on_a_v1_machine_groups_lie_below_our_own_of_each_controller() {
    let mut machine = systemd_v1();
    let layout = machine.layout();
    assert_eq!(layout.unified, None);
    let cpu = layout.legacy.iter().find(|v1| v1.controllers.contains(&Controller::Cpu));
    let cpu = cpu.expect("a cpu hierarchy");
    assert_eq!(cpu.controllers, [Controller::Cpu, Controller::Cpuacct]);
    let base = cpu.base.as_deref().expect("a base");
    assert_eq!(base, Path::new("/sys/fs/cgroup/cpu,cpuacct/system.slice/starling.service"));
    assert_eq!(machine.holds(), "cpu=1 memory=1 pids=1 devices=1 tracked=1");
    // A user may read the same directories and make nothing in them.
    machine.root = false;
    machine.dirs.values_mut().for_each(|dir| dir.0 = "");
    assert_eq!(machine.holds(), "");
}

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn a_hybrid_machine_tracks_by_v2_and_limits_by_v1() {
    let machine = Machine {
        mountinfo: HYBRID,
        cgroup: "9:name=systemd:/\n8:pids:/\n4:memory:/api/1\n2:cpuacct:/\n1:cpu:/\n0::/\n",
        root: true,
        dirs: BTreeMap::from([
            ("/sys/fs/cgroup/unified", ("wo", "hugetlb")),
            ("/sys/fs/cgroup/cpu", ("wo", "")),
            ("/sys/fs/cgroup/cpuacct", ("wo", "")),
            ("/sys/fs/cgroup/memory/api/1", ("wo", "")),
            ("/sys/fs/cgroup/pids", ("wo", "")),
        ]),
    };
    assert_eq!(machine.holds(), "cpu=1 memory=1 pids=1 devices=2 tracked=2");
    let layout = machine.layout();
    assert_eq!(layout.unified.as_ref().expect("v2").standing, Standing::Top);
    assert!(layout.enforces().io.why.contains("no io controller"));
    // As a v1 container of Docker sees it: bound from its own group, no namespace.
    let bound = Machine {
        mountinfo: "9 8 0:35 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        cgroup: "4:memory:/docker/ab\n0::/docker/ab\n",
        root: true,
        dirs: BTreeMap::from([("/sys/fs/cgroup/memory", ("wo", ""))]),
    };
    assert_eq!(bound.holds(), "memory=1 tracked=1");
}

#[test]
fn a_machine_without_groups_says_so() {
    let none = Machine {
        mountinfo: "1 0 8:1 / / rw - ext4 /dev/root rw\n",
        cgroup: "",
        root: true,
        dirs: BTreeMap::new(),
    };
    assert_eq!(none.holds(), "");
    assert_eq!(none.layout().to_string(), "no control groups");
    assert_eq!(none.layout().enforces().memory.why, "no control groups are mounted");
}

#[test]
fn a_layout_survives_the_disk_and_prints_in_one_line() {
    for machine in [pure_v2(), systemd_v1()] {
        let layout = machine.layout();
        let text = serde_json::to_string(&layout).expect("written");
        assert_eq!(serde_json::from_str::<Layout>(&text).expect("read"), layout);
        assert!(!layout.to_string().contains('\n'));
    }
    let shown = systemd_v1().layout().to_string();
    assert!(shown.starts_with("v1 cpu cpuacct in /sys/fs/cgroup/cpu,cpuacct/system"), "{shown}");
}
