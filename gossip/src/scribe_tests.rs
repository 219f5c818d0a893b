//! The scribe when the disk fails, and what it admits of its own node's appends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use gossip_core::fact::{NodeCard, Record};
use gossip_core::resources::Resources;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

/// A disk that takes nothing any more once it is told so.
#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    is_broken: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.memory.set_len(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.memory.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

struct Bench {
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    is_broken: Arc<AtomicBool>,
    author: Author,
    thread: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("tempdir");
    let is_broken = Arc::new(AtomicBool::new(false));
    let disk = Disk { memory: InMemoryBackend::new(), is_broken: Arc::clone(&is_broken) };
    let journal = Journal::on(disk, dir.path());
    let key = Key::from_seed([1; 32]);
    let (cluster, chain) = Chain::found(&key, 1);
    let log = LogId { node: key.id(), start: 1, nonce: 1 };
    let author = Author { key, cluster, chain, log };
    let scribe = Scribe::new(author.clone(), journal, Knowledge::new(cluster));
    let (orders, taken) = mpsc::channel(ORDERS_MAX);
    let (made, reports) = mpsc::channel(REPORTS_MAX);
    let thread = scribe.spawn(taken, made).expect("spawns");
    Bench { orders, reports, is_broken, author, thread, _dir: dir }
}

impl Bench {
    fn append(&mut self, ticket: u64, entries: Vec<Entry>) -> Option<Report> {
        self.orders.blocking_send(Order::Append { ticket, entries }).ok()?;
        self.reports.blocking_recv()
    }

    fn opening(&self) -> Entry {
        let card = NodeCard {
            name: "a".into(),
            addresses: vec![],
            capacity: Resources::default(),
            chain: self.author.chain.clone(),
            version: String::new(),
            enforces_limits: false,
        };
        Entry::Fact(Record::Open { card, holdings: vec![] })
    }
}

#[test]
fn a_disk_that_fails_ends_it_and_acknowledges_nothing() {
    let mut bench = bench();
    let opening = bench.opening();
    let opened = bench.append(1, vec![opening.clone()]);
    let Some(Report::Committed(committed)) = opened else { panic!("{opened:?}") };
    assert_eq!(committed.tickets, [(1, 1)]);
    bench.is_broken.store(true, Ordering::SeqCst);
    let card = match opening {
        Entry::Fact(Record::Open { card, .. }) => card,
        other => panic!("{other:?}"),
    };
    let failed = bench.append(2, vec![Entry::Fact(Record::Card(card))]);
    assert!(matches!(failed, Some(Report::Failed(Failure::Journal { .. }))), "{failed:?}");
    assert!(bench.append(3, vec![]).is_none());
    bench.thread.join().expect("ends by itself");
}

#[test]
fn a_log_opens_first_and_once_and_what_does_not_hold_is_left_out() {
    let mut bench = bench();
    let redeemed =
        Record::Redeemed { invitation: bench.author.log.node, subject: bench.author.log.node };
    let early = bench.append(1, vec![Entry::Fact(Record::Spec(vec![]))]);
    let Some(Report::Committed(early)) = early else { panic!("{early:?}") };
    assert!(early.tickets.is_empty() && early.rejected.len() == 1 && early.fresh.is_empty());
    let opening = bench.opening();
    let entries = vec![opening.clone(), opening, Entry::Fact(redeemed)];
    let opened = bench.append(2, entries);
    let Some(Report::Committed(opened)) = opened else { panic!("{opened:?}") };
    assert_eq!((opened.tickets.as_slice(), opened.rejected.len()), ([(2, 1)].as_slice(), 2));
    assert_eq!(opened.updates.len(), 1);
    let (_, batch) = &opened.fresh[0];
    assert_eq!(batch.verify(&bench.author.cluster), Ok(()));
    bench.orders.blocking_send(Order::Stop).expect("runs");
    bench.thread.join().expect("ends");
}
