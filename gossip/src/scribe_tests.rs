//! The scribe when the disk fails, and what it admits of its own node's appends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use gossip_core::fact::{Claim, ClaimState, NodeCard, OPEN_CLAIMS_MAX, Record};
use gossip_core::id::{ContentHash, JobId};
use gossip_core::intent::Edit;
use gossip_core::resources::Resources;
use gossip_core::slot::{Epoch, Generation, NAME_LENGTH_MAX, SlotId};
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
    let scribe = Scribe::new(author.clone(), journal, Knowledge::new(cluster), Notice::default());
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

    /// What became of an append on a disk that works.
    fn commit(&mut self, ticket: u64, entries: Vec<Entry>) -> Committed {
        match self.append(ticket, entries) {
            Some(Report::Committed(committed)) => committed,
            other => panic!("{other:?}"),
        }
    }

    fn opening(&self) -> Entry {
        let card = NodeCard {
            name: "a".into(),
            addresses: vec![],
            capacity: Resources::default(),
            chain: self.author.chain.clone(),
            version: String::new(),
            enforces_limits: false,
            trusts_jobs: false,
        };
        Entry::Fact(Record::Open { card, holdings: vec![] })
    }
}

fn claim(index: u32) -> Claim {
    let group = "g".repeat(NAME_LENGTH_MAX).parse().expect("a name");
    Claim {
        slot: SlotId { job: JobId::new([3; 16]), group, index },
        generation: Generation { counter: 1, spec: ContentHash::of(b"spec") },
        epoch: Epoch { counter: 1, tender: u64::MAX },
        state: ClaimState::Running,
        since: WallTime(1_800_000_000_000),
        restarts: 0,
        paused: false,
        health: None,
    }
}

#[test]
fn a_disk_that_fails_ends_it_and_acknowledges_nothing() {
    let mut bench = bench();
    let opening = bench.opening();
    let opened = bench.append(1, vec![opening.clone()]);
    let Some(Report::Committed(committed)) = opened else { panic!("{opened:?}") };
    assert_eq!(committed.appends, [(1, Ok(1))]);
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
fn an_append_is_whole_or_nothing_and_a_log_opens_first_and_once() {
    let mut bench = bench();
    let node = bench.author.log.node;
    let redeemed = Entry::Fact(Record::Redeemed { invitation: node, subject: node });
    let early = bench.commit(1, vec![Entry::Fact(Record::Spec(vec![]))]);
    assert!(matches!(early.appends.as_slice(), [(1, Err(_))]) && early.fresh.is_empty());
    let (opening, job) = (bench.opening(), JobId::new([3; 16]));
    let stop = Entry::Edit { job, edit: Edit::Stop };
    for bad in [opening.clone(), redeemed, Entry::Fact(Record::Spec(vec![]))] {
        let refused = bench.commit(2, vec![opening.clone(), stop.clone(), bad]);
        let [(2, Err(reason))] = refused.appends.as_slice() else { panic!("{refused:?}") };
        assert!(reason.starts_with("entry 3: "), "{reason}");
        assert!(refused.fresh.is_empty() && refused.updates.is_empty(), "{refused:?}");
        assert!(refused.rejected.is_empty(), "{refused:?}");
    }
    // Nothing of what was refused stayed: the log still opens, and the job is still to stop.
    let edits = [Edit::Remove, Edit::Stop].map(|edit| Entry::Edit { job, edit });
    let opened = bench.commit(3, [vec![opening, stop], edits.to_vec()].concat());
    assert_eq!(opened.appends, [(3, Ok(3))], "to stop twice changes nothing");
    let [_, (_, Update::Intent { intent, .. })] = opened.updates.as_slice() else {
        panic!("{opened:?}")
    };
    assert!(intent.stopped && intent.removed);
    let (_, batch) = &opened.fresh[0];
    assert_eq!(batch.verify(&bench.author.cluster), Ok(()));
    // What was signed is what was learned: a reader of the batch comes to the same.
    let mut reader = Knowledge::new(bench.author.cluster);
    let mut news = News::default();
    reader.learn(batch, |_| false, &mut news);
    assert_eq!((news.rejected.len(), reader.documents().intent(&job)), (0, Some(intent)));
    bench.orders.blocking_send(Order::Stop).expect("runs");
    bench.thread.join().expect("ends");
}

#[test]
fn an_opening_and_all_its_claims_are_one_commit() {
    let mut bench = bench();
    let claims: Vec<_> = (1..=12_000).map(claim).collect();
    let Entry::Fact(Record::Open { card, .. }) = bench.opening() else { panic!("opens") };
    let all = Record::Open { card: card.clone(), holdings: claims.clone() };
    let refused = bench.commit(1, vec![Entry::Fact(all)]);
    assert!(matches!(refused.appends.as_slice(), [(1, Err(_))]), "too large for a record");

    let (first, rest) = claims.split_at(OPEN_CLAIMS_MAX);
    let mut entries = vec![Entry::Fact(Record::Open { card, holdings: first.to_vec() })];
    entries.extend(rest.iter().cloned().map(Record::Claim).map(Entry::Fact));
    let opened = bench.commit(2, entries);
    assert_eq!(opened.appends, [(2, Ok(11_001))]);
    assert!(opened.fresh.len() > 1, "more than one batch");
    let mut told = Vec::new();
    for (_, update) in opened.updates {
        match update {
            Update::Opened { holdings, .. } if told.is_empty() => told = holdings,
            Update::Claim(claim) => told.push(claim),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, claims);
    let mut next = 0;
    for (_, batch) in &opened.fresh {
        assert_eq!((batch.first, batch.verify(&bench.author.cluster)), (next, Ok(())));
        next = batch.end();
    }
    assert_eq!(next, 11_001);
}
