//! Much at once, and slow or missing ways: bounded, and whole in the end.

mod support;

use std::collections::BTreeMap;
use std::net::UdpSocket;

use gossip::{Entry, Event, Purpose, StartError, Transport};
use gossip_core::fact::{Claim, ClaimState, OPEN_CLAIMS_MAX, Record};
use gossip_core::id::{ContentHash, JobId};
use gossip_core::slot::{Epoch, Generation, GroupName, SlotId};
use gossip_core::spec::{JobKind, JobSpec, Program, TaskSpec};
use support::Node;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A job's spec of about `bytes` bytes.
fn spec(number: usize, bytes: usize) -> Vec<u8> {
    let run = Program::process(vec!["true".into()], None);
    let env = BTreeMap::from([(format!("V{number}"), "x".repeat(bytes))]);
    let task = TaskSpec { env, ..TaskSpec::of(run) };
    let spec = JobSpec::of_task("web".into(), JobKind::Batch, 1, task);
    spec.to_blob().expect("encodes").1
}

#[tokio::test]
async fn a_long_log_reaches_a_late_comer_in_pieces() {
    let mut a = Node::new(Purpose::Found).await;
    let blobs: Vec<_> = (0..30).map(|number| spec(number, 100_000)).collect();
    for some in blobs.chunks(10) {
        let entries = some.iter().map(|blob| Entry::Fact(Record::Spec(blob.clone()))).collect();
        a.append(entries).await;
    }
    let mut b = Node::join(a.invite(1).await).await;
    let hashes: Vec<_> = blobs.iter().map(|blob| ContentHash::of(blob)).collect();
    b.until_state(|state| hashes.iter().all(|hash| state.spec(hash).is_some())).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_with_very_many_claims_opens_and_all_reach_the_others() {
    let mut a = Node::new(Purpose::Found).await;
    let mut b = Node::join(a.invite(1).await).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.sees(b_id).await;
    b.sees(a_id).await;
    let port = b.port();
    let mut b = Node::unopened(b.stop().await, Purpose::Resume, port).await;
    let claim = |index| Claim {
        slot: SlotId { job: JobId::new([3; 16]), group: GroupName::main(), index },
        generation: Generation { counter: 1, spec: ContentHash::of(b"spec") },
        epoch: Epoch { counter: 1, tender: u64::from(index) },
        state: ClaimState::Running,
        since: support::now(),
        restarts: 0,
        paused: false,
        health: None,
    };
    let holdings = (1..=OPEN_CLAIMS_MAX as u32).map(claim).collect();
    let open = Record::Open { card: b.card(), holdings };
    let rest = (OPEN_CLAIMS_MAX as u32 + 1..=12_000).map(claim).map(Record::Claim);
    b.append(std::iter::once(open).chain(rest).map(Entry::Fact).collect()).await;
    a.until_state(|state| state.holdings(&b_id).len() == 12_000).await;
    let again = Node::unopened(b.stop().await, Purpose::Resume, port).await;
    assert_eq!(again.state.holdings(&b_id).len(), 12_000);
    again.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn many_appends_are_all_confirmed_in_order() {
    let mut a = Node::new(Purpose::Found).await;
    let mut b = Node::join(a.invite(1).await).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.sees(b_id).await;
    b.sees(a_id).await;
    let tickets = 1_000_000..1_000_300;
    for ticket in tickets.clone() {
        let entries = vec![Entry::Fact(Record::Spec(spec(ticket as usize, 10)))];
        a.gossip.try_append(ticket, entries).expect("has room");
    }
    let (mut durable, mut persisted) = (Vec::new(), Vec::new());
    while persisted.len() < 300 {
        let event =
            a.until(|event| matches!(event, Event::Durable { .. } | Event::Persisted { .. }));
        match event.await {
            Event::Durable { ticket } => durable.push(ticket),
            Event::Persisted { ticket, by } if tickets.contains(&ticket) => {
                assert!(by == b_id && durable.contains(&ticket));
                persisted.push(ticket);
            }
            _ => {}
        }
    }
    assert_eq!(durable, tickets.collect::<Vec<_>>());
    assert_eq!(persisted, durable);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_all_open() {
    let mut a = Node::new(Purpose::Found).await;
    let mut b = Node::join(a.invite(1).await).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.sees(b_id).await;
    b.sees(a_id).await;
    let gossip = a.gossip.clone();
    let clients = async move {
        let mut clients = tokio::task::JoinSet::new();
        for n in 0..40_u8 {
            let gossip = gossip.clone();
            clients.spawn(async move {
                let mut stream = gossip.open_stream(b_id).await.expect("opens");
                stream.write_all(&[n]).await.expect("writes");
                stream.flush().await.expect("flushes");
                assert_eq!(stream.read_u8().await.expect("reads"), n);
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("is answered");
        }
    };
    let mut servers = tokio::task::JoinSet::new();
    let serving = async {
        for _ in 0..40 {
            let event = b.until(|event| matches!(event, Event::Stream { .. })).await;
            let Event::Stream { mut stream, .. } = event else { panic!("no stream") };
            servers.spawn(async move {
                let n = stream.read_u8().await.expect("reads");
                stream.write_all(&[n]).await.expect("writes");
                stream.flush().await.expect("flushes");
                let _end = stream.read_u8().await;
            });
        }
    };
    tokio::join!(clients, serving);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn where_udp_is_taken_tcp_serves_and_a_taken_port_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("socket");
    let port = taken.local_addr().expect("bound").port();
    let dir = tempfile::tempdir().expect("tempdir");
    let mut a = Node::unopened(dir, Purpose::Found, port).await;
    a.open().await;
    assert_eq!(a.addresses, [format!("/ip4/127.0.0.1/tcp/{port}")]);
    let second = tempfile::tempdir().expect("tempdir");
    let both = support::try_start_at(second.path(), Purpose::Found, port).await;
    assert!(matches!(both, Err(StartError::Listen { .. })), "{both:?}");
    let mut b = Node::join(a.invite(1).await).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.sees(b_id).await;
    b.sees(a_id).await;
    assert_eq!(b.gossip.peers()[0].transport, Transport::Tcp);
    a.stop().await;
    b.stop().await;
}
