//! What a member may ask of another: no more than what only that one has.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use gossip::{Config, Event, PeerStream, Purpose, Started};
use gossip_core::invite::Token;
use support::cluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn ask(mut stream: PeerStream, request: &str) -> String {
    let body = r#"{"role":"member","uses":1,"ttl_s":60}"#;
    let head = format!(
        "{request} HTTP/1.1\r\nhost: member\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("asks");
    stream.flush().await.expect("asks");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("is answered");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Goal: a member that is not what it should be cannot act in the name of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_served_what_users_are() {
    let hosts = cluster(1);
    let host = hosts[0].json(&["status"])["node"].as_str().expect("a key").to_owned();
    let host = host.parse().expect("a node");
    let home = tempfile::tempdir().expect("a directory");
    let token = Token::from_text(&hosts[0].invite(1)).expect("a token");
    let key = gossip::load_identity(home.path()).expect("a key");
    let listen = vec![([127, 0, 0, 1], 0).into()];
    let config = Config { data: home.path().to_owned(), listen, announce: Vec::new() };
    let started = gossip::start(config, key, Purpose::Join(token)).await.expect("joins");
    let Started { gossip, mut events, .. } = started;
    while gossip.peers().iter().all(|peer| peer.node != host) {
        let event = tokio::time::timeout(support::PATIENCE, events.recv()).await;
        assert!(!matches!(event, Err(_) | Ok(None | Some(Event::Failed(_)))), "{event:?}");
    }
    for request in [
        "POST /v1/invitations",
        "POST /v1/down",
        "POST /v1/jobs",
        "POST /v1/jobs/web/stop",
        "DELETE /v1/jobs/web",
        "GET /v1/status",
        "GET /v1/jobs/web/logs",
    ] {
        let answer = ask(gossip.open_stream(host).await.expect("a stream"), request).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
        assert!(answer.contains("no_such_route"), "{request}: {answer}");
    }
    let opinion = format!("GET /v1/local/opinion/{}", "07".repeat(16));
    let answer = ask(gossip.open_stream(host).await.expect("a stream"), &opinion).await;
    assert!(answer.contains("no_such_job"), "it is asked: {answer}");
    gossip.shut_down().await;
}
