//! What is typed into a task, and terminals.

use std::time::Duration;

use runtime::{ControlError, End, Launch, LogStream, Streams};
use tokio::time::timeout;

use crate::stage::{PATIENCE, Stage, id, script};

fn typed(name: &str, text: &str) -> Launch {
    Launch { streams: Streams::Input, ..script(name, text) }
}

fn in_terminal(name: &str, text: &str) -> Launch {
    Launch { streams: Streams::Terminal { rows: 24, columns: 80 }, ..script(name, text) }
}

#[tokio::test]
async fn what_is_typed_is_read_and_its_end_too() {
    let mut stage = Stage::set().await;
    stage.launch(typed("a", "cat; echo over; exit 3")).await.expect("started");
    let mut attached = stage.runtime.attach(&id("a")).await.expect("attached");
    attached.write(b"one\n").await.expect("typed");
    stage.says("a", "one").await;
    // Who comes second types too.
    let mut second = stage.runtime.attach(&id("a")).await.expect("attached");
    second.write(b"two\n").await.expect("typed");
    stage.says("a", "two").await;
    attached.close().await.expect("closed");
    assert_eq!(stage.end("a").await, End::Exited { code: 3 });
    assert_eq!(stage.text("a", LogStream::Stdout).await, "one\ntwo\nover\n");
    let late = stage.runtime.attach(&id("a")).await;
    assert!(matches!(late, Err(ControlError::NotRunning { .. })), "{late:?}");
}

#[tokio::test]
async fn a_long_text_arrives_whole_however_slowly_it_is_read() {
    let mut stage = Stage::set().await;
    let count = "until [ -e go ]; do sleep 0.005; done; wc -c";
    stage.launch(typed("a", count)).await.expect("started");
    let mut attached = stage.runtime.attach(&id("a")).await.expect("attached");
    let text = vec![b'x'; 3 << 20];
    let writing = async {
        attached.write(&text).await.expect("typed");
        attached.close().await.expect("closed");
    };
    tokio::pin!(writing);
    // Nobody reads: the writer waits, and the supervisor does not.
    assert!(timeout(Duration::from_millis(100), &mut writing).await.is_err());
    stage.runtime.signal(&id("a"), 18, runtime::Recipient::Main).await.expect("heard");
    std::fs::write(stage.file("a", "scratch").join("go"), "").expect("told");
    timeout(PATIENCE, writing).await.expect("in time");
    assert_eq!(stage.end("a").await, End::Exited { code: 0 });
    let said = stage.text("a", LogStream::Stdout).await;
    assert_eq!(said.trim(), (3 << 20).to_string());
}

#[tokio::test]
async fn a_task_that_ends_ends_whoever_types() {
    let mut stage = Stage::set().await;
    stage.launch(typed("a", "read x; exit 4")).await.expect("started");
    let mut attached = stage.runtime.attach(&id("a")).await.expect("attached");
    attached.write(b"x\n").await.expect("typed");
    assert_eq!(stage.end("a").await, End::Exited { code: 4 });
    let gone = async { while attached.write(&[b'y'; 4096]).await.is_ok() {} };
    timeout(PATIENCE, gone).await.expect("told in time");
}

#[tokio::test]
async fn a_task_without_input_has_nothing_to_attach_to() {
    let stage = Stage::set().await;
    stage.start("a", "sleep 600").await;
    let attached = stage.runtime.attach(&id("a")).await;
    assert!(matches!(attached, Err(ControlError::Refused { .. })), "{attached:?}");
    stage.runtime.stop(&id("a"), Duration::ZERO).await.expect("ordered");
}

#[tokio::test]
async fn a_terminal_is_one_with_a_size_that_changes() {
    let mut stage = Stage::set().await;
    let text = "trap 'stty size; echo changed' WINCH
        [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && [ -w /dev/tty ] && echo terminal
        stty -echo; stty size; echo ready
        while :; do read x && { echo \"got $x\"; break; }; done; exit 5";
    stage.launch(in_terminal("a", text)).await.expect("started");
    let said = stage.says("a", "ready\r\n").await;
    assert_eq!(said, "terminal\r\n24 80\r\nready\r\n");
    let mut attached = stage.runtime.attach(&id("a")).await.expect("attached");
    attached.resize(50, 132).await.expect("resized");
    // The shell's `read` goes on after the trap, or is interrupted by it.
    attached.write(b"word\n").await.expect("typed");
    let said = stage.says("a", "got word").await;
    assert!(said.contains("50 132\r\nchanged"), "{said:?}");
    assert_eq!(stage.end("a").await, End::Exited { code: 5 });
}

#[tokio::test]
async fn the_end_of_input_and_an_interrupt_can_be_typed() {
    let mut stage = Stage::set().await;
    stage.launch(in_terminal("a", "cat; exit 6")).await.expect("started");
    let attached = stage.runtime.attach(&id("a")).await.expect("attached");
    attached.close().await.expect("closed");
    assert_eq!(stage.end("a").await, End::Exited { code: 6 });
    stage.launch(in_terminal("b", "echo ready; exec sleep 600")).await.expect("started");
    stage.says("b", "ready").await;
    let mut attached = stage.runtime.attach(&id("b")).await.expect("attached");
    attached.write(&[3]).await.expect("typed");
    assert_eq!(stage.end("b").await, End::Signalled { signal: 2 });
}

#[tokio::test]
async fn a_restarted_agent_types_on() {
    let stage = Stage::set().await;
    stage.launch(typed("a", "cat; exit 7")).await.expect("started");
    let mut attached = stage.runtime.attach(&id("a")).await.expect("attached");
    attached.write(b"one\n").await.expect("typed");
    stage.says("a", "one").await;
    drop(attached);
    let (mut stage, _) = Stage::reopen(stage.close()).await;
    let mut attached = stage.runtime.attach(&id("a")).await.expect("attached");
    attached.write(b"two\n").await.expect("typed");
    attached.close().await.expect("closed");
    assert_eq!(stage.end("a").await, End::Exited { code: 7 });
    assert_eq!(stage.text("a", LogStream::Stdout).await, "one\ntwo\n");
}
