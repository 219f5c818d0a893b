//! How long tasks take that do nothing. Not tests: they have no opinion.
//!
//! `cargo test --release -p runtime --test tasks -- --ignored --nocapture --test-threads 1 speed`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runtime::{Changes, Container, End, Launch, Limits, LogRecord, LogRequest, Place, Root};

use crate::stage::{Stage, id, script};

const ONE_BY_ONE: u32 = 500;
const MANY: u32 = 10_000;
const CONTAINERS: u32 = 1_500;
const AT_ONCE: u32 = 8;
const SLEEPERS: u32 = 1_000;

/// Does nothing; or, given `loop` and a number, runs itself so often: fork, exec, wait.
const SOURCE: &str = r#"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count < 3) return 0;
    char *own[] = { words[0], 0 };
    for (int n = atoi(words[2]); n > 0; n--) {
        if (fork() == 0) { execv(own[0], own); _exit(127); }
        wait(0);
    }
    return 0;
}
"#;

/// A static program that does nothing. Needs a C compiler.
fn nothing(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("nothing.c"), dir.join("nothing"));
    fs::write(&source, SOURCE).expect("written");
    let mut compiler = Command::new("cc");
    let status = compiler.args(["-O1", "-static", "-o"]).arg(&program).arg(&source).status();
    assert!(status.expect("a C compiler").success());
    program
}

/// What a fork, an exec and a wait take in a small process.
fn loop_of(program: &Path, count: u32) -> Duration {
    let before = Instant::now();
    let status = Command::new(program).arg("loop").arg(count.to_string()).status();
    assert!(status.expect("a loop").success());
    before.elapsed() / count
}

fn xargs(program: &Path, count: u32) -> f64 {
    let text = format!("seq {count} | xargs -P{AT_ONCE} -n1 {}", program.display());
    let before = Instant::now();
    let status = Command::new("/bin/sh").args(["-c", &text]).stdin(Stdio::null()).status();
    assert!(status.expect("a shell").success());
    f64::from(count) / before.elapsed().as_secs_f64()
}

