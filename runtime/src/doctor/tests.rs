//! Machines as they are met, and what is said of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::cgroup::{Controller, Layout, Legacy, Standing, Unified};
use crate::plan::{Facts, IdRange, Kernel};

const ALL: [Controller; 5] =
    [Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Io, Controller::Cpuset];

fn works() -> Trials {
    Trials {
        user_namespace: Trial::Works,
        overlay_in_user_namespace: Trial::Works,
        overlay: Trial::Works,
        mapped_mount: Trial::Works,
        device_programs: Trial::Works,
    }
}

fn fails(at: &'static str, why: &str) -> Trial {
    Trial::Fails { at, why: why.to_owned() }
}

fn v2(standing: Standing, controllers: &[Controller]) -> Option<Unified> {
    let controllers = controllers.to_vec();
    Some(Unified { mount: "/sys/fs/cgroup".into(), standing, controllers })
}

/// Debian 13, root, nothing wrong.
fn server() -> Host {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    Host {
        facts: Facts {
            kernel: Kernel { major: 6, minor: 12 },
            uid: 0,
            gid: 0,
            capabilities: (1 << 41) - 1,
            namespaces: names.map(str::to_owned).to_vec(),
            user_namespaces: true,
            own_mounts: false,
            overlay: true,
            seccomp: true,
            landlock: 6,
            subuids: Vec::new(),
            subgids: Vec::new(),
            id_helpers: true,
        },
        release: "6.12.48+deb13-amd64".to_owned(),
        layout: Layout { unified: v2(Standing::Top, &ALL), legacy: Vec::new(), root: true },
        trials: works(),
        ground: Ground {
            uid: 0,
            user: "root".to_owned(),
            systemd: true,
            user_manager: false,
            inside: None,
        },
        switches: Switches { most: Some(63_000), ..Switches::default() },
        modules: "capability,apparmor,bpf".to_owned(),
        next_grant: 165_536,
        bridging: Bridging::default(),
        room: Room {
            open_files: Some((1024, 524_288)),
            processes: Some((4_194_304, "kernel.pid_max".to_owned())),
            inotify_instances: Some(128),
            inotify_watches: Some(65_536),
        },
        storage: Some(Storage {
            dir: "/var/lib/starling".into(),
            exists: "/var/lib".into(),
            mount: "/".into(),
            kind: "ext4".to_owned(),
            free: 100 << 30,
            total: 200 << 30,
            files_free: Some(1_000_000),
            executes: true,
            writable: true,
        }),
        clock: 1_800_000_000,
        unit: None,
        lingers: false,
        engines: Vec::new(),
    }
}

/// The same, for a user with a systemd of their own, in a login session.
fn desktop() -> Host {
    let refused = Standing::Refused { why: "not delegated".to_owned() };
    let ids = vec![IdRange { first: 100_000, count: 65_536 }];
    let mut host = server();
    host.facts = Facts {
        uid: 1000,
        gid: 1000,
        capabilities: 0,
        own_mounts: true,
        subuids: ids.clone(),
        subgids: ids,
        ..host.facts
    };
    host.layout = Layout { unified: v2(refused, &[]), legacy: Vec::new(), root: false };
    host.ground = Ground { uid: 1000, user: "ann".to_owned(), user_manager: true, ..host.ground };
    host.trials.overlay = Trial::Untried("only an agent of root mounts so");
    host.trials.mapped_mount = Trial::Untried("only an agent of root mounts so");
    host.bridging.refused = Some("the agent has no CAP_NET_ADMIN".to_owned());
    host.lingers = true;
    host
}

/// Whatever is not as it should be, one line each, with its fix.
fn troubles(host: &Host) -> String {
    let mut text = String::new();
    for finding in diagnose(host).iter().filter(|finding| finding.state != State::Ok) {
        let Finding { name, state, what, fix } = finding;
        let _ = writeln!(text, "{state:?} {name}: {what}");
        let _ = writeln!(text, "  {}", fix.as_deref().unwrap_or("-"));
    }
    text
}

fn said(host: &Host, name: &str) -> Finding {
    let found = diagnose(host).into_iter().find(|finding| finding.name == name);
    found.unwrap_or_else(|| panic!("nothing is said of {name}"))
}

