//! Archives out of and into a task, and what a hostile task can make of them.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use runtime::End;

use crate::site::{IDLE, Site, TASK};

/// A file of the host that no test may change, outside of everything.
struct Canary(tempfile::TempDir);

impl Canary {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("canary"), "host").expect("written");
        Self(dir)
    }

    fn is_well(&self) -> bool {
        let names: Vec<_> = fs::read_dir(self.0.path()).expect("listed").flatten().collect();
        names.len() == 1 && fs::read(self.0.path().join("canary")).expect("read") == b"host"
    }
}

fn tar(args: &[&str], dir: &Path, input: &[u8]) -> Vec<u8> {
    let mut tar = Command::new("tar")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar runs");
    let mut stdin = tar.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let out = tar.wait_with_output().expect("ended");
    feed.join().expect("fed").expect("fed");
    assert!(out.status.success());
    out.stdout
}

fn listed(archive: &[u8]) -> Vec<String> {
    let text = tar(&["-t"], Path::new("/"), archive);
    String::from_utf8(text).expect("text").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn files_of_proc_and_sys_come_out_as_they_read() {
    let Some(site) = Site::container(IDLE, |_| {}).await else { return };
    for path in ["/proc/version", "/proc/1/status", "/sys/devices/system/cpu/online"] {
        let (archive, told) = site.copy_out(path).await;
        assert_eq!(told.end, End::Exited { code: 0 }, "{path}: {}", told.err);
        let copy = tar(&["-x", "-O"], Path::new("/"), &archive);
        // What changes from one reading to the next stands at the end.
        let read = site.says(&format!("head -n 1 {path}")).await;
        assert!(!read.is_empty() && copy.starts_with(read.as_bytes()), "{path}: {read}");
    }
    // All of it: what cannot be read is left out and told, and the archive is whole.
    let (archive, told) = site.copy_out("/proc/1").await;
    assert_eq!(told.end, End::Exited { code: 0 }, "{}", told.err);
    let names = listed(&archive);
    assert!(names.contains(&"1/status".to_owned()) && names.len() > 100, "{}", names.len());
}

#[tokio::test]
async fn what_is_copied_out_is_what_was_there() {
    for site in Site::all().await {
        let make = "mkdir -p d/e; echo one > d/one; echo two > d/e/two; ln -s /etc/passwd d/link; \
            touch d/run; chmod 751 d/run; pwd";
        let place = site.says(make).await;
        // A plain process's paths begin at its scratch directory.
        let place = if site.image.is_some() { place.trim().to_owned() } else { String::new() };
        let (archive, told) = site.copy_out(&format!("{place}/d")).await;
        assert_eq!(told.end, End::Exited { code: 0 }, "{}", told.err);
        assert_eq!(listed(&archive), ["d/", "d/e/", "d/e/two", "d/link", "d/one", "d/run"]);
        let into = tempfile::tempdir().expect("a directory");
        tar(&["-x"], into.path(), &archive);
        assert_eq!(fs::read(into.path().join("d/e/two")).expect("read"), b"two\n");
        let link = fs::read_link(into.path().join("d/link")).expect("a link");
        assert_eq!(link, Path::new("/etc/passwd"));
        let (archive, _) = site.copy_out(&format!("{place}/d/.")).await;
        assert_eq!(listed(&archive), ["./", "./e/", "./e/two", "./link", "./one", "./run"]);
        let (archive, _) = site.copy_out(&format!("{place}/d/one")).await;
        assert_eq!(listed(&archive), ["one"]);
        let (_, told) = site.copy_out(&format!("{place}/none")).await;
        assert_eq!(told.end, End::Exited { code: 1 });
        assert!(told.err.contains("cannot find") && told.err.contains("No such file"), "{told:?}");
    }
}

#[tokio::test]
async fn what_is_copied_in_is_there_and_belongs_to_the_task() {
    for site in Site::all().await {
        let from = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(from.path().join("c/deep")).expect("made");
        fs::write(from.path().join("c/deep/file"), vec![b'x'; 300_000]).expect("written");
        let archive = tar(&["-c", "--owner=4242", "--group=4242", "c"], from.path(), b"");
        let place = if site.image.is_some() { "/home" } else { "/" };
        let told = site.copy_in(place, &archive).await;
        assert_eq!(told.end, End::Exited { code: 0 }, "{}", told.err);
        let owner = match &site.image {
            Some(_) => 0,
            None => rustix::process::geteuid().as_raw(),
        };
        let said = site.says("wc -c < c/deep/file; stat -c %u c/deep/file").await;
        assert_eq!(said, format!("300000\n{owner}\n"));
        // Once more, over what is there.
        assert_eq!(site.copy_in(place, &archive).await.end, End::Exited { code: 0 });
        let told = site.copy_in(&format!("{place}/none"), &archive).await;
        assert_eq!(told.end, End::Exited { code: 1 });
        assert!(told.err.contains("cannot copy into"), "{told:?}");
        let told = site.copy_in(place, b"no archive at all").await;
        assert_eq!(told.end, End::Exited { code: 1 }, "{told:?}");
    }
}

#[tokio::test]
async fn steps_up_end_at_the_tasks_root() {
    let canary = Canary::new();
    for site in Site::all().await {
        let outside = canary.0.path().join("canary");
        let up = format!("../../../../../../../..{}", outside.display());
        for path in [up.as_str(), outside.to_str().expect("text")] {
            let (archive, told) = site.copy_out(path).await;
            assert_eq!(told.end, End::Exited { code: 1 }, "{told:?}");
            assert!(archive.is_empty());
        }
        let from = tempfile::tempdir().expect("a directory");
        fs::write(from.path().join("evil"), "x").expect("written");
        let escape = format!("s,^evil$,../../../../../..{}/evil,", canary.0.path().display());
        let archive = tar(&["-c", "-P", "--transform", &escape, "evil"], from.path(), b"");
        site.copy_in("/", &archive).await;
        let up = format!("../../../../../../../..{}", canary.0.path().display());
        site.copy_in(&up, &tar(&["-c", "evil"], from.path(), b"")).await;
        assert!(canary.is_well());
        // The links of a process lead nowhere either.
        for magic in ["/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/fd/3/"] {
            let (_, told) = site.copy_out(magic).await;
            assert_eq!(told.end, End::Exited { code: 1 }, "{magic}: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_path_that_is_exchanged_meanwhile_leads_nowhere_outside() {
    let canary = Canary::new();
    let target = canary.0.path().display().to_string();
    // A directory and a link to the host's, in turns, as fast as it can.
    let swap = format!(
        "mkdir -p {{P}}/d; ln -s {target} {{P}}/l; echo up; cd {{P}}; \
         while :; do mv d x; mv l d; mv d l; mv x d; done"
    );
    let process = Site::process(&swap.replace("{P}", ".")).await;
    let sites =
        [process].into_iter().chain(Site::container(&swap.replace("{P}", "/home"), |_| {}).await);
    let from = tempfile::tempdir().expect("a directory");
    fs::write(from.path().join("evil"), "x").expect("written");
    let archive = tar(&["-c", "evil"], from.path(), b"");
    for site in sites {
        let place = if site.image.is_some() { "/home" } else { "" };
        for _ in 0..60 {
            site.copy_in(&format!("{place}/d"), &archive).await;
            let (got, _) = site.copy_out(&format!("{place}/d/canary")).await;
            assert!(got.is_empty(), "a file of the host came out");
            site.copy_out(&format!("{place}/d/")).await;
            assert!(canary.is_well());
        }
        assert!(site.stage.directories().contains(&TASK.to_owned()));
    }
}

#[tokio::test]
async fn pipes_and_endless_files_stop_nobody() {
    let Some(site) = Site::container(IDLE, |_| {}).await else { return };
    site.says("mkdir /tmp/t; mknod /tmp/t/pipe p; ln -s /dev/zero /tmp/t/zero; echo x > /tmp/t/x")
        .await;
    let (archive, told) = site.copy_out("/tmp/t").await;
    assert_eq!(told.end, End::Exited { code: 0 }, "{told:?}");
    assert_eq!(listed(&archive), ["t/", "t/pipe", "t/x", "t/zero"]);
    let (archive, told) = site.copy_out("/dev").await;
    assert_eq!(told.end, End::Exited { code: runtime::COPIED_IN_PART }, "{}", told.err);
    assert!(told.err.contains("dev/null"), "what is left out is told of: {}", told.err);
    assert!(!listed(&archive).iter().any(|name| name.ends_with("zero")));
}