fn limited(name: &str, program: &Path) -> Launch {
    let limits = Limits { memory_max: Some(64 << 20), pids_max: Some(64), ..Limits::default() };
    Launch { limits, ..Launch::new(id(name), [program.to_str().expect("UTF-8")]) }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_one() {
    let mut stage = Stage::set().await;
    let program = nothing(stage.path());
    for round in 0..3 {
        let floor = loop_of(&program, ONE_BY_ONE);
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        for n in 0..ONE_BY_ONE {
            let name = format!("one-{round}-{n}");
            let before = Instant::now();
            stage.launch(limited(&name, &program)).await.expect("started");
            started.push(before.elapsed());
            stage.end(&name).await;
            ended.push(before.elapsed());
            stage.runtime.remove(&id(&name)).await.expect("removed");
        }
        let ended = median(ended);
        println!(
            "one at a time: started {:?}, ended {ended:?}; a loop of fork, exec and wait {floor:?}; ratio {:.2}",
            median(started),
            ended.as_secs_f64() / floor.as_secs_f64(),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_many() {
    let mut stage = Stage::set().await;
    let program = nothing(stage.path());
    for round in 0..3 {
        let floor = xargs(&program, MANY);
        let make = |n| limited(&format!("m-{round}-{n}"), &program);
        let rate = rate(&mut stage, MANY, make).await;
        println!(
            "{AT_ONCE} at once: {rate:.0} a second; xargs {floor:.0}; ratio {:.2}",
            rate / floor
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_containers() {
    let mut stage = Stage::set().await;
    let root = root(stage.path());
    let contained = |name: &str| contained(&root, name);
    for round in 0..3 {
        let mut ended = Vec::new();
        for n in 0..ONE_BY_ONE {
            let name = format!("one-{round}-{n}");
            let before = Instant::now();
            stage.launch(contained(&name)).await.expect("started");
            stage.end(&name).await;
            ended.push(before.elapsed());
            stage.runtime.remove(&id(&name)).await.expect("removed");
        }
        let make = |n| contained(&format!("m-{round}-{n}"));
        let rate = rate(&mut stage, CONTAINERS, make).await;
        println!("containers: {:?} each; {AT_ONCE} at once: {rate:.0} a second", median(ended));
    }
}

/// A root with the program that does nothing.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    fs::create_dir(&root).expect("a root");
    for directory in ["proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir(root.join(directory)).expect("a directory");
    }
    fs::rename(nothing(dir), root.join("nothing")).expect("moved");
    root
}

fn contained(root: &Path, name: &str) -> Launch {
    let mut container = Container::new(Root::Directory(root.to_owned()));
    if std::env::var_os("CHANGES_IN_MEMORY").is_some() {
        container.changes = Changes::Memory { bytes: 64 << 20 };
    }
    let place = Place::Container(Box::new(container));
    Launch { place, ..limited(name, Path::new("/nothing")) }
}

async fn rate(stage: &mut Stage, count: u32, make: impl Fn(u32) -> Launch) -> f64 {
    let before = Instant::now();
    let mut removals = tokio::task::JoinSet::new();
    let (mut next, mut flying) = (0, 0);
    let mut ended = 0;
    while ended < count {
        while next < count && flying < AT_ONCE {
            let (runtime, launch) = (stage.runtime.clone(), make(next));
            tokio::spawn(async move { runtime.launch(launch).await.expect("started") });
            (next, flying) = (next + 1, flying + 1);
        }
        let (id, end) = stage.any_end().await;
        assert_eq!(end, End::Exited { code: 0 });
        let runtime = stage.runtime.clone();
        removals.spawn(async move { runtime.remove(&id).await.expect("removed") });
        (ended, flying) = (ended + 1, flying - 1);
    }
    while removals.join_next().await.is_some() {}
    f64::from(count) / before.elapsed().as_secs_f64()
}

/// Private memory of a process in KiB.
fn private_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let private = text.lines().filter(|line| line.starts_with("Private_"));
    private.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_a_thousand_sleepers() {
    let mut stage = Stage::set().await;
    let before = Instant::now();
    let mut launches = tokio::task::JoinSet::new();
    for n in 0..SLEEPERS {
        let runtime = stage.runtime.clone();
        let launch = Launch::new(id(&format!("s{n}")), ["/bin/sleep", "1000"]);
        launches.spawn(async move { runtime.launch(launch).await.expect("started") });
    }
    while launches.join_next().await.is_some() {}
    println!("{SLEEPERS} sleepers started in {:?}", before.elapsed());
    let supervisors = stage.supervisors();
    let memory: Vec<u64> = supervisors.iter().map(|pid| private_kib(*pid)).collect();
    println!(
        "{} supervisors of {} KiB each at most, {} KiB in all",
        memory.len(),
        memory.iter().max().copied().unwrap_or_default(),
        memory.iter().sum::<u64>()
    );
    let before = Instant::now();
    let mut stops = tokio::task::JoinSet::new();
    for n in 0..SLEEPERS {
        let runtime = stage.runtime.clone();
        stops.spawn(async move {
            let stopped = runtime.stop(&id(&format!("s{n}")), Duration::from_secs(10)).await;
            stopped.expect("ordered");
        });
    }
    while stops.join_next().await.is_some() {}
    for _ in 0..SLEEPERS {
        stage.any_end().await;
    }
    println!("and stopped in {:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_used_supervisors() {
    let mut stage = Stage::set().await;
    let root = root(stage.path());
    rate(&mut stage, 200, |n| contained(&root, &format!("u-{n}"))).await;
    for n in 0..AT_ONCE {
        let launch = Launch::new(id(&format!("s{n}")), ["/bin/sleep", "1000"]);
        stage.launch(launch).await.expect("started");
    }
    // What they give back they give when they have nothing else to do.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for pid in stage.supervisors() {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let (mut name, mut parts) = ("", BTreeMap::<&str, u64>::new());
        for line in text.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            match &words[..] {
                [_, rights, _, _, _, rest @ ..] => name = rest.first().unwrap_or(rights),
                ["Private_Dirty:" | "Private_Clean:", kib, _] => {
                    *parts.entry(name).or_default() += kib.parse::<u64>().unwrap_or_default();
                }
                _ => {}
            }
        }
        parts.retain(|_, kib| *kib > 0);
        println!("a used supervisor: {} KiB of {parts:?}", private_kib(pid));
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_a_line() {
    let mut stage = Stage::set().await;
    stage
        .launch(script("a", "for n in $(seq 200); do echo $n; sleep 0.01; done"))
        .await
        .expect("started");
    let request = LogRequest { follow: true, tail: None };
    let mut reader = stage.runtime.logs(&id("a"), request).await.expect("a log");
    let mut late = Vec::new();
    while let Some(record) = reader.next().await.expect("read") {
        let LogRecord::Output { unix_ns, .. } = record else { panic!("{record:?}") };
        let read = UNIX_EPOCH + Duration::from_nanos(unix_ns);
        late.push(SystemTime::now().duration_since(read).unwrap_or_default());
    }
    stage.end("a").await;
    println!("a line is followed {:?} after the supervisor read it", median(late));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