#[test]
fn a_server_with_v2_and_root_has_nothing_to_mend() {
    assert_eq!(troubles(&server()), "");
    assert_eq!(worst(&diagnose(&server())), State::Ok);
    assert_eq!(said(&server(), "memory limit").what, "enforced: v2 controller at /sys/fs/cgroup");
}

#[test]
fn a_user_without_delegation_is_told_the_one_command_that_gets_it() {
    let text = troubles(&desktop());
    let wanted = "\
Warn control groups: no limit can be enforced: no control group is delegated to ann, who runs this
  systemd-run --user --scope -p Delegate=yes starling up
Warn cpu limit: processor time of tasks is not limited: no control group is delegated to ann, who runs this
  systemd-run --user --scope -p Delegate=yes starling up
";
    assert!(text.starts_with(wanted), "{text}");
    assert_eq!(worst(&diagnose(&desktop())), State::Warn);
}

#[test]
fn a_user_with_half_a_delegation_is_told_how_to_get_the_rest() {
    let mut host = desktop();
    let base = PathBuf::from("/sys/fs/cgroup/user.slice/run-r1.scope");
    let held = [Controller::Memory, Controller::Pids];
    host.layout.unified = v2(Standing::Delegated { base }, &held);
    host.bridging.refused = None;
    assert_eq!(
        troubles(&host),
        r#"Warn cpu limit: processor time of tasks is not limited: the controller cpu is not delegated to this service
  sudo sh -c "mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\nDelegate=cpu cpuset io memory pids\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload"   then log in again
Warn io limit: the disk bandwidth of tasks is not limited: the controller io is not delegated to this service
  sudo sh -c "mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\nDelegate=cpu cpuset io memory pids\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload"   then log in again
Warn cpuset limit: the choice of cores of tasks is not limited: the controller cpuset is not delegated to this service
  sudo sh -c "mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\nDelegate=cpu cpuset io memory pids\n' > /etc/systemd/system/user@.service.d/delegate.conf && systemctl daemon-reload"   then log in again
"#
    );
}

#[test]
fn old_kernels_say_what_still_runs() {
    for (version, uid, state, part) in [
        ((4, 19), 0, State::Fail, "too old for any task"),
        ((5, 4), 0, State::Fail, "too old for any task"),
        ((5, 10), 0, State::Fail, "runs plain processes only"),
        ((5, 15), 0, State::Warn, "only jobs with --trust host-ids"),
        ((5, 15), 1000, State::Ok, "Linux 5.15"),
        ((6, 1), 0, State::Ok, "Linux 6.1"),
    ] {
        let mut host = if uid == 0 { server() } else { desktop() };
        host.facts.kernel = Kernel { major: version.0, minor: version.1 };
        host.release = format!("{}.{}.0", version.0, version.1);
        let kernel = said(&host, "kernel");
        assert_eq!(kernel.state, state, "{version:?} {kernel:?}");
        assert!(kernel.what.contains(part), "{version:?} {kernel:?}");
        assert_eq!(kernel.fix.is_some(), state != State::Ok);
    }
}

fn legacy(base: bool) -> Vec<Legacy> {
    let names = [Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Io];
    let more = [Controller::Cpuset, Controller::Devices, Controller::Freezer];
    let one = |controller: Controller| {
        let mount = Path::new("/sys/fs/cgroup").join(controller.name());
        Legacy { controllers: vec![controller], base: base.then(|| mount.clone()), mount }
    };
    names.into_iter().chain(more).map(one).collect()
}

#[test]
fn v1_and_hybrid_machines_enforce_for_root_and_for_no_one_else() {
    let mut host = server();
    host.layout = Layout { unified: None, legacy: legacy(true), root: true };
    assert_eq!(troubles(&host), "");
    assert!(said(&host, "tracking").what.contains("one by one"));
    host.layout.unified = v2(Standing::Top, &[]);
    assert_eq!(troubles(&host), "");
    assert!(said(&host, "tracking").what.contains("in one step"));

    let mut host = desktop();
    host.layout = Layout { unified: None, legacy: legacy(false), root: false };
    let memory = said(&host, "memory limit");
    assert_eq!(
        memory.what,
        "the memory of tasks is not limited: ann may not write the v1 control groups"
    );
    let fix = memory.fix.expect("a fix");
    assert!(fix.starts_with("sudo starling up "), "{fix}");
}

