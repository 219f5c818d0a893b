//! Every way from a task of an ordinary user to that user's agent that we know, tried
//! behind the veil, and the same without one: a way that is closed in both proves
//! nothing.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{WaitOptions, getpid, getuid, waitpid};
use tempfile::TempDir;

use super::super::{Ends, Order, spawn};
use crate::launch::{Launch, Place, Process};
use crate::plan::{Facts, Step};
use crate::sys::{self, Fork};

/// Whom agent and tasks run as: root reaches around everything.
const ORDINARY: u32 = 54_322;

/// The descriptor by which the agent has its key open.
static KEY: AtomicI32 = AtomicI32::new(-1);

/// The home of an ordinary user with an agent's directories in it.
struct Home(TempDir);

const DATA: &str = "share/starling";
const TASK: &str = "share/starling/run/tasks/a";

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let dirs =
            [TASK, "share/starling/run/tasks/a/scratch", "share/starling/run/tasks/b", "run"];
        dirs.iter().for_each(|dir| fs::create_dir_all(home.path().join(dir)).expect("made"));
        fs::write(home.path().join(DATA).join("key"), "secret").expect("written");
        fs::write(home.path().join("share/other"), "other").expect("written");
        symlink(home.path().join(DATA).join("key"), home.path().join("link")).expect("a link");
        let home = Self(home);
        give_away(home.path());
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn give_away(path: &Path) {
    if !getuid().is_root() {
        // Then no test goes on; see `as_agent`.
        return;
    }
    std::os::unix::fs::lchown(path, Some(ORDINARY), Some(ORDINARY)).expect("given");
    if path.is_dir() && !path.is_symlink() {
        let entries = fs::read_dir(path).expect("listed");
        entries.for_each(|entry| give_away(&entry.expect("an entry").path()));
    }
}

/// Runs this as an ordinary user in a process with one thread, as supervisors are: in
/// these tests it is the agent as well.
fn as_agent(home: &Home, body: impl FnOnce(&Facts)) {
    if !getuid().is_root() {
        return eprintln!("SKIPPED: needs root, to be another user");
    }
    match sys::fork().expect("fork") {
        Fork::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (uid, gid) =
                    (rustix::fs::Uid::from_raw(ORDINARY), rustix::fs::Gid::from_raw(ORDINARY));
                rustix::thread::set_thread_groups(&[]).expect("no groups");
                rustix::thread::set_thread_res_gid(gid, gid, gid).expect("a group");
                rustix::thread::set_thread_res_uid(uid, uid, uid).expect("a user");
                // As after an exec: its `/proc` is its own.
                sys::clone::show_memory().expect("shown");
                let facts = Facts::probe();
                if !facts.own_mounts {
                    return eprintln!("SKIPPED: ordinary users may not make user namespaces here");
                }
                let _api = UnixListener::bind(home.path().join("run/api.sock")).expect("bound");
                let keeper = home.path().join("share/starling/run/keeper.sock");
                let _keeper = UnixListener::bind(keeper).expect("bound");
                // What an agent has open, and where it is.
                let key = File::open(home.path().join("share/starling/key")).expect("open");
                KEY.store(key.as_raw_fd(), Ordering::Relaxed);
                std::env::set_current_dir(home.path().join(DATA)).expect("entered");
                body(&facts);
            }));
            sys::exit_now(i32::from(done.is_err()));
        }
        Fork::Parent(pid) => {
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).expect("wait").expect("it");
            assert_eq!(status.exit_status(), Some(0), "see above");
        }
    }
}

fn launch(home: &Path, hidden: &[PathBuf], script: &str) -> Launch {
    let place = Place::Process(Process { user: None, hidden: hidden.to_vec(), files: None });
    let argv = ["/bin/sh", "-c", script];
    let mut launch = Launch { place, ..Launch::new("a".parse().expect("an id"), argv) };
    launch.env = [
        ("H", home.to_str().expect("text").to_owned()),
        ("AGENT", getpid().as_raw_nonzero().to_string()),
        ("KEY", format!("/proc/{}/fd/{}", getpid().as_raw_nonzero(), KEY.load(Ordering::Relaxed))),
        ("PATH", "/usr/bin:/bin".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    launch
}

/// Runs a script as a task: its exit code and what it said, or why it was not started.
fn run(facts: &Facts, launch: &Launch, dir: &Path) -> Result<(i32, String), String> {
    let null = || File::options().read(true).write(true).open("/dev/null").expect("null");
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    let dir = File::open(dir).expect("the task's");
    let ends = Ends { stdin: null().into(), stdout: writer, stderr: OwnedFd::from(null()) };
    let (volumes, join, network_of) = (None, None, None);
    let order = Order {
        launch,
        facts,
        dir: dir.as_fd(),
        volumes,
        join,
        network_of,
        ends: &ends,
        standby: None,
    };
    let spawned = spawn(order, &mut |_| Ok(())).map_err(|refused| refused.reason)?;
    // The task's alone from here on, so that its output has an end.
    drop(ends);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut File::from(reader), &mut said).expect("read");
    let (_, status) = waitpid(Some(spawned.pid), WaitOptions::empty()).expect("wait").expect("it");
    Ok((status.exit_status().unwrap_or(-1), said))
}

struct Site<'a> {
    facts: &'a Facts,
    home: &'a Home,
}

