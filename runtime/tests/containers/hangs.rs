//! Containers over a file system that never answers: their set-up hangs, wherever it
//! comes to touch that, and is ended all the same.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use runtime::{Access, Container, End, FoundState, Launch, LaunchError, Mount, Root, StartFault};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::image::{Image, containers, told};
use crate::stage::{PATIENCE, Stage, helpers, id, look_often, script, until};

/// A file system whose server is there and says nothing. In a directory of its own, which
/// nobody walks through.
struct Silent {
    place: PathBuf,
    _server: File,
    _dir: TempDir,
}

impl Silent {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().to_owned();
        let server = File::options().read(true).write(true).open("/dev/fuse");
        let mounted = server.and_then(|server| {
            let options = format!(
                "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
                server.as_raw_fd()
            );
            let options = std::ffi::CString::new(options).expect("no zero");
            mount("silent", &place, "fuse", MountFlags::empty(), &*options)?;
            Ok(server)
        });
        match mounted {
            Ok(server) => Some(Self { place, _server: server, _dir: dir }),
            Err(error) => {
                eprintln!("SKIPPED: no file system in user space: {error}");
                None
            }
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        unmount(&self.place, UnmountFlags::DETACH).expect("unmounted");
    }
}

/// Why a launch ended that hung, after an order to stop or by its deadline.
async fn ended(stage: &Stage, mut launch: Launch, deadline: Option<Duration>) -> String {
    let (name, runtime) = (launch.id.clone(), stage.runtime.clone());
    if let Some(after) = deadline {
        let now = Duration::try_from(clock_gettime(ClockId::Boottime)).expect("a time");
        let at = (now + after).as_nanos();
        launch.deadline_boot_ns = Some(u64::try_from(at).expect("this century"));
    }
    let launched = tokio::spawn(async move { runtime.launch(launch).await });
    let state = stage.file(name.as_str(), "state");
    until("somebody is at it", || state.exists()).await;
    if deadline.is_none() {
        stage.runtime.stop(&name, Duration::from_secs(60)).await.expect("ordered");
    }
    match timeout(PATIENCE, launched).await.expect("in time").expect("joined") {
        Err(LaunchError::NotStarted { fault: StartFault::Interrupted, reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_set_up_that_hangs_is_ended_by_a_stop_and_by_its_deadline() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let Some(silent) = Silent::new() else { return };
    let below = silent.place.join("root");
    // The supervisor itself hangs.
    let root = |container: &mut Container| container.root = Root::Directory(below.clone());
    // The process that it made does.
    let bind = |container: &mut Container| {
        let (source, target, access) = (silent.place.clone(), "/mnt".into(), Access::Read);
        container.mounts.push(Mount::Bind { source, target, access });
    };
    let soon = Some(Duration::ZERO);
    let (stopped, over) =
        ("it was stopped before its program ran", "its time was over before its program ran");
    let told_by = tokio::join!(
        ended(&stage, image.script("a", "true", root), None),
        ended(&stage, image.script("b", "true", bind), None),
        ended(&stage, image.script("c", "true", root), soon),
        ended(&stage, image.script("d", "true", bind), soon),
    );
    assert_eq!(told_by, (stopped.into(), stopped.into(), over.into(), over.into()));
    // Nothing hangs on, others start meanwhile, and the next agent says the same.
    until("no supervisor is left", || stage.supervisors().is_empty()).await;
    told(&mut stage, image.script("e", "true", |_| {})).await;
    let (_stage, found) = Stage::reopen(stage.close()).await;
    for found in found.iter().filter(|found| found.id != id("e")) {
        let FoundState::Ended(End::NotStarted { reason, .. }) = &found.state else {
            panic!("{found:?}");
        };
        assert!([stopped, over].contains(&reason.as_str()), "{reason}");
    }
    drop(silent);
}

#[tokio::test]
async fn a_set_up_that_hangs_is_ended_although_its_agent_is_gone() {
    if !containers() {
        return;
    }
    let stage = Stage::set().await;
    look_often(stage.path());
    let image = Image::of(&stage);
    let Some(silent) = Silent::new() else { return };
    let below = silent.place.join("root");
    let root = |container: &mut Container| container.root = Root::Directory(below);
    let bind = |container: &mut Container| {
        let (source, target, access) = (silent.place.clone(), "/mnt".into(), Access::Read);
        container.mounts.push(Mount::Bind { source, target, access });
    };
    let mut launches = tokio::task::JoinSet::new();
    for launch in [image.script("a", "true", root), image.script("b", "true", bind)] {
        let runtime = stage.runtime.clone();
        launches.spawn(async move { runtime.launch(launch).await });
    }
    let states = ["a", "b"].map(|name| stage.file(name, "state"));
    until("somebody is at it", || states.iter().all(|state| state.exists())).await;
    launches.shutdown().await;
    let dir = stage.close();
    let has_end = |state: &PathBuf| {
        std::fs::read_to_string(state).is_ok_and(|text| text.contains("{\"end\""))
    };
    until("both are ended", || states.iter().all(has_end)).await;
    let names = ["starling-superv", "starling-keeper"];
    let is_gone = || names.iter().all(|name| helpers(dir.path(), name).is_empty());
    until("nobody is left", is_gone).await;
    let (_stage, found) = Stage::reopen(dir).await;
    assert_eq!(found.len(), 2);
    for found in found {
        let FoundState::Ended(End::NotStarted { fault, reason }) = found.state else {
            panic!("{found:?}");
        };
        assert_eq!(fault, StartFault::Interrupted);
        assert_eq!(reason, "its set-up took longer than 60 s");
    }
    drop(silent);
}

#[tokio::test]
async fn an_archive_that_is_not_read_can_be_stopped() {
    if !containers() {
        return;
    }
    let stage = Stage::set().await;
    let image = Image::of(&stage);
    let Some(silent) = Silent::new() else { return };
    let tar = silent.place.join("root.tar");
    let launch = image.script("a", "true", |container| container.root = Root::Tar(tar));
    let runtime = stage.runtime.clone();
    let launched = tokio::spawn(async move { runtime.launch(launch).await });
    let told = async {
        while stage.runtime.stop(&id("a"), Duration::ZERO).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("told");
    match launched.await.expect("joined") {
        Err(LaunchError::NotStarted { fault: StartFault::Interrupted, .. }) => {}
        other => panic!("{other:?}"),
    }
    // Its id is free as soon as the file system fails.
    let again = stage.launch(script("a", "true")).await;
    assert!(matches!(again, Err(LaunchError::Exists { .. })), "{again:?}");
    drop(silent);
    while stage.launch(script("a", "true")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
