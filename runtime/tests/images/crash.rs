//! A process that is killed at any of its system calls while it loads, names and removes
//! images: what the next one finds is whole, and what it was told was done is done.
//!
//! The victim is this program again. It works for itself in one test, stopped at each of its
//! system calls by the other, which kills it at one.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use runtime::image::{Digest, Images};

use crate::shelf::{Shelf, again, load, name, open};
use crate::tarball::Tarball;

/// Murders of every run, spread over all that the victim does.
const MURDERS: u64 = 40;

/// Where the victim's store is.
const STORE: &str = "IMAGES_OF_A_VICTIM";

fn shared() -> Vec<u8> {
    Tarball::new().file("shared", vec![1; 3_000]).end()
}

fn old() -> Vec<u8> {
    Tarball::new().file("old", "old").end()
}

fn new() -> Vec<u8> {
    let files = (0..6).fold(Tarball::new().dir("d"), |tar, n| {
        tar.file(format!("d/{n}"), vec![n; 50_000 * usize::from(n)])
    });
    files.file("d/0", "replaced").end()
}

/// What the victim does, saying what it has done.
#[test]
#[ignore = "the victim of another test"]
fn the_victim() {
    let Ok(path) = std::env::var(STORE) else { return };
    let mut out = std::io::stdout();
    let mut say = |word: &str| {
        out.write_all(format!("\n{word}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    };
    say("ready");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let images = open(path.as_ref());
    images.sweep();
    let new = load(&images, &[&shared(), &new()], &["app", "new"]);
    say("loaded");
    images.tag(&new.id, &name("tagged")).unwrap();
    say("tagged");
    images.remove("old", false).unwrap();
    say("removed");
    images.remove(&new.id.to_string(), false).unwrap();
    say("gone");
}

/// Runs a victim to its system call of this number, or to its end; returns what it said and
/// how many calls it made.
fn run(shelf: &Shelf, murder: Option<u64>) -> (BTreeSet<String>, u64) {
    let victim = ["--exact", "crash::the_victim", "--ignored", "--nocapture", "--test-threads=1"];
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(victim)
        .env(STORE, shelf.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(victim.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "ready" {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the victim never began");
    }
    let calls = follow(&mut victim, murder);
    victim.wait().ok();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    (rest.lines().map(str::to_owned).collect(), calls)
}

fn follow(victim: &mut Child, murder: Option<u64>) -> u64 {
    let leader = Pid::from_raw(victim.id().try_into().unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
    // Its one test is not always in its first thread.
    for thread in std::fs::read_dir(format!("/proc/{leader}/task")).unwrap() {
        let thread = thread.unwrap().file_name().into_string().unwrap();
        let thread = Pid::from_raw(thread.parse().unwrap());
        ptrace::seize(thread, options).unwrap();
        ptrace::interrupt(thread).unwrap();
    }
    victim.stdin.take().unwrap().write_all(b"!").unwrap();
    let resume = |pid, signal| match ptrace::syscall(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("{pid} does not go on: {error}"),
    };
    let (mut calls, mut inside) = (0, BTreeSet::new());
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(WaitStatus::PtraceSyscall(pid)) => {
                if !inside.remove(&pid) {
                    inside.insert(pid);
                    calls += 1;
                    if murder == Some(calls) {
                        victim.kill().unwrap();
                    }
                }
                resume(pid, None);
            }
            Ok(WaitStatus::Stopped(pid, signal)) => resume(pid, Some(signal)),
            Ok(WaitStatus::PtraceEvent(pid, ..)) => resume(pid, None),
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == leader => {
                return calls;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return calls,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whatever is here is whole, and nothing else is.
fn assert_sound(shelf: &Shelf, images: &Images) {
    let mut layers = BTreeSet::new();
    for info in images.list() {
        assert_eq!(Digest::of(&images.config_bytes(&info.id).unwrap()), info.id);
        for layer in &info.layers {
            if layers.insert(layer.diff_id) && !info.damaged.contains(&layer.diff_id) {
                assert_eq!(Digest::of(&again(images, &layer.diff_id)), layer.diff_id);
            }
        }
        for name in &info.names {
            assert_eq!(images.named(name).unwrap().id, info.id);
        }
    }
    let counts = (shelf.count("layers"), shelf.count("images"), shelf.count("parts"));
    assert_eq!(counts, (layers.len(), images.list().len(), 0));
    assert!(!shelf.path().join("damaged").exists());
    let replaced = std::fs::read_dir(shelf.path().join("replaced"));
    assert_eq!(replaced.map_or(0, Iterator::count), 0);
}

#[test]
fn a_store_is_whole_whenever_its_process_is_killed() {
    kill_at(Shared::Sound, spread);
}

#[test]
fn a_store_with_a_damaged_layer_is_whole_whenever_its_process_is_killed() {
    kill_at(Shared::Damaged, spread);
}

fn spread(calls: u64) -> Vec<u64> {
    (1..=MURDERS).map(|murder| murder * calls / MURDERS).collect()
}

#[test]
#[ignore = "takes minutes"]
fn a_store_is_whole_whichever_call_of_its_process_is_the_last() {
    kill_at(Shared::Sound, |calls| (1..=calls).collect());
}

#[test]
#[ignore = "takes minutes"]
fn a_store_with_a_damaged_layer_is_whole_whichever_call_is_the_last() {
    kill_at(Shared::Damaged, |calls| (1..=calls).collect());
}

/// The layer that both images have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shared {
    Sound,
    /// It comes again with the new image.
    Damaged,
}

/// Changes it on the disk, and has that noticed.
fn damage(shelf: &Shelf) {
    let layer = Digest::of(&shared());
    let file = shelf.path().join("layers").join(layer.hex()).join("tree/shared");
    std::fs::write(file, vec![2; 3_000]).unwrap();
    assert!(!shelf.open().verify_layer(&layer, &|_| true).unwrap());
}

fn kill_at(state: Shared, murders: impl Fn(u64) -> Vec<u64>) {
    let prepare = || {
        let shelf = Shelf::new();
        let old = load(&shelf.open(), &[&shared(), &old()], &["app", "old"]).id;
        if state == Shared::Damaged {
            damage(&shelf);
        }
        (shelf, old)
    };
    let (shelf, _) = prepare();
    let (said, calls) = run(&shelf, None);
    assert!(said.contains("gone") && calls > 200, "{calls} calls, {said:?}");
    assert!(shelf.open().list().is_empty());
    let mut seen = BTreeSet::new();
    for murder in murders(calls) {
        let (shelf, old) = prepare();
        // Threads wait for each other as it happens: the same number is not the same call.
        let (said, _) = run(&shelf, Some(murder));
        let done = |word: &str| said.contains(word);
        let images = shelf.open();
        images.sweep();
        assert_sound(&shelf, &images);
        let app = images.named(&name("app")).map(|info| info.id);
        let new = images.named(&name("new")).map(|info| info.id);
        let has_old = images.get(&old).is_some();
        let is_damaged = images.list().iter().any(|info| !info.damaged.is_empty());
        assert!(!is_damaged || (state == Shared::Damaged && !done("loaded")), "{said:?}");
        assert!(!done("loaded") || new.is_some() || done("removed"), "{said:?}");
        assert!(!done("removed") || !has_old, "{said:?}");
        assert!(!done("gone") || images.list().is_empty(), "{said:?}");
        assert!(done("loaded") || has_old, "{said:?}");
        match (app, new) {
            // Both names came over in one moment.
            (Some(app), Some(new)) => assert_eq!(app, new),
            (Some(app), None) => assert_eq!(app, old),
            (None, None) => assert!(done("removed"), "{said:?}"),
            (None, Some(_)) => panic!("{said:?}"),
        }
        if done("tagged") && !done("removed") {
            assert_eq!(images.named(&name("tagged")).map(|info| info.id), app);
        }
        seen.insert((has_old, new.is_some()));
        // And the same again works.
        load(&images, &[&shared(), &super::crash::new()], &["app"]);
        assert!(images.list().iter().all(|info| info.damaged.is_empty()));
        assert_sound(&shelf, &images);
    }
    // Before and after the load, after each removal: a murder that never hit is none.
    assert!(seen.len() >= 3, "{seen:?}");
}
