//! Every way to a hidden directory that we know, tried from inside a fence, and the same
//! without one: a probe that fails in both proves nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Signal, getuid};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;

use super::*;
use crate::sys;
use crate::sys::forked::{self, Outcome};

/// Said where this kernel cannot play.
fn version() -> Option<u32> {
    match Wall::here() {
        Wall::Abi(version) => Some(version),
        absent @ Wall::Absent => {
            eprintln!("SKIPPED: {absent}");
            None
        }
    }
}

/// Whom agent and tasks run as when the test is root's: root reaches around a fence.
const ORDINARY: u32 = 54321;

/// Makes a child an ordinary user's.
fn become_ordinary() -> Result<(), Errno> {
    if getuid().is_root() {
        let (uid, gid) = (Uid::from_raw(ORDINARY), Gid::from_raw(ORDINARY));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    rustix::thread::set_no_new_privs(true)
}

/// A directory with an agent's below it, and a process that holds the agent's key open.
struct Yard {
    place: TempDir,
    agent: Child,
}

impl Yard {
    fn new() -> Self {
        // Not in /tmp: tasks write there, and it must not be on the way.
        let place = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let at = |name: &str| place.path().join(name);
        for dir in ["agent/tasks/a/scratch", "agent/tasks/b/scratch", "beside/deep", "beside/other"]
        {
            fs::create_dir_all(at(dir)).expect("a directory");
        }
        for file in ["agent/key", "agent/tasks/b/scratch/data", "old", "beside/deep/file"] {
            fs::write(at(file), "secret").expect("a file");
        }
        std::os::unix::fs::symlink(at("agent/key"), at("beside/link")).expect("a link");
        let key = File::open(at("agent/key")).expect("the key");
        give_away(place.path());
        let mut agent = Command::new("/bin/sleep");
        agent.arg("600").stdin(key);
        forked::before_exec(&mut agent, || become_ordinary().map_err(io::Error::from));
        let agent = agent.spawn().expect("sleep");
        Self { place, agent }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The fence of task a.
    fn fence(&self) -> Fence {
        let fence = Fence::around(&[&self.at("agent")]).expect("a fence");
        let scratch = File::open(self.at("agent/tasks/a/scratch")).expect("the scratch");
        fence.admit(scratch.as_fd()).expect("an exception");
        fence
    }

    fn succeeds(&self, fence: Option<&Fence>, script: &str) -> bool {
        succeeds(self.place.path(), self.agent.id(), fence, script)
    }
}

/// Runs a shell script as a task, in its scratch; true if it succeeded.
fn succeeds(place: &Path, agent: u32, fence: Option<&Fence>, script: &str) -> bool {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).current_dir(place.join("agent/tasks/a/scratch"));
    shell.env("D", place).env("AGENT", agent.to_string());
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let ruleset = fence.map(|fence| fence.ruleset.try_clone().expect("a descriptor"));
    forked::before_exec(&mut shell, move || {
        become_ordinary()?;
        ruleset.as_ref().map_or(Ok(()), |fd| kernel::restrict(fd.as_fd())).map_err(io::Error::from)
    });
    shell.status().expect("a shell").success()
}

/// Gives a tree to the ordinary user, if the test may.
fn give_away(path: &Path) {
    if !getuid().is_root() {
        return;
    }
    std::os::unix::fs::lchown(path, Some(ORDINARY), Some(ORDINARY)).expect("chown");
    if path.is_dir() && !path.is_symlink() {
        let entries = fs::read_dir(path).expect("a listing");
        entries.for_each(|entry| give_away(&entry.expect("an entry").path()));
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        // It may be gone if a test fails; the wait takes its remains either way.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[test]
fn no_path_leads_to_the_hidden_directory() {
    let Some(version) = version() else { return };
    let yard = Yard::new();
    let fence = yard.fence();
    // What older versions do not guard, as the wall says of itself.
    let later = [(3, "truncate -s 6 $D/agent/key"), (6, "kill -0 $AGENT")];
    let later = later.into_iter().filter(|(since, _)| version >= *since);
    let always = [
        "cat $D/agent/key",
        "cat ../../../key",
        "cat $D/beside/link",
        "cd $D/agent && cat key",
        "cat /proc/self/root$D/agent/key",
        "cat /proc/$AGENT/root$D/agent/key",
        "cat /proc/$AGENT/fd/0",
        "cat /proc/$AGENT/environ",
        "cat $D/agent/tasks/b/scratch/data",
        "exec 3<>$D/agent/key",
        "ln $D/agent/key $D/beside/hard && rm $D/beside/hard",
        "mv $D/agent/key $D/beside/moved && mv $D/beside/moved $D/agent/key",
        "mv $D/agent $D/else && mv $D/else $D/agent",
        "mv $D/agent/tasks/b/scratch scratch && mv scratch $D/agent/tasks/b/scratch",
        ": > $D/agent/new && rm $D/agent/new",
        "mkdir $D/agent/new && rmdir $D/agent/new",
        "ln -s /etc $D/agent/new && rm $D/agent/new",
    ];
    for script in always.into_iter().chain(later.map(|(_, script)| script)) {
        assert!(yard.succeeds(None, script), "works without a fence: {script}");
        assert!(!yard.succeeds(Some(&fence), script), "is refused by the fence: {script}");
    }
    assert_eq!(fs::read(yard.at("agent/key")).expect("the key"), b"secret");
}

#[test]
fn the_rest_of_the_machine_is_as_ever() {
    if version().is_none() {
        return;
    }
    let yard = Yard::new();
    let fence = yard.fence();
    for script in [
        "true",
        "echo x > file && cat file && mkdir -p d/e && mv file d/e/file && ln d/e/file l && rm -r d l",
        "cat $D/agent/tasks/a/scratch/../scratch/. ; pwd -P",
        "t=$(mktemp) && echo x > $t && mv $t $t.b && ln $t.b $t.c && rm $t.b $t.c",
        "t=$(mktemp) && mv $t here && rm here",
        "cat /etc/hostname /proc/self/status /proc/$AGENT/stat",
        "ls / /var /var/tmp $D $D/beside $D/agent",
        "echo y >> $D/old && cat $D/old",
        "mv $D/beside/deep/file $D/beside/other/file && mv $D/beside/other/file $D/beside/deep/file",
        "echo x > /dev/null && head -c 4 /dev/urandom && echo x > /dev/shm/fence.$$ && rm /dev/shm/fence.$$",
        "sleep 60 & kill $!",
        "(sh -c 'kill -0 $PPID')",
        "echo x | cat | cat",
        "find /usr/bin -maxdepth 1 -name sh | grep -q sh",
    ] {
        assert!(yard.succeeds(None, script), "works without a fence: {script}");
        assert!(yard.succeeds(Some(&fence), script), "works inside: {script}");
    }
}

/// The price, written down: what a user may notice.
#[test]
fn directories_on_the_way_cannot_be_changed_and_show_later_entries_only_by_name() {
    if version().is_none() {
        return;
    }
    let yard = Yard::new();
    let fence = yard.fence();
    for script in [
        ": > $D/new && rm $D/new",
        "mkdir $D/new && rmdir $D/new",
        "mv $D/old $D/older && mv $D/older $D/old",
    ] {
        assert!(yard.succeeds(None, script), "works without a fence: {script}");
        assert!(!yard.succeeds(Some(&fence), script), "is refused: {script}");
    }
    fs::create_dir(yard.at("later")).expect("a directory");
    fs::write(yard.at("later/file"), "x").expect("a file");
    give_away(&yard.at("later"));
    assert!(yard.succeeds(Some(&fence), "ls $D | grep -q later && test -f $D/later/file"));
    assert!(!yard.succeeds(Some(&fence), "cat $D/later/file"));
    let fence = yard.fence();
    assert!(yard.succeeds(Some(&fence), "cat $D/later/file && : > $D/later/more"));
}

#[test]
fn the_agent_cannot_be_traced() {
    if version().is_none() {
        return;
    }
    let yard = Yard::new();
    let fence = yard.fence();
    let agent = i32::try_from(yard.agent.id()).expect("a process id");
    let attach = |fence: Option<&Fence>| {
        forked::run(|| {
            if become_ordinary().is_err() || fence.is_some_and(|fence| fence.restrict().is_err()) {
                return 100;
            }
            let seize = [0x4206, agent as u64, 0, 0, 0, 0];
            match sys::seccomp::call(libc::SYS_ptrace, seize) {
                Ok(_) => 0,
                Err(error) => error.raw_os_error(),
            }
        })
    };
    if attach(None) != Outcome::Exited(0) {
        eprintln!("SKIPPED: tracing is forbidden on this machine, by Yama or the like");
        return;
    }
    assert_eq!(attach(Some(&fence)), Outcome::Exited(libc::EPERM));
}

/// Another name for the directory would be another way in.
#[test]
fn nothing_is_mounted_inside_a_fence_that_hides() {
    let Some(version) = version() else { return };
    let yard = Yard::new();
    let script =
        "unshare -Urm sh -c 'mount --bind $D/agent $D/beside/deep && cat $D/beside/deep/key'";
    if !yard.succeeds(None, script) {
        eprintln!("SKIPPED: no user namespaces on this machine");
        return;
    }
    assert!(!yard.succeeds(Some(&yard.fence()), script));
    let open = Fence::around(&[]).expect("a fence");
    assert_eq!(yard.succeeds(Some(&open), script), version >= 6);
}

/// The test runs itself again where a mount is its own, and gone with it.
#[test]
fn a_second_name_beside_the_way_is_closed_too() {
    if version().is_none() {
        return;
    }
    if let Some(place) = std::env::var_os("PLACE_WITH_ALIAS").map(PathBuf::from) {
        let fence = Fence::around(&[&place.join("agent")]).expect("a fence");
        let script = "cat $D/alias/key";
        assert!(succeeds(&place, 1, None, script), "works without a fence");
        assert!(!succeeds(&place, 1, Some(&fence), script), "is refused by the fence");
        return;
    }
    if !getuid().is_root() {
        eprintln!("SKIPPED: only root mounts");
        return;
    }
    let yard = Yard::new();
    fs::create_dir(yard.at("alias")).expect("a directory");
    let mut again = Command::new("unshare");
    again.args(["-m", "sh", "-c", "mount --bind $D/agent $D/alias && exec $SELF --exact $TEST"]);
    again.env("D", yard.place.path()).env("PLACE_WITH_ALIAS", yard.place.path());
    again.env("TEST", "landlock::tests::a_second_name_beside_the_way_is_closed_too");
    again.env("SELF", std::env::current_exe().expect("a path"));
    let said = again.output().expect("unshare");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    assert!(String::from_utf8_lossy(&said.stdout).contains("1 passed"), "it ran");
}

#[test]
fn a_fence_that_hides_nothing_guards_the_processes() {
    let Some(version) = version() else { return };
    let yard = Yard::new();
    let fence = Fence::around(&[]).expect("a fence");
    assert!(
        yard.succeeds(Some(&fence), "cat $D/agent/key && : > $D/new && mv $D/new $D/beside/new")
    );
    assert!(!yard.succeeds(Some(&fence), "cat /proc/$AGENT/fd/0"));
    assert_eq!(yard.succeeds(Some(&fence), "kill -0 $AGENT"), version < 6);
}

#[test]
fn sockets_are_guarded_from_version_9_on() {
    let Some(version) = version() else { return };
    let yard = Yard::new();
    let _listener = UnixListener::bind(yard.at("agent/sock")).expect("a socket");
    give_away(yard.place.path());
    let fence = yard.fence();
    let address = SocketAddrUnix::new(yard.at("agent/sock")).expect("a short path");
    let outcome = forked::run(|| {
        if become_ordinary().is_err() || fence.restrict().is_err() {
            return 100;
        }
        let made = socket(AddressFamily::UNIX, SocketType::STREAM, None);
        match made.and_then(|socket| connect(socket, &address)) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error(),
        }
    });
    let expected = if version >= 9 { libc::EACCES } else { 0 };
    assert_eq!(outcome, Outcome::Exited(expected), "as the text of the wall says");
}

#[test]
fn several_directories_are_hidden_by_one_fence() {
    if version().is_none() {
        return;
    }
    let yard = Yard::new();
    let hidden = [yard.at("agent/key"), yard.at("agent/tasks/b"), yard.at("beside/../beside/deep")];
    let hidden: Vec<&Path> = hidden.iter().map(PathBuf::as_path).collect();
    let fence = Fence::around(&hidden).expect("a fence");
    for script in
        ["cat $D/agent/key", "cat $D/agent/tasks/b/scratch/data", "cat $D/beside/deep/file"]
    {
        assert!(!yard.succeeds(Some(&fence), script), "{script}");
    }
    for script in ["echo x > file && rm file", ": > $D/beside/other/new", "cat $D/old"] {
        assert!(yard.succeeds(Some(&fence), script), "{script}");
    }
}

#[test]
fn what_cannot_be_hidden_is_an_error() {
    if version().is_none() {
        return;
    }
    for path in ["/", "/no/such/place"] {
        let refused = Fence::around(&[Path::new(path)]);
        assert!(matches!(refused, Err(FenceError::Hidden { .. })), "{path}: {refused:?}");
    }
    let crowd = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let hidden = crowd.path().join("agent");
    fs::create_dir(&hidden).expect("a directory");
    for number in 0..=ENTRIES_MAX {
        File::create(crowd.path().join(number.to_string())).expect("a file");
    }
    let refused = Fence::around(&[&hidden]);
    assert!(matches!(refused, Err(FenceError::Crowded { .. })), "{refused:?}");
}

#[test]
#[ignore = "a measurement"]
fn a_fence_is_built_in_a_moment_and_entered_in_less() {
    if version().is_none() {
        return;
    }
    let yard = Yard::new();
    let agent = yard.at("agent");
    let hidden: &[&Path] = &[&agent];
    for (what, hidden) in [
        ("nothing", &[][..]),
        ("/var/lib/dpkg", &[Path::new("/var/lib/dpkg")]),
        ("the yard", hidden),
    ] {
        let Ok(fence) = Fence::around(hidden) else {
            eprintln!("SKIPPED: no {what}");
            continue;
        };
        let build = median(|| drop(Fence::around(hidden)));
        let entered = || {
            let _ = rustix::thread::set_no_new_privs(true);
            let begun = Instant::now();
            match fence.restrict() {
                Ok(()) => begun.elapsed().as_micros().min(254) as i32,
                Err(_) => 255,
            }
        };
        let mut took: Vec<_> = (0..51)
            .map(|_| match forked::run(entered) {
                Outcome::Exited(us @ 0..255) => us,
                other => panic!("{other:?}"),
            })
            .collect();
        took.sort();
        let enter = took[25];
        let entries = fence.entries;
        eprintln!(
            "around {what}: {entries} entries, built in {build} us, \
             entered in {enter} us"
        );
        // A moment, even on a busy machine or an emulated one; a millisecond is seen.
        assert!(build < 100_000 + 50 * entries as u128, "{build} us");
    }
}

fn median(mut act: impl FnMut()) -> u128 {
    let mut took: Vec<_> = (0..51)
        .map(|_| {
            let begun = Instant::now();
            act();
            begun.elapsed().as_micros()
        })
        .collect();
    took.sort();
    took[25]
}

#[test]
fn a_task_ends_its_own_processes() {
    if version().is_none() {
        return;
    }
    let yard = Yard::new();
    let fence = yard.fence();
    let ended = "sleep 600 & kill -TERM $! && wait $!; test $? -eq 143";
    assert!(yard.succeeds(Some(&fence), ended));
    assert_eq!(Signal::TERM.as_raw() + 128, 143);
}
