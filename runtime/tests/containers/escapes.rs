//! Ways out that others' runtimes once had. What must hold in each: nothing of the
//! host is mounted, written or entered.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::{Access, Launch, Mount};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::image::{Image, containers, refused, told};
use crate::stage::Stage;

/// What is mounted on the host, but for file systems in user space: tests that run
/// beside these make and remove some.
fn host_mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    text.lines().filter(|line| !line.contains(" - fuse ")).map(str::to_owned).collect()
}

/// CVE-2024-21626: a working directory that is a leaked descriptor of the host's.
#[tokio::test]
async fn a_working_directory_cannot_be_a_descriptor_of_the_supervisor() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    image.link("/proc/self/fd/9", "tmp/way");
    for n in 0..24 {
        let directory =
            if n == 23 { "/tmp/way".into() } else { format!("/proc/self/fd/{n}").into() };
        let launch = image.script(&format!("t{n}"), "pwd; readlink /proc/self/cwd", |_| {});
        let launch = Launch { directory: Some(directory), ..launch };
        let reason = refused(&mut stage, launch).await;
        assert!(reason.starts_with("cannot enter"), "{reason}");
    }
}

/// CVE-2025-31133: a masked path whose mask is something else.
#[tokio::test]
async fn masks_do_not_come_from_the_image() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    fs::create_dir_all(image.path("dev")).expect("made");
    image.link("/proc/sys/kernel/core_pattern", "dev/null");
    let script = "stat -c %t:%T /dev/null /proc/keys; (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo refused";
    let launch = image.script("t", script, |_| {});
    assert_eq!(told(&mut stage, launch).await, "1:3\n1:3\nrefused\n");
}

/// CVE-2025-52881 and CVE-2026-41579: `/proc` and `/dev` that are links.
#[tokio::test]
async fn system_directories_that_are_links_are_refused_and_lead_nowhere() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let victim = stage.path().join("victim");
    fs::create_dir(&victim).expect("made");
    fs::write(victim.join("file"), "kept").expect("written");
    for (at, (name, target)) in [
        ("proc", "/tmp".to_owned()),
        ("sys", "tmp".to_owned()),
        ("dev", victim.display().to_string()),
        ("dev", format!("../../../..{}", victim.display())),
    ]
    .into_iter()
    .enumerate()
    {
        let image = Image::of(&stage);
        image.link(&target, name);
        let reason = refused(&mut stage, image.script(&format!("t{at}"), "true", |_| {})).await;
        assert!(
            reason.contains(&format!("at /{name}: the image has a symbolic link there")),
            "{reason}"
        );
        fs::remove_file(image.path(name)).expect("removed");
    }
    let names: Vec<_> =
        fs::read_dir(&victim).expect("read").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["file"]);
}

/// A link in the image that leads a volume onto what is hidden or set in `/proc`.
#[tokio::test]
async fn nothing_is_mounted_on_the_kernels_file_systems() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    image.link("/proc/sys", "data");
    image.link("../../proc/self/fd", "data2");
    for target in ["/data", "/data2/9"] {
        let launch = image.script(&target[1..].replace('/', "-"), "true", |container| {
            let (name, target) = ("v".to_owned(), target.into());
            container.mounts = vec![Mount::Volume { name, target, access: Access::Write }];
        });
        let reason = refused(&mut stage, launch).await;
        assert!(reason.starts_with("cannot mount"), "{reason}");
    }
    for target in ["/proc", "/proc/sys", "/", "/dev", "/sys"] {
        let name = format!("x{}", target.replace('/', "-"));
        let launch = image.script(&name, "true", |container| {
            let mode = 0o755;
            container.mounts = vec![Mount::Tmpfs { target: target.into(), bytes: 4096, mode }];
        });
        let reason = refused(&mut stage, launch).await;
        assert!(reason.contains("container.mounts[0].target"), "{reason}");
    }
}

