//! Tasks that share one network: who comes in, who does not, and what stays when one of
//! them ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use runtime::{Container, End, Exec, Ids, LaunchError, Network, Piece, Protocol, Publish, Streams};

use crate::hosts;
use crate::image::{Image, refused, root_user, told};
use crate::stage::{Stage, id, script};

/// Shares the network of `other`.
fn of(other: &str) -> impl FnOnce(&mut Container) {
    let other = id(other);
    move |container| container.network = Network::Of(other)
}

#[tokio::test]
async fn tasks_of_one_network_talk_on_its_loopback_and_others_do_not() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    // A port that only root may have elsewhere.
    stage.launch(image.script("holder", "talk listen 80", |_| {})).await.expect("started");
    stage.says("holder", "ready").await;
    let stranger = image.script("stranger", "talk connect 80 || echo none", |_| {});
    assert_eq!(told(&mut stage, stranger).await, "none\n");
    told(&mut stage, image.script("member", "talk connect 80", of("holder"))).await;
    stage.says("holder", "heard hello").await;
    assert_eq!(stage.end("holder").await, End::Exited { code: 0 });
}

#[tokio::test]
async fn the_network_lives_until_the_last_of_its_tasks_ends() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    stage.launch(image.script("holder", "sleep 600", |_| {})).await.expect("started");
    let one = image.script("one", "readlink /proc/self/ns/net; talk listen 81", of("holder"));
    stage.launch(one).await.expect("started");
    stage.says("one", "ready").await;
    stage.runtime.stop(&id("holder"), Duration::ZERO).await.expect("ordered");
    stage.end("holder").await;
    let late = stage.launch(image.script("late", "true", of("holder"))).await;
    let Err(LaunchError::NotStarted { reason, .. }) = late else { panic!("{late:?}") };
    assert!(reason.contains("task holder does not run here"), "{reason}");
    // Who shares it may pass it on.
    told(&mut stage, image.script("two", "talk connect 81", of("one"))).await;
    let said = stage.says("one", "heard hello").await;
    assert_eq!(stage.end("one").await, End::Exited { code: 0 });
    let theirs = said.lines().next().expect("a line").to_owned();
    let lives = fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
        fs::read_link(entry.path().join("ns/net")).is_ok_and(|link| link.to_str() == Some(&theirs))
    });
    assert!(!lives, "{theirs} is still somebody's");
}

/// Whose ids the two have decides whose network it is.
#[tokio::test]
async fn a_network_is_shared_whoever_of_the_two_has_the_hosts_ids() {
    if !root_user() {
        return;
    }
    let host = fs::read_link("/proc/self/ns/net").expect("a link").display().to_string();
    for (first, second) in [(Ids::Host, Ids::Own), (Ids::Own, Ids::Host), (Ids::Host, Ids::Host)] {
        let what = format!("{first:?} and {second:?}");
        let mut stage = Stage::set().await;
        let image = Image::of(&stage);
        let where_ = "readlink /proc/self/ns/net";
        let holder = image.script("holder", &format!("{where_}; talk listen 80"), |container| {
            container.ids = first;
        });
        stage.launch(holder).await.expect("started");
        let theirs = stage.says("holder", "ready").await;
        let theirs = theirs.lines().next().expect("a line").to_owned();
        assert_ne!(theirs, host, "{what}");
        let text = format!("{where_}; talk connect 80; talk listen 81; sleep 60");
        let member = image.script("member", &text, |container| {
            container.ids = second;
            container.network = Network::Of(id("holder"));
        });
        stage.launch(member).await.expect("started");
        stage.says("holder", "heard hello").await;
        assert_eq!(stage.end("holder").await, End::Exited { code: 0 }, "{what}");
        // The first of them is gone, and its network goes on.
        let said = stage.says("member", "ready").await;
        assert_eq!(said.lines().next(), Some(theirs.as_str()), "{what}");
        assert_eq!(entered(&stage, "member", where_).await, format!("{theirs}\n"), "{what}");
        entered(&stage, "member", "talk connect 81").await;
        stage.says("member", "heard hello").await;
        stage.runtime.stop(&id("member"), Duration::ZERO).await.expect("ordered");
        stage.end("member").await;
    }
}

