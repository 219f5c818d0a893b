//! What a container is apart from: ids, namespaces, mounts, powers, descriptors.

use std::fs;

use runtime::{Clocks, Ids, Init, Network, Streams};

use crate::image::{Image, containers, granted, hosts_ids, many_ids, refused, root_of, told};
use crate::stage::Stage;

/// `/proc/self/mountinfo` without what differs between runs: ids, device numbers,
/// descriptors and sizes.
fn mounts(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ").expect("two halves");
        let left: Vec<_> = left.split(' ').collect();
        let kind = right.split(' ').next().expect("a kind");
        // A disk's name differs between machines; the kernel's own do not.
        let kind = if ["ext4", "xfs", "btrfs", "devtmpfs"].contains(&kind) { "host" } else { kind };
        format!("{} {} {}", left[4], left[5], kind)
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn the_mounts_are_these_and_no_others() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch = image.script("t", "cat /proc/self/mountinfo", |_| {});
    let text = told(&mut stage, launch).await;
    let still = "rw,nosuid,nodev,noexec,relatime";
    let quiet_ro = "ro,nosuid,nodev,noexec,relatime";
    let mut wanted = vec![
        "/ rw,nosuid,nodev,relatime overlay".to_owned(),
        format!("/proc {still} proc"),
        format!("/sys {quiet_ro} sysfs"),
        format!("/sys/fs/cgroup {quiet_ro} cgroup2"),
        "/dev rw,nosuid,nodev,relatime tmpfs".to_owned(),
    ];
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        // Read-only as mounts: written to all the same, but not chmod'ed.
        wanted.push(format!("/dev/{name} ro,relatime host"));
    }
    wanted.push("/dev/pts rw,nosuid,noexec,relatime devpts".to_owned());
    wanted.push(format!("/dev/mqueue {still} mqueue"));
    wanted.push("/dev/shm rw,nosuid,nodev,relatime tmpfs".to_owned());
    let seen = mounts(&text);
    let (system, covers): (Vec<_>, Vec<_>) = seen.into_iter().partition(|line| {
        let at = line.split(' ').next().expect("a path");
        at == "/proc"
            || at == "/sys"
            || at == "/sys/fs/cgroup"
            || !(at.starts_with("/proc/") || at.starts_with("/sys/"))
    });
    assert_eq!(system, wanted, "{text}");
    // What there is to cover differs between kernels; how it is covered does not.
    assert!(covers.contains(&format!("/proc/sys {quiet_ro} proc")), "{covers:?}");
    assert!(covers.contains(&"/proc/keys ro,relatime host".to_owned()), "{covers:?}");
    for line in &covers {
        let hidden =
            line.ends_with("ro,relatime host") || line.ends_with(&format!("{quiet_ro} tmpfs"));
        assert!(hidden || line.ends_with(&format!("{quiet_ro} proc")), "{line}");
    }
}

/// The ids that a container whose root is this one must have: of users, then of groups.
/// An ordinary user's root is itself, the others are what it was granted.
fn id_maps(root: u32) -> Vec<Vec<String>> {
    let line = |line: [u32; 3]| line.map(|number| number.to_string()).to_vec();
    if rustix::process::geteuid().is_root() {
        return vec![line([0, root, 65_536]); 2];
    }
    let group = rustix::process::getegid().as_raw();
    let granted = |file| granted(file).map(|first| line([1, first, 65_535]));
    let users = [Some(line([0, root, 1])), granted("/etc/subuid")];
    let groups = [Some(line([0, group, 1])), granted("/etc/subgid")];
    users.into_iter().chain(groups).flatten().collect()
}