#[test]
fn a_raspberry_pi_is_told_how_to_boot_with_memory_limits() {
    let mut host = server();
    host.layout.unified = v2(Standing::Top, &[Controller::Cpu, Controller::Pids]);
    let memory = said(&host, "memory limit");
    assert_eq!(memory.state, State::Warn);
    assert!(memory.fix.expect("a fix").contains("cgroup_enable=memory"), "{}", memory.what);
    assert_eq!(said(&host, "cpu limit").state, State::Ok);
}

#[test]
fn in_an_ordinary_docker_container_the_fix_is_outside() {
    let mut host = server();
    host.ground = Ground { systemd: false, inside: Some("docker".to_owned()), ..host.ground };
    let refused = Standing::Refused { why: "read-only".to_owned() };
    host.layout = Layout { unified: v2(refused, &[]), legacy: Vec::new(), root: true };
    let denied = "Operation not permitted";
    host.trials = Trials {
        user_namespace: fails("make a user namespace", denied),
        overlay_in_user_namespace: Trial::Untried("user namespaces come first"),
        overlay: fails("make a mount namespace", denied),
        mapped_mount: fails("clone a mount of the data directory", denied),
        device_programs: Trial::Works,
    };
    host.bridging.refused = Some("the agent has no CAP_NET_ADMIN".to_owned());
    if let Some(storage) = &mut host.storage {
        storage.kind = "overlay".to_owned();
    }
    let found = diagnose(&host);
    let user = said(&host, "user namespaces");
    assert_eq!(user.state, State::Fail);
    assert!(user.what.contains("docker, in which this runs, forbids"), "{}", user.what);
    for name in ["user namespaces", "memory limit", "bridge network", "file system"] {
        let finding = found.iter().find(|finding| finding.name == name).expect(name);
        let fix = finding.fix.as_deref().unwrap_or_default();
        assert!(fix.starts_with("docker run --privileged "), "{finding:?}");
    }
}

#[test]
fn each_switch_that_closes_user_namespaces_is_named_with_its_value() {
    let denied = || fails("be its root", "Permission denied");
    let closed = |change: &dyn Fn(&mut Host)| {
        let mut host = desktop();
        host.facts.user_namespaces = false;
        host.trials.user_namespace = denied();
        change(&mut host);
        let found = said(&host, "user namespaces");
        assert_eq!(found.state, State::Fail);
        (found.what, found.fix.unwrap_or_default())
    };
    for (name, value, change) in [
        (
            "user.max_user_namespaces",
            "user.max_user_namespaces=15000",
            (|host: &mut Host| host.switches.most = Some(0)) as fn(&mut Host),
        ),
        ("kernel.unprivileged_userns_clone", "kernel.unprivileged_userns_clone=1", |host| {
            host.switches.unprivileged = Some(0);
        }),
        ("kernel.apparmor_restrict_unprivileged_userns", "apparmor_parser -r", |host| {
            host.switches.apparmor = Some(1);
        }),
        ("\"Permission denied\"", "sudo ausearch", |host| host.switches.selinux = true),
    ] {
        let (what, fix) = closed(&change);
        assert!(what.contains(name), "{what}");
        assert!(fix.contains(value), "{fix}");
    }
    // Those of ordinary users do not bind root.
    let mut host = server();
    host.switches.apparmor = Some(1);
    assert_eq!(said(&host, "user namespaces").state, State::Ok);
}

#[test]
fn a_user_without_granted_ids_gets_a_range_that_nobody_has() {
    assert_eq!(probe::next_grant("ann:100000:65536\n", "bob:165536:65536\nx:y:z\n"), 231_072);
    assert_eq!(probe::next_grant("", ""), 100_000);
    let mut host = desktop();
    host.facts.subuids.clear();
    let found = said(&host, "granted ids");
    assert_eq!(
        found.fix.as_deref(),
        Some("sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann")
    );
    host.facts.id_helpers = false;
    assert!(said(&host, "granted ids").what.contains("newuidmap"));
}

