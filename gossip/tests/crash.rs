//! A member that is killed, in a process of its own, and one that falls silent.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use gossip::raw::Raw;
use gossip::{Event, Purpose};
use gossip_core::id::{ContentHash, JobId};
use gossip_core::intent::Edit;
use gossip_core::invite::Token;
use gossip_core::market;
use gossip_core::slot::Generation;
use support::{Node, now};

const JOB: JobId = JobId::new([3; 16]);

fn submit(counter: u64) -> Edit {
    let spec = ContentHash::of(&counter.to_be_bytes());
    Edit::Submit { generation: Generation { counter, spec }, at: now() }
}

/// Runs as the child: joins, appends, says so, and waits to be killed.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn the_victim() {
    let Ok(token) = std::env::var("GOSSIP_TEST_TOKEN") else { return };
    let data = std::env::var("GOSSIP_TEST_DATA").expect("given");
    let token = Token::from_text(&token).expect("a token");
    let mut node = Node::in_directory(data.as_ref(), Purpose::Join(token)).await;
    node.open().await;
    node.edit(JOB, submit(1)).await;
    println!("durable");
    loop {
        node.next().await;
    }
}

/// A child that is killed whatever becomes of the test.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _dead_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test]
async fn who_was_killed_comes_back_with_all_it_acknowledged() {
    let mut a = Node::new(Purpose::Found).await;
    let dir = tempfile::tempdir().expect("tempdir");
    let token = a.invite(1).await.to_text().expect("text");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "the_victim", "--ignored", "--nocapture"])
        .env("GOSSIP_TEST_TOKEN", token)
        .env("GOSSIP_TEST_DATA", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let victim = Victim(child);
    let durable = tokio::task::spawn_blocking(move || {
        out.lines().map_while(Result::ok).any(|line| line.ends_with("durable"))
    });
    assert!(durable.await.expect("reads"), "the victim ended early");
    a.until_intent(JOB, |intent| intent.generations.len() == 1).await;
    let id = a.gossip.peers()[0].node;
    // Old enough that a new connection is no dial of both at once.
    let heard = |event: &Event| matches!(event, Event::Heard(node) if *node == id);
    for _ in 0..5 {
        a.until(heard).await;
    }
    drop(victim);

    let killed = std::time::Instant::now();
    let mut again = Node::on(dir, Purpose::Resume).await;
    assert_eq!(again.id(), id);
    assert_eq!(again.state.job(&JOB), a.state.job(&JOB));
    again.edit(JOB, submit(2)).await;
    a.until_intent(JOB, |intent| intent.generations.len() == 2).await;
    // The old connection, which nobody closed, does not swallow what is said now.
    let said = market::Message::Driving { job: JOB };
    let answer = async {
        loop {
            a.gossip.try_send(id, said.clone()).expect("has room");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = again.until(|event| matches!(event, Event::Market { .. })) => {}
        () = answer => {}
    }
    assert!(killed.elapsed() < std::time::Duration::from_secs(4), "{:?}", killed.elapsed());
    a.stop().await;
    again.stop().await;
}

#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let mut a = Node::new(Purpose::Found).await;
    let b = Node::join(a.invite(1).await).await;
    let (id, chain) = (b.id(), b.chain.clone());
    a.sees(id).await;
    let dir = b.stop().await;
    a.until(|event| matches!(event, Event::PeerDown(_))).await;
    let key = gossip::load_identity(dir.path()).expect("identity");
    let tcp = a.addresses.iter().find(|address| address.contains("/tcp/")).expect("listens");
    let raw = Raw::connect(&key, (a.cluster, chain), tcp).await.expect("let in");
    a.until(|event| matches!(event, Event::PeerUp(_))).await;
    let event = a.until(|event| matches!(event, Event::PeerDown(_) | Event::Heard(_))).await;
    assert!(matches!(event, Event::PeerDown(node) if node == id), "{event:?}");
    drop(raw);
    a.stop().await;
}