#[tokio::test]
async fn ids_and_namespaces_are_its_own() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "cat /proc/self/uid_map /proc/self/gid_map; cat /proc/sys/kernel/hostname; \
        for n in user mnt pid uts ipc net cgroup time; do readlink /proc/self/ns/$n; done";
    let launch = image.script("task.1", script, |_| {});
    let base = root_of(&launch);
    let text = told(&mut stage, launch).await;
    let (maps, rest) = text.split_once("task.1\n").expect("its name");
    let maps: Vec<_> =
        maps.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(maps, id_maps(base));
    let mut lines = rest.lines();
    for name in ["user", "mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("a link");
        let inside = lines.next().expect("a namespace");
        assert!(inside.starts_with(name) && host.to_str() != Some(inside), "{inside}");
    }
    let host = fs::read_link("/proc/self/ns/time").expect("a link");
    assert_eq!(lines.next(), host.to_str());
}

#[tokio::test]
async fn its_powers_are_dockers_and_cannot_grow() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status | tr '\\t' ' '";
    let launch = image.script("t", script, |_| {});
    let text = told(&mut stage, launch).await;
    let wanted = "Groups:  \nCapInh: 0000000000000000\nCapPrm: 00000000a80425fb\n\
        CapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n\
        NoNewPrivs: 1\nSeccomp: 2\n";
    assert_eq!(text, wanted);
    if !many_ids() {
        return;
    }
    let launch = image.script("u", script, |container| {
        container.user = "app".into();
        container.cap_drop.insert("ALL".into());
        container.cap_add.insert("NET_BIND_SERVICE".into());
    });
    let text = told(&mut stage, launch).await;
    let wanted = "Groups: 44 \nCapInh: 0000000000000000\nCapPrm: 0000000000000000\n\
        CapEff: 0000000000000000\nCapBnd: 0000000000000400\nCapAmb: 0000000000000000\n\
        NoNewPrivs: 1\nSeccomp: 2\n";
    assert_eq!(text, wanted);
}

#[tokio::test]
async fn it_holds_its_three_streams_and_nothing_else() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    // The fourth is the directory that `ls` reads; a leak would have its number.
    let launch = image.script("t", "", |_| {});
    let launch = runtime::Launch { argv: vec!["ls".into(), "/proc/self/fd".into()], ..launch };
    assert_eq!(told(&mut stage, launch).await, "0\n1\n2\n3\n");
    let launch = image.script("u", "umask; pwd", |_| {});
    assert_eq!(told(&mut stage, launch).await, "0022\n/\n");
}

#[tokio::test]
async fn dangerous_paths_are_hidden_or_read_only() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "cat /proc/interrupts | wc -c; cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
        for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/kernel/hostname \
          /sys/kernel/mm/ksm/run /sys/fs/cgroup/cgroup.procs; do \
          (echo x > $f) 2>/dev/null && echo wrote $f; done; \
        mknod /tmp/sda b 8 0 2>/dev/null && echo made; echo end";
    let launch = image.script("t", script, |_| {});
    assert_eq!(told(&mut stage, launch).await, "0\n0\n0\nend\n");
}

#[tokio::test]
async fn the_usual_devices_are_there() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "for n in null zero full random urandom tty; do stat -c '%t:%T' /dev/$n; done; \
        head -c 4 /dev/zero | wc -c; echo x > /dev/null && (echo x > /dev/full) 2>/dev/null || echo full; \
        for l in fd stdin stdout stderr ptmx core; do readlink /dev/$l; done; ls /dev | tr '\\n' ' '";
    let launch = image.script("t", script, |_| {});
    let text = told(&mut stage, launch).await;
    let wanted = "1:3\n1:5\n1:7\n1:8\n1:9\n5:0\n4\nfull\n/proc/self/fd\n/proc/self/fd/0\n\
        /proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n/proc/kcore\n\
        core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ";
    assert_eq!(text, wanted);
}

#[tokio::test]
async fn the_loopback_is_up_and_there_is_no_other_device() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "ls /sys/class/net; cat /sys/class/net/lo/flags";
    let launch = image.script("t", script, |_| {});
    assert_eq!(told(&mut stage, launch).await, "lo\n0x9\n");
    let launch = image.script("u", script, |container| container.network = Network::Host);
    let host = fs::read_link("/proc/self/ns/net").expect("a link");
    assert!(told(&mut stage, launch).await.contains("lo\n"));
    let launch = image.script("v", "readlink /proc/self/ns/net", |container| {
        container.network = Network::Host;
    });
    assert_eq!(told(&mut stage, launch).await.trim(), host.to_str().expect("text"));
}

