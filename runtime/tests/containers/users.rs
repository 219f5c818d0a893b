//! Whom a program runs as, where it starts, and what limits it.

use std::process::Command;

use runtime::{Launch, Rlimit};

use crate::image::{Image, are_ids_granted, containers, many_ids, refused, told};
use crate::stage::Stage;

#[tokio::test]
async fn users_are_looked_up_in_the_containers_own_files() {
    if !many_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    for (at, (user, wanted)) in [
        ("app", "1000 1001 1001 44 /home/app"),
        ("1000", "1000 1001 1001 44 /home/app"),
        ("app:wheel", "1000 10 10 /home/app"),
        ("0", "0 0 0 10 /root"),
        ("4000:5", "4000 5 5 /"),
    ]
    .into_iter()
    .enumerate()
    {
        let script = "echo $(id -u) $(id -g) $(id -G) $HOME";
        let name = format!("t{at}");
        let launch = image.script(&name, script, |container| container.user = user.into());
        assert_eq!(told(&mut stage, launch).await.trim(), wanted, "{user}");
    }
}

/// Whether this is an ordinary user who can have containers; says so if not.
fn ordinary_user() -> bool {
    let root = rustix::process::geteuid().is_root();
    if root {
        eprintln!("SKIPPED: for ordinary users; root's containers are in the other tests");
    }
    !root && containers()
}

#[tokio::test]
async fn an_ordinary_user_is_root_of_its_own_containers_and_nobody_else_outside() {
    if !ordinary_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let script = "id -u; cat /proc/1/comm; head -n 1 /proc/self/uid_map; touch /new /home/app/new; \
        stat -c %u /new; grep ^CapEff /proc/self/status; mknod /b b 1 1 2>/dev/null || echo no";
    let launch = image.script("t", script, |_| {});
    let said = told(&mut stage, launch).await;
    let words: Vec<_> = said.split_whitespace().collect();
    let own = rustix::process::geteuid().as_raw().to_string();
    assert_eq!(words, ["0", "sh", "0", &own, "1", "0", "CapEff:", "00000000a80425fb", "no"]);
    assert!(!image.path("new").exists() && !image.path("home/app/new").exists());
    // The image lists root in a group of its own, which only a container with more ids has.
    let launch = image.script("u", "id -u; id -G", |container| container.user = "root".into());
    let groups = if are_ids_granted() { "0 10" } else { "0" };
    assert_eq!(told(&mut stage, launch).await, format!("0\n{groups}\n"));
}

#[tokio::test]
async fn how_willingly_it_is_killed_for_memory_can_be_raised_by_anybody_and_lowered_by_root() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let score = |name, score| Launch {
        oom_score_adj: Some(score),
        ..image.script(name, "cat /proc/self/oom_score_adj", |_| {})
    };
    assert_eq!(told(&mut stage, score("raised", 777)).await, "777\n");
    if rustix::process::geteuid().is_root() {
        return;
    }
    let reason = refused(&mut stage, score("lowered", -1000)).await;
    for part in ["OOM score adjustment to -1000", "only root"] {
        assert!(reason.contains(part), "{reason}");
    }
}

#[tokio::test]
async fn an_ordinary_user_hands_out_granted_ids_or_says_that_there_are_none() {
    if !ordinary_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch =
        image.script("t", "id -u; touch /dev/shm/new; stat -c %u /dev/shm/new", |container| {
            container.user = "1000:1001".into();
        });
    if are_ids_granted() {
        assert_eq!(told(&mut stage, launch).await, "1000\n1000\n");
        return;
    }
    let reason = refused(&mut stage, launch).await;
    assert!(
        reason.contains("the container has no such id") && reason.contains("subuid"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_user_that_cannot_be_is_refused_with_its_field() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    for (at, user) in
        ["4294967296", "99999999999", "70000", "-1", "", "a:b:c"].into_iter().enumerate()
    {
        let name = format!("t{at}");
        let launch = image.script(&name, "true", |container| container.user = user.into());
        let reason = refused(&mut stage, launch).await;
        assert!(reason.contains("container.user"), "{user:?}: {reason}");
    }
    let launch = image.script("n", "true", |container| container.user = "nobody".into());
    let reason = refused(&mut stage, launch).await;
    assert!(reason.contains("\"nobody\"") && reason.contains("/etc/passwd"), "{reason}");
}

#[tokio::test]
async fn hostile_passwd_files_hang_nobody() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let passwd = image.path("etc/passwd");
    std::fs::remove_file(&passwd).expect("removed");
    let made = Command::new("mkfifo").arg(&passwd).status().expect("mkfifo");
    assert!(made.success());
    let reason = refused(&mut stage, image.script("fifo", "true", |_| {})).await;
    assert!(reason.contains("cannot find the user") && reason.contains("/etc/passwd"), "{reason}");
    image.link("/dev/zero", "etc/passwd");
    let reason = refused(&mut stage, image.script("link", "true", |_| {})).await;
    assert!(reason.contains("/etc/passwd"), "{reason}");
    std::fs::remove_file(&passwd).expect("removed");
    std::fs::write(&passwd, "x".repeat(2 << 20)).expect("written");
    let reason = refused(&mut stage, image.script("huge", "true", |_| {})).await;
    assert!(reason.contains("File too large"), "{reason}");
}

#[tokio::test]
async fn it_starts_where_it_is_told_and_the_directory_is_made() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let launch = image.script("t", "pwd; stat -c %a .", |_| {});
    let launch = Launch { directory: Some("/srv/new/deep".into()), ..launch };
    assert_eq!(told(&mut stage, launch).await, "/srv/new/deep\n755\n");
}

#[tokio::test]
async fn limits_of_each_process_hold_or_are_named() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let limit = |soft, hard| vec![Rlimit { name: "nofile".into(), soft, hard }];
    let launch = image.script("t", "ulimit -Sn; ulimit -Hn", |_| {});
    let launch = Launch { rlimits: limit(64, 128), ..launch };
    assert_eq!(told(&mut stage, launch).await, "64\n128\n");
    // Above `fs.nr_open`, which nobody may pass, with or without CAP_SYS_RESOURCE.
    let launch = image.script("u", "true", |_| {});
    let launch = Launch { rlimits: limit(1 << 40, 1 << 40), ..launch };
    let reason = refused(&mut stage, launch).await;
    assert!(reason.contains("the limit nofile"), "{reason}");
}

#[tokio::test]
async fn a_program_that_cannot_run_is_told_apart() {
    if !containers() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    for (at, (program, wanted)) in [
        ("/bin/none", "cannot execute /bin/none: No such file or directory"),
        ("/etc/passwd", "cannot execute /etc/passwd: Permission denied"),
    ]
    .into_iter()
    .enumerate()
    {
        let launch = image.script(&format!("t{at}"), "", |_| {});
        let launch = Launch { argv: vec![program.into()], ..launch };
        let reason = refused(&mut stage, launch).await;
        assert!(reason.starts_with(wanted), "{reason}");
    }
}