/// Targets that are links stay in the root, wherever they point.
#[tokio::test]
async fn links_in_the_way_of_a_mount_stay_inside() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let victim = stage.path().join("victim");
    fs::create_dir(&victim).expect("made");
    let inside = victim.strip_prefix("/").expect("absolute");
    fs::create_dir_all(image.root.join(inside)).expect("made");
    image.link(victim.to_str().expect("text"), "absolute");
    image.link("../../../../../../tmp", "relative");
    let script = "echo x > /absolute/x; echo y > /tmp/in/y; ls /absolute /tmp/in";
    let launch = image.script("t", script, |container| {
        let tmpfs =
            |target: &str| Mount::Tmpfs { target: target.into(), bytes: 4096 * 4, mode: 0o755 };
        container.mounts = vec![tmpfs("/absolute/deep"), tmpfs("/relative/in")];
    });
    let text = told(&mut stage, launch).await;
    assert_eq!(text, "/absolute:\ndeep\nx\n\n/tmp/in:\ny\n");
    assert_eq!(fs::read_dir(&victim).expect("read").count(), 0);
}

/// CVE-2021-30465: a directory that becomes a link while containers mount on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_exchanged_never_leads_out() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let shared = stage.path().join("shared");
    fs::create_dir_all(shared.join("d")).expect("made");
    symlink("/", shared.join("link")).expect("linked");
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (shared, stop) = (shared.clone(), Arc::clone(&stop));
        move || {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let (d, link) = (shared.join("d"), shared.join("link"));
                renameat_with(CWD, d, CWD, link, RenameFlags::EXCHANGE).expect("swapped");
                swaps += 1;
            }
            swaps
        }
    });
    let canary = format!("starling-canary-{}", std::process::id());
    let host = host_mounts();
    for n in 0..60 {
        let source = shared.clone();
        let launch = image.script(&format!("t{n}"), "cat /proc/self/mountinfo", |container| {
            let bind = Mount::Bind { source, target: "/shared".into(), access: Access::Write };
            let target = format!("/shared/d/{canary}").into();
            let tmpfs = Mount::Tmpfs { target, bytes: 4096 * 4, mode: 0o755 };
            container.mounts = vec![bind, tmpfs];
        });
        let name = launch.id.to_string();
        if stage.launch(launch).await.is_ok() {
            let text = stage.text(&name, runtime::LogStream::Stdout).await;
            stage.end(&name).await;
            // The container's own root, or the shared directory: nothing else.
            let line = text.lines().find(|line| line.contains(&canary)).expect("mounted");
            let at = line.split(' ').nth(4).expect("a path");
            let inside = [
                format!("/shared/d/{canary}"),
                format!("/shared/link/{canary}"),
                format!("/{canary}"),
            ];
            assert!(inside.contains(&at.to_owned()), "{line}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    assert!(swapper.join().expect("joined") > 60);
    assert!(!std::path::Path::new("/").join(&canary).exists());
    assert_eq!(host_mounts(), host);
}

/// CVE-2019-5736: the file of the runtime, from inside.
#[tokio::test]
async fn the_file_of_the_first_process_cannot_be_opened_or_written() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let agent = env!("CARGO_BIN_EXE_keeper-for-tests");
    let before = fs::metadata(agent).and_then(|meta| meta.modified()).expect("a file");
    let script = "for n in 1 2 3 4 5 6 7 8 9; do (cat /proc/1/exe > /dev/null) 2>/dev/null && echo read; \
        (: >> /proc/1/exe) 2>/dev/null && echo wrote; ls /proc/1/fd 2>/dev/null; done; echo end";
    let launch = image.script("t", script, |container| container.init = runtime::Init::Reaper);
    assert_eq!(told(&mut stage, launch).await, "end\n");
    assert_eq!(fs::metadata(agent).and_then(|meta| meta.modified()).expect("a file"), before);
}

/// Nothing of a container is left when it has ended.
#[tokio::test]
async fn nothing_is_left_behind() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let host = host_mounts();
    // A descendant that left its session dies with the first process.
    let script = "(sleep 1000 </dev/null >/dev/null 2>&1 &) ; readlink /proc/self/ns/pid";
    let launch = image.script("t", script, |_| {});
    let namespace = told(&mut stage, launch).await.trim().to_owned();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        if let Ok(link) = fs::read_link(entry.path().join("ns/pid")) {
            left.extend((link.to_str() == Some(namespace.as_str())).then(|| entry.file_name()));
        }
    }
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(host_mounts(), host);
}
