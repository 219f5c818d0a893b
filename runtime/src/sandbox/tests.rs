//! The executor alone, without keeper and records: a forked child of the test is the
//! supervisor. And how long a container takes.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, waitpid};

use super::*;
use crate::container::{Container, Network, Root};
use crate::launch::Launch;
use crate::sys::{self, Fork};

/// A range that no test elsewhere uses.
const ID_BASE: u32 = 1_000_000_000;

/// An executable of a hundred and some bytes that does nothing: exit(0).
fn tiny_true() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    let (machine, code): (u8, &[u8]) = (62, &[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    #[cfg(target_arch = "aarch64")]
    let (machine, code): (u8, &[u8]) =
        (183, &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4]);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entry: u64 = 0x40_0078;
    file.extend([2, 0, machine, 0, 1, 0, 0, 0]);
    file.extend(entry.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let length = 0x78 + code.len() as u64;
    for word in [0, 0x40_0000, 0x40_0000, length, length, 0x1000] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(code);
    file
}

fn executable(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
}

static ENDS: LazyLock<Ends> = LazyLock::new(ends);

fn ends() -> Ends {
    let null =
        || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").expect("null"));
    Ends { stdin: null(), stdout: null(), stderr: null() }
}

/// A root with nothing but a program that does nothing.
fn bare_root(dir: &Path) -> Root {
    let root = dir.join("image");
    fs::create_dir_all(root.join("bin")).expect("made");
    executable(&root.join("bin/true"), &tiny_true());
    Root::Directory(root)
}

fn container(dir: &Path) -> Launch {
    let container = Container { id_base: Some(ID_BASE), ..Container::new(bare_root(dir)) };
    let place = Place::Container(Box::new(container));
    Launch { place, ..Launch::new("t".parse().expect("an id"), ["/bin/true"]) }
}

fn order<'a>(launch: &'a Launch, facts: &'a Facts, dir: &'a File) -> Order<'a> {
    Order {
        launch,
        facts,
        dir: dir.as_fd(),
        volumes: None,
        join: None,
        network_of: None,
        ends: &ENDS,
        standby: None,
    }
}

/// Runs this in a process with one thread, as supervisors are.
fn alone(body: impl FnOnce()) {
    LazyLock::force(&ENDS);
    match sys::fork().expect("fork") {
        Fork::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            sys::exit_now(i32::from(done.is_err()));
        }
        Fork::Parent(pid) => {
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).expect("wait").expect("it");
            assert_eq!(status.exit_status(), Some(0), "see above");
        }
    }
}

fn run(order: Order<'_>) -> i32 {
    let spawned = spawn(order, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e:?}"));
    let (_, status) = waitpid(Some(spawned.pid), WaitOptions::empty()).expect("wait").expect("it");
    status.exit_status().unwrap_or(-1)
}

fn run_timed(order: Order<'_>) -> Duration {
    let begun = Instant::now();
    let spawned = spawn(order, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e:?}"));
    waitpid(Some(spawned.pid), WaitOptions::empty()).expect("wait");
    let took = begun.elapsed();
    drop(spawned);
    took
}

fn may_have_containers(facts: &Facts) -> bool {
    if !facts.privileged() {
        eprintln!("SKIPPED: containers with ids of their own need root");
    }
    facts.privileged()
}

#[test]
fn a_container_runs_a_program_and_leaves_nothing_in_its_supervisor() {
    let facts = Facts::probe();
    if !may_have_containers(&facts) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let handle = File::open(dir.path()).expect("a handle");
    let launch = container(dir.path());
    alone(|| {
        let fds = || fs::read_dir("/proc/self/fd").expect("fds").count();
        let (before, mounts) = (fds(), fs::read("/proc/self/mountinfo").expect("mounts"));
        for _ in 0..3 {
            assert_eq!(run(order(&launch, &facts, &handle)), 0);
        }
        assert_eq!(fds(), before);
        assert_eq!(fs::read("/proc/self/mountinfo").expect("mounts"), mounts);
    });
}

#[test]
fn a_signal_that_was_held_back_can_be_forgotten() {
    use rustix::process::{Signal, getpid, kill_process};
    alone(|| {
        sys::block_only(&[Signal::TERM]);
        kill_process(getpid(), Signal::TERM).expect("sent");
        sys::forget_signals();
        // It would end this process here.
        sys::block_only(&[]);
    });
}

