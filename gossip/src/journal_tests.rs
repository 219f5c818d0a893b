//! The journal on a real disk: what is refused stays as it was.

use super::*;
use gossip_core::sign::Key;

fn node(n: u8) -> NodeId {
    Key::from_seed([n; 32]).id()
}

fn file(data: &Path) -> Vec<u8> {
    fs::read(data.join(FILE)).expect("journal")
}

/// A journal with one batch, closed again.
fn made(data: &Path) -> Batch {
    let key = Key::from_seed([1; 32]);
    let log = LogId { node: key.id(), start: 1, nonce: 2 };
    let batch = Batch::sign(&key, &ClusterId::new([1; 32]), log, 0, vec![vec![7; 5000]]);
    let (journal, contents) = Journal::open(data, node(1)).expect("opens");
    assert!(contents.batches.is_empty() && contents.membership.is_none());
    let rejected = vec![(log, 0, "bad".to_owned())];
    let writes = Writes { batches: vec![batch.clone()], rejected, start: Some(9) };
    journal.commit(&writes).expect("commits");
    batch
}

#[test]
fn what_was_committed_is_there_again_and_only_one_may_open_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let batch = made(dir.path());
    let (journal, contents) = Journal::open(dir.path(), node(1)).expect("opens");
    assert_eq!(contents.batches, std::slice::from_ref(&batch));
    assert_eq!(contents.start, 9);
    assert!(contents.rejected.contains_key(&(batch.log, 0)));
    assert_eq!(journal.read(&batch.log, 0, 1).expect("reads"), std::slice::from_ref(&batch));
    assert_eq!(journal.read(&batch.log, 1, 1).expect("reads"), []);
    let second = Journal::open(dir.path(), node(1));
    assert!(matches!(second, Err(JournalError::InUse { .. })));
    drop(journal);
    let other = Journal::open(dir.path(), node(2));
    assert!(matches!(other, Err(JournalError::OtherNode { .. })));
}

#[test]
fn a_damaged_journal_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    made(dir.path());
    let good = file(dir.path());
    let mut broken: Vec<Vec<u8>> = vec![vec![], b"hello".to_vec(), vec![0; 8192]];
    broken.push(good[..good.len() / 2].to_vec());
    // A bit in the batch itself, and whole pages of nonsense.
    let at = good.windows(64).position(|w| w.iter().all(|b| *b == 7)).expect("the record");
    let mut flipped = good.clone();
    flipped[at] ^= 1;
    broken.push(flipped);
    let mut nonsense = good.clone();
    nonsense[4096..20_000].fill(0xa5);
    broken.push(nonsense);
    for (case, bytes) in broken.into_iter().enumerate() {
        fs::write(dir.path().join(FILE), &bytes).expect("write");
        let opened = Journal::open(dir.path(), node(1));
        assert!(matches!(opened, Err(JournalError::Corrupt { .. })), "{case}: {opened:?}");
        assert!(file(dir.path()) == bytes, "{case} was changed");
    }
}

#[test]
fn a_newer_journal_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    made(dir.path());
    {
        let store = Database::open(dir.path().join(FILE)).expect("opens");
        let transaction = store.begin_write().expect("begins");
        let newer = 2_u32.to_be_bytes();
        let mut meta = transaction.open_table(META).expect("table");
        meta.insert("format", newer.as_slice()).expect("inserts");
        drop(meta);
        transaction.commit().expect("commits");
    }
    let before = file(dir.path());
    let opened = Journal::open(dir.path(), node(1));
    assert!(matches!(opened, Err(JournalError::Newer { format: 2, .. })), "{opened:?}");
    assert!(file(dir.path()) == before);
}
