//! What a container may change, and what of that stays.

use std::fs;
use std::os::unix::fs::MetadataExt;

use runtime::{Access, Changes, Mount, Root};

use crate::image::{Image, containers, granted, many_ids, refused, root_of, told};
use crate::stage::{Stage, id};

#[tokio::test]
async fn changes_go_to_disk_to_memory_or_nowhere_and_never_into_the_image() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script =
        "rm /etc/group; (echo new > /root/file) 2>/dev/null && cat /root/file; df -k / | tail -1";
    let script = script.replace("| tail -1", "");
    let before = fs::read(image.path("etc/group")).expect("read");
    let disk = image.script("disk", &script, |_| {});
    let base = root_of(&disk);
    assert!(told(&mut stage, disk).await.starts_with("new\n"));
    let upper = stage.file("disk", "root/upper/root/file");
    assert_eq!(fs::read_to_string(&upper).expect("read"), "new\n");
    assert_eq!(fs::metadata(&upper).expect("there").uid(), base);
    let memory = image.script("memory", &script, |container| {
        container.changes = Changes::Memory { bytes: 8 << 20 };
    });
    let text = told(&mut stage, memory).await;
    assert!(text.starts_with("new\n") && text.contains(" 8192 "), "{text}");
    // The place may be there, made ahead of the launch; nothing came into it.
    assert!(!stage.file("memory", "root/upper/root").exists());
    let script = "(echo new > /root/file) 2>/dev/null || echo refused; rm /etc/group 2>/dev/null; \
        cat /etc/group | head -1; echo x > /dev/shm/x && cat /dev/shm/x";
    let refused = image.script("refused", script, |container| container.changes = Changes::Refused);
    assert_eq!(told(&mut stage, refused).await, "refused\nroot:x:0:\nx\n");
    assert_eq!(fs::read(image.path("etc/group")).expect("read"), before);
    assert!(!image.path("root/file").exists());
}

#[tokio::test]
async fn layers_lie_on_each_other_and_the_last_wins() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let mut layers = vec![image.root.clone()];
    for name in ["a", "b"] {
        let layer = stage.path().join(name);
        fs::create_dir_all(layer.join("etc")).expect("made");
        fs::write(layer.join("etc/who"), name).expect("written");
        fs::write(layer.join(format!("etc/{name}")), name).expect("written");
        layers.push(layer);
    }
    let launch =
        image.script("t", "cat /etc/who /etc/a /etc/b; stat -c %u:%g /etc/who", |container| {
            container.root = Root::Layers(layers);
        });
    assert_eq!(told(&mut stage, launch).await, "bab0:0\n");
}

#[tokio::test]
async fn a_volume_keeps_its_files_and_their_owners() {
    if !many_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let volume = |access| Mount::Volume { name: "data".into(), target: "/data".into(), access };
    let script =
        "touch /data/root; touch /data/app; chown 1000:1001 /data/app; echo 1 > /data/root";
    let first =
        image.script("a", script, |container| container.mounts = vec![volume(Access::Write)]);
    told(&mut stage, first).await;
    let on_disk = stage.path().join("volumes/data");
    let own = rustix::process::geteuid();
    // Only root's volumes can show other owners than the disk has.
    let app = if own.is_root() { 1000 } else { granted("/etc/subuid").expect("granted") + 999 };
    assert_eq!(fs::metadata(on_disk.join("root")).expect("there").uid(), own.as_raw());
    assert_eq!(fs::metadata(on_disk.join("app")).expect("there").uid(), app);
    let script = "stat -c %u:%g /data/root /data/app; cat /data/root; \
        (echo 2 > /data/root) 2>/dev/null || echo refused";
    let second =
        image.script("b", script, |container| container.mounts = vec![volume(Access::Read)]);
    assert_eq!(told(&mut stage, second).await, "0:0\n1000:1001\n1\nrefused\n");
}

#[tokio::test]
async fn a_bind_shows_the_hosts_files_with_their_owners() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let host = stage.path().join("host");
    fs::create_dir(&host).expect("made");
    fs::write(host.join("file"), "host").expect("written");
    let file = host.join("file");
    let mounts = vec![
        Mount::Bind { source: host.clone(), target: "/mnt/a".into(), access: Access::Write },
        Mount::Bind { source: file, target: "/one".into(), access: Access::Read },
        Mount::Tmpfs { target: "/scratch".into(), bytes: 1 << 20, mode: 0o1777 },
    ];
    let script = "cat /one; (echo x > /one) 2>/dev/null || echo refused; stat -c %u /mnt/a/file; \
        echo in > /mnt/a/new; stat -c %a /scratch; df -k /scratch | sed -n 2p | tr -s ' '";
    let launch = image.script("t", script, |container| container.mounts = mounts);
    let text = told(&mut stage, launch).await;
    assert!(text.starts_with("hostrefused\n0\n1777\n"), "{text}");
    assert!(text.contains(" 1024 "), "{text}");
    assert_eq!(fs::read_to_string(host.join("new")).expect("read"), "in\n");
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(fs::metadata(host.join("new")).expect("there").uid(), own);
}

#[tokio::test]
async fn a_source_that_is_not_there_is_named() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch = image.script("t", "true", |container| {
        let (source, target) = ("/nowhere".into(), "/x".into());
        container.mounts = vec![Mount::Bind { source, target, access: Access::Read }];
    });
    let reason = refused(&mut stage, launch).await;
    assert!(reason.contains("/nowhere") && reason.contains("No such file"), "{reason}");
    let launch = image.script("u", "true", |container| {
        container.root = Root::Directory("/nowhere".into());
    });
    let reason = refused(&mut stage, launch).await;
    assert!(reason.contains("cannot open the layer /nowhere"), "{reason}");
}

#[tokio::test]
async fn what_the_runtime_writes_for_it_is_there() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "cat /proc/sys/kernel/hostname; df -k /dev/shm | sed -n 2p | tr -s ' '";
    let launch = image.script("t", script, |container| {
        container.hostname = Some("here".into());
        container.shm_bytes = 2 << 20;
    });
    let text = told(&mut stage, launch).await;
    assert!(text.starts_with("here\n") && text.contains(" 2048 "), "{text}");
}

#[tokio::test]
async fn a_removed_container_leaves_nothing_to_the_next() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    // Some change nothing, so that their directories can be used again as they are.
    for (n, change) in ["true", "mkdir -m 0 /shut /shut/in", "true", "true"].iter().enumerate() {
        let name = format!("t{n}");
        let launch = image.script(&name, &format!("ls / | tr '\\n' ' '; {change}"), |_| {});
        let seen = told(&mut stage, launch).await;
        assert_eq!(seen, "bin dev etc home lib lib64 proc root sys tmp ");
        stage.runtime.remove(&id(&name)).await.expect("removed");
    }
    assert!(stage.directories().is_empty(), "{:?}", stage.directories());
}

#[tokio::test]
async fn what_belongs_to_other_ids_of_a_container_is_removed_with_it() {
    if !many_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "mkdir -p -m 700 /tmp/d; echo x > /tmp/d/f; chown 1000:1001 /tmp/d /tmp/d/f";
    told(&mut stage, image.script("t", script, |_| {})).await;
    stage.runtime.remove(&id("t")).await.expect("removed");
    let left: Vec<_> =
        fs::read_dir(stage.path().join("tasks")).expect("listed").flatten().collect();
    let left = left.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert_eq!(left.filter(|name| name.starts_with(".old")).count(), 0);
}
