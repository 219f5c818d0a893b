//! Some members on one host: what is appended on one is known to all, and
//! merges whatever the order; what is gone is not lost.

mod support;

use std::collections::BTreeSet;

use gossip::{Entry, Event, Purpose, Transport};
use gossip_core::fact::Record;
use gossip_core::id::{ContentHash, JobId};
use gossip_core::intent::{Edit, JobIntent};
use gossip_core::market;
use gossip_core::slot::Generation;
use support::{Node, SOON, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const JOB: JobId = JobId::new([3; 16]);

fn submit(counter: u64) -> Edit {
    let spec = ContentHash::of(&counter.to_be_bytes());
    Edit::Submit { generation: Generation { counter, spec }, at: now() }
}

async fn pair() -> (Node, Node) {
    let mut a = Node::new(Purpose::Found).await;
    let mut b = Node::join(a.invite(1).await).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.sees(b_id).await;
    b.sees(a_id).await;
    (a, b)
}

#[tokio::test]
async fn two_nodes_join_and_see_each_other() {
    let mut a = Node::new(Purpose::Found).await;
    let mut b = Node::join(a.invite(1).await).await;
    assert_eq!(a.cluster, b.cluster);
    let (a_id, b_id) = (a.id(), b.id());
    a.until(|event| matches!(event, Event::PeerUp(node) if *node == b_id)).await;
    a.sees(b_id).await;
    b.sees(a_id).await;
    assert_eq!(a.state, b.state);
    assert_eq!(b.gossip.peers()[0].node, a_id);
    assert_eq!(b.gossip.peers()[0].transport, Transport::Quic);
    b.stop().await;
    a.until(|event| matches!(event, Event::PeerDown(node) if *node == b_id)).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_is_confirmed_here_then_there() {
    let (mut a, mut b) = pair().await;
    let by = b.id();
    let ticket = a.edit(JOB, submit(1)).await;
    let is_stored = |event: &Event| matches!(event, Event::Persisted { ticket: t, by: b } if (*t, *b) == (ticket, by));
    a.until(is_stored).await;
    b.until_intent(JOB, |intent| intent.generations.len() == 1).await;
    // Said already, so it changes nothing and is stored at once wherever the log is.
    let ticket = a.edit(JOB, submit(1)).await;
    a.until(|event| matches!(event, Event::Persisted { ticket: t, .. } if *t == ticket)).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn edits_made_apart_merge_to_one_intent() {
    let (mut a, mut b) = pair().await;
    a.edit(JOB, submit(1)).await;
    b.until_intent(JOB, |intent| intent.generations.len() == 1).await;
    let (b_id, port) = (b.id(), b.port());
    // Each edits while the other is away.
    let b_dir = b.stop().await;
    a.until(|event| matches!(event, Event::PeerDown(node) if *node == b_id)).await;
    a.edit(JOB, submit(2)).await;
    let a_dir = a.stop().await;
    let mut b = Node::again(b_dir, port).await;
    b.edit(JOB, submit(3)).await;
    b.edit(JOB, Edit::Stop).await;
    let mut a = Node::again(a_dir, 0).await;
    let is_whole = |intent: &JobIntent| intent.generations.len() == 3 && intent.stopped;
    a.until_intent(JOB, is_whole).await;
    b.until_intent(JOB, is_whole).await;
    assert_eq!(a.state.job(&JOB), b.state.job(&JOB));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_restart_replays_with_nobody_there() {
    let mut a = Node::new(Purpose::Found).await;
    a.edit(JOB, submit(1)).await;
    a.edit(JOB, Edit::Stop).await;
    let (before, log) = (a.state.clone(), a.log);
    let dir = a.stop().await;
    let again = Node::unopened(dir, Purpose::Found, 0).await;
    assert_eq!(again.state, before);
    assert!(again.log > log, "a greater log");
    again.stop().await;
}

#[tokio::test]
async fn who_joins_late_gets_everything_also_from_those_gone() {
    let (mut a, mut b) = pair().await;
    b.edit(JOB, submit(1)).await;
    let mut records = Vec::new();
    for n in 0..40_u32 {
        let blob = vec![n as u8; 1000];
        records.push(Entry::Fact(Record::Spec(blob)));
    }
    // No specs, so nothing of it is written; the job after it still goes through.
    b.gossip.try_append(0, records).expect("has room");
    b.until(|event| matches!(event, Event::Refused { ticket: 0, .. })).await;
    b.edit(JOB, submit(2)).await;
    a.until_intent(JOB, |intent| intent.generations.len() == 2).await;
    let b_id = b.id();
    b.stop().await;
    let mut c = Node::join(a.invite(1).await).await;
    c.until_intent(JOB, |intent| intent.generations.len() == 2).await;
    c.sees(b_id).await;
    let (a_id, c_id) = (a.id(), c.id());
    a.sees(c_id).await;
    c.sees(a_id).await;
    assert_eq!(a.state, c.state);
    a.stop().await;
    c.stop().await;
}

#[tokio::test]
async fn three_nodes_find_each_other_through_one() {
    let (mut a, mut b) = pair().await;
    let mut c = Node::join(b.invite(1).await).await;
    let (b_id, c_id) = (b.id(), c.id());
    a.sees(c_id).await;
    let ids: BTreeSet<_> = [b_id, c_id].into();
    // They dial each other by what the cards say.
    while a.gossip.peers().iter().map(|peer| peer.node).collect::<BTreeSet<_>>() != ids {
        a.until(|event| matches!(event, Event::PeerUp(_))).await;
    }
    c.edit(JOB, submit(1)).await;
    for node in [&mut a, &mut b] {
        node.until_intent(JOB, |intent| intent.generations.len() == 1).await;
    }
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn the_market_speaks_both_ways_and_to_itself() {
    let (mut a, mut b) = pair().await;
    let said = market::Message::Driving { job: JOB };
    let (a_id, b_id) = (a.id(), b.id());
    let from = |who| {
        let said = said.clone();
        move |event: &Event| matches!(event, Event::Market { from, message } if *from == who && *message == said)
    };
    a.gossip.try_send(b_id, said.clone()).expect("has room");
    b.until(from(a_id)).await;
    b.gossip.try_send(a_id, said.clone()).expect("has room");
    a.until(from(b_id)).await;
    a.gossip.try_send(a_id, said.clone()).expect("has room");
    a.until(from(a_id)).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn the_last_words_before_the_end_reach_the_others() {
    for transport in ["/udp/", "/tcp/"] {
        let mut a = Node::new(Purpose::Found).await;
        let mut token = a.invite(1).await;
        token.addresses.retain(|address| address.contains(transport));
        let mut b = Node::join(token).await;
        let (a_id, b_id) = (a.id(), b.id());
        a.sees(b_id).await;
        b.sees(a_id).await;
        let away = market::Message::Away { for_ms: 1000 };
        let jobs: Vec<_> = (0..20).map(|n| JobId::new([n; 16])).collect();
        for (ticket, &job) in jobs.iter().enumerate() {
            let entries = vec![Entry::Edit { job, edit: submit(1) }];
            a.gossip.try_append(1_000_000 + ticket as u64, entries).expect("has room");
        }
        a.gossip.try_send(b_id, away.clone()).expect("has room");
        a.stop().await;
        let is_it = |event: &Event| matches!(event, Event::Market { from, message } if *from == a_id && *message == away);
        b.until(is_it).await;
        b.until_state(|state| jobs.iter().all(|job| state.job(job).is_some())).await;
        b.stop().await;
    }
}

#[tokio::test]
async fn nodes_that_end_at_once_do_not_wait_for_each_other() {
    let (a, b) = pair().await;
    let (a_id, b_id) = (a.id(), b.id());
    let said = market::Message::Away { for_ms: 1000 };
    a.gossip.try_send(b_id, said.clone()).expect("has room");
    b.gossip.try_send(a_id, said).expect("has room");
    let both = async { tokio::join!(a.stop(), b.stop()) };
    tokio::time::timeout(SOON, both).await.expect("end");
}

#[tokio::test]
async fn adverts_reach_the_others_and_life_is_heard() {
    let (a, mut b) = pair().await;
    let say = gossip::Say {
        free: gossip_core::resources::DEFAULT_ASK,
        capacity: gossip_core::resources::DEFAULT_ASK,
        running: 7,
        bidding: true,
    };
    a.gossip.try_publish(say);
    let a_id = a.id();
    let is_it = |event: &Event| matches!(event, Event::Advert(advert) if advert.log.node == a_id && advert.running == 7);
    b.until(is_it).await;
    b.until(|event| matches!(event, Event::Heard(node) if *node == a_id)).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways() {
    let (a, mut b) = pair().await;
    let (a_id, b_id) = (a.id(), b.id());
    let client = async {
        let mut stream = a.gossip.open_stream(b_id).await.expect("opens");
        stream.write_all(b"ping").await.expect("writes");
        stream.shutdown().await.expect("ends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        answer
    };
    let server = async {
        let event = b.until(|event| matches!(event, Event::Stream { .. })).await;
        let Event::Stream { from, mut stream } = event else { panic!("no stream") };
        assert_eq!(from, a_id);
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.expect("reads");
        assert_eq!(request, b"ping");
        stream.write_all(&vec![5; 100_000]).await.expect("writes");
        stream.shutdown().await.expect("ends");
    };
    let (answer, ()) = tokio::join!(client, server);
    assert_eq!(answer.len(), 100_000);
    let nobody = gossip_core::sign::Key::from_seed([77; 32]).id();
    assert!(a.gossip.open_stream(nobody).await.is_err());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn tcp_alone_is_enough() {
    let mut a = Node::new(Purpose::Found).await;
    let mut token = a.invite(1).await;
    token.addresses.retain(|address| address.contains("/tcp/"));
    let mut b = Node::join(token).await;
    let (a_id, b_id) = (a.id(), b.id());
    assert_eq!(b.gossip.peers().len(), 1);
    a.sees(b_id).await;
    b.sees(a_id).await;
    assert_eq!(b.gossip.peers()[0].transport, Transport::Tcp);
    let ticket = b.edit(JOB, submit(1)).await;
    b.until(|event| matches!(event, Event::Persisted { ticket: t, .. } if *t == ticket)).await;
    a.until_intent(JOB, |intent| intent.generations.len() == 1).await;
    a.stop().await;
    b.stop().await;
}
