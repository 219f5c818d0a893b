//! What a task writes is read back, whole and in time.

use std::time::{Duration, Instant};

use runtime::{LogError, LogRecord, LogRequest, LogStream};
use tokio::time::timeout;

use crate::stage::{PATIENCE, Stage, id};

#[tokio::test]
async fn both_streams_come_in_order_while_the_task_runs() {
    let mut stage = Stage::set().await;
    let text = "for n in 1 2 3; do echo out $n; echo err $n >&2; until [ -e $n ]; do sleep 0.005; done; done";
    stage.start("a", text).await;
    let request = LogRequest { follow: true, tail: None };
    let mut reader = stage.runtime.logs(&id("a"), request).await.expect("a log");
    for n in 1..=3 {
        let (mut out, mut err) = (String::new(), String::new());
        while out.len() < 6 || err.len() < 6 {
            match timeout(PATIENCE, reader.next()).await.expect("in time").expect("read") {
                Some(LogRecord::Output { stream: LogStream::Stdout, bytes, .. }) => {
                    out += &String::from_utf8_lossy(&bytes);
                }
                Some(LogRecord::Output { stream: LogStream::Stderr, bytes, .. }) => {
                    err += &String::from_utf8_lossy(&bytes);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((out, err), (format!("out {n}\n"), format!("err {n}\n")));
        // Only now does it go on: each line came while the task was waiting.
        std::fs::write(stage.file("a", "scratch").join(n.to_string()), "").expect("told");
    }
    let last = timeout(PATIENCE, reader.next()).await.expect("in time").expect("read");
    assert_eq!(last, None);
    stage.end("a").await;
}

#[tokio::test]
async fn a_reader_that_is_not_waited_for_loses_nothing() {
    let stage = Stage::set().await;
    // In the middle it waits until the reader has given up once.
    let text = "n=0; while [ $n -lt 3000 ]; do echo $n; n=$((n + 1))
        [ $n != 1500 ] || while [ ! -e go ]; do sleep 0.01; done; done";
    stage.start("a", text).await;
    let request = LogRequest { follow: true, tail: None };
    let mut reader = stage.runtime.logs(&id("a"), request).await.expect("a log");
    let (mut text, mut given_up) = (String::new(), 0);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "in time");
        match timeout(Duration::ZERO, reader.next()).await {
            Err(_not_yet) => {
                given_up += 1;
                if given_up == 1 {
                    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
                }
                tokio::task::yield_now().await;
            }
            Ok(Ok(Some(LogRecord::Output { bytes, .. }))) => {
                text += &String::from_utf8_lossy(&bytes);
            }
            Ok(Ok(None)) => break,
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert!(given_up > 0);
    assert_eq!(text, (0..3000).map(|n| format!("{n}\n")).collect::<String>());
}

#[tokio::test]
async fn a_flood_of_lines_comes_complete() {
    let stage = Stage::set().await;
    stage.start("a", "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i; done").await;
    let wanted: String = (1..=1000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(stage.text("a", LogStream::Stdout).await, wanted);
    // Once more, from what is on disk.
    assert_eq!(stage.text("a", LogStream::Stdout).await, wanted);
}

#[tokio::test]
async fn a_rotation_while_following_loses_nothing() {
    let stage = Stage::set().await;
    // 12 MiB: more than one file, no more than two.
    stage.start("a", "head -c 12582912 /dev/zero | tr '\\0' x; echo end").await;
    let output = stage.output("a").await;
    let length: usize = output.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(length, 12_582_912 + 4);
    assert!(stage.file("a", "log.1").exists());
}

#[tokio::test]
async fn output_beyond_the_bound_drops_the_oldest_and_says_so() {
    let mut stage = Stage::set().await;
    // More than two files of eight MiB.
    stage.start("a", "head -c 25165824 /dev/zero | tr '\\0' x; echo end").await;
    stage.end("a").await;
    let mut reader = stage.runtime.logs(&id("a"), LogRequest::default()).await.expect("a log");
    assert_eq!(reader.next().await.expect("read"), Some(LogRecord::Missing { bytes: None }));
    let (mut length, mut last) = (0, Vec::new());
    while let Some(record) = reader.next().await.expect("read") {
        let LogRecord::Output { bytes, .. } = record else { panic!("{record:?}") };
        length += bytes.len();
        last = bytes;
    }
    assert!(last.ends_with(b"end\n"));
    assert!((8 << 20..16 << 20).contains(&length), "{length}");
    let files = std::fs::read_dir(stage.path().join("tasks/a")).expect("listed").flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log."));
    assert_eq!(logs.count(), 2);
}

#[tokio::test]
async fn the_tail_of_a_running_task_is_its_last_lines_and_what_follows() {
    let mut stage = Stage::set().await;
    stage
        .start("a", "seq 1 100; echo ready; until [ -e go ]; do sleep 0.005; done; echo last")
        .await;
    stage.says("a", "ready").await;
    let request = LogRequest { follow: true, tail: Some(2) };
    let mut reader = stage.runtime.logs(&id("a"), request).await.expect("a log");
    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
    let mut said = String::new();
    while let Some(record) = timeout(PATIENCE, reader.next()).await.expect("in time").expect("read")
    {
        if let LogRecord::Output { bytes, .. } = record {
            said += &String::from_utf8_lossy(&bytes);
        }
    }
    assert_eq!(said, "100\nready\nlast\n");
    stage.end("a").await;
}

#[tokio::test]
async fn a_silent_task_has_an_empty_log_and_an_unknown_one_none() {
    let mut stage = Stage::set().await;
    stage.start("a", "true").await;
    stage.end("a").await;
    assert!(stage.output("a").await.is_empty());
    let unknown = stage.runtime.logs(&id("b"), LogRequest::default()).await;
    assert!(matches!(unknown, Err(LogError::Unknown { .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_process_that_keeps_the_pipe_does_not_keep_the_end() {
    let mut stage = Stage::set().await;
    // Far longer than anything here is waited for.
    stage.start("a", "setsid sleep 600 & echo done").await;
    stage.end("a").await;
    assert_eq!(stage.text("a", LogStream::Stdout).await, "done\n");
}

#[tokio::test]
async fn a_follower_ends_when_the_task_is_removed_under_it() {
    let mut stage = Stage::set().await;
    stage.start("a", "echo ready; until [ -e go ]; do sleep 0.005; done").await;
    stage.says("a", "ready").await;
    let request = LogRequest { follow: true, tail: Some(0) };
    let mut reader = stage.runtime.logs(&id("a"), request).await.expect("a log");
    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
    stage.end("a").await;
    stage.runtime.remove(&id("a")).await.expect("removed");
    let last = timeout(PATIENCE, reader.next()).await.expect("in time").expect("read");
    assert_eq!(last, None);
}

/// Directories of removed tasks are used again.
#[tokio::test]
async fn a_follower_of_a_removed_task_hears_nothing_of_later_ones() {
    let mut stage = Stage::set().await;
    stage.start("first", "true").await;
    stage.end("first").await;
    let request = LogRequest { follow: true, tail: None };
    let mut reader = stage.runtime.logs(&id("first"), request).await.expect("a log");
    stage.runtime.remove(&id("first")).await.expect("removed");
    for n in 0..20 {
        let name = format!("later-{n}");
        stage.start(&name, "echo a secret").await;
        stage.end(&name).await;
        stage.runtime.remove(&id(&name)).await.expect("removed");
    }
    let last = timeout(PATIENCE, reader.next()).await.expect("in time").expect("read");
    assert_eq!(last, None);
    // And a task that wrote nothing before it was removed leaves nothing to the next.
    for n in 0..20 {
        let name = format!("quiet-{n}");
        stage.start(&name, "true").await;
        stage.end(&name).await;
        assert_eq!(stage.output(&name).await, []);
        stage.runtime.remove(&id(&name)).await.expect("removed");
    }
}
