//! Containers whose process was made before there was an order for it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use runtime::{End, Launch};
use rustix::process::Signal;

use crate::image::{Image, root_user, told};
use crate::stage::{Stage, kill, lives, script, until};

/// More than supervisors wait, so that some take their second order, and their third.
const MANY: usize = 18;

/// All that a process can easily see of what it was made with. What differs from one
/// container to the next for good reasons is left out.
const LOOK: &str = "id; umask; ulimit -a; ls /proc/self/fd; env; pwd; cat /proc/self/oom_score_adj
    while read name rest; do case $name in
        Cap*|NoNew*|Seccomp*|Sig*|Groups*|Uid*|Gid*) echo $name $rest;; esac
    done < /proc/self/status
    while read n p d root at options rest; do echo $root $at $options; done < /proc/self/mountinfo
    cat /proc/net/dev; ls -ln /dev /proc/1/ns | { while read a b c d rest; do echo $a $c $d; done; }";

/// Processes made ahead, of all supervisors that wait.
fn standbys(stage: &Stage) -> BTreeSet<i32> {
    stage.waiting().into_iter().flat_map(children).filter(|pid| is_standby(*pid)).collect()
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().map(|word| word.parse().expect("a pid")).collect()
}

fn is_standby(pid: i32) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim() == "starling-stands"
}

fn looking(image: &Image, name: &str) -> Launch {
    image.script(name, LOOK, |container| container.hostname = Some("same".into()))
}

/// Runs containers until processes for more of them stand by.
async fn warm(stage: &mut Stage, image: &Image) -> BTreeSet<i32> {
    for n in 0..MANY {
        told(stage, image.script(&format!("warm-{n}"), "exit 0", |_| {})).await;
    }
    until("some stand by", || standbys(stage).len() > 1).await;
    standbys(stage)
}

#[tokio::test]
async fn what_is_born_ahead_is_as_what_is_not() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let mut said = BTreeSet::new();
    let mut ahead = 0;
    for n in 0..MANY {
        let before = standbys(&stage);
        let name = format!("t-{n}");
        let pid = stage.launch(looking(&image, &name)).await.expect("started");
        ahead += usize::from(before.contains(&pid.cast_signed()));
        assert_eq!(stage.end(&name).await, End::Exited { code: 0 });
        said.insert(stage.text(&name, runtime::LogStream::Stdout).await);
    }
    assert!(ahead > 1, "only {ahead} of {MANY} were born ahead");
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said.first().is_some_and(|said| said.contains("Seccomp: 2")), "{said:#?}");
}

#[tokio::test]
async fn the_next_containers_do_not_need_those_that_died() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    for pid in warm(&mut stage, &image).await {
        kill(pid, Signal::KILL);
        until("it is dead", || !lives(pid)).await;
    }
    for n in 0..MANY {
        told(&mut stage, looking(&image, &format!("t-{n}"))).await;
    }
}

#[tokio::test]
async fn one_that_stands_by_holds_nothing_and_leaves_with_its_supervisor() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let all = warm(&mut stage, &image).await;
    for pid in &all {
        let held = fs::read_dir(format!("/proc/{pid}/fd")).expect("open").count();
        // The streams of its supervisor, and its socket.
        assert_eq!(held, 4);
    }
    for supervisor in stage.waiting() {
        kill(supervisor, Signal::KILL);
    }
    until("all have left", || all.iter().all(|pid| !lives(*pid))).await;
}

#[tokio::test]
async fn a_process_is_alone_with_its_supervisor() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    warm(&mut stage, &image).await;
    let text = "read all < /proc/$PPID/task/$PPID/children; test \"$all\" = $$ || echo $all";
    for n in 0..MANY {
        let name = format!("p-{n}");
        stage.launch(script(&name, text)).await.expect("started");
        assert_eq!(stage.end(&name).await, End::Exited { code: 0 });
        assert_eq!(stage.text(&name, runtime::LogStream::Stdout).await, "");
    }
}

#[tokio::test]
async fn root_without_its_powers_cannot_enter_it() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    for pid in warm(&mut stage, &image).await {
        let mut look = Command::new("setpriv");
        look.args(["--bounding-set=-all", "--inh-caps=-all", "ls"]);
        let looked = look.arg(format!("/proc/{pid}/root/")).output().expect("setpriv");
        assert!(!looked.status.success(), "{looked:?}");
        assert!(String::from_utf8_lossy(&looked.stderr).contains("denied"), "{looked:?}");
    }
}
