//! How long tasks take that do nothing. Not tests: they have no opinion.
//!
//! `cargo test --release -p runtime --test tasks -- --ignored --nocapture --test-threads 1 speed`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runtime::{Launch, Limits, LogRecord, LogRequest};

use crate::stage::{Stage, id, script};

const ONE_BY_ONE: u32 = 500;
const MANY: u32 = 10_000;
const AT_ONCE: u32 = 8;
const SLEEPERS: u32 = 1_000;

/// Does nothing; or, given a number, runs itself so often: fork, exec, wait.
const SOURCE: &str = r#"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count < 2) return 0;
    char *own[] = { words[0], 0 };
    for (int n = atoi(words[1]); n > 0; n--) {
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
    let status = Command::new(program).arg(count.to_string()).status();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
        let rate = rate(&mut stage, &program, round).await;
        println!(
            "{AT_ONCE} at once: {rate:.0} a second; xargs {floor:.0}; ratio {:.2}",
            rate / floor
        );
    }
}

async fn rate(stage: &mut Stage, program: &Path, round: u32) -> f64 {
    let before = Instant::now();
    let (mut next, mut flying) = (0, 0);
    let mut ended = 0;
    while ended < MANY {
        while next < MANY && flying < AT_ONCE {
            let (runtime, launch) =
                (stage.runtime.clone(), limited(&format!("m-{round}-{next}"), program));
            tokio::spawn(async move { runtime.launch(launch).await.expect("started") });
            (next, flying) = (next + 1, flying + 1);
        }
        stage.any_end().await;
        (ended, flying) = (ended + 1, flying - 1);
    }
    f64::from(MANY) / before.elapsed().as_secs_f64()
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