impl Site<'_> {
    fn hidden(&self) -> Vec<PathBuf> {
        [DATA, "run"].map(|dir| self.home.path().join(dir)).to_vec()
    }

    fn behind(&self, script: &str) -> Result<(i32, String), String> {
        let launch = launch(self.home.path(), &self.hidden(), script);
        run(self.facts, &launch, &self.home.path().join(TASK))
    }

    /// The same task, as one that hides nothing is planned.
    fn open(&self, script: &str) -> Result<(i32, String), String> {
        run(self.facts, &launch(self.home.path(), &[], script), &self.home.path().join(TASK))
    }
}

/// Attaches to a process as a debugger does.
fn tracing() -> String {
    format!(
        "perl -e 'exit(syscall({}, 0x4206, $ENV{{AGENT}}, 0, 0) == 0 ? 0 : 1)'",
        libc::SYS_ptrace
    )
}

fn connecting(path: &str) -> String {
    format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); \
         exit(connect(S, pack_sockaddr_un(\"$ENV{{H}}/{path}\")) ? 0 : 1)'"
    )
}

#[test]
fn no_way_leads_from_a_task_to_the_agent_of_its_own_user() {
    let home = Home::new();
    as_agent(&home, |facts| {
        let site = Site { facts, home: &home };
        let mut ways = [
            "cat $H/share/starling/key",
            "cat ../../../../key",
            "cat $H/link",
            "ls $H/share/starling/run/tasks/b",
            "test -e $H/share/starling/run/keeper.sock",
            "test -e $H/run/api.sock",
            "cat /proc/$AGENT/root$H/share/starling/key",
            "cat /proc/$AGENT/cwd/key",
            "cat $KEY",
            "readlink $KEY",
            "cat /proc/$AGENT/environ",
            "head -c 1 /proc/$AGENT/maps | grep -q .",
            "cat /proc/self/root$H/share/starling/key",
            "cat /proc/$PPID/root$H/share/starling/key",
            "cd $H/share/starling && cat key",
            "mkdir $H/share/starling/new && rmdir $H/share/starling/new",
        ]
        .map(str::to_owned)
        .to_vec();
        ways.extend([tracing(), connecting("run/api.sock")]);
        ways.push(connecting("share/starling/run/keeper.sock"));
        if facts.landlock >= crate::plan::LANDLOCK_SCOPES {
            ways.push("kill -0 $AGENT".to_owned());
        }
        for way in ways {
            let (code, said) = site.open(&way).expect("started");
            if way == tracing() && code != 0 {
                eprintln!("SKIPPED in part: tracing is forbidden on this machine");
                continue;
            }
            assert_eq!(code, 0, "works without a veil: {way}: {said}");
            let (code, said) = site.behind(&way).expect("started");
            assert_ne!(code, 0, "behind it: {way}: {said}");
        }
    });
}

#[test]
fn the_users_own_files_and_programs_are_as_ever() {
    let home = Home::new();
    as_agent(&home, |facts| {
        let site = Site { facts, home: &home };
        for script in [
            "touch $H/x && rm $H/x",
            "cat $H/share/other && echo y >> $H/share/other && mkdir $H/share/new && rmdir $H/share/new",
            "test $(id -u) = 54322 && test $(id -g) = 54322",
            "test \"$(pwd -P)\" = $H/share/starling/run/tasks/a/scratch",
            "echo x > mine && cat $H/share/starling/run/tasks/a/scratch/mine && rm mine",
            "t=$(mktemp) && mv $t $t.b && rm $t.b",
            "cat /etc/hostname /proc/self/status && ls / /tmp",
            "sleep 60 & kill $!",
            "test \"$(stat -c %u $H/share/other)\" = 54322",
        ] {
            assert_eq!(site.open(script).map(|done| done.0), Ok(0), "without: {script}");
            assert_eq!(site.behind(script).map(|done| done.0), Ok(0), "behind: {script}");
        }
        let (_, said) =
            site.behind("grep Cap /proc/self/status; cat /proc/self/uid_map").expect("");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(said.contains(&format!("{set}:\t0000000000000000")), "{said}");
        }
        assert_eq!(
            said.split_whitespace().rev().take(3).collect::<Vec<_>>(),
            ["1", "54322", "54322"]
        );
    });
}