#[test]
fn a_terminal_is_the_containers_own() {
    let facts = Facts::probe();
    if !may_have_containers(&facts) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let handle = File::open(dir.path()).expect("a handle");
    let mut launch = container(dir.path());
    launch.streams = crate::launch::Streams::Terminal { rows: 24, columns: 80 };
    // The host's own programs, to have a shell.
    let Place::Container(container) = &mut launch.place else { panic!("a container") };
    container.root = Root::Directory("/".into());
    container.user = "1:1".into();
    launch.argv = ["/bin/sh", "-c", "tty; stty size; stat -c %u $(tty); ps -o tty= $$; echo /dev/pts/*; test -c /dev/console && echo console"]
        .map(str::to_owned)
        .to_vec();
    alone(|| {
        let order = order(&launch, &facts, &handle);
        let spawned = spawn(order, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e:?}"));
        let terminal = spawned.terminal.expect("a terminal");
        let mut said = Vec::new();
        let mut chunk = [0; 256];
        // The end of the other side shows as an error.
        while let Ok(length @ 1..) = rustix::io::read(&terminal, &mut chunk) {
            said.extend(&chunk[..length]);
        }
        waitpid(Some(spawned.pid), WaitOptions::empty()).expect("wait");
        let said = String::from_utf8(said).expect("text");
        assert_eq!(
            said.replace("\r\n", "|"),
            "/dev/pts/0|24 80|1|pts/0|/dev/pts/0 /dev/pts/ptmx|console|"
        );
    });
}

#[test]
fn an_ordinary_user_has_containers_too() {
    let facts = Facts::probe();
    if !may_have_containers(&facts) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut launch = container(dir.path());
    let Place::Container(container) = &mut launch.place else { panic!("a container") };
    container.user = "0:0".into();
    std::os::unix::fs::chown(dir.path(), Some(4242), Some(4243)).expect("owned");
    alone(|| {
        let (uid, gid) = (rustix::fs::Uid::from_raw(4242), rustix::fs::Gid::from_raw(4243));
        rustix::thread::set_thread_groups(&[]).expect("no groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("a group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("a user");
        // As after an exec: its `/proc` is its own.
        sys::clone::show_memory().expect("shown");
        let handle = File::open(dir.path()).expect("a handle");
        let facts = Facts::probe();
        if !facts.user_namespaces {
            eprintln!("SKIPPED: ordinary users may not make user namespaces here");
            return;
        }
        assert_eq!(run(order(&launch, &facts, &handle)), 0);
        let upper = dir.path().join("root/upper");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(upper).expect("there")), 4242);
    });
}

#[test]
fn a_network_is_connected_before_the_program_and_can_be_shared() {
    let facts = Facts::probe();
    if !may_have_containers(&facts) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let handle = File::open(dir.path()).expect("a handle");
    let with = |network| {
        let mut launch = container(dir.path());
        let Place::Container(container) = &mut launch.place else { panic!("a container") };
        container.network = network;
        launch
    };
    let (bridged, of) = (
        with(Network::Bridge { publish: Vec::new() }),
        with(Network::Of("other".parse().expect("an id"))),
    );
    alone(|| {
        let own = || fs::read_link("/proc/self/ns/net").expect("a link");
        let host = own();
        let mut network = None;
        let mut keep = |namespace| {
            network = Some(namespace);
            Ok(())
        };
        let spawned = spawn(order(&bridged, &facts, &handle), &mut keep).expect("started");
        waitpid(Some(spawned.pid), WaitOptions::empty()).expect("wait");
        let network = network.expect("asked for");
        let joined = Order { network_of: Some(network.as_fd()), ..order(&of, &facts, &handle) };
        assert_eq!(run(joined), 0);
        assert_eq!(own(), host);
        let mut refuse = |_| Err("no address is left".to_owned());
        let refused = spawn(order(&bridged, &facts, &handle), &mut refuse).expect_err("refused");
        assert!(
            refused.reason.starts_with("cannot connect its network: no address is left"),
            "{refused:?}"
        );
        assert!(waitpid(None, WaitOptions::NOHANG).is_err(), "a child is left");
    });
}