/// What a shell says that enters a task.
async fn entered(stage: &Stage, task: &str, text: &str) -> String {
    let argv = ["sh", "-c", text].map(str::to_owned).into();
    let exec =
        Exec { argv, env: BTreeMap::new(), directory: None, user: None, streams: Streams::Logged };
    let mut session = stage.runtime.exec(&id(task), exec).await.expect("a session");
    let mut said = String::new();
    loop {
        match session.output.next().await.expect("an end") {
            Piece::Stdout(bytes) => said += &String::from_utf8_lossy(&bytes),
            Piece::Stderr(bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
            Piece::Ended(end) => {
                assert_eq!(end, End::Exited { code: 0 }, "{said}");
                return said;
            }
        }
    }
}

#[tokio::test]
async fn nobody_comes_to_the_hosts_network_or_a_strangers_by_sharing() {
    if !root_user() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    stage.launch(script("process", "sleep 600")).await.expect("started");
    let host = |container: &mut Container| container.network = Network::Host;
    stage.launch(image.script("host", "sleep 600", host)).await.expect("started");
    for (task, other) in [("a", "process"), ("b", "host")] {
        let reason = refused(&mut stage, image.script(task, "true", of(other))).await;
        assert!(reason.contains("has no network of its own to share"), "{other}: {reason}");
    }
    let reason = refused(&mut stage, image.script("c", "true", of("nobody"))).await;
    assert!(reason.contains("task nobody does not run here"), "{reason}");
    // Its number is somebody else's now, so the record says.
    stage.launch(image.script("gone", "sleep 600", |_| {})).await.expect("started");
    let state = stage.state("gone");
    let (before, mark) = state.split_once("{\"task\":").expect("a mark");
    let start: u64 = number_after(mark, "\"start\":");
    let forged = mark.replace(&format!("\"start\":{start}"), &format!("\"start\":{}", start - 1));
    assert_ne!(forged, mark);
    fs::write(stage.file("gone", "state"), format!("{before}{{\"task\":{forged}"))
        .expect("written");
    let reason = refused(&mut stage, image.script("d", "true", of("gone"))).await;
    assert!(reason.contains("task gone does not run here"), "{reason}");
    fs::write(stage.file("gone", "state"), state).expect("written");
    told(&mut stage, image.script("e", "true", of("gone"))).await;
}

/// On a host of its own, for the bridge is a host's.
#[test]
fn published_ports_and_names_of_the_first_are_those_of_all() {
    hosts::on_a_host(|| {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        tokio.expect("a runtime").block_on(async {
            let mut stage = Stage::set().await;
            let image = Image::of(&stage);
            let (host_port, port, protocol) = (8080, 80, Protocol::Tcp);
            let publish = vec![Publish { host_ip: None, host_port, port, protocol }];
            let bridge = |container: &mut Container| {
                container.network = Network::Bridge { publish };
                container.hostname = Some("front".into());
            };
            let holder = image.script("holder", "cat /etc/hosts; echo ready; sleep 600", bridge);
            stage.launch(holder).await.expect("started");
            let names = stage.says("holder", "ready").await;
            let text = "cat /etc/hosts; talk listen 80";
            stage.launch(image.script("member", text, of("holder"))).await.expect("started");
            let same = stage.says("member", "ready").await;
            assert!(names.contains("front") && names == same, "{names}\n{same}");
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 8080)).expect("connected");
            stream.write_all(b"hello").expect("sent");
            drop(stream);
            stage.says("member", "heard hello").await;
            assert_eq!(stage.end("member").await, End::Exited { code: 0 });
            stage.runtime.stop(&id("holder"), Duration::ZERO).await.expect("ordered");
            stage.end("holder").await;
            stage.runtime.stop_keeper();
            stage.runtime.shut_down().await;
        });
    });
}

fn number_after(text: &str, name: &str) -> u64 {
    let rest = text.split_once(name).expect("named").1;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}