#[test]
fn namespaces_of_a_tasks_own_do_not_lift_it() {
    let home = Home::new();
    as_agent(&home, |facts| {
        let site = Site { facts, home: &home };
        let within = |act: &str| format!("unshare -Urm --propagation unchanged sh -c '{act}'");
        if site.behind(&within("true")).map(|done| done.0) != Ok(0) {
            return eprintln!("SKIPPED: unshare of util-linux does not work here");
        }
        for act in [
            "umount $H/share/starling && cat $H/share/starling/key",
            "umount -l $H/share/starling && cat $H/share/starling/key",
            "umount $H/share/starling/run/tasks/a/scratch; umount $H/share/starling; \
             cat $H/share/starling/key",
            "mount --bind $H/share /mnt && cat /mnt/starling/key",
            "mount --bind / /mnt && cat /mnt$H/share/starling/key",
            "mount --rbind / /mnt && umount -l /mnt$H/share/starling && cat /mnt$H/share/starling/key",
            "mount --move $H/share/starling /mnt && cat $H/share/starling/key",
            "mount -o remount,rw,bind $H/share/starling && touch $H/share/starling/x",
            "cat /proc/$AGENT/root$H/share/starling/key",
            "nsenter -t $AGENT -m true",
            "nsenter -t $AGENT -U true",
            "mount -o remount,rw,bind /sys/fs/cgroup && test -w /sys/fs/cgroup",
        ] {
            let (code, said) = site.behind(&within(act)).expect("started");
            assert_ne!(code, 0, "{act}: {said}");
            assert!(!said.contains("secret"), "{act}: {said}");
        }
    });
}

#[test]
fn a_limit_cannot_be_lifted_by_whoever_it_limits() {
    let home = Home::new();
    as_agent(&home, |facts| {
        let site = Site { facts, home: &home };
        let (_, mounts) = site.behind("grep ' /sys/fs/cgroup' /proc/self/mountinfo").expect("");
        for mount in mounts.lines() {
            let options = mount.split(' ').nth(5).unwrap_or_default();
            assert!(options.split(',').any(|option| option == "ro"), "{mount}");
        }
        let (_, open) = site.open("grep -c ' /sys/fs/cgroup' /proc/self/mountinfo").expect("");
        assert_eq!(open.trim(), mounts.lines().count().to_string());
    });
}

#[test]
fn a_directory_that_was_moved_away_is_not_hidden_in_name_only() {
    let home = Home::new();
    as_agent(&home, |facts| {
        let site = Site { facts, home: &home };
        // A task may rename what lies above; the hidden stays hidden from that task.
        let away = "mv $H/share $H/moved && cat $H/moved/starling/key";
        assert_ne!(site.behind(away).expect("started").0, 0);
        let dir = home.path().join("moved/starling/run/tasks/a");
        let next = |script| launch(home.path(), &site.hidden(), script);
        let refused = run(facts, &next("true"), &dir).expect_err("there is nothing to hide");
        assert!(refused.contains("was a directory moved?"), "{refused}");
        // And puts another one there.
        fs::create_dir_all(home.path().join(DATA)).expect("made");
        let refused = run(facts, &next("cat $H/moved/starling/key"), &dir).expect_err("refused");
        assert!(refused.contains("was a directory moved?"), "{refused}");
    });
}

#[test]
fn what_is_hidden_inside_of_the_hidden_needs_no_veil_of_its_own() {
    let home = Home::new();
    as_agent(&home, |facts| {
        let hidden = [DATA, "share/starling/run", "nowhere"].map(|dir| home.path().join(dir));
        let launch = launch(home.path(), &hidden, "ls -A $H/share/starling; pwd");
        let (code, said) = run(facts, &launch, &home.path().join(TASK)).expect("started");
        assert_eq!((code, said.lines().next()), (0, Some("run")), "{said}");
        let steps = crate::plan::plan(&launch, facts, 0).expect("planned");
        assert!(steps.steps().contains(&Step::Veil(hidden.to_vec())));
        // Nothing of ours stays in the supervisor.
        let fds = || fs::read_dir("/proc/self/fd").expect("fds").count();
        let before = (fds(), fs::read("/proc/self/mountinfo").expect("mounts"));
        run(facts, &launch, &home.path().join(TASK)).expect("started");
        assert_eq!((fds(), fs::read("/proc/self/mountinfo").expect("mounts")), before);
    });
}

#[test]
fn tasks_of_roots_agent_have_users_of_their_own_and_no_veil() {
    let facts = Facts { uid: 0, own_mounts: true, ..Facts::probe() };
    let hidden = [PathBuf::from("/var/lib/starling")];
    let steps = crate::plan::plan(&launch(Path::new("/root"), &hidden, "true"), &facts, 0);
    let steps = steps.expect("planned");
    assert!(!steps.steps().iter().any(|step| matches!(step, Step::Veil(_) | Step::Apart)));
}
