//! What a full disk does: to a task's log, to its record, and to its end.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use runtime::{End, FoundState, LogRecord, LogRequest};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::geteuid;

use crate::stage::{Stage, id, lives, script, until};

/// Room for a runtime and a few tasks.
const BYTES: &std::ffi::CStr = c"size=4m";

/// A small disk.
pub(crate) struct Disk(tempfile::TempDir);

impl Disk {
    pub(crate) fn new() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root mounts a small disk");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        match mount("none", dir.path(), "tmpfs", MountFlags::empty(), BYTES) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("SKIPPED: no small disk to be had: {error}");
                None
            }
        }
    }

    pub(crate) async fn stage(&self) -> Stage {
        Stage::open(tempfile::tempdir_in(self.0.path()).expect("a directory")).await.0
    }

    /// Fills it but for so many bytes.
    pub(crate) fn fill_but(&self, bytes: usize) -> std::path::PathBuf {
        let room = self.0.path().join("room");
        fs::write(&room, vec![b'x'; bytes]).expect("written");
        let path = self.fill();
        fs::remove_file(room).expect("removed");
        path
    }

    /// Fills it to the last byte.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.path().join("fill");
        fill(&path);
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).expect("unmounted");
    }
}

fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("made");
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

#[tokio::test]
async fn a_task_that_fills_the_disk_ends_as_it_would_and_its_log_says_what_it_lacks() {
    let Some(disk) = Disk::new() else { return };
    let mut stage = disk.stage().await;
    let text = "echo before; until [ -e full ]; do sleep 0.005; done; \
        for i in 1 2 3 4 5 6 7 8 9; do head -c 65536 /dev/zero; done; echo lost; touch wrote; \
        until [ -e free ]; do sleep 0.005; done; echo after; exit 7";
    stage.start("a", text).await;
    stage.says("a", "before").await;
    let scratch = stage.file("a", "scratch");
    // Names need no room there, so what tells the task fits.
    let filler = disk.fill();
    fs::write(scratch.join("full"), "").expect("told");
    let wrote = scratch.join("wrote");
    until("the task writes all it has, for nobody holds it up", || wrote.exists()).await;
    fs::remove_file(filler).expect("removed");
    fs::write(scratch.join("free"), "").expect("told");
    assert_eq!(stage.end("a").await, End::Exited { code: 7 });
    let request = LogRequest { follow: false, tail: None };
    let mut log = stage.runtime.logs(&id("a"), request).await.expect("a log");
    let (mut output, mut missing) = (Vec::new(), 0);
    while let Some(record) = log.next().await.expect("read") {
        match record {
            LogRecord::Output { bytes, .. } => output.extend(bytes),
            LogRecord::Missing { bytes } => missing += bytes.expect("counted"),
        }
    }
    let words = String::from_utf8_lossy(&output);
    assert!(words.starts_with("before") && words.ends_with("after\n"), "{}", words.len());
    let written = "before\nlost\nafter\n".len() as u64 + 9 * 65_536;
    assert_eq!(output.len() as u64 + missing, written);
    assert!(missing > 0, "the disk was not full");
}

#[tokio::test]
async fn on_a_full_disk_a_task_is_stopped_and_its_end_is_kept() {
    let Some(disk) = Disk::new() else { return };
    let mut stage = disk.stage().await;
    let pid = stage.start("a", "trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    stage.start("b", "until [ -e go ]; do sleep 0.005; done; exit 9").await;
    stage.says("a", "ready").await;
    disk.fill();
    fs::write(stage.file("b", "scratch").join("go"), "").expect("told");
    assert_eq!(stage.end("b").await, End::Exited { code: 9 });
    stage.runtime.stop(&id("a"), Duration::from_millis(20)).await.expect("ordered");
    let killed = End::Signalled { signal: 9 };
    assert_eq!(stage.end("a").await, killed);
    assert!(!lives(i32::try_from(pid).expect("a pid")));
    // Those that wait have room for one task each. Then a launch says why it cannot be,
    // and leaves nothing.
    let mut started = 0;
    let reason = loop {
        let name = format!("c{started}");
        match stage.launch(script(&name, "exit 5")).await {
            Ok(_) => assert_eq!(stage.end(&name).await, End::Exited { code: 5 }),
            Err(error) => break error.to_string(),
        }
        started += 1;
        assert!(started < 100, "the disk is not full");
    };
    assert!(reason.contains("No space left"), "{reason}");
    let log = fs::read_to_string(stage.path().join("keeper.log")).expect("read");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(stage.directories().len(), 2 + started);
    // Whoever comes next finds the same ends, full as the disk is.
    let (_stage, found) = Stage::reopen(stage.close()).await;
    let states: Vec<_> = found.into_iter().map(|found| found.state).collect();
    let mut wanted = vec![killed, End::Exited { code: 9 }];
    wanted.resize(2 + started, End::Exited { code: 5 });
    assert_eq!(states, wanted.into_iter().map(FoundState::Ended).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_supervisor_that_dies_on_a_full_disk_leaves_an_end_too() {
    let Some(disk) = Disk::new() else { return };
    let mut stage = disk.stage().await;
    stage.start("a", "echo ready; sleep 600").await;
    stage.says("a", "ready").await;
    disk.fill();
    for supervisor in stage.supervisors() {
        crate::stage::kill(supervisor, rustix::process::Signal::KILL);
    }
    let end = stage.end("a").await;
    assert!(matches!(end, End::Lost { .. }), "{end:?}");
    let (_stage, found) = Stage::reopen(stage.close()).await;
    let found: Vec<_> = found.into_iter().map(|found| found.state).collect();
    assert_eq!(found, [FoundState::Ended(end)]);
}