#[tokio::test]
async fn its_own_clocks_begin_with_it() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch = image.script("t", "cat /proc/uptime", |container| container.clocks = Clocks::Own);
    let text = told(&mut stage, launch).await;
    let uptime: f64 = text.split(' ').next().expect("a number").parse().expect("a number");
    assert!(uptime < 60.0, "{uptime}");
}

#[tokio::test]
async fn sysctls_of_its_namespaces_are_set_and_others_refused() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    let launch = image.script("t", script, |container| {
        container.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
        container.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    assert_eq!(told(&mut stage, launch).await, "80\n1\n");
    let launch = image.script("u", "true", |container| {
        container.sysctls.insert("kernel.core_pattern".into(), "|/x".into());
    });
    let reason = refused(&mut stage, launch).await;
    assert!(reason.contains("container.sysctls[\"kernel.core_pattern\"]"), "{reason}");
}

#[tokio::test]
async fn a_reaper_passes_signals_on_and_reaps() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    // Not the first process; orphans vanish; the first process holds nothing.
    let script = "echo $$; (sleep 0 & :); cat /proc/1/comm; tr '\\0' '|' < /proc/1/cmdline; echo; ls -l /proc/1/fd 2>/dev/null | wc -l; \
        readlink /proc/1/exe || echo closed; trap 'echo heard; exit 7' TERM; echo ready; \
        while :; do sleep 0.01; done";
    let mut launch = image.script("t", script, |container| container.init = Init::Reaper);
    launch.stop_signal = libc::SIGTERM;
    stage.launch(launch).await.expect("started");
    stage.says("t", "ready").await;
    stage.runtime.stop(&crate::stage::id("t"), crate::stage::PATIENCE).await.expect("stopped");
    let said = stage.says("t", "heard").await;
    assert_eq!(stage.end("t").await, runtime::End::Exited { code: 7 });
    let lines: Vec<_> = said.lines().filter(|line| *line != "Terminated").collect();
    assert_eq!(lines[0], "2");
    assert_eq!(lines[1..3], ["starling-init", "starling-init|"], "{said}");
    assert_eq!(&lines[3..], ["0", "closed", "ready", "heard"]);
}

#[tokio::test]
async fn a_container_with_the_hosts_ids_keeps_every_other_wall() {
    if !hosts_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "readlink /proc/self/ns/user; readlink /proc/self/ns/mnt; \
        (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null || echo refused; \
        grep -E '^(CapEff|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\\t' ' '; id -u";
    let launch = image.script("t", script, |container| container.ids = Ids::Host);
    let text = told(&mut stage, launch).await;
    let user = fs::read_link("/proc/self/ns/user").expect("a link");
    let mnt = fs::read_link("/proc/self/ns/mnt").expect("a link");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(Some(lines[0]), user.to_str());
    assert_ne!(Some(lines[1]), mnt.to_str());
    let rest = ["refused", "CapEff: 00000000a80425fb", "NoNewPrivs: 1", "Seccomp: 2", "0"];
    assert_eq!(&lines[2..], rest);
}

#[tokio::test]
async fn a_terminal_is_its_own() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "readlink /proc/self/fd/0; stat -c %t:%T /dev/console; test -t 1 && echo tty; \
        echo typed > /dev/tty; stat -c %u /dev/pts/0";
    let (user, number) = if many_ids() { ("app", 1000) } else { ("root", 0) };
    let launch = image.script("t", script, |container| {
        container.user = user.into();
        container.init = Init::Reaper;
    });
    let launch = runtime::Launch { streams: Streams::Terminal { rows: 24, columns: 80 }, ..launch };
    let text = told(&mut stage, launch).await;
    let wanted = format!("/dev/pts/0\n88:0\ntty\ntyped\n{number}\n");
    assert_eq!(text.replace('\r', ""), wanted);
}
