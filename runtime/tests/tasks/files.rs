//! Files that come with a plain process: they are where it starts, they are its own, and
//! nothing of them is left when it is gone or never was.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime::image::{Changes, Digest, LoadOptions, import};
use runtime::{End, Launch, LaunchError, LogStream, Place, Process, User, pack_plain};
use rustix::process::geteuid;

use crate::stage::{Stage, id, script};

/// An image of an archive.
fn image(stage: &Stage, archive: &[u8]) -> Digest {
    let (changes, options) = (Changes::default(), LoadOptions::default());
    let images = stage.runtime.images();
    let loaded = import(images, &mut &archive[..], None, &changes, &options, &|_| true);
    loaded.expect("an image").info.id
}

/// A program that says what it finds beside it.
fn shipped(stage: &Stage) -> Digest {
    let dir = tempfile::tempdir().expect("a directory");
    let prog = dir.path().join("prog");
    fs::write(&prog, "#!/bin/sh\ncat data/words; echo more >> data/words; exit 5\n")
        .expect("written");
    fs::set_permissions(&prog, fs::Permissions::from_mode(0o700)).expect("set");
    fs::create_dir(dir.path().join("data")).expect("made");
    fs::write(dir.path().join("data/words"), "as shipped\n").expect("written");
    image(stage, &pack(dir.path()))
}

fn pack(dir: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    pack_plain(&[(dir.to_owned(), PathBuf::from("."))], &mut archive).expect("packed");
    archive
}

fn with_files(launch: Launch, files: Digest, user: Option<User>) -> Launch {
    let place = Place::Process(Process { user, hidden: Vec::new(), files: Some(files) });
    Launch { place, ..launch }
}

/// What nobody took.
fn untaken(stage: &Stage) -> Vec<String> {
    let listed = fs::read_dir(stage.path().join("files")).into_iter().flatten().flatten();
    listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Somebody else, where that is possible.
fn somebody() -> Option<User> {
    geteuid().is_root().then_some(User { uid: 65_534, gid: 65_534 })
}

#[tokio::test]
async fn a_program_that_is_nowhere_else_runs_where_its_files_are() {
    let mut stage = Stage::set().await;
    let files = shipped(&stage);
    // Each start has its own, as they were shipped, whatever the one before made of them.
    for name in ["a", "b"] {
        let launch = with_files(Launch::new(id(name), ["./prog"]), files, somebody());
        stage.launch(launch).await.expect("started");
        assert_eq!(stage.text(name, LogStream::Stdout).await, "as shipped\n");
        assert_eq!(stage.end(name).await, End::Exited { code: 5 });
        let words = fs::read_to_string(stage.file(name, "scratch/data/words")).expect("read");
        assert_eq!(words, "as shipped\nmore\n");
        let scratch = fs::metadata(stage.file(name, "scratch")).expect("there");
        assert_eq!(scratch.permissions().mode() & 0o7777, 0o700);
        let owner = somebody().map_or(geteuid().as_raw(), |user| user.uid);
        let prog = fs::metadata(stage.file(name, "scratch/prog")).expect("there");
        assert_eq!((scratch.uid(), prog.uid()), (owner, owner));
    }
    assert!(untaken(&stage).is_empty());
    stage.runtime.remove(&id("a")).await.expect("removed");
    assert!(!stage.file("a", "scratch").exists());
}

#[tokio::test]
async fn files_give_a_task_no_rights() {
    let mut stage = Stage::set().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("prog"), "x").expect("written");
    fs::set_permissions(path("prog"), fs::Permissions::from_mode(0o6755)).expect("set");
    let mut words = vec!["c".to_owned(), "-C".to_owned(), dir.path().display().to_string()];
    if geteuid().is_root() {
        let device = rustix::fs::makedev(1, 3);
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, path("null"), kind, mode, device).expect("a node");
    }
    words.push(".".to_owned());
    let archive = Command::new("tar").args(words).output().expect("tar runs").stdout;
    let files = image(&stage, &archive);
    let launch = with_files(script("a", "ls -l; test ! -e null"), files, somebody());
    stage.launch(launch).await.expect("started");
    let said = stage.text("a", LogStream::Stdout).await;
    assert!(said.contains("-rwxr-xr-x"), "{said}");
    assert_eq!(stage.end("a").await, End::Exited { code: 0 });
    let mode = fs::metadata(stage.file("a", "scratch/prog")).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[tokio::test]
async fn what_is_not_taken_is_not_left() {
    let stage = Stage::set().await;
    let files = shipped(&stage);
    // The program is looked for where it starts, so what fails has taken them.
    let gone = with_files(Launch::new(id("gone"), ["./no-such"]), files, None);
    assert!(matches!(stage.launch(gone).await, Err(LaunchError::NotStarted { .. })));
    let nothing = Digest::of(b"nothing of the sort");
    let unknown = with_files(script("unknown", "true"), nothing, None);
    match stage.launch(unknown).await {
        Err(LaunchError::NotStarted { reason, .. }) => {
            assert!(reason.starts_with("process.files: "), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(untaken(&stage).is_empty());
    // An agent died between the two.
    fs::create_dir_all(stage.path().join("files/b/deep")).expect("made");
    let (stage, _) = Stage::reopen(stage.close()).await;
    assert!(untaken(&stage).is_empty());
}

#[tokio::test]
async fn their_image_stays_for_as_long_as_the_task_runs() {
    let mut stage = Stage::set().await;
    let files = shipped(&stage);
    let launch = with_files(script("a", "read line; exit 6"), files, None);
    let launch = Launch { streams: runtime::Streams::Input, ..launch };
    stage.launch(launch).await.expect("started");
    assert!(stage.runtime.images().get(&files).expect("here").in_use);
    let dir = stage.close();
    (stage, _) = Stage::reopen(dir).await;
    assert!(stage.runtime.images().get(&files).expect("here").in_use);
    stage.runtime.stop(&id("a"), std::time::Duration::ZERO).await.expect("told");
    stage.end("a").await;
    assert!(!stage.runtime.images().get(&files).expect("here").in_use);
}

#[tokio::test]
async fn a_full_disk_is_told_and_holds_nothing_of_them() {
    let Some(disk) = crate::full::Disk::new() else { return };
    let stage = disk.stage().await;
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("large"), vec![7; 1 << 20]).expect("written");
    let files = image(&stage, &pack(dir.path()));
    let _filler = disk.fill_but(512 << 10);
    match stage.launch(with_files(script("a", "true"), files, None)).await {
        Err(LaunchError::NotStarted { reason, .. }) => {
            assert!(reason.contains("No space left"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(untaken(&stage).is_empty());
    stage.launch(script("b", "true")).await.expect("others start");
}
