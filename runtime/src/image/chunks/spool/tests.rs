//! A spool fills in any order, breaks off, and is gone on with.

use super::super::cut::tests::{cut, noise};
use super::super::spools::Spools;
use super::*;

fn pieces(bytes: &[u8], list: &[Chunk]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let piece = |chunk: &Chunk| {
        let (piece, later) = rest.split_at(chunk.bytes as usize);
        rest = later;
        piece.to_vec()
    };
    list.iter().map(piece).collect()
}

#[test]
fn chunks_that_come_in_any_order_are_read_in_the_layers() {
    let home = tempfile::tempdir().expect("dir");
    let layer = noise(1, 2_000_000);
    let list = cut(&layer);
    let pieces = pieces(&layer, &list);
    let spools = Spools::open(home.path()).expect("opens");
    let spool = spools.begin(&Digest::of(&layer), 2_000_000).expect("begins");
    let mut reader = spool.reader();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    // The list comes in two parts, the chunks backwards.
    let (first, second) = list.split_at(list.len() / 2);
    spool.extend(first).expect("written");
    spool.extend(second).expect("written");
    for (index, piece) in pieces.iter().enumerate().rev() {
        assert!(!spool.is_whole());
        assert_eq!(spool.put(index as u32, piece).expect("written"), Put::Here);
    }
    assert!(spool.is_whole());
    assert_eq!(reading.join().expect("no panic").expect("whole"), layer);
}

#[test]
fn what_came_is_still_there_after_a_restart_but_for_what_was_torn() {
    let home = tempfile::tempdir().expect("dir");
    let layer = noise(2, 1_000_000);
    let (list, id) = (cut(&layer), Digest::of(&layer));
    let pieces = pieces(&layer, &list);
    let begin = || Spools::open(home.path()).expect("opens").begin(&id, 1_000_000).expect("begins");
    let spool = begin();
    spool.extend(&list).expect("written");
    for index in [0, 3, 5] {
        spool.put(index, &pieces[index as usize]).expect("written");
    }
    drop(spool);
    let dir = home.path().join(id.hex());
    // A chunk whose bytes the crash took, and entries cut off in their middle.
    let data = OpenOptions::new().write(true).open(dir.join("data")).expect("opens");
    let start: u32 = list[..3].iter().map(|chunk| chunk.bytes).sum();
    data.write_all_at(&[0; 100], start.into()).expect("writes");
    for file in ["here", "list"] {
        let mut file = OpenOptions::new().append(true).open(dir.join(file)).expect("opens");
        file.write_all(&[9; 3]).expect("writes");
    }
    for _ in 0..2 {
        let spool = begin();
        assert_eq!(spool.list(), list);
        let here: Vec<u32> = (0..list.len() as u32).filter(|at| spool.is_here(*at)).collect();
        assert_eq!(here, [0, 5]);
        let view = spool.view();
        assert_eq!(view.ranges().bytes(), u64::from(list[0].bytes + list[5].bytes));
    }
    // Another length is another layer's: nothing of it is believed.
    let other = Spools::open(home.path()).expect("opens").begin(&id, 999_999).expect("begins");
    assert!(other.list().is_empty() && other.view().ranges().bytes() == 0);
}

#[test]
fn wrong_bytes_are_neither_kept_nor_given_to_anybody() {
    let home = tempfile::tempdir().expect("dir");
    let layer = noise(3, 500_000);
    let list = cut(&layer);
    let pieces = pieces(&layer, &list);
    let spools = Spools::open(home.path()).expect("opens");
    let spool = spools.begin(&Digest::of(&layer), 500_000).expect("begins");
    spool.extend(&list).expect("written");
    for wrong in [&pieces[1][..], &pieces[0][1..], &[]] {
        assert_eq!(spool.put(0, wrong).expect("no fault of the disk"), Put::Bad);
    }
    assert_eq!(spool.put(9999, &pieces[0]).expect("no fault of the disk"), Put::Bad);
    let view = spool.view();
    assert!(view.read_at(&mut [0; 1], 0).is_err());
    spool.put(1, &pieces[1]).expect("written");
    let start = u64::from(list[0].bytes);
    let mut into = vec![0; pieces[1].len()];
    view.read_at(&mut into, start).expect("it is here");
    assert_eq!(into, pieces[1]);
    for from in [0, start - 1, start + 1] {
        assert!(view.read_at(&mut into, from).is_err(), "{from}");
    }
}

#[test]
fn bytes_that_stand_in_a_layer_twice_come_once() {
    let home = tempfile::tempdir().expect("dir");
    let (one, two) = (vec![0; CHUNK_BYTES_MAX as usize], noise(4, 20_000));
    let list = [&one, &one, &two, &one].map(|bytes| Chunk::of(bytes));
    let bytes: u64 = list.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    let spools = Spools::open(home.path()).expect("opens");
    let spool = spools.begin(&Digest::of(b"x"), bytes).expect("begins");
    spool.extend(&list[..2]).expect("written");
    assert_eq!((spool.twin(0), spool.twin(1)), (None, Some(0)));
    assert_eq!(spool.lacks(&list[1].digest), Some(0));
    spool.put(0, &one).expect("written");
    assert!(spool.is_here(1) && spool.lacks(&list[1].digest).is_none());
    // One that the list names later is here at once.
    spool.extend(&list[2..]).expect("written");
    assert!(spool.is_here(3) && !spool.is_here(2));
    spool.put(2, &two).expect("written");
    let mut all = Vec::new();
    spool.reader().read_to_end(&mut all).expect("whole");
    assert_eq!(all, [&one[..], &one, &two, &one].concat());
}

#[test]
fn whoever_reads_is_told_that_the_fetch_broke_off() {
    let home = tempfile::tempdir().expect("dir");
    let spools = Spools::open(home.path()).expect("opens");
    let spool = spools.begin(&Digest::of(b"x"), 10).expect("begins");
    let (mut reader, view) = (spool.reader(), spool.view());
    let reading = std::thread::spawn(move || reader.read(&mut [0; 10]));
    drop(spool);
    let broken = reading.join().expect("no panic").expect_err("broke off");
    assert_eq!(broken.kind(), io::ErrorKind::UnexpectedEof);
    assert!(view.is_closed());
}
