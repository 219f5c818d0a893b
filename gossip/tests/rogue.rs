//! A member that does not behave, and a stranger: neither hurts the others.

mod support;

use gossip::raw::Raw;
use gossip::{Event, Purpose};
use gossip_core::fact::Record;
use gossip_core::grant::Chain;
use gossip_core::id::{ContentHash, JobId};
use gossip_core::intent::Edit;
use gossip_core::log::{Batch, LogId};
use gossip_core::market;
use gossip_core::sign::Key;
use gossip_core::slot::Generation;
use gossip_core::wire::Frame;
use support::{Node, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const JOB: JobId = JobId::new([3; 16]);

/// A member's key, chain and card; the member itself is gone.
struct Rogue {
    key: Key,
    chain: Chain,
    card: gossip_core::fact::NodeCard,
}

async fn cluster_with_rogue() -> (Node, Rogue) {
    let mut a = Node::new(Purpose::Found).await;
    let b = Node::join(a.invite(1).await).await;
    let (id, chain, card) = (b.id(), b.chain.clone(), b.card());
    a.sees(id).await;
    let dir = b.stop().await;
    a.until(|event| matches!(event, Event::PeerDown(_))).await;
    let key = gossip::load_identity(dir.path()).expect("identity");
    (a, Rogue { key, chain, card })
}

impl Rogue {
    async fn connect(&self, to: &mut Node) -> Raw {
        let member = (to.cluster, self.chain.clone());
        let raw = Raw::connect(&self.key, member, &to.addresses[0]).await.expect("let in");
        let id = self.key.id();
        to.until(|event| matches!(event, Event::PeerUp(node) if *node == id)).await;
        raw
    }

    fn log(&self, start: u64) -> LogId {
        LogId { node: self.key.id(), start, nonce: 9 }
    }

    fn batch(&self, to: &Node, log: LogId, first: u64, records: Vec<Vec<u8>>) -> Batch {
        Batch::sign(&self.key, &to.cluster, log, first, records)
    }

    fn opening(&self) -> Vec<u8> {
        let open = Record::Open { card: self.card.clone(), holdings: vec![] };
        open.encode().expect("encodes")
    }
}

async fn say(raw: &mut Raw, frames: &[Frame]) -> gossip::PeerStream {
    let mut stream = raw.open().await.expect("opens");
    for frame in frames {
        stream.write_all(&frame.encode().expect("encodes")).await.expect("writes");
    }
    stream.flush().await.expect("flushes");
    stream
}

/// A stream of its own still works, and the connection was never lost.
async fn still_works(a: &mut Node, raw: &mut Raw, mark: u8) {
    let job = JobId::new([mark; 16]);
    let _open = say(raw, &[Frame::Market(market::Message::Driving { job })]).await;
    let said = market::Message::Driving { job };
    let event = a
        .until(|event| match event {
            Event::Market { message, .. } => *message == said,
            Event::PeerDown(_) => true,
            _ => false,
        })
        .await;
    assert!(matches!(event, Event::Market { .. }), "{event:?}");
}

async fn is_closed(mut stream: gossip::PeerStream) {
    let ended = tokio::time::timeout(support::SOON, stream.read(&mut [0; 1])).await;
    assert!(matches!(ended.expect("closed in time"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn garbage_ends_its_stream_and_nothing_else() {
    let (mut a, rogue) = cluster_with_rogue().await;
    let mut raw = rogue.connect(&mut a).await;
    let garbage: [&[u8]; 3] = [
        // A vector that is none, a frame beyond all bounds, a length that hides a huge list.
        &[1, 1, 0, 0, 0, 3, 0xff, 0xff, 0xff],
        &[1, 1, 0xff, 0xff, 0xff, 0xff],
        &[3, 1, 0, 0, 0, 9, 253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    for (mark, bytes) in (1..).zip(garbage) {
        let mut stream = raw.open().await.expect("opens");
        stream.write_all(bytes).await.expect("writes");
        stream.flush().await.expect("flushes");
        is_closed(stream).await;
        still_works(&mut a, &mut raw, mark).await;
    }
    // What only newer versions say is skipped, and the stream goes on.
    let mut stream = raw.open().await.expect("opens");
    let known = Frame::Market(market::Message::Driving { job: JobId::new([9; 16]) });
    let bytes = [&[99, 1, 0, 0, 0, 1, 7], known.encode().expect("encodes").as_slice()].concat();
    stream.write_all(&bytes).await.expect("writes");
    a.until(|event| matches!(event, Event::Market { .. })).await;
    a.stop().await;
}

#[tokio::test]
async fn a_poison_change_is_named_and_all_else_works() {
    let (mut a, rogue) = cluster_with_rogue().await;
    let mut raw = rogue.connect(&mut a).await;
    let id = rogue.key.id();
    // Right magic, kind, length and checksum around nonsense.
    let body = [1, 200, 1].into_iter().chain((0..200_u8).map(|n| n.wrapping_mul(37)));
    let body: Vec<u8> = body.collect();
    let sum = ContentHash::of(&body);
    let change = [&[0x85, 0x6f, 0x4a, 0x83], &sum.as_bytes()[..4], &body].concat();
    let poison = Record::Intent { job: JOB, change }.encode().expect("encodes");
    let spec = Record::Spec(vec![0xff; 10]).encode().expect("encodes");
    let unreadable = vec![0xff];
    let batch = rogue.batch(&a, rogue.log(50), 0, vec![rogue.opening(), poison, spec, unreadable]);
    let _open = say(&mut raw, &[Frame::Batches(vec![batch])]).await;
    let mut reasons = 0;
    while reasons < 3 {
        a.until(|event| matches!(event, Event::Rejected { author, .. } if *author == id)).await;
        reasons += 1;
    }
    still_works(&mut a, &mut raw, 1).await;
    let spec = ContentHash::of(b"spec");
    let submit = Edit::Submit { generation: Generation { counter: 1, spec }, at: now() };
    a.edit(JOB, submit).await;
    a.until_intent(JOB, |intent| intent.generations.len() == 1).await;
    drop(raw);
    // What was rejected is known as such, and hurts no restart either.
    let state = a.state.clone();
    let again = Node::unopened(a.stop().await, Purpose::Resume, 0).await;
    assert_eq!(again.state, state);
    again.stop().await;
}

#[tokio::test]
async fn nobody_speaks_for_another_or_without_proof() {
    let (mut a, rogue) = cluster_with_rogue().await;
    let mut raw = rogue.connect(&mut a).await;
    // In the name of a, signed by the rogue.
    let mut forged = rogue.batch(&a, rogue.log(60), 0, vec![rogue.opening()]);
    forged.log = LogId { start: 77, ..a.log };
    let stream = say(&mut raw, &[Frame::Batches(vec![forged])]).await;
    a.until(|event| matches!(event, Event::Rejected { .. })).await;
    is_closed(stream).await;
    // A log of somebody whose chain is another's, one that does not open, one with a hole.
    let stranger = Key::from_seed([44; 32]);
    let log = LogId { node: stranger.id(), start: 1, nonce: 1 };
    let no_member = Batch::sign(&stranger, &a.cluster, log, 0, vec![rogue.opening()]);
    let spec = Record::Spec(vec![]).encode().expect("encodes");
    let headless = rogue.batch(&a, rogue.log(61), 0, vec![spec]);
    let mut holed = rogue.batch(&a, rogue.log(62), 0, vec![rogue.opening(), vec![0xf6]]);
    holed.records[1] = None;
    for batch in [no_member, headless, holed] {
        let author = batch.log.node;
        let _open = say(&mut raw, &[Frame::Batches(vec![batch])]).await;
        let named =
            |event: &Event| matches!(event, Event::Rejected { author: by, .. } if *by == author);
        a.until(named).await;
    }
    assert!(a.state.node(&stranger.id()).is_none());
    still_works(&mut a, &mut raw, 1).await;
    a.stop().await;
}

#[tokio::test]
async fn who_does_not_read_holds_up_no_end() {
    let (mut a, rogue) = cluster_with_rogue().await;
    let raw = rogue.connect(&mut a).await;
    for n in 0..100 {
        let said = market::Message::Driving { job: JobId::new([n; 16]) };
        a.gossip.try_send(rogue.key.id(), said).expect("has room");
    }
    tokio::time::timeout(support::SOON, a.stop()).await.expect("ends");
    drop(raw);
}

#[tokio::test]
async fn a_stranger_is_turned_away_at_the_gate() {
    let mut a = Node::new(Purpose::Found).await;
    let stranger = Key::from_seed([55; 32]);
    let (elsewhere, own) = Chain::found(&stranger, 1);
    for address in a.addresses.clone() {
        // With the chain of its own cluster, and with that of a for another key.
        for member in
            [(a.cluster, own.clone()), (elsewhere, own.clone()), (a.cluster, a.chain.clone())]
        {
            let refused = Raw::connect(&stranger, member, &address).await;
            assert!(refused.is_err(), "{refused:?}");
        }
    }
    let events = a.quiet().await;
    assert!(!events.iter().any(|event| matches!(event, Event::PeerUp(_))), "{events:?}");
    assert!(a.gossip.peers().is_empty());
    a.stop().await;
}