#[test]
fn a_further_program_has_what_the_first_has_and_not_more() {
    let facts = Facts::probe();
    if !may_have_containers(&facts) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let handle = File::open(dir.path()).expect("a handle");
    let mut launch = container(dir.path());
    let Place::Container(container) = &mut launch.place else { panic!("a container") };
    container.root = Root::Directory("/".into());
    container.init = crate::container::Init::Reaper;
    container.clocks = crate::container::Clocks::Own;
    launch.argv = ["/bin/sh", "-c", "sleep 1000"].map(str::to_owned).to_vec();
    launch.rlimits = vec![crate::launch::Rlimit { name: "nofile".into(), soft: 60, hard: 70 }];
    let status = "for n in user mnt pid uts ipc net cgroup time; do readlink /proc/self/ns/$n; done; \
        grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; ulimit -Hn; hostname; pwd; \
        (cat /proc/1/exe >/dev/null) 2>/dev/null && echo open || echo closed; ls /proc/self/fd | wc -w";
    alone(|| {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let spawned = spawn(order(&launch, &facts, &handle), &mut |_| Ok(())).expect("started");
        let resident =
            rustix::process::pidfd_open(spawned.pid, rustix::process::PidfdFlags::empty())
                .expect("a pidfd");
        let mut further = launch.clone();
        further.argv = ["/bin/sh", "-c", status].map(str::to_owned).to_vec();
        further.directory = Some("/usr".into());
        let ends = Ends { stdout: writer.try_clone().expect("copied"), ..ends() };
        let entered =
            enter(resident.as_fd(), Order { ends: &ends, ..order(&further, &facts, &handle) })
                .unwrap_or_else(|error| panic!("{error:?}"));
        let (_, ended) =
            waitpid(Some(entered.pid), WaitOptions::empty()).expect("wait").expect("it");
        assert_eq!(ended.exit_status(), Some(0));
        let mut text = [0; 4096];
        let length = rustix::io::read(&reader, &mut text).expect("read");
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let lines: Vec<_> = text.lines().collect();
        for (at, name) in
            ["user", "mnt", "pid", "uts", "ipc", "net", "cgroup", "time"].iter().enumerate()
        {
            let first = fs::read_link(format!("/proc/{}/ns/{name}", spawned.pid.as_raw_nonzero()));
            assert_eq!(Some(lines[at]), first.expect("a link").to_str(), "{name}");
        }
        let caps = "00000000a80425fb";
        let wanted = format!(
            "Groups:\t \nCapInh:\t0000000000000000\nCapPrm:\t{caps}\nCapEff:\t{caps}\n\
             CapBnd:\t{caps}\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n70\nt\n/usr\nclosed\n4"
        );
        assert_eq!(lines[8..].join("\n"), wanted);
        // A working directory that is a descriptor of ours, and one that is not there.
        for directory in ["/proc/self/fd/5", "/nowhere"] {
            further.directory = Some(directory.into());
            let refused =
                enter(resident.as_fd(), order(&further, &facts, &handle)).expect_err("refused");
            assert_eq!(refused.fault, StartFault::Directory, "{refused:?}");
        }
        rustix::process::kill_process(spawned.pid, rustix::process::Signal::KILL).expect("killed");
        waitpid(Some(spawned.pid), WaitOptions::empty()).expect("wait");
    });
}

#[test]
#[ignore = "a measurement"]
fn speed_of_a_container() {
    let facts = Facts::probe();
    let dir = tempfile::tempdir().expect("a directory");
    for (name, network) in [("own network", Network::None), ("host network", Network::Host)] {
        let mut launch = container(dir.path());
        let Place::Container(container) = &mut launch.place else { panic!("a container") };
        container.network = network;
        alone(|| {
            let mut times = Vec::new();
            for n in 0..400 {
                let task = dir.path().join(format!("{name}{n}"));
                fs::create_dir(&task).expect("made");
                let handle = File::open(&task).expect("a handle");
                times.push(run_timed(order(&launch, &facts, &handle)));
            }
            times.sort();
            let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
            eprintln!("{name}: median {:?}, p10 {:?}, p90 {:?}", at(50), at(10), at(90));
        });
    }
}