#[test]
fn places_that_lose_data_or_refuse_changes_are_named() {
    for (kind, state) in [
        ("ext4", State::Ok),
        ("tmpfs", State::Warn),
        ("nfs", State::Warn),
        ("overlay", State::Warn),
    ] {
        let mut host = server();
        host.storage.as_mut().expect("a place").kind = kind.to_owned();
        assert_eq!(said(&host, "file system").state, state, "{kind}");
    }
    let spoiled = |spoil: fn(&mut Storage), name: &str| {
        let mut host = server();
        spoil(host.storage.as_mut().expect("a place"));
        said(&host, name)
    };
    assert_eq!(spoiled(|at| at.executes = false, "file system").state, State::Fail);
    assert_eq!(spoiled(|at| at.writable = false, "data directory").state, State::Fail);
    assert_eq!(spoiled(|at| at.free = 1 << 20, "disk space").state, State::Fail);
    assert_eq!(spoiled(|at| at.free = 500 << 20, "disk space").state, State::Warn);
    assert_eq!(spoiled(|at| at.files_free = Some(0), "disk space").state, State::Fail);
    let mut host = server();
    host.clock = 1_000;
    assert_eq!(said(&host, "clock").state, State::Fail);
}

#[test]
fn a_unit_that_would_kill_its_tasks_is_told_what_to_add() {
    let main = "[Unit]\nKillMode=none\n[Service]\n KillMode = control-group\nDelegate=yes\n";
    let unit = service::read_unit("starling.service", &[main.to_owned()]);
    assert_eq!(unit.kill_mode.as_deref(), Some("control-group"));
    let mut host = server();
    host.unit = Some(unit);
    let found = said(&host, "systemd unit");
    assert_eq!(found.state, State::Warn);
    assert!(found.what.contains("a restart of the agent kills its tasks"), "{}", found.what);
    let extra = "[Service]\nKillMode=process\n";
    let both = [main.to_owned(), extra.to_owned()];
    host.unit = Some(service::read_unit("starling.service", &both));
    assert_eq!(said(&host, "systemd unit").state, State::Ok);
}

#[test]
fn a_firewall_is_told_with_its_cure_apart() {
    let mut host = server();
    host.bridging.warnings = vec![
        "the chain FORWARD drops; the cure: iptables -I FORWARD -i star-+ -j ACCEPT".to_owned(),
        "see `iptables-legacy -S FORWARD`".to_owned(),
    ];
    assert_eq!(
        troubles(&host),
        "Warn firewall: the chain FORWARD drops\n  iptables -I FORWARD -i star-+ -j ACCEPT\n\
         Warn firewall: see `iptables-legacy -S FORWARD`\n  -\n"
    );
}

#[test]
fn small_numbers_are_told_with_who_sets_them() {
    let mut host = server();
    host.room = Room {
        open_files: probe::read_limit("Max open files  256  4096  files\n", "Max open files"),
        processes: Some((100, "/sys/fs/cgroup/x/pids.max".to_owned())),
        inotify_instances: Some(16),
        inotify_watches: Some(65_536),
    };
    assert_eq!(
        troubles(&host),
        "Warn open files: up to 256, enough for a few dozen tasks\n  \
         ulimit -n 4096   before starling up\n\
         Warn processes: all tasks together may have 100 (/sys/fs/cgroup/x/pids.max)\n  \
         echo max > /sys/fs/cgroup/x/pids.max\n\
         Warn inotify: fs.inotify.max_user_instances is 16: following many logs at once falls \
         back to polling\n  sysctl -w fs.inotify.max_user_instances=512\n"
    );
    assert_eq!(
        probe::read_limit("Max processes  unlimited  7  processes\n", "Max processes"),
        Some((u64::MAX, 7))
    );
}

#[test]
fn a_user_is_told_what_tasks_can_do_to_the_agent() {
    let mut host = desktop();
    assert_eq!(said(&host, "plain processes").state, State::Ok);
    assert_eq!(said(&host, "landlock").what, "version 6: tasks cannot signal the agent");
    host.facts.landlock = 4;
    let open = said(&host, "landlock");
    assert_eq!((open.state, open.fix.is_some()), (State::Warn, true));
    assert_eq!(open.what, "version 4: tasks run as ann and can stop any process of ann");
    host.facts.landlock = 0;
    assert!(said(&host, "landlock").fix.expect("one").contains("lsm=landlock,capability,"));
    host.facts.own_mounts = false;
    host.switches.apparmor = Some(1);
    let open = said(&host, "plain processes");
    assert!(open.what.contains("nothing hides the agent's files and keys"), "{open:?}");
    assert!(open.fix.expect("one").contains("apparmor_parser"));
    // Root's tasks are other users.
    assert!(!diagnose(&server()).iter().any(|finding| finding.name == "plain processes"));
}
